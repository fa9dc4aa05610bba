"""Shrink and perturb: all parameters a little smaller, and a little noise on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gnt._utils.validation import check_positive
from gnt.learners.ensemble.stacked_net import StackedNet
from gnt.regularization._init_distribution import KNOWN, Fresh, initial
from gnt.regularization._parameters import STATE_VERSION, ModuleOrParameters, check_saved, chosen, number, wide
from gnt.replacement._step import own_generator

Generators = torch.Generator | Sequence[torch.Generator]


class ShrinkAndPerturb:
    """Shrink and perturb: theta <- shrink * theta + noise * p for all parameters, with p drawn anew each time.

    With ``distribution="init"`` p is drawn as torch draws the parameter of a fresh network: linear and convolution
    layers uniform in +-1/sqrt(fan_in), weight and bias; embeddings normal, 0 in the row of padding. A fresh norm has
    weight 1 and bias 0, and a fresh PReLU 0.25: no draw, but the formula holds for them, too. With ``"normal"`` p is
    standard normal, so ``noise`` is the deviation of what is added, for any parameters.

    Args:
        params: a module, whose parameters that require a gradient are taken, or (for "normal") a list of parameters.
        shrink: what parameters are multiplied with, in [0, 1]. Weight decay w of an SGD of step size lr is a shrink of
            1 - lr * w at each step.
        noise: what p is multiplied with, >= 0.
        distribution: "init" or "normal".
        every: how many calls of `step` come before it acts; 1: it acts at each. 0: it never acts, and `apply` is called
            by hand, at the end of a task.
        generator: for the draws; None makes one, seeded from torch's global generator. For the network of a
            `gnt.Ensemble` also a list of generators, one for each member, whose draws are then those of a run alone.

    Attributes:
        steps: number of calls of `step`.

    Raises:
        ValueError: a setting outside its range; no parameters; one that is frozen, lazy, given twice or not real; with
            "init", a parameter whose initial distribution is not known.
        TypeError: neither a module nor a list of parameters; with "init" no module.

    Optimizer state and buffers, such as running statistics, are left as they are, and so is a parameter for as long as
    it is frozen (``requires_grad_(False)`` later on). Processes that train one network
    together (DistributedDataParallel) must draw the same: give each a generator of the same seed.

    Sources: Ash & Adams, NeurIPS 2020 (arXiv 1910.08475); per step, with normal noise and weight decay: Dohare et al.,
    Nature 632 (2024).

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> perturb = gnt.ShrinkAndPerturb(net, shrink=0.5, noise=0.01, every=100)
    >>> [perturb.step() for _ in range(200)].count(True)
    2
    """

    def __init__(
        self,
        params: ModuleOrParameters,
        *,
        shrink: float,
        noise: float,
        distribution: Literal["init", "normal"] = "init",
        every: int = 1,
        generator: Generators | None = None,
    ) -> None:
        self.shrink, self.noise = number("shrink", shrink), number("noise", noise)
        if self.shrink > 1.0:
            raise ValueError(f"shrink must lie in [0, 1], got {shrink!r}")
        if distribution not in ("init", "normal"):
            raise ValueError(f"distribution must be 'init' or 'normal', got {distribution!r}")
        if every != 0 or isinstance(every, bool):
            check_positive(every=every)
        self.distribution, self.every = distribution, int(every)
        self.names, self.parameters = chosen(params, "ShrinkAndPerturb")
        self._fresh = self._distributions(params)
        self.generators = _generators(generator, self.parameters, self.names)
        if isinstance(params, StackedNet) and len(self.generators) not in (1, params.members):
            raise ValueError(
                f"generator holds {len(self.generators)} generators; this ensemble has {params.members} members"
            )
        self.steps = 0

    def step(self) -> bool:
        """Call it after each optimizer step: acts at every ``every``-th call. Returns whether it acted."""
        self.steps += 1
        if self.every == 0 or self.steps % self.every:
            return False
        self.apply()
        return True

    @torch.no_grad()
    def apply(self) -> None:
        """Shrink and perturb now, whatever ``every`` says: at the end of a task, for example."""
        if self.shrink != 1.0 and (learning := [p for p in self.parameters if p.requires_grad]):
            torch._foreach_mul_(learning, self.shrink)
        if self.noise:
            for kind in ("uniform", "normal"):
                self._add_drawn(kind)
            self._add_constants()

    def _add_drawn(self, kind: str) -> None:
        """Noise of one kind, in one draw for all parameters; of each member from its own generator."""
        mine = [(p, fresh) for p, fresh in zip(self.parameters, self._fresh, strict=True) if fresh.kind == kind]
        if not mine:
            return
        members, device = len(self.generators), self.generators[0].device
        sizes = [p.numel() // members for p, _ in mine]
        drawn = torch.empty(members, sum(sizes), dtype=wide(p for p, _ in mine), device=device)
        for own, generator in zip(drawn, self.generators, strict=True):
            own.uniform_(-1.0, 1.0, generator=generator) if kind == "uniform" else own.normal_(generator=generator)
        parts = zip(torch.split(drawn, sizes, 1), mine, strict=True)
        noises = [part.reshape(p.shape) for part, (p, _) in parts]
        torch._foreach_mul_(noises, [self.noise * fresh.scale for _, fresh in mine])
        there = []
        for noise, (p, fresh) in zip(noises, mine, strict=True):
            if fresh.padding is not None:
                noise[fresh.padding] = 0.0
            if p.requires_grad:  # it is drawn for those frozen since, too: the draws of the others stay the same
                there.append((p, noise.to(p.device, p.dtype)))
        if there:
            torch._foreach_add_([p for p, _ in there], [noise for _, noise in there])

    def _add_constants(self) -> None:
        """What is the same in every fresh network: norms' weights are 1."""
        pairs = zip(self.parameters, self._fresh, strict=True)
        mine = [(p, fresh.scale) for p, fresh in pairs if fresh.kind == "constant" and fresh.scale and p.requires_grad]
        if mine:
            torch._foreach_add_([p for p, _ in mine], [self.noise * scale for _, scale in mine])

    def _distributions(self, params: ModuleOrParameters) -> list[Fresh]:
        if self.distribution == "normal":
            return [Fresh("normal", 1.0)] * len(self.parameters)
        if not isinstance(params, nn.Module):
            raise TypeError(
                "distribution 'init' needs the module, which tells how its parameters are drawn; a list of parameters "
                "goes with distribution='normal'"
            )
        known: dict[int, Fresh] = {}
        kinds: dict[int, str] = {}
        for module in params.modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in kinds:
                    kinds[id(parameter)] = type(module).__name__
                    fresh = initial(module, key)
                    if fresh is not None:
                        known[id(parameter)] = fresh
        pairs = zip(self.names, self.parameters, strict=True)
        unknown = [f"{name} ({kinds[id(p)]})" for name, p in pairs if id(p) not in known]
        if unknown:
            raise ValueError(
                f"the initial distribution of {', '.join(unknown)} is not known; known are those of {KNOWN}: use "
                "distribution='normal', or give a module without these"
            )
        return [known[id(p)] for p in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on bit by bit beside the parameters: the count of steps and the generators' states."""
        states = [generator.get_state() for generator in self.generators]
        return {"version": STATE_VERSION, "steps": self.steps, "generators": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state. Settings are not saved: build it with the same ones.

        Raises:
            ValueError: not what `state_dict` gave, or of another number or kind of generators. Nothing is changed.
        """
        check_saved(state_dict, ["steps", "generators"], "ShrinkAndPerturb.state_dict()")
        steps = state_dict["steps"]
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"state_dict holds steps {steps!r}, which must be an integer >= 0")
        saved = state_dict["generators"]
        if not isinstance(saved, (list, tuple)) or len(saved) != len(self.generators):
            raise ValueError(f"state_dict must hold {len(self.generators)} states of generators, got {saved!r:.80}")
        before = [generator.get_state() for generator in self.generators]
        try:
            for generator, state in zip(self.generators, saved, strict=True):
                generator.set_state(state.cpu())
        except (RuntimeError, TypeError, AttributeError) as error:
            for generator, state in zip(self.generators, before, strict=True):
                generator.set_state(state)
            raise ValueError(
                f"a saved generator does not fit this one, on {self.generators[0].device}: pass a generator of the "
                "device it was saved on"
            ) from error
        self.steps = steps

    def __repr__(self) -> str:
        settings = f"shrink={self.shrink:g}, noise={self.noise:g}, distribution={self.distribution!r}"
        return f"ShrinkAndPerturb({len(self.parameters)} parameters, {settings}, every={self.every})"


def _generators(given: Any, parameters: Sequence[Tensor], names: Sequence[str]) -> list[torch.Generator]:
    if given is None:
        return [own_generator(parameters[0].device)]
    several: list[Any] = (
        [given] if isinstance(given, torch.Generator) else list(given) if isinstance(given, (list, tuple)) else []
    )
    if not several or not all(isinstance(each, torch.Generator) for each in several):
        raise TypeError(
            f"generator must be a torch.Generator, a list of them (one for each member), or None, got {given!r}"
        )
    if len({id(each) for each in several}) < len(several):
        raise ValueError("generator holds a generator twice: each member needs its own")
    for name, parameter in zip(names, parameters, strict=True) if len(several) > 1 else ():
        if not parameter.ndim or parameter.shape[0] % len(several):
            raise ValueError(
                f"parameter {name} of shape {tuple(parameter.shape)} does not hold {len(several)} members' one after "
                "the other: several generators are for the network of a gnt.Ensemble with as many members"
            )
    return several
