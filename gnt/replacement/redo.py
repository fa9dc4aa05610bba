"""ReDo: replace all dormant units at an interval.

A `GnT` engine with replacement rate 0 records the features, draws the initial weights and resets the optimizer's state.
This file determines which units are replaced, and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.state_dicts import Kind, check_saved_state, counter, sequence
from gnt._utils.tables import align_columns
from gnt._utils.validation import check_positive, finite_number
from gnt.importance import Features, Signals
from gnt.initialization import Init, init_name
from gnt.names import ActivationName, BiasInit
from gnt.replacement._config import EngineSettings
from gnt.replacement._protect_setting import Protector
from gnt.replacement._replacement_rule import ReplacementRule
from gnt.units import Layers, UnitGroup

STATE_VERSION = 1


@dataclass(frozen=True)
class ReDoReport:
    """Summary of all groups; printing it shows a table.

    Attributes:
        steps: number of steps so far.
        next_check: number of steps until the next check.
        groups: for each group (name, number of units, dormant units at the latest check, units replaced so far).
    """

    steps: int
    next_check: int
    groups: tuple[tuple[str, int, int, int], ...]

    def __str__(self) -> str:
        rows = [("group", "units", "dormant", "replaced"), *(tuple(map(str, row)) for row in self.groups)]
        return "\n".join([f"after {self.steps} steps; the next check is in {self.next_check}", *align_columns(rows)])


class ReDo(ReplacementRule):
    """ReDo: every ``period`` steps, replace the units that are tau-dormant on the latest batch.

    A unit i of a layer is tau-dormant if mean |h_i| <= tau * (mean over the layer's units k of mean |h_k|), with means
    over the batch and, for convolutions, over all positions. If consumers read different tensors of the unit (before
    and after pooling, for example), it must be dormant in each of them.

    A replaced unit gets incoming weights from the initial distribution, bias 0 (see ``bias_init``), outgoing weights 0,
    initial values in norms, and its slices of the optimizer's state are reset. All layers are tested before any unit is
    replaced. If a unit and a unit of its consumer are replaced in the same step, the weight between them is the
    consumer's new draw.

    Call `step` after each optimizer step.

    Args:
        layers: a Sequential, a list of layers, a model with ``.layers``, or unit groups such as those of `gnt.trace`;
            same as for `GnT`. The units of the last layer are outputs and are never replaced.
        optimizer: its state is reset for replaced units; None resets no optimizer state.
        tau: threshold of dormancy, >= 0. With 0 only units that output 0 for the whole batch are replaced.
        period: number of steps between checks, >= 1.
        init, bias_init: initial distributions of new weights and biases; same as for `GnT`.
        generator: generator of the draws; None creates one, seeded from torch's global generator.
        activation: name of the activation, if ``init`` needs it; same as for `GnT`.
        process_group: processes that train this network together; means are over the samples of all of them. Same as
            for `GnT`.
        follow: list of objects that take part in each replacement, as with `follow`.
        protect: same as for `GnT`. A unit with p = 1 is not replaced; others are dormant if mean |h_i| <= (1 - p) tau *
            (mean over the layer).

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state.replaced`` counts replaced units.
        steps: number of steps so far.
        replaced: indices of the units replaced in the latest `step`, one tensor for each group.

    Raises:
        ValueError: a setting out of range, or layers that cannot be walked.
        TypeError: an optimizer whose state cannot be reset per unit.

    Source: Sokar, Agarwal, Castro, Evci, ICML 2023 (arXiv 2302.12902), Definition 3.1 and Algorithm 1.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> redo = gnt.ReDo(net, optimizer, tau=0.1, period=5)
    >>> with torch.no_grad():
    ...     _ = net[0].bias[3].fill_(-100.0)  # a dead unit
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     replaced = redo.step()
    >>> 3 in replaced[0]
    True
    """

    @explains_unknown_settings
    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        tau: float = 0.1,
        period: int = 1000,
        init: Init = EngineSettings.init,
        bias_init: BiasInit = EngineSettings.bias_init,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        follow: Sequence[Any] = (),
        protect: Protector | Sequence[Protector] | None = None,
    ) -> None:
        self.tau, self.period = tau, period
        if isinstance(layers, (list, tuple)) and any(getattr(each, "members", 1) > 1 for each in layers):
            raise ValueError(
                "ReDo compares the units of a layer, and the groups of an ensemble hold those of several networks: use "
                "it with single networks"
            )
        super().__init__(
            layers,
            optimizer,
            init=init,
            bias_init=bias_init,
            generator=generator,
            activation=activation,
            process_group=process_group,
            follow=follow,
            protect=protect,
        )
        self._latest = [0] * len(self.groups)

    @property
    def tau(self) -> float:
        """Threshold of dormancy; a new value is checked and holds from the next check on."""
        return self._tau

    @tau.setter
    def tau(self, tau: float) -> None:
        self._tau = finite_number("tau", tau)

    @property
    def period(self) -> int:
        """Number of steps between checks; a new value is checked and holds from the next step on."""
        return self._period

    @period.setter
    def period(self, period: int) -> None:
        check_positive(period=period)
        self._period = int(period)

    @torch.no_grad()
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Count one step and replace the dormant units at every ``period``-th call. Call it after each optimizer step.

        Args:
            features: what the consumers read in this step, same as for `GnT.update`. None uses the features recorded in
                training-mode forward passes since the last step; several forward passes form one batch.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.

        Raises:
            RuntimeError: a check is due and no features were recorded, or `close` was called.
            FloatingPointError: features of a group are NaN or infinite. ReDo has changed nothing; the optimizer's step
                before is not undone.
        """
        self._engine.feature_buffer.check_open()
        if (self.steps + 1) % self.period:
            self._engine.discard()
            self.replaced = self._no_units()
        else:
            self._engine.read_protection()
            dormant = self._dormant(features)
            if dormant is None:  # an empty batch: check in the next step instead
                self.replaced = self._engine.without_replaced_by_others(self._no_units())
                return self.replaced
            dormant = self._engine.without_replaced_by_others(dormant)
            replaced = [self._replaceable(group, units) for group, units in zip(self.groups, dormant, strict=True)]
            self._engine.replace(replaced)
            self.replaced = replaced
            self._latest = [len(units) for units in dormant]
        self.steps += 1
        return self.replaced

    def _dormant(self, features: Features | None) -> list[Tensor] | None:
        """Indices of the dormant units of each group, none in groups without samples; None if no group has any."""
        found = self._signals(features, f", tau={self.tau!r}, period={self.period}")
        if found is None:
            return None
        signals, absent = found
        return [
            each.group.state.no_units if number in absent else _dormant_in(each, self.tau)
            for number, each in enumerate(signals)
        ]

    def rebind(self, layers: Layers | Iterable[UnitGroup]) -> ReDo:
        """Go on with a network that was changed on purpose, as `GnT.rebind`; returns this object."""
        before = {group.name: latest for group, latest in zip(self.groups, self._latest, strict=True)}
        self.groups = self._engine.rebind(layers).groups
        self.replaced, self._latest = self._no_units(), [before.get(group.name, 0) for group in self.groups]
        return self

    def report(self) -> ReDoReport:
        """Return the units, dormant units and replaced units of each group, and the steps until the next check."""
        rows = [
            (group.name, group.num_units, latest, group.state.replaced)
            for group, latest in zip(self.groups, self._latest, strict=True)
        ]
        return ReDoReport(self.steps, self.period - self.steps % self.period, tuple(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume exactly, without network and optimizer.

        It can be loaded with ``torch.load(weights_only=True)``.
        """
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "dormant": list(self._latest),
            "engine": self._engine.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. Settings are not saved: build the object with the same ones.

        Raises:
            ValueError: not the result of `state_dict`, or of other groups, or damaged. Nothing is changed.
        """
        dormant = [counter(group.num_units, ", the number of units") for group in self.groups]
        kinds: dict[str, Kind] = {
            "steps": counter(),
            "dormant": sequence(dormant, f"{len(dormant)} counts of dormant units"),
            "engine": lambda _, saved: self._engine.checked_state(saved),
        }
        checked = check_saved_state(state_dict, "ReDo.state_dict()", kinds, STATE_VERSION)
        self._engine.load_checked_state(checked["engine"])
        self.steps, self._latest, self.replaced = checked["steps"], checked["dormant"], self._no_units()

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self.groups)
        settings = f"tau={self.tau:g}, period={self.period}, init={init_name(self._engine.init)}"
        return f"ReDo({len(self.groups)} groups, {units} units, {settings})"


def _dormant_in(signals: Signals, tau: float) -> Tensor:
    """Return the indices of the units of a group that are dormant in each tensor that consumers read.

    Protected units are among them.

    Raises:
        FloatingPointError: features are NaN or infinite.
    """
    magnitudes: Sequence[Tensor] = [magnitude.mean(1) for magnitude in signals.magnitudes]
    share = signals.group.state.unprotected_share
    threshold = tau if share is None else tau * share
    whole = torch.stack([magnitude <= threshold * magnitude.mean() for magnitude in magnitudes]).all(0)
    if not all(magnitude.isfinite().all() for magnitude in magnitudes):
        raise FloatingPointError(
            f"features of group {signals.group.name!r} are not finite, so dormant units are unknown; ReDo has "
            "changed nothing, but a step that the optimizer took before is not undone"
        )
    return whole.nonzero().view(-1)
