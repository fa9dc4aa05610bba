"""Selective weight reinitialization (SWR): replace single weights instead of whole units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils import state_dicts as kind_of
from gnt._utils.generators import member_generators
from gnt._utils.parameters import select_parameters
from gnt._utils.settings import checked_settings, count, decay, one_of, positive
from gnt._utils.state_dicts import Kind, check_saved_state, counter, random_state, sequence, tensor
from gnt._utils.validation import finite_number
from gnt.distributed.dtensor import is_dtensor
from gnt.initialization import fitting_distributions
from gnt.names import NewValue, WeightSelection, WeightUtility
from gnt.replacement._element_state import ElementStateReset
from gnt.replacement._swr_report import COUNTS, SWRReport, swr_report
from gnt.replacement._weight_selection import below_threshold, lowest_share
from gnt.replacement._weight_utilities import WeightUtilities
from gnt.units import fill_slices

STATE_VERSION = 1
DEFAULT_FACTORS = {"threshold": 1e-5, "proportional": 0.4}

Utility = WeightUtility | Callable[[Tensor], Tensor | None]


@checked_settings(period=positive, value=one_of(*get_args(NewValue)), maturity=count, fixed=("select", "decay_rate"))
class SWR:
    """Selective weight reinitialization: every ``period`` steps, reinitialize the least useful weights of each tensor.

    Each weight matrix and vector is treated by itself. With w its weights after the optimizer's step, and g the
    gradient of that step, the utility of a weight is::

        gradient      U = |g * w|       the first-order change of the loss if the weight were 0
        magnitude     U = |w|
        random        U uniform in [0, 1)

    and those weights are chosen, among the ones older than ``maturity``, with::

        threshold     U <= factor * mean of U over the tensor
        proportional  the lowest U, floor(factor * n) of n weights; the fraction is carried over to the next time

    A chosen weight gets a draw from its layer's initial distribution ("resample") or that distribution's mean
    ("mean"); biases become 0, and the parameters of norms their initial values, in both. The optimizer's state of
    exactly these weights is reset.

    With a ``decay_rate`` d > 0, U is replaced by its running average since the weight was new, with a its age after
    this step: u <- d u + (1 - d) U and u^ = u / (1 - d^a). It is updated in every step.

    Call `step` after each optimizer step, before gradients are cleared.

    Args:
        net: a module; its parameters that require a gradient are used.
        optimizer: the optimizer whose state is reset for chosen weights; None resets none.
        utility: "gradient", "magnitude" or "random"; or a function that takes a parameter and returns the utilities of
            its weights, a tensor of its shape with values >= 0, or None to leave the parameter alone.
        select: "threshold" or "proportional".
        factor: see above, >= 0, at most 1 for "proportional". None: 1e-5 for "threshold", 0.4 for "proportional".
        period: number of steps between selections, >= 1.
        value: "resample" or "mean".
        maturity: a weight can be chosen if its age, in steps in which its parameter had a utility, exceeds this.
        decay_rate: decay rate of the running average, in [0, 1); 0 uses the latest utility.
        generator: generator of the draws; None creates one, seeded from torch's global generator. For the network of a
            `gnt.Ensemble` also a list of generators, one for each member, which is then treated as if it were alone.

    Attributes:
        steps: number of steps.
        names, parameters: the parameters.

    Raises:
        ValueError: a setting out of range, an unknown name, no parameters, or a layer whose initial distribution is not
            known.
        TypeError: ``net`` is not a module; an optimizer whose state cannot be reset per weight.

    If a tensor's utilities are all 0, as without any gradient, nothing of it is chosen. With "threshold" and a small
    factor the weights chosen are those whose gradient is exactly 0 on one batch (of inputs that are 0, and of units
    that are silent, in all its samples): the batch size then decides how many these are, and `report` tells their
    share. Memory: an int32 per weight, and with a ``decay_rate`` a float. SWR acts against loss of plasticity, not
    against forgetting. Processes that train one network together need generators with the same seed.

    Source: Hernandez-Garcia, Dohare, Luo, Sutton, CoLLAs 2025 (arXiv 2508.00212).

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> swr = gnt.SWR(net, optimizer, select="proportional", factor=0.25, period=5)
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     changed = swr.step()
    >>> [row.chosen for row in swr.report().parameters]
    [16, 4, 4, 0]
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        utility: Utility = "gradient",
        select: WeightSelection = "threshold",
        factor: float | None = None,
        period: int = 2048,
        value: NewValue = "resample",
        maturity: int = 0,
        decay_rate: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> None:
        if not isinstance(select, str) or select not in DEFAULT_FACTORS:
            raise ValueError(f"select must be 'threshold' or 'proportional', got {select!r}")
        self.select = select
        self.factor = DEFAULT_FACTORS[select] if factor is None else factor
        self.period, self.value, self.maturity, self.decay_rate = (
            period,
            value,
            maturity,
            decay("decay_rate", decay_rate),
        )
        if not isinstance(net, nn.Module):
            raise TypeError(f"SWR takes a module, whose layers determine the distributions, got {type(net).__name__}")
        self.names, self.parameters = select_parameters(net, "SWR")
        sharded = [name for name, each in zip(self.names, self.parameters, strict=True) if is_dtensor(each)]
        if sharded:
            raise TypeError(f"SWR cannot choose among weights that are sharded over processes: {', '.join(sharded)}")
        self._optimizer_state = None if optimizer is None else ElementStateReset(optimizer, self.names, self.parameters)
        self.generators = member_generators(generator, self.parameters, self.names, net)
        self._members = len(self.generators)
        if self._members == 1 and getattr(net, "members", 1) > 1:
            raise ValueError(
                f"SWR compares the weights of a parameter, and each parameter of an ensemble holds those of "
                f"{net.members} members: pass a list of {net.members} generators, one for each member"
            )
        self._distributions = fitting_distributions(
            net, self.names, self.parameters, "leave them out of SWR by requires_grad_(False)", self._members
        )
        self._utilities = WeightUtilities(utility, self.parameters, self.names, self.decay_rate, self.generators)
        self._carried = [0.0] * len(self.parameters)
        self._counts = torch.zeros(len(self.parameters), COUNTS, dtype=torch.int64, device=self.parameters[0].device)
        self.steps = 0

    @property
    def factor(self) -> float:
        """Share of weights, or threshold; a new value is checked and holds from the next selection on."""
        return self._factor

    @factor.setter
    def factor(self, factor: float) -> None:
        number = finite_number("factor", factor)
        if self.select == "proportional" and number > 1.0:
            raise ValueError(f"factor must be in [0, 1] for select='proportional', got {factor!r}")
        self._factor = number

    @property
    def reads_gradients(self) -> bool:
        """Whether the utility may read ``.grad``: a learner with ``compile=True`` then leaves gradients there."""
        return self._utilities.reads_gradients

    @torch.no_grad()
    def step(self) -> bool:
        """Count one step, and reinitialize weights at every ``period``-th call.

        Returns:
            Whether weights were chosen in this step (it may be that none was found).

        Raises:
            RuntimeError: gradients are needed, and no parameter has one. Nothing is changed.
            ValueError: a utility function returned something else than utilities, or None.
            TypeError: the optimizer keeps state that cannot be reset per weight. Nothing is changed.
        """
        due = (self.steps + 1) % self.period == 0
        if due and self._optimizer_state is not None:
            self._optimizer_state.check(self.names, self.parameters)
        utilities = self._utilities.updated(due)
        self.steps += 1
        if due:
            for number, utility in enumerate(utilities):
                if utility is not None:
                    self._reinitialize(number, utility)
        return due

    def after_step(self) -> None:
        """`step`, as the hook of a learner's method."""
        self.step()

    def _reinitialize(self, number: int, utility: Tensor) -> None:
        """Choose weights of one parameter and give them new values. ``utility``: (members, n)."""
        parameter = self.parameters[number]
        eligible = self._utilities.older_than(self.maturity, number)
        if self.select == "threshold":
            chosen = below_threshold(utility, self.factor, eligible)
        else:
            due = self._carried[number] + self.factor * utility.shape[1]
            count = min(int(due), utility.shape[1])
            self._carried[number] = min(due - count, 1.0)
            chosen = lowest_share(utility, count, eligible)
        repeated = (chosen & self._utilities.chosen_last(number)).sum()
        without = (chosen & (utility == 0)).sum()
        skipped = (utility.amax(1) == 0).sum()
        latest = torch.stack([chosen.sum(), repeated, without, skipped]).to(self._counts.device)
        self._counts[number, :4] = latest
        self._counts[number, 4] += latest[0]
        mask = chosen.reshape(parameter.shape)
        parameter.copy_(torch.where(mask, self._new_values(number), parameter))
        self._utilities.restart(number, chosen)
        if self._optimizer_state is not None:
            self._optimizer_state.reset(parameter, mask)

    def _new_values(self, number: int) -> Tensor:
        """New values for all weights of a parameter, in its shape and dtype."""
        parameter, members = self.parameters[number], self._members
        shape = (1, *parameter.shape) if members == 1 else (members, len(parameter) // members, *parameter.shape[1:])
        wide = torch.promote_types(parameter.dtype, torch.float32)
        drawn = torch.zeros(parameter.shape, dtype=wide, device=self.generators[0].device).reshape(shape)
        for own, generator, distribution in zip(drawn, self.generators, self._distributions[number], strict=True):
            if self.value == "resample" or distribution.kind == "constant":
                distribution.fill_(own, generator, stored=parameter.dtype, layer_rows=len(own) if own.ndim else 1)
                if distribution.zero_row is not None:
                    own[distribution.zero_row] = 0.0
        return drawn.reshape(parameter.shape).to(parameter.device, parameter.dtype)

    @torch.no_grad()
    def reset_units(self, param: Tensor, dim: int, index: Tensor, groups: int = 1) -> None:
        """Restart the ages and averages of weights of units that an engine has replaced (`gnt.replacement.Follower`).

        Args:
            param: the parameter.
            dim, index, groups: the slices, as for `gnt.replacement.Follower`.
        """
        for number, own in enumerate(self.parameters):
            if own is param:
                chosen = torch.zeros(param.shape, device=param.device)
                fill_slices(chosen, dim, index, 1.0, groups)
                self._utilities.restart(number, (chosen > 0).reshape(self._members, -1), chosen=False)

    def report(self) -> SWRReport:
        """Return what was chosen of each parameter; reads the device once."""
        sizes = [parameter.numel() for parameter in self.parameters]
        return swr_report(self.steps, self.period - self.steps % self.period, self.names, sizes, self._counts)

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume exactly, without parameters, optimizer and settings."""
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "carried": list(self._carried),
            "counts": self._counts.clone(),
            "generators": [generator.get_state() for generator in self.generators],
            **self._utilities.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. Settings are not saved: build the object with the same ones.

        Raises:
            ValueError: not the result of `state_dict`, or of another network or settings. Nothing is changed.
        """
        states = [random_state(generator) for generator in self.generators]
        kinds: dict[str, Kind] = {
            "steps": counter(),
            "carried": sequence([kind_of.number(0, 1)] * len(self.parameters), "a number for each parameter"),
            "counts": tensor(self._counts, 0, kind_of.MAX_COUNT),
            "generators": sequence(states, f"{len(states)} states of generators"),
            **self._utilities.kinds(),
        }
        checked = check_saved_state(state_dict, "SWR.state_dict()", kinds, STATE_VERSION)
        for generator, state in zip(self.generators, checked["generators"], strict=True):
            generator.set_state(state)
        self.steps, self._carried, self._counts = checked["steps"], checked["carried"], checked["counts"]
        self._utilities.load_checked(checked)

    def __repr__(self) -> str:
        settings = f"utility={self._utilities.name}, select={self.select!r}, factor={self.factor:g}"
        elements = sum(parameter.numel() for parameter in self.parameters)
        return f"SWR({elements} weights, {settings}, period={self.period}, value={self.value!r})"
