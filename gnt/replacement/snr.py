"""SNR, self-normalized resets: replace units that are silent for much longer than they used to be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.state_dicts import Kind, check_entries, check_saved_state, counter, sequence
from gnt._utils.tables import align_columns
from gnt._utils.validation import check_positive, to_float
from gnt.importance import Features, Signals
from gnt.initialization import Init, init_name
from gnt.names import ActivationName, BiasInit
from gnt.replacement._config import EngineSettings
from gnt.replacement._firing_times import FiringTimes
from gnt.replacement._member_engine import engine_of_members
from gnt.replacement._protect_setting import Protector
from gnt.replacement._replacement_rule import ReplacementRule
from gnt.replacement.engine import GnT
from gnt.units import Layers, UnitGroup

STATE_VERSION = 1


@dataclass(frozen=True)
class SNRReport:
    """Summary of all groups; printing it shows a table.

    Attributes:
        steps: number of steps so far.
        groups: for each group (name, number of units, units that were silent in the latest step, smallest and largest
            threshold in steps, units replaced so far).
    """

    steps: int
    groups: tuple[tuple[str, int, int, int, int, int], ...]

    def __str__(self) -> str:
        header = ("group", "units", "silent", "least threshold", "largest", "replaced")
        return "\n".join(
            [f"after {self.steps} steps", *align_columns([header, *(tuple(map(str, r)) for r in self.groups)])]
        )


class SNR(ReplacementRule):
    """Self-normalized resets: replace a unit that is silent for longer than it usually is.

    A unit fires in a step if its feature is positive in a sample of the batch (and a position, for convolutions). Its
    silent time a is the number of steps since it last fired. A unit is replaced when a reaches its threshold. Every
    ``estimate_every`` steps the threshold becomes the (1 - eta) quantile of the silent times, of 1 step and more, that
    ended since the last estimate, by firing or by a replacement::

        threshold <- quantile                          if it is below the threshold
        threshold <- min(2 * threshold, longest)       otherwise: the threshold has cut times off

    It is longest / 2 before the first estimate, and 1 for a unit that fired in each step. It stays if no silent time
    ended because the unit was silent throughout, or its layer was not used. A replaced unit gets incoming
    weights from the initial distribution, bias 0 (see ``bias_init``), outgoing weights 0, initial values in norms, and
    its slices of the optimizer's state are reset.

    Call `step` after each optimizer step.

    Args:
        layers: a Sequential, a list of layers, a model with ``.layers``, or unit groups such as those of `gnt.trace`;
            same as for `GnT`. Only activations that are positive exactly for positive inputs show whether a unit fires:
            ReLU and its relatives, tanh; units behind a sigmoid always fire and are never replaced. Or ``net`` of a
            `gnt.Ensemble`: each member's units are replaced as if it were trained alone; ``groups`` and ``replaced``
            are then those of all members, one after the other.
        optimizer: its state is reset for replaced units; None resets no optimizer state.
        eta: share of its silent times beyond which a unit counts as inactive, in (0, 1).
        estimate_every: number of steps between estimates of the thresholds, >= 1.
        longest: largest threshold, in steps; it bounds the memory, an int32 per unit and step.
        init, bias_init: initial distributions of new weights and biases; same as for `GnT`.
        generator: generator of the draws; None creates one, seeded from torch's global generator. For the network of
            an ensemble a list of generators, one for each member.
        activation: name of the activation, if ``init`` needs it; same as for `GnT`.
        process_group: processes that train this network together: a unit fires if it does in one of them. Same as for
            `GnT`.
        follow: list of objects that take part in each replacement, as with `follow`.
        protect: same as for `GnT`. A unit with p = 1 is not replaced; values below 1 have no effect.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state.replaced`` counts replaced units.
        steps: number of steps so far.
        replaced: indices of the units replaced in the latest `step`, one tensor for each group.

    Raises:
        ValueError: a setting out of range, or layers that cannot be walked.
        TypeError: an optimizer whose state cannot be reset per unit; for the network of an ensemble, generators that do
            not fit, a function as ``init``, a process group, or an engine of the ensemble as follower.

    Between two estimates a unit should end 1 / eta silent times or more: with single samples as batches take a smaller
    ``eta`` and a larger ``estimate_every``, such as 1e-4 and 20,000 (docs/remedies.md). A replacement reads the device,
    so on a GPU each step waits for it.

    Source: Farias & Jozefiak, ICLR 2025 (arXiv 2410.20098), Algorithm 1. The estimate of the quantile, with its
    doubling, is that of published implementations; they count samples, which with batches of one size is the same.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> snr = gnt.SNR(net, optimizer, longest=10)
    >>> with torch.no_grad():
    ...     _ = net[0].bias[3].fill_(-100.0)  # a dead unit: replaced after longest / 2 = 5 steps
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     replaced = snr.step()
    >>> 3 in replaced[0]
    True
    """

    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        eta: float = 0.02,
        estimate_every: int = 1000,
        longest: int = 1000,
        init: Init = EngineSettings.init,
        bias_init: BiasInit = EngineSettings.bias_init,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        follow: Sequence[Any] = (),
        protect: Protector | Sequence[Protector] | None = None,
    ) -> None:
        self.eta, self.estimate_every = eta, estimate_every
        check_positive(longest=longest)
        self._longest = int(longest)
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
        self._times = [self._new_times(group) for group in self.groups]

    def _make_engine(
        self, layers: Layers | Iterable[UnitGroup], optimizer: Optimizer | None, settings: dict[str, Any]
    ) -> GnT:
        if hasattr(layers, "stacked_groups"):
            return engine_of_members(layers, optimizer, settings)
        return super()._make_engine(layers, optimizer, settings)

    @property
    def eta(self) -> float:
        """Share of silent times beyond the threshold; a new value is checked and holds from the next estimate on."""
        return self._eta

    @eta.setter
    def eta(self, eta: float) -> None:
        if not 0.0 < to_float(eta) < 1.0:
            raise ValueError(f"eta must be a number in (0, 1), got {eta!r}")
        self._eta = float(eta)

    @property
    def estimate_every(self) -> int:
        """Number of steps between estimates; a new value is checked and holds from the next step on."""
        return self._estimate_every

    @estimate_every.setter
    def estimate_every(self, estimate_every: int) -> None:
        check_positive(estimate_every=estimate_every)
        self._estimate_every = int(estimate_every)

    @property
    def longest(self) -> int:
        """Largest threshold, in steps."""
        return self._longest

    def _new_times(self, group: UnitGroup) -> FiringTimes:
        return FiringTimes(group.num_units, self.longest, group.incoming[0].weight.device)

    @torch.no_grad()
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Count one step and replace the units that have been silent for too long. Call it after each optimizer step.

        Args:
            features: what the consumers read in this step, same as for `GnT.update`. None uses the features recorded in
                training-mode forward passes since the last step; several forward passes form one batch.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.

        Raises:
            RuntimeError: no features were recorded, or `close` was called.
            FloatingPointError: features of a group are NaN or infinite. SNR has changed nothing; the optimizer's step
                before is not undone.

        If the optimizer's state or a follower cannot follow a replacement, its error is raised, and SNR has changed
        nothing but forgotten the recorded features.
        """
        self._engine.feature_buffer.check_open()
        self._engine.read_protection()
        found = self._signals(features, f", eta={self.eta!r}, estimate_every={self.estimate_every}")
        self.replaced = self._no_units()
        if found is None:
            return self.replaced
        signals, absent = found
        fired = [None if n in absent else _fired(each) for n, each in enumerate(signals)]
        overdue = []
        for group, times, own in zip(self.groups, self._times, fired, strict=True):
            times.move_to(group.incoming[0].weight.device)
            units = times.overdue(own).nonzero().view(-1) if own is not None else group.state.no_units
            overdue.append(self._replaceable(group, units))
        overdue = self._engine.without_replaced_by_others(overdue)
        if any(map(len, overdue)):
            self._engine.replace(overdue)
            self.replaced = overdue
        for times, own, units in zip(self._times, fired, self.replaced, strict=True):
            if own is not None:
                times.update(own)
            if len(units):
                times.end(torch.zeros_like(times.silent, dtype=torch.bool).index_fill_(0, units, True))
        self.steps += 1
        if self.steps % self.estimate_every == 0:
            for times in self._times:
                times.set_thresholds(self.eta)
        return self.replaced

    def restart_units(self, group: UnitGroup, units: Tensor) -> None:
        """Another engine, which this object follows, has replaced units: their silent times restart."""
        super().restart_units(group, units)
        for own, times in zip(self.groups, self._times, strict=True):
            if own is group:
                times.restart(units)

    def rebind(self, layers: Layers | Iterable[UnitGroup]) -> SNR:
        """Go on with a network that was changed on purpose, as `GnT.rebind`; returns this object.

        Groups of the same name and size keep their silent times.
        """
        before = {(group.name, group.num_units): own for group, own in zip(self.groups, self._times, strict=True)}
        self.groups = self._engine.rebind(layers).groups
        self._times = [before.get((group.name, group.num_units)) or self._new_times(group) for group in self.groups]
        self.replaced = self._no_units()
        return self

    def report(self) -> SNRReport:
        """Return silent units, thresholds and replaced units of each group; reads the device."""
        rows = []
        for group, times in zip(self.groups, self._times, strict=True):
            low, high = times.threshold.aminmax()
            silent = int((times.silent > 0).sum())
            rows.append((group.name, group.num_units, silent, int(low), int(high), group.state.replaced))
        return SNRReport(self.steps, tuple(rows))

    def state_dict(self) -> dict[str, Any]:
        """Return the state needed to resume exactly, without network and optimizer.

        It can be loaded with ``torch.load(weights_only=True)``.
        """
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "times": [times.state_dict() for times in self._times],
            "engine": self._engine.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state. Settings are not saved: build the object with the same ones.

        Raises:
            ValueError: not the result of `state_dict`, or of other groups or another ``longest``, or damaged. Nothing
                is changed.
        """
        entries: list[Kind] = [
            lambda entry, saved, own=times: check_entries(saved, own.kinds(), f" for {entry.name}")  # type: ignore[misc]
            for times in self._times
        ]
        kinds: dict[str, Kind] = {
            "steps": counter(),
            "times": sequence(entries, f"the silent times of {len(entries)} groups"),
            "engine": lambda _, saved: self._engine.checked_state(saved),
        }
        checked = check_saved_state(state_dict, "SNR.state_dict()", kinds, STATE_VERSION)
        self._engine.load_checked_state(checked["engine"])
        for times, own in zip(self._times, checked["times"], strict=True):
            times.load_checked(own)
        self.steps, self.replaced = checked["steps"], self._no_units()

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self.groups)
        settings = f"eta={self.eta:g}, estimate_every={self.estimate_every}, longest={self.longest}"
        return f"SNR({len(self.groups)} groups, {units} units, {settings}, init={init_name(self._engine.init)})"


def _fired(signals: Signals) -> Tensor:
    """Whether each unit of a group was positive somewhere in the batch, bool (num_units,).

    Mean |h| + mean h is twice the mean of max(h, 0), and exactly 0 if no h is positive.

    Raises:
        FloatingPointError: features are NaN or infinite.
    """
    by_tap = zip(signals.magnitudes, signals.means, signals.present, strict=True)
    positive = [magnitude + mean for magnitude, mean, present in by_tap if present]
    if not all(bool(each.isfinite().all()) for each in positive):
        raise FloatingPointError(
            f"features of group {signals.group.name!r} are not finite, so silent units are unknown; SNR has changed "
            "nothing, but a step that the optimizer took before is not undone"
        )
    return torch.stack([(each > 0).any(1) for each in positive]).any(0)
