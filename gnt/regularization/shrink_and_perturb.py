"""Shrink and perturb: scale all parameters down and add noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gnt._kernels import use_kernels
from gnt._utils.generators import member_generators
from gnt._utils.parameters import ModuleOrParameters, accumulation_dtype, select_parameters
from gnt._utils.settings import checked_settings, count, non_negative, share
from gnt._utils.state_dicts import check_saved_state, counter, random_state, sequence
from gnt._utils.validation import check_kernels
from gnt.distributed.dtensor import is_dtensor
from gnt.initialization import Distribution, parameter_distributions
from gnt.names import NoiseDistribution
from gnt.regularization._every_nth_step import EveryNthStep
from gnt.regularization._perturb_kernel import fits_kernel, perturb

STATE_VERSION = 1

Generators = torch.Generator | Sequence[torch.Generator]


@checked_settings(shrink=share, noise=non_negative, every=count, fixed=("distribution", "kernels"))
class ShrinkAndPerturb(EveryNthStep):
    """Shrink and perturb: theta <- shrink * theta + noise * p for all parameters, with a new draw of p each time.

    With ``distribution="init"`` p is drawn from the parameter's initial distribution in torch: uniform in
    +-1/sqrt(fan_in) for weights and biases of linear and convolution layers; normal for embeddings, with 0 in the
    padding row; the constants weight 1 and bias 0 for norms, and 0.25 for PReLU. With ``"normal"`` p is standard
    normal, so ``noise`` is the standard deviation of the noise; this works for any parameters.

    Args:
        params: a module, whose parameters that require a gradient are used, or (for "normal") a list of parameters.
        shrink: factor of the parameters, in [0, 1]. Weight decay w in SGD with step size lr equals a shrink of
            1 - lr * w at each step.
        noise: factor of p, >= 0.
        distribution: "init" or "normal".
        every: `step` acts at every ``every``-th call. With 0 it never acts; call `apply` instead, at the end of a task
            for example.
        generator: generator of the draws; None creates one, seeded from torch's global generator. For the network of a
            `gnt.Ensemble` also a list of generators, one for each member: each member then gets the draws it would get
            if it were trained alone.
        kernels: with "normal", draw and add the noise by a C kernel in one pass over memory, where that can be done
            (contiguous float32 or float64 parameters on the CPU). None: if there are kernels; True: required; False:
            torch operations.

    Attributes:
        steps: number of calls of `step`.

    Raises:
        ValueError: a setting out of range; no parameters; a parameter that is frozen, lazy, repeated or not real; with
            "init", a parameter whose initial distribution is not known.
        TypeError: ``params`` is neither a module nor a list of parameters, or sharded over processes; with "init", it
            is not a module.
        RuntimeError: ``kernels=True`` and there are none.

    The kernel and torch operations draw different noise. That of the kernel is computed from one number that is drawn
    in each step (Philox4x32-10 and the transform of Box and Muller), and does not depend on the number of threads.

    Optimizer state and buffers, such as running statistics, are left unchanged, and so are parameters that were frozen
    later (``requires_grad_(False)``), while they are frozen. Processes that train one network together
    (DistributedDataParallel) need the same draws: pass each a generator with the same seed.

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
        distribution: NoiseDistribution = "init",
        every: int = 1,
        generator: Generators | None = None,
        kernels: bool | None = None,
    ) -> None:
        check_kernels(kernels)
        use_kernels(kernels)
        self.kernels = kernels
        self.shrink, self.noise, self.every = shrink, noise, every
        if distribution not in ("init", "normal"):
            raise ValueError(f"distribution must be 'init' or 'normal', got {distribution!r}")
        self.distribution = distribution
        self.names, self.parameters = select_parameters(params, "ShrinkAndPerturb")
        sharded = [name for name, each in zip(self.names, self.parameters, strict=True) if is_dtensor(each)]
        if sharded:
            raise TypeError(
                f"ShrinkAndPerturb cannot draw noise for weights that are sharded over processes: {', '.join(sharded)}"
            )
        self._distributions = self._find_distributions(params)
        self.generators = member_generators(generator, self.parameters, self.names, params)
        self.steps = 0

    @torch.no_grad()
    def apply(self) -> None:
        """Shrink and perturb now, regardless of ``every``; at the end of a task, for example."""
        if self.noise and self.distribution == "normal" and fits_kernel(self.kernels, self.parameters):
            perturb(self.parameters, self.shrink, self.noise, self.generators)
            return
        if self.shrink != 1.0 and (trainable := [p for p in self.parameters if p.requires_grad]):
            torch._foreach_mul_(trainable, self.shrink)
        if self.noise:
            for kind in ("uniform", "normal"):
                self._add_random_noise(kind)
            self._add_constants()

    def _add_random_noise(self, kind: str) -> None:
        """Add noise to all parameters of one kind of distribution, from one draw of each generator."""
        pairs = zip(self.parameters, self._distributions, strict=True)
        selected = [(p, distribution) for p, distribution in pairs if distribution.kind == kind]
        if not selected:
            return
        members, device = len(self.generators), self.generators[0].device
        sizes = [p.numel() // members for p, _ in selected]
        drawn = torch.empty(members, sum(sizes), dtype=accumulation_dtype(p for p, _ in selected), device=device)
        for row, generator in zip(drawn, self.generators, strict=True):
            row.uniform_(-1.0, 1.0, generator=generator) if kind == "uniform" else row.normal_(generator=generator)
        parts = zip(torch.split(drawn, sizes, 1), selected, strict=True)
        noises = [part.reshape(p.shape) for part, (p, _) in parts]
        torch._foreach_mul_(noises, [self.noise * distribution.scale for _, distribution in selected])
        trainable = []
        for noise, (p, distribution) in zip(noises, selected, strict=True):
            if distribution.zero_row is not None:
                noise[distribution.zero_row] = 0.0
            if p.requires_grad:  # noise is drawn for frozen parameters too, so that the other draws do not change
                trainable.append((p, noise.to(p.device, p.dtype)))
        if trainable:
            torch._foreach_add_([p for p, _ in trainable], [noise for _, noise in trainable])

    def _add_constants(self) -> None:
        """Add noise * p where p is a constant, such as 1 for the weights of norms."""
        pairs = zip(self.parameters, self._distributions, strict=True)
        selected = [(p, d.scale) for p, d in pairs if d.kind == "constant" and d.scale and p.requires_grad]
        if selected:
            torch._foreach_add_([p for p, _ in selected], [self.noise * scale for _, scale in selected])

    def _find_distributions(self, params: ModuleOrParameters) -> list[Distribution]:
        """Return the distribution of p for each parameter."""
        if self.distribution == "normal":
            return [Distribution("normal", 1.0)] * len(self.parameters)
        if not isinstance(params, nn.Module):
            raise TypeError(
                "distribution 'init' needs the module, whose layers determine the distributions; a list of parameters "
                "needs distribution='normal'"
            )
        return parameter_distributions(params, self.names, self.parameters, "use distribution='normal'")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the states of the generators; parameters and settings are not included."""
        states = [generator.get_state() for generator in self.generators]
        return {"version": STATE_VERSION, "steps": self.steps, "generators": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. Settings are not saved: build the object with the same ones.

        A generator's state saved on another type of device determines a seed, because generators of different devices
        draw different numbers.

        Raises:
            ValueError: not the result of `state_dict`, or of another number of generators. Nothing is changed.
        """
        states = [random_state(generator) for generator in self.generators]
        kinds = {"steps": counter(), "generators": sequence(states, f"{len(states)} states of generators")}
        checked = check_saved_state(state_dict, "ShrinkAndPerturb.state_dict()", kinds, STATE_VERSION)
        for generator, state in zip(self.generators, checked["generators"], strict=True):
            generator.set_state(state)
        self.steps = checked["steps"]

    def __repr__(self) -> str:
        settings = f"shrink={self.shrink:g}, noise={self.noise:g}, distribution={self.distribution!r}"
        return f"ShrinkAndPerturb({len(self.parameters)} parameters, {settings}, every={self.every})"
