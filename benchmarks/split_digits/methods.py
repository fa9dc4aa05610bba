"""The methods of split digits, as methods of a learner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import gnt
from benchmarks.methods import with_seed
from benchmarks.saved_values import anything, fields, mapping
from benchmarks.seeds import stream
from benchmarks.split_digits.scenarios import PER_TASK, TASKS, Scenario


class MemoryMethod:
    """One method that trains the network of one seed, with the interface of `benchmarks.methods.Method`.

    Args:
        name: name of the method.
        make_net: builds the network with its initial weights, drawn from torch's global generator.
        settings: the settings of the experiment.
        scenario: decides the loss.
        seed: the seed.
    """

    def __init__(
        self, name: str, make_net: Callable[[], nn.Module], settings: Any, scenario: Scenario, seed: int
    ) -> None:
        self._scenario, self._name = scenario, name
        net = with_seed(seed, make_net)
        given: dict[str, Any] = {"loss": scenario.loss, "step_size": settings.lr, "opt": "adam"}
        if name == "continual_backprop":
            names = ("replacement_rate", "maturity_threshold", "decay_rate", "utility")
            given |= {each: getattr(settings, each) for each in names}
            given["generator"] = stream(seed, "replacements")
        kind = gnt.ContinualBackprop if name == "continual_backprop" else gnt.Backprop
        self.learner = kind(net, **given, methods=self._methods(name, net, settings, seed))

    def _methods(self, name: str, net: nn.Module, settings: Any, seed: int) -> list[Any]:
        if name in ("ewc", "si", "mas"):
            kinds: dict[str, Any] = {"ewc": gnt.EWC, "si": gnt.SI, "mas": gnt.MAS}
            return [kinds[name](net, settings.strength)]
        if name == "gem":
            each = settings.memory // TASKS
            own = {"margin": settings.margin, "generator": stream(seed, "memory")}
            return [gnt.GEM(net, self._scenario.loss, per_task=each, **own)]
        if name not in ("er", "der", "der_plus_plus", "agem"):
            return []
        memory = gnt.ReplayBuffer(settings.memory, generator=stream(seed, "memory"))
        if name == "er":
            return [gnt.ExperienceReplay(memory)]
        if name == "agem":
            return [gnt.AGEM(net, memory, self._scenario.loss)]
        beta = settings.beta if name == "der_plus_plus" else 0.0
        return [gnt.DER(net, memory, alpha=settings.alpha, beta=beta, loss=self._scenario.loss)]

    def begin_task(self, number: int) -> None:
        """Tell the methods that a task begins."""
        self.learner.begin_task(task=number)

    def end_task(self, number: int, x: Tensor) -> None:
        """Tell the methods that a task has ended, with its images."""
        info: dict[str, Any] = {"data": x}
        if self._scenario.name == "task" and self._name in ("ewc", "mas"):  # importance of the task's own outputs
            own = slice(number * PER_TASK, (number + 1) * PER_TASK)
            info["output"] = lambda images: self.learner.net(images)[:, own]
        self.learner.end_task(**info)

    def learn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step on a batch (1, batch, ...). Returns loss and outputs, from before the update, of this batch."""
        step = self.learner.learn(x[0], y[0])
        output = self._scenario.restrict(step.output[: x.shape[1]], y[0])
        return step.loss[None], output[None]

    def nets(self) -> list[nn.Module]:
        """The network, in a list."""
        return [self.learner.net]

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


@torch.no_grad()
def accuracy_on(net: nn.Module, scenario: Scenario, x: Tensor, targets: Tensor) -> float:
    """Share of the images that the network classifies correctly in evaluation mode. Leaves it in training mode."""
    net.eval()
    predicted = scenario.restrict(net(x), targets).argmax(1)
    net.train()
    return float((predicted == targets).double().mean())
