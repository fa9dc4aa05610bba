"""A network that is trained with methods against forgetting, alone or beside replacement of units."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from gnt.names import OptimizerName

from ..further_methods import own_optimizer
from ..methods import OPTIMIZERS, with_seed
from ..plasticity import Check, Verdicts, of_seeds, verdict_of
from ..saved_values import anything, fields, mapping
from ..seeds import stream
from .parts import MEASURED_AT_THE_END, PARTS, Given
from .scenario import Scenario

_ENGINE_SETTINGS = ("replacement_rate", "maturity_threshold", "decay_rate", "utility")


@dataclass(frozen=True)
class Recipe:
    """What a method consists of.

    Attributes:
        parts: names of `benchmarks.memory_methods.parts.PARTS`, in the order in which they act.
        engine: whether units are replaced (continual backprop).
        protect: the part that tells the engine which units to keep; "top": none, the share ``held`` of the units, those
            of highest utility; "" for none.
        optimizer: the method of `benchmarks.further_methods` whose optimizer takes the place of torch's; "" for none.
    """

    parts: tuple[str, ...] = ()
    engine: bool = False
    protect: str = ""
    optimizer: str = ""


class MemoryMethod:
    """One method that trains the network of one seed, with the interface of `benchmarks.methods.Method`.

    Args:
        recipe: what the method consists of.
        make_net, settings, scenario, seed, steps: as in `benchmarks.memory_methods.memory_method`.
    """

    learner: gnt.Backprop

    def __init__(
        self,
        recipe: Recipe,
        make_net: Callable[[], nn.Module],
        settings: Any,
        scenario: Scenario,
        seed: int,
        steps: int,
    ) -> None:
        self._recipe, self._scenario, self._settings, self._seed, self._steps = recipe, scenario, settings, seed, steps
        self._make_net = make_net
        net = with_seed(seed, lambda: self._own_net(make_net()))
        given = Given(net, settings, scenario, seed)
        parts = {name: PARTS[name](given) for name in recipe.parts}
        own: dict[str, Any] = {"methods": list(parts.values()), **self._optimizer_arguments(net)}
        if recipe.engine:
            own |= {each: getattr(settings, each) for each in _ENGINE_SETTINGS}
            own["generator"] = stream(seed, "replacements")
            own["layers"] = self._layers(net)
            parts_and_top = {**parts, "top": f"top:{getattr(settings, 'held', 0)}", "": None}
            own["protect"] = parts_and_top[recipe.protect]
        kind = gnt.ContinualBackprop if recipe.engine else gnt.Backprop
        self.learner = kind(net, loss=scenario.loss, **own)

    @property
    def _optimizer_name(self) -> OptimizerName:
        name: OptimizerName = getattr(self._settings, "optimizer", "adam")
        return name

    def _optimizer_arguments(self, net: nn.Module) -> dict[str, Any]:
        """The learner's arguments for its optimizer."""
        generators = [stream(self._seed, "optimizer")]
        build = own_optimizer(self._recipe.optimizer, self._settings, self._optimizer_name, {}, generators)
        if build is None:
            return {"opt": self._optimizer_name, "step_size": self._settings.lr}
        return {"opt": build(net.parameters())}

    def _own_net(self, net: nn.Module) -> nn.Module:
        """The network that is trained in place of ``net``."""
        return net

    def _layers(self, net: nn.Module) -> Any:
        """The layers of the engine; None: those of the network."""
        return None

    def _task_info(self) -> dict[str, Any]:
        """What parts are told besides when a task begins."""
        return {}

    def begin_task(self, number: int) -> None:
        """Tell the parts that a task begins."""
        self.learner.begin_task(task=number, **self._task_info())

    def end_task(self, number: int, x: Tensor) -> None:
        """Tell the parts that a task has ended, with its images."""
        info: dict[str, Any] = {"data": x}
        own = self._scenario.own_outputs(number)
        if own is not None and any(name in MEASURED_AT_THE_END for name in self._recipe.parts):
            info["output"] = lambda images: self.learner.net(images)[:, own]
        self.learner.end_task(**info)

    def learn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch (1, batch, ...). Returns loss and outputs, from before the update, of this batch."""
        step = self.learner.learn(x[0], y[0])
        output = self._scenario.restrict(step.output[: x.shape[1]], y[0])
        return step.loss[None], output[None]

    @torch.no_grad()
    def accuracy(self, number: int, x: Tensor, targets: Tensor) -> float:
        """Share of the images of a task that the network classifies correctly, in evaluation mode."""
        net = self.learner.net
        net.eval()
        with self._evaluated(number):
            predicted = self._scenario.restrict(net(x), targets).argmax(1)
        net.train()
        return float((predicted == targets).double().mean())

    def _evaluated(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Inside, the network is the one for a task."""
        return contextlib.nullcontext()

    def nets(self) -> list[nn.Module]:
        """The network, in a list."""
        return [self.learner.net]

    def plasticity(self, data: Sequence[Any], check: Check) -> Verdicts:
        """What the plasticity check says of the network; empty if it is not measured.

        Args:
            data: in a list, inputs and targets that the network has not learned; the targets are outputs.
            check: how it is checked.
        """
        net = self._plain_net()
        if net is None:
            return {}
        optimizer = partial(OPTIMIZERS[self._optimizer_name], lr=self._settings.lr)
        found = [verdict_of(net, self._make_net, optimizer, own, "cross_entropy", check) for own in data]
        return of_seeds([self._seed], found)

    def _plain_net(self) -> nn.Module | None:
        """A network like those of ``make_net`` with the weights at present; None if there is none that learns alone."""
        return self.learner.net

    def units(self, net: nn.Module, x: Tensor) -> Any:
        """The unit groups of the network, for `gnt.metrics.Probe`."""
        return net

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        return {"learner": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        fields(learner=mapping(anything))("method", state)
        self.learner.load_state_dict(state["learner"])
