"""The methods that are compared: one interface for all, for a single seed or an ensemble of seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import gnt

from .errors import Diverged
from .further_methods import further_remedy, own_optimizer, soft_replacement
from .graph_warmup import GraphWarmup
from .plasticity import Check, Verdicts, of_seeds, verdict_of
from .saved_values import anything, fields, mapping, sequence
from .seeds import stream

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": partial(torch.optim.Adam, fused=True),  # as in the learners; several times faster
    "adamw": partial(torch.optim.AdamW, fused=True),
}
"""The optimizers of the plasticity check."""
_ENGINE_SETTINGS = ("replacement_rate", "maturity_threshold", "decay_rate", "utility")


class Method:
    """A method that trains the networks of one or several seeds. The first dimension of batches is the seed: (seeds,
    batch, ...).

    Args:
        name: name of the method.
        make_net: method name -> network; draws initial weights from torch's global generator.
        settings: provides the method's settings: ``lr``, ``weight_decay``, ``compile``, ...
        seeds: one seed, or several that are trained together as an ensemble.
        loss, opt: as in `gnt.Backprop`.
        layers: network -> the ``layers`` argument of continual backprop's engine; None: the network itself.
        init: distribution of the fresh weights of replaced units, as in `gnt.GnT`; None: "default" for ReDo, and
            "kaiming", that of the authors' code, for the others.
        device: the device that ``make_net`` puts networks on.
        options: options of the optimizer.
    """

    def __init__(
        self,
        name: str,
        make_net: Callable[[str], nn.Module],
        settings: Any,
        seeds: Sequence[int],
        *,
        loss: str | Callable[[Tensor, Tensor], Tensor],
        opt: str,
        layers: Callable[[nn.Module], Any] | None = None,
        init: str | None = None,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self._name, self._make_net, self._loss = name, make_net, loss
        self._plain = partial(OPTIMIZERS[opt], lr=settings.lr, **options)
        self._layers = layers
        self._settings, self._seeds = settings, list(seeds)
        self._init = {"init": init or ("auto" if name == "redo" else "kaiming")}
        self._device = device
        if hasattr(settings, "weight_decay") and settings.affects("weight_decay", name):
            options["weight_decay"] = settings.weight_decay
        compile = settings.affecting(name).get("compile") == "yes"
        given = {"loss": loss, "opt": opt, "step_size": settings.lr, "compile": compile, **options}
        generators = [stream(seed, f"{name} optimizer", device) for seed in self._seeds]
        optimizer = own_optimizer(name, settings, opt, options, generators)
        if optimizer is not None:
            given = {"loss": loss, "opt": optimizer, "compile": compile}
        self.learner: Any
        if len(self._seeds) > 1:
            self.learner = self._make_ensemble(name, make_net, **given)
        else:
            net = with_seed(self._seeds[0], lambda: make_net(name))
            self.learner = self._make_learner(name, net, **given)
        self._remedy = self._make_remedy(name)
        self._add_to_learner(self._remedy, compile)
        self._remedy_steps = hasattr(self._remedy, "step") and self._remedy not in self.learner.methods
        self._graph_warmup = GraphWarmup() if compile else None
        self._traced: gnt.Groups | None = None  # cached for the single network with CReLU

    def _make_ensemble(self, name: str, make_net: Callable[[str], nn.Module], **given: Any) -> gnt.Ensemble:
        own: dict[str, Any] = {"replacement_rate": 0.0}
        if name in ("continual_backprop", "ccbp"):
            own = {**self._engine_settings(name), **self._init}
            own["generators"] = [stream(seed, "replacements", self._device) for seed in self._seeds]
        weights = [stream(seed, "weights").initial_seed() for seed in self._seeds]
        return gnt.Ensemble(lambda: make_net(name), weights, **given, **own)

    def _make_learner(self, name: str, net: nn.Module, **given: Any) -> gnt.Backprop:
        if callable(given["opt"]):
            given["opt"] = given["opt"](net.parameters())
        if name not in ("continual_backprop", "ccbp"):
            return gnt.Backprop(net, **given)
        own = {**self._engine_settings(name), **self._init}
        if self._layers is not None:
            own["layers"] = self._layers(net)
        generator = stream(self._seeds[0], "replacements", self._device)
        return gnt.ContinualBackprop(net, **given, **own, generator=generator)

    def _engine_settings(self, name: str) -> dict[str, Any]:
        if name == "ccbp":
            return soft_replacement(name, self._settings)
        return {setting: getattr(self._settings, setting) for setting in _ENGINE_SETTINGS}

    def _make_remedy(self, name: str) -> Any:
        """What is applied besides the learner: L2 Init, Shrink and Perturb, ReDo, Algorithm 1, or one of
        `benchmarks.further_methods`; None for other methods.
        """
        settings, net, opt = self._settings, self.learner.net, self.learner.opt
        generators = [stream(seed, name, self._device) for seed in self._seeds]
        generator = generators if len(generators) > 1 else generators[0]
        if name == "l2_init":
            return gnt.L2Init(net, settings.l2_init)
        if name == "shrink_and_perturb":  # the optimizer's weight decay shrinks, as in the authors' code
            noise = {"shrink": 1.0, "noise": settings.noise, "distribution": "normal"}
            return gnt.ShrinkAndPerturb(net, **noise, generator=generator)
        if name == "redo":
            own = {"tau": settings.dormancy, "period": settings.period, **self._init}
            return gnt.ReDo(net, opt, **own, generator=_of_one_seed(generators))
        if name == "algorithm_1":
            own = {**{setting: getattr(settings, setting) for setting in _ENGINE_SETTINGS[:3]}, **self._init}
            return gnt.algorithm_1(net, opt, **own, generator=_of_one_seed(generators))
        return further_remedy(name, settings, net, opt, generator)

    def _add_to_learner(self, remedy: Any, compile: bool) -> None:
        """Let a remedy act in the learner's step if it needs to."""
        is_penalty = hasattr(remedy, "functional_penalty")
        if compile and (is_penalty or getattr(remedy, "reads_gradients", False)):
            self.learner.methods = [remedy]
        elif is_penalty:  # after the loss's backward, so that the optimizer sees the sum of both gradients
            self.learner.opt.register_step_pre_hook(lambda *_: remedy.backward())

    def begin_task(self, number: int) -> None:
        """Called before the first step of each task, numbered from 0, by experiments that have tasks."""
        if number and hasattr(self._remedy, "end_task"):
            self._remedy.end_task()

    def learn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One step of all seeds. Returns losses (seeds,) and outputs (seeds, batch, ...), both from before the
        update.
        """
        single = len(self._seeds) == 1
        batch = (x[0], y[0]) if single else (x, y)
        try:
            step = self.learner.learn(*batch)
        except FloatingPointError as error:
            raise self._diverged(str(error)) from error
        if self._graph_warmup is not None:
            self._graph_warmup.record(*batch)
        if self._remedy_steps:
            self._remedy.step()
        return (step.loss[None], step.output[None]) if single else (step.loss, step.output)

    def _diverged(self, message: str) -> Diverged:
        """The learner's error; that of an ensemble names the seeds of the members' initial weights."""
        if len(self._seeds) == 1:
            return Diverged(message, self._seeds)
        named = {str(stream(seed, "weights").initial_seed()): seed for seed in self._seeds}
        found = [named[number] for number in re.findall(r"\d+", message) if number in named]
        return Diverged(re.sub(r"\d+", lambda match: str(named.get(match[0], match[0])), message), found)

    def nets(self) -> list[nn.Module]:
        """The network of each seed; copies if the seeds are an ensemble."""
        if len(self._seeds) == 1:
            return [self.learner.net]
        return [self.learner.member(i) for i in range(len(self._seeds))]

    def plasticity(self, data: Sequence[Any], check: Check) -> Verdicts:
        """What the plasticity check says of the network of each seed.

        Args:
            data: for each seed, inputs and targets that its network has not learned.
            check: how it is checked.
        """
        make_net = partial(self._make_net, self._name)

        def build() -> nn.Module:
            return make_net()

        pairs = zip(self.nets(), data, strict=True)
        found = [verdict_of(net, build, self._plain, own, self._loss, check) for net, own in pairs]
        return of_seeds(self._seeds, found)

    def units(self, net: nn.Module, x: Tensor) -> Any:
        """The unit groups of one of `nets`, for `gnt.metrics.Probe`."""
        if not any(isinstance(module, gnt.CReLU) for module in net.modules()):  # each of its units has two features
            return net
        if self._traced is None:
            self._traced = gnt.trace(net, x[:2])
        return self._traced

    def state_dict(self) -> dict[str, Any]:
        """The complete state, from which training continues bit for bit."""
        state = {"learner": self.learner.state_dict()}
        if self._graph_warmup is not None:
            state["kinds"] = self._graph_warmup.state_dict()
        return state if not hasattr(self._remedy, "state_dict") else {**state, "beside": self._remedy.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state. Raises ValueError if a part is missing or is not of its kind."""
        parts = {"learner": mapping(anything)}
        parts |= {} if self._graph_warmup is None else {"kinds": sequence(anything)}
        parts |= {} if not hasattr(self._remedy, "state_dict") else {"beside": anything}
        fields(**parts)("method", state)
        if self._graph_warmup is not None:
            self._graph_warmup.warm_up(self.learner, state["kinds"])
        self.learner.load_state_dict(state["learner"])
        if hasattr(self._remedy, "state_dict"):
            self._remedy.load_state_dict(state["beside"])


def with_seed(seed: int, build: Any) -> Any:
    """``build()`` with torch's global generator seeded for the initial weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights").initial_seed())
        return build()


def _of_one_seed(generators: Sequence[torch.Generator]) -> torch.Generator:
    """The generator of a method whose seeds are not trained together."""
    (generator,) = generators
    return generator
