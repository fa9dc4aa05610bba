"""ReDo: from time to time, all units that are all but silent begin anew.

The units, their features, the fresh weights and the reset of the optimizer's state are those of `gnt.engine`, whose
replacement rate is 0 here; who is replaced, and when, is decided in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.validation import check_positive
from gnt.importance._intake import Features
from gnt.importance._signals import Signals
from gnt.regularization._parameters import STATE_VERSION, check_saved, number
from gnt.replacement.engine import GnT
from gnt.units import Layers, UnitGroup


@dataclass(frozen=True)
class ReDoReport:
    """For each group: name, units, how many were dormant at the latest check, how many were replaced so far."""

    steps: int
    next_check: int
    groups: tuple[tuple[str, int, int, int], ...]

    def __str__(self) -> str:
        rows = [("group", "units", "dormant", "replaced"), *(tuple(map(str, row)) for row in self.groups)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join((row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))))
            for row in rows
        ]
        return "\n".join([f"after {self.steps} steps; the next check is in {self.next_check}", *lines])


class ReDo:
    """ReDo: every ``period`` steps, units that are tau-dormant on the latest batch are replaced.

    A unit of a layer is tau-dormant where mean |h_i| <= tau * (mean over the layer's units k of mean |h_k|), with means
    over the batch and, for convolutions, over all places. It gets fresh incoming weights from the initial distribution,
    bias 0, outgoing weights 0, norms as at birth, and the optimizer forgets what it knew of these slices. All layers
    are tested before any unit is replaced; where a unit and one of its consumer's are replaced together, the weight
    between them is the consumer's fresh draw.

    Call `step` after each optimizer step.

    Args:
        layers: as of `GnT`: a Sequential, a list of layers, a model with ``.layers``, or unit groups such as
            `gnt.trace` finds. The last layer's units are outputs, and stay.
        optimizer: as of `GnT`: whose state is reset for replaced units; None leaves all optimizer state alone.
        tau: the threshold of dormancy, >= 0. With 0 only units that were silent on the whole batch are replaced.
        period: number of steps from one check to the next, >= 1.
        init: distribution of fresh weights: "default" (torch's own, 1 / sqrt(fan_in)), "xavier", "lecun" or "kaiming".
        generator: for the draws; None makes one, seeded from torch's global generator.
        activation: as of `GnT`, where "xavier" or "kaiming" need it.
        process_group: as of `GnT`: processes that train this network together judge by all their samples.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state.replaced`` counts.
        steps: number of steps so far.
        replaced: what the latest `step` replaced.

    Raises:
        ValueError: a setting outside its range, or layers that cannot be walked.
        TypeError: an optimizer whose state cannot be reset per unit.

    Where a unit has several readers of different values (before and after a pooling, say), it is dormant if it is so to
    each of them.

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

    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        tau: float = 0.1,
        period: int = 1000,
        init: str = "default",
        generator: torch.Generator | None = None,
        activation: str | None = None,
        process_group: Any = None,
    ) -> None:
        self.tau = number("tau", tau)
        check_positive(period=period)
        self.period = int(period)
        self._engine = GnT(
            layers,
            optimizer,
            replacement_rate=0.0,
            bias_transfer=False,
            init=init,
            generator=generator,
            activation=activation,
            process_group=process_group,
        )
        self.groups = self._engine.groups
        self.steps = 0
        self.replaced = self._nobody()
        self._latest = [0] * len(self.groups)

    @torch.no_grad()
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Call it after each optimizer step: every ``period``-th time, replaces the dormant units.

        Args:
            features: as of `GnT.update`: what the consumers read in this step. None takes what was recorded in forwards
                in training mode since the last step; several of them are one batch.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.

        Raises:
            RuntimeError: a check is due and nothing was recorded; or this was closed.
            FloatingPointError: features of a group are not finite. Nothing is changed.
        """
        self._engine.feature_buffer.check_open()
        if (self.steps + 1) % self.period:
            self._engine.discard()
            self.replaced = self._nobody()
        else:
            dormant = self._dormant(features)
            if dormant is None:  # an empty remainder batch tells nothing: the next step is due
                self.replaced = self._nobody()
                return self.replaced
            self._engine.replace(dormant)
            self.replaced = dormant
            self._latest = [len(units) for units in dormant]
        self.steps += 1
        return self.replaced

    def _dormant(self, features: Features | None) -> list[Tensor] | None:
        """Who is dormant in each group; None where there are no samples."""
        batches = self._engine.take_features(features)
        signals, ranks = self._engine.signals(batches), self._engine.join_processes()
        if batches.empty if ranks is None else not ranks.share(signals):
            return None
        return [_dormant_in(each, self.tau) for each in signals]

    def _nobody(self) -> list[Tensor]:
        return [group.state.nobody for group in self.groups]

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer whose state is reset for replaced units."""
        return self._engine.optimizer

    @property
    def generator(self) -> torch.Generator:
        """Where the draws come from."""
        return self._engine.generator

    def discard(self) -> None:
        """Forget the recorded features of forwards that no step will follow (a GradScaler has skipped it)."""
        self._engine.discard()

    def report(self) -> ReDoReport:
        """Per group: units, dormant at the latest check, replaced so far; and when the next check is. Prints as a
        table.
        """
        rows = [
            (group.name, group.num_units, latest, group.state.replaced)
            for group, latest in zip(self.groups, self._latest, strict=True)
        ]
        return ReDoReport(self.steps, self.period - self.steps % self.period, tuple(rows))

    def state_dict(self) -> dict[str, Any]:
        """Everything to go on bit by bit beside network and optimizer; loads with ``torch.load(weights_only=True)``."""
        return {
            "version": STATE_VERSION,
            "steps": self.steps,
            "dormant": list(self._latest),
            "engine": self._engine.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state. Settings are not saved: build it with the same ones.

        Raises:
            ValueError: not what `state_dict` gave, or for other groups. Nothing is changed.
        """
        check_saved(state_dict, ["steps", "dormant", "engine"], "ReDo.state_dict()")
        steps, latest = state_dict["steps"], state_dict["dormant"]
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"state_dict holds steps {steps!r}, which must be an integer >= 0")
        if not isinstance(latest, list) or len(latest) != len(self.groups):
            raise ValueError(f"state_dict must hold {len(self.groups)} counts of dormant units, got {latest!r:.80}")
        self._engine.load_state_dict(state_dict["engine"])
        self.steps, self._latest, self.replaced = steps, list(latest), self._nobody()

    def close(self) -> None:
        """Remove the hooks. It can be read and saved afterwards, but not stepped."""
        self._engine.close()

    def __repr__(self) -> str:
        units = sum(group.num_units for group in self.groups)
        settings = f"tau={self.tau:g}, period={self.period}, init={self._engine.init!r}"
        return f"ReDo({len(self.groups)} groups, {units} units, {settings})"


def _dormant_in(signals: Signals, tau: float) -> Tensor:
    """Indices of the units of a group that are dormant to all of their readers.

    Raises:
        FloatingPointError: features that are not finite.
    """
    magnitudes: Sequence[Tensor] = [magnitude.mean(1) for magnitude in signals.magnitudes]
    whole = torch.stack([magnitude <= tau * magnitude.mean() for magnitude in magnitudes]).all(0)
    if not all(magnitude.isfinite().all() for magnitude in magnitudes):
        raise FloatingPointError(
            f"features of group {signals.group.name!r} are not finite, so dormant units cannot be told; nothing was "
            "changed"
        )
    return whole.nonzero().view(-1)
