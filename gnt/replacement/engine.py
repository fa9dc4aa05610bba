"""GnT: generate and test. One step watches every unit, finds those that are due, and replaces them.

update    ages, running means, utilities            from features read before the optimizer's step, weights after it
select    how many are due, which are worth least   all groups are tested before any is regenerated
replace   mean into the consumers' bias, outgoing weights zero, fresh incoming weights, norms, then optimizer state
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_flags, check_positive
from gnt.importance._evaluate.evaluator import Tester
from gnt.importance._evaluate.repeat import Again
from gnt.importance._intake import Features, Intake, Prepared
from gnt.importance._signals import find
from gnt.replacement import _checkpoint as saving
from gnt.replacement._dry_run import DryRun, dry_run
from gnt.replacement._optimizer_hooks import Attachment
from gnt.replacement._step import EngineCore
from gnt.replacement._validation import (
    check_accumulate,
    check_process_group,
    check_settings,
    checked_incoming,
    checked_units,
)
from gnt.replacement.optimizer_state import StateReset
from gnt.replacement.report import Report
from gnt.units import Layers, UnitGroup, groups_for_engine


class GnT(EngineCore):
    """Generate and test over the hidden units of a network, beside any torch optimizer.

    Call `step` after each optimizer step. It updates every unit's age, mean feature and utility, and replaces the least
    useful of the mature ones at the replacement rate: its mean contribution moves into its consumers' bias, its
    outgoing weights become 0, its incoming weights are drawn anew, and the optimizer forgets what it knew of these
    slices.

    Args:
        layers: what `walk` takes (a Sequential, ModuleList, list of layers, or a model with ``.layers``), or unit
            groups.
        optimizer: the optimizer whose state is reset for replaced units; None leaves all optimizer state alone.
        replacement_rate: share of the eligible units of a group that is replaced in one update, in [0, 1].
        maturity_threshold: a unit is eligible when its age, in updates, exceeds this; an integer >= 0.
        decay_rate: of the running averages, in [0, 1).
        utility: a measure of `gnt.utility`, or one registered with `register_utility`.
        init: distribution of fresh weights: "default", "xavier", "lecun" or "kaiming" (`gnt.reinit`).
        accumulate: carry fractions of a unit over to later updates (True), or draw whether to replace one more (False).
            "one": carry over what is due, and replace one unit, never more, when it exceeds 1 (`gnt.algorithm_1`).
        bias_transfer: move a replaced unit's mean contribution into its consumers' bias.
        generator: for all random draws. None makes one, seeded from torch's global generator.
        activation: name of the activation for groups of which none is known; decides the gain of fresh weights.
        record: record features by hooks. With False, give them to `update` or `step`.
        process_group: the processes that train this network together (`gnt.ranks`): a torch process group; None is the
            default group where torch.distributed is initialised; False: this process is on its own.
        kernels: update the units by code that torch's compiler compiles at first use (`gnt.kernels`), several times as
            fast; for float32 and float64 networks on the CPU, others go as without. It needs a C++ compiler.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state`` holds ages, running averages and accumulator.
        refused: what `trace` found and refused, with the reasons; empty for a list of layers.
        updates: number of updates so far.
        replaced: what the latest `step` replaced, indices for each group.
        loaded: whether the state was loaded and no update followed.

    Raises:
        ValueError: a setting outside its range, a name that is not known, or layers that cannot be walked
            (`WalkError`).
        TypeError: an optimizer whose state cannot be reset per unit.

    Sources: Dohare et al., Nature 632 (2024), Algorithm 1; arXiv 2306.13812, Eqs. 2-8 for mean and age correction.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    >>> engine = gnt.GnT(net, optimizer, replacement_rate=0.01, maturity_threshold=5)
    >>> for _ in range(20):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    ...     replaced = engine.step()
    >>> engine.groups[0].state.replaced
    2
    """

    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        decay_rate: float = 0.99,
        utility: str = "contribution",
        init: str = "kaiming",
        accumulate: bool | str = True,
        bias_transfer: bool = True,
        generator: torch.Generator | None = None,
        activation: str | None = None,
        record: bool = True,
        process_group: Any = None,
        kernels: bool = False,
    ) -> None:
        check_settings(replacement_rate, maturity_threshold, decay_rate, generator)
        check_accumulate(accumulate)
        check_flags(bias_transfer=bias_transfer, record=record, kernels=kernels)
        check_process_group(process_group)
        groups = groups_for_engine(layers, activation)
        optimizer_state = StateReset(optimizer, groups) if optimizer is not None else None
        super().__init__(
            groups,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            decay_rate=decay_rate,
            utility=utility,
            init=init,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            generator=generator,
            process_group=process_group,
            kernels=kernels,
        )
        self.refused: tuple[Any, ...] = tuple(getattr(layers, "refused", ()))
        self._optimizer_state = optimizer_state
        self.feature_buffer = Intake(self.groups, record=record)
        self._again: Again | None = None
        self._attachment: Attachment | None = None
        self._detached: str | None = None

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer whose state is reset for replaced units."""
        return self._optimizer_state.optimizer if self._optimizer_state is not None else None

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        if getattr(self, "_attachment", None) is not None:
            raise RuntimeError("this engine is attached to its optimizer: build a new GnT for another one")
        self._optimizer_state = StateReset(optimizer, self.groups) if optimizer is not None else None

    @not_compiled
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Update, select, replace; call it after each optimizer step.

        Args:
            features: as for `update`.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.
        """
        if features is None and self._again is not None and self._goes_on() and self._again.assess():
            return self._finish()
        batches = self.take_features(features)
        replaced = self.step_with(batches)
        self._again = self._like(batches) if features is None else None
        return replaced

    def attach(self) -> GnT:
        """Act after each step of the optimizer, by its own hooks, and ride in its state_dict; returns the engine.

        From now on ``optimizer.step()`` ends with `step`, whose result stands in ``replaced``, and
        ``optimizer.state_dict()`` holds the engine's under "gnt", which ``optimizer.load_state_dict`` takes back. A
        step that a GradScaler skips, and one without a forward before it, ages nobody and replaces nobody.

        Features of a forward whose gradients are given up (a skipped step, ``zero_grad`` without a step) are forgotten
        at the next backward. Gradients that are changed in place between the micro-batches of one step look given up.

        Several engines may be attached to one optimizer, each for groups of its own; the second one's state is under
        "gnt_1", and so on.

        Raises:
            RuntimeError: attached before, the engine is closed, or another engine of this optimizer looks after a unit
                of these groups: ``close()`` that one first. Of another optimizer it stops, and its steps are refused.
            ValueError: the engine has no optimizer, or does not record features.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> optimizer = torch.optim.AdamW(net.parameters())
        >>> engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=2).attach()
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> engine.groups[0].state.replaced, sorted(optimizer.state_dict())
        (4, ['gnt', 'param_groups', 'state'])
        """
        self.feature_buffer.check_recording()
        if self.optimizer is None:
            raise ValueError("attach needs the optimizer: GnT(layers, optimizer).attach()")
        if self._attachment is not None:
            raise RuntimeError("this engine is attached already: it acts after each step of its optimizer")
        self._attachment = Attachment(self, self.optimizer, self.feature_buffer)
        return self

    @not_compiled
    @torch.no_grad()
    def update(self, features: Features | None = None) -> None:
        """Everybody one older; running averages of mean feature and utility.

        With d the decay rate, a the age after its increment, h the features and y the measure:
        f <- d f + (1 - d) mean h;  f^ = f / (1 - d^a);  u <- d u + (1 - d) y;  u^ = u / (1 - d^a).

        Args:
            features: for each group what its consumer read *before* the optimizer's step, samples first: a tensor, or a
                list of tensors from several forwards (gradient accumulation). None takes what was recorded since the
                last update.

        Raises:
            RuntimeError: nothing was recorded, or the engine is closed.
            ValueError: the wrong number, shape, device or dtype of features.
            FloatingPointError: features or weights of a group are not finite (found at once on the CPU; on other
                devices the group keeps its averages and ``state.nonfinite`` counts). Nothing is changed.
        """
        self.update_with(self.take_features(features))

    @torch.no_grad()
    def select(self) -> list[Tensor]:
        """Find the units that are due now, lowest corrected utility first; consumes the accumulators.

        With accumulation, over any number of updates the count is within 1 of the sum of replacement_rate * eligible.
        Without, it is floor(replacement_rate * eligible) and one more with the probability of the fraction. It is never
        more than there are. Nobody is due twice for one update.

        Returns:
            Indices of the units, one int64 tensor for each group; empty where none is due.
        """
        self.feature_buffer.check_open()
        return self.select_due()

    @torch.no_grad()
    def replace(self, units: Sequence[Tensor], incoming: Sequence[Tensor | None] | None = None) -> None:
        """Replace units: all that makes them what they are starts anew.

        Group by group: the mean contribution moves into the consumers' bias (b_k += sum_i w_ki f^_i), outgoing weights
        become exactly 0, incoming weights are drawn from the initial distribution, the producer's bias becomes 0, norms
        and the units' own state are as at birth. After all groups, the optimizer's state of these slices is reset.

        Where a unit and one of its consumer's units are replaced together, the weight between them is the consumer's
        fresh draw.

        Args:
            units: indices for each group, as `select` returns them, or any of your own.
            incoming: for each group fresh incoming weights (k, fan-in shape...) to use in place of draws, or None; for
                a group with several producers a list of such tensors, one for each.

        Raises:
            ValueError: wrong number of groups, indices out of range or repeated, wrong shape of ``incoming``. Nothing
                is changed.
        """
        self.feature_buffer.check_open()
        selected = isinstance(units, Sequence) and len(units) == len(self.selected)
        selected = selected and all(a is b for a, b in zip(units, self.selected, strict=True))
        chosen = list(units) if selected else checked_units(units, self.groups)
        fresh = checked_incoming(incoming, chosen, self.groups)
        self.replace_units(chosen, fresh, selected=selected)

    def report(self) -> Report:
        """Per group: units, eligible, replaced so far, when the next is due, dead units. Prints as a table, with what
        `trace` refused.

        Reads the device.
        """
        return Report.of(self.groups, self.updates, self.replacement_rate, self.refused)

    def dry_run(self, most: int = 5) -> DryRun:
        """Which units would go next, when, and what would change with each. Prints itself; changes nothing.

        Args:
            most: how many units of each group are named.

        Raises:
            ValueError: ``most`` is not a positive integer.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> print(gnt.GnT(net, replacement_rate=0.01).dry_run())
        dry run after 0 updates: nothing is changed
        0
          next due    in 107 updates
          first to go none is eligible
          each takes  4 of 0.weight, 1 of 0.bias, 1 of 2.weight, 1 of 2.bias
        """
        check_positive(most=most)
        return dry_run(self.groups, self.updates, self.replacement_rate, most, transfer=self.bias_transfer)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on bit by bit: unit state of all groups, counters, the generator's state.

        It loads with ``torch.load(weights_only=True)``. Take it between steps: features that wait for an update are not
        in it.
        """
        return saving.save(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state. Settings are not saved: build the engine with the same ones.

        Raises:
            ValueError: saved by another version, with another measure of utility, or for other groups. Nothing is
                changed.
        """
        self.follow_network()
        saving.load(self, state_dict)
        self.discard()
        self.loaded = True
        self._ranks = None  # the processes compare what they loaded before the next step

    @property
    def waiting(self) -> bool:
        """Whether any forward was recorded since the last update."""
        return self.feature_buffer.waiting

    def discard(self) -> None:
        """Forget the recorded features of forwards that no update will follow.

        A loop that calls `step` by hand calls this instead where a GradScaler skipped the optimizer's step.
        """
        self.feature_buffer.discard()

    def close(self) -> None:
        """Remove the hooks. The engine can be read and saved afterwards, but not stepped."""
        self.feature_buffer.close()
        self._again = None
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def _moved(self) -> None:
        self.feature_buffer.forget_checks()

    def take_features(self, features: Features | None = None) -> Prepared:
        """Check and arrange features; a learner does it before the optimizer's step, to tell of faults in time."""
        self.follow_network()
        return self.feature_buffer.prepare(features)

    def _like(self, batches: Prepared) -> Again | None:
        """How to take the next step, should it be like the one that was just taken."""
        features = [reading.alone for batch in batches for reading in batch]
        if not self.evaluator.by_kernel or len(features) != len(self.feature_buffer.taps):
            return None
        plain = [feature for feature in features if feature.__class__ is Tensor]
        return Again(self.feature_buffer.taps, self.evaluator, plain) if len(plain) == len(features) else None

    def __getstate__(self) -> dict[str, Any]:
        # a registered measure may be a lambda; it is found again by its name
        own: dict[str, Any] = {
            "measure": None,
            "selected": [],
            "_ranks": None,
            "evaluator": None,
            "_again": None,
            "_attachment": self._attachment.key if self._attachment is not None else None,
        }
        return {**self.__dict__, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.measure = find(self.utility)
        self.evaluator = Tester(self.groups, self.measure, self.utility, kernels=self.kernels)
        self._attachment, self._detached = None, state["_attachment"]
        self.reattach()

    def reattach(self) -> None:
        """In a copy: attach, as the original was, as soon as both the engine and its optimizer are whole.

        Of an engine and an optimizer that hold each other either may be whole first.
        """
        key = self.__dict__.get("_detached")
        optimizer = self.optimizer if key is not None else None
        if optimizer is not None and hasattr(optimizer, "_optimizer_step_post_hooks"):
            self._detached = None
            self._attachment = Attachment(self, optimizer, self.feature_buffer, key)


# what others that build an engine pass on to it
ENGINE_SETTINGS = tuple(
    name for name in inspect.signature(GnT).parameters if name not in ("layers", "optimizer", "record")
)
