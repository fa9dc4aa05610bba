"""GnT: generate and test. Each step updates the utility of every unit, finds the units that are due, and replaces them.

update    ages, running means and utilities         features from before the optimizer's step, weights from after it
select    how many units are due, and which         lowest utility among the eligible units
replace   mean into the consumers' bias, outgoing weights zero, new incoming weights, norms, then optimizer state
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.known_attributes import known_attributes
from gnt._utils.other_names import ExplainsOtherNames, explains_published_positions, explains_unknown_settings
from gnt._utils.validation import check_flags
from gnt.importance import Features
from gnt.initialization import Init
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement._attached_engine import AttachedEngine
from gnt.replacement._config import EngineSettings
from gnt.replacement._followers import Followers
from gnt.replacement._optimizer_hooks import CopiedHooks, OptimizerHooks
from gnt.replacement._protect_setting import Protect
from gnt.replacement._soft_settings import SoftReplacement
from gnt.replacement._validation import (
    Selection,
    check_not_frozen,
    check_not_protected,
    checked_incoming,
    checked_units,
)
from gnt.replacement.optimizer_state import (
    OptimizerStateReset,
    optimizers_among,
    state_of_further_optimizer,
    unwrap_optimizer,
)
from gnt.units import Layers, UnitGroup, groups_for_engine


@known_attributes()
class GnT(AttachedEngine, ExplainsOtherNames):
    """Generate and test over the hidden units of a network, beside any torch optimizer.

    Call `step` after each optimizer step. It updates every unit's age, mean feature and utility, and replaces the least
    useful eligible units at the replacement rate: a replaced unit's mean contribution moves into its consumers' bias,
    its outgoing weights become 0, its incoming weights are drawn from the initial distribution, and the optimizer's
    state of these slices is reset.

    Args:
        layers: what `walk` takes (a Sequential, ModuleList, list of layers, or a model with ``.layers``), or unit
            groups.
        optimizer: the optimizer whose state is reset for replaced units; None leaves all optimizer state alone.
        replacement_rate: share of the eligible units of a group that is replaced in one update, in [0, 1].
        maturity_threshold: a unit is eligible if its age, in updates, exceeds this; an integer >= 0.
        decay_rate: decay rate of the running averages, in [0, 1).
        utility: name of a measure (`gnt.importance.measures`), or of one registered with `register_utility`.
        init: initial distribution of new incoming weights. "auto": for each layer the known one that its weights look
            like a draw from, now, at construction; if there is none, as after training, torch's own for this layer;
            `report` says which. Or a name: "default" (torch's own), "xavier", "lecun", "kaiming" (uniform),
            "xavier_normal", "lecun_normal", "kaiming_normal", "normal", "truncated_normal", "orthogonal"; or a function
            (tensor, slot, generator) that fills the tensor of new weights in place. docs/initialization.md.
        accumulate: carry fractions of a unit over to later updates (True), or draw whether one more unit is replaced
            (False). "one": carry over what is due, and replace at most one unit per update, when the sum exceeds 1
            (`gnt.algorithm_1`).
        bias_transfer: move a replaced unit's mean contribution into its consumers' bias.
        generator: for all random draws. None makes one, seeded from torch's global generator.
        activation: name of the activation for groups whose activation is unknown; it decides the gain of new weights.
        record: record features by hooks. With False, pass them to `update` or `step`.
        process_group: the processes that train this network together: a torch process group; None is the default group
            if torch.distributed is initialised; False: this process alone.
        kernels: update the units of float32 and float64 networks by C kernels on the CPU and Triton kernels on a GPU,
            several times as fast as by torch operations. None: if there are kernels on this machine; True:
            RuntimeError, with the reason, if there are none; False: never. docs/kernels.md.
        bias_init: "zero": the bias of a new unit is 0. "initial": it is drawn from the initial distribution of the
            layer's biases, which is found as for ``init="auto"``.
        follow: list of objects that take part in each replacement, as with `follow`.
        protect: an object with a method ``protected(group) -> (num_units,)`` in [0, 1], which is asked in each step
            (`gnt.replacement.Protector`), or a list of such; the maximum counts. A unit with p = 1 is never replaced:
            the replacement rate applies to the eligible units that are not protected. Others are ranked by
            u^ / (1 - p), with u^ the corrected utility. "top:0.2" protects the 20% of highest running importance, as
            `gnt.protection.TopUnits` does, which has more settings.
        grad_scaler: the ``torch.amp.GradScaler`` of a loop that calls ``scaler.unscale_(optimizer)`` and then
            ``optimizer.step()`` itself, for measures that read gradients of features, which are divided by its scale at
            the optimizer's step. A GradScaler whose ``step(optimizer)`` is called is found without this.
        measure_every: k, an integer from 1 to ``maturity_threshold + 1``: features and utilities are measured in every
            k-th update of a group only, and enter the averages with the decay rate d^k. Units age, are selected and
            replaced in every update. In the updates between, features are not recorded.
        soft: move all units a little towards new ones at an interval, instead of replacing a few of them
            (`gnt.SoftReplacement`; True: with its defaults). ``replacement_rate`` then has no effect. The optimizer's
            state is kept, and followers are not told, since a unit goes on as the same one.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state`` holds ages, running averages and accumulator.
        followers: tuple of the objects that take part in each replacement, besides the optimizer.
        refused: what `trace` found and skipped, with the reasons; empty for a list of layers. Also ``skipped``.
        notes: parts of the network that `trace` could not examine; empty for a list of layers.
        updates: number of updates so far.
        replaced: what the latest `step` replaced, indices for each group.
        loaded: True after `load_state_dict` until the next update.

    The settings are attributes, too. A new value is checked as at construction and in force from the next step on; only
    ``utility``, ``activation`` and ``measure_every`` cannot be changed. Assigning an attribute that is no setting, such
    as a misspelled one, raises AttributeError; methods of subclasses may add attributes.

    Raises:
        ValueError: a setting outside its range, an unknown name, or layers that cannot be walked (`WalkError`).
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

    @explains_published_positions
    @explains_unknown_settings
    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        record: bool = True,
        process_group: Any = None,
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        settings = EngineSettings(
            replacement_rate,
            maturity_threshold,
            decay_rate,
            utility,
            init,
            accumulate,
            bias_transfer,
            generator,
            activation,
            process_group,
            kernels,
            bias_init,
            protect,
            grad_scaler,
            measure_every,
            soft,
        )
        check_flags(record=record)
        groups = groups_for_engine(layers, activation)
        own = unwrap_optimizer(optimizer)
        beside = [each for each in optimizers_among(follow) if each is not own]
        optimizer_state = OptimizerStateReset(optimizer, groups, beside) if optimizer is not None else None
        make = partial(state_of_further_optimizer, groups=groups, own=own, beside=beside)
        followers = Followers().with_targets(follow, groups, make)
        super().__init__(groups, settings, optimizer_state, record=record)
        if record:  # without features of its own it may be given its optimizer later
            self.check_can_slow(self.protection)
        self._followers = followers
        self.refused: tuple[Any, ...] = tuple(getattr(layers, "refused", ()))
        self._selection = Selection([])
        self.notes = tuple(getattr(layers, "notes", ()))
        self._hooks: OptimizerHooks | None = None
        self._copied_hooks: CopiedHooks | None = None  # in a copy that is not attached yet
        self.protection_changed()

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *(f"note: {note}" for note in self.notes)])

    @not_compiled
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Update, select and replace; call it after each optimizer step.

        Args:
            features: as for `update`.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.

        Raises:
            RuntimeError: the engine is attached and has made this step in that of its optimizer; or as for `update`.
            ValueError, FloatingPointError: as for `update`.

        If the optimizer's state or a follower cannot follow a replacement, its error is raised after the update: no
        unit is replaced, and the accumulators are as before the step.
        """
        structure = self._structure
        if structure is None or not structure.is_current:
            self.check_structure()
        if features is None and self.repeat_step():
            return self.replaced
        if self._hooks is not None and features is None and not self.feature_buffer.waiting:
            self.feature_buffer.check_open()
            raise RuntimeError(
                "this engine is attached: optimizer.step() ends with its step, so leave out engine.step(). Nothing was "
                "recorded since then"
            )
        batch, before = self.take(features, none_is_error=not self.has_other_processes), self.updates
        replaced = self.step_with(batch)
        if self.updates == before:
            batch.check_recorded()
        return replaced

    @not_compiled
    @torch.no_grad()
    def after_replay(self) -> list[Tensor]:
        """Finish a step that the replay of a CUDA graph has begun: count it, select units and replace them.

        A step that is captured (`step`, or the optimizer's step of an attached engine) contains the update alone, since
        the number of units that are due is known on the host. Call this after each replay, outside of the graph:

            with torch.cuda.graph(graph):
                loss(net(x), y).backward()
                optimizer.step()                    # AdamGnT and CBPAdam with capturable=True
                engine.step()                       # not for an attached engine
            for x_new, y_new in data:
                x.copy_(x_new), y.copy_(y_new)
                graph.replay()
                engine.after_replay()

        Before the capture, take a few steps outside of it, as for any CUDA graph. Steps outside of the graph are
        allowed in between. Replays do not see settings that were changed after the capture, except those of selection
        (``replacement_rate``, ``maturity_threshold``, ``accumulate``) and of new units.

        Returns:
            Indices of the replaced units for each group, which ``replaced`` also has.

        Raises:
            RuntimeError: no step of this engine was captured.
        """
        if self.captured_absent is None:
            raise RuntimeError("after_replay finishes a step that was captured in a CUDA graph, and none was captured")
        if self.protect is not None:
            self.read_protection()
        self.importance.evaluator.count_replay(self.captured_absent)
        return self.after_traced_update(self.captured_absent)

    @not_compiled
    @torch.no_grad()
    def update(self, features: Features | None = None) -> None:
        """Increase ages by one, and update the running averages of mean feature and utility.

        With d the decay rate, a the age after its increment, h the features and y the measure:
        f <- d f + (1 - d) mean h;  f^ = f / (1 - d^a);  u <- d u + (1 - d) y;  u^ = u / (1 - d^a).

        With ``measure_every`` k > 1 this is so in the updates whose number is a multiple of k, with d^k in place of d,
        and a the number of such updates since the unit started. In the others only ages increase. A group counts its
        own updates. In the updates between, a group takes part if its consumers ran in training mode with grad enabled.

        Args:
            features: for each group what its consumer read *before* the optimizer's step, samples first: a tensor, or a
                list of tensors from several forwards (gradient accumulation). None takes what was recorded since the
                last update.

        A group without samples takes no part: it does not age, and nothing of it is selected. If a backward has reached
        recorded features, only those that one has reached count; groups of which none was recorded then take no part.

        Raises:
            RuntimeError: nothing was recorded, or no backward was seen and nothing was recorded for some groups, or the
                engine is closed.
            ValueError: wrong number, shape, device or dtype of features.
            FloatingPointError: features or weights of a group are not finite (checked on the CPU only; on other devices
                the group keeps its averages and ``state.nonfinite`` counts). The engine has changed
                nothing; the optimizer's step before is not undone.
        """
        batch = self.take_features(features)
        if not self.update_with(batch):
            batch.check_recorded()

    @torch.no_grad()
    def select(self) -> list[Tensor]:
        """Select the units that are due now, lowest corrected utility first; consumes the accumulators.

        With accumulation, over any number of updates the count is within 1 of the sum of replacement_rate * eligible.
        Without, it is floor(replacement_rate * eligible), plus one with the probability of the fraction. It never
        exceeds the number of eligible units. Protected units (``protect``) are not eligible. A second call for the same
        update selects nothing.

        Returns:
            Indices of the units, one int64 tensor for each group; empty if no unit is due.

        Raises:
            RuntimeError: the engine has soft replacement, which moves all units and selects none; or it is closed.
        """
        self.feature_buffer.check_open()
        if self.soft is not None:
            raise RuntimeError(f"{self.soft} moves all units and selects none: call step() instead of select()")
        self.read_protection()
        units = self.select_due()
        self._selection = Selection(units)
        return units

    @torch.no_grad()
    def replace(self, units: Sequence[Tensor], incoming: Sequence[Tensor | None] | None = None) -> None:
        """Replace units by new ones.

        For each group, the mean contribution moves into the consumers' bias (b_k += sum_i w_ki f^_i), outgoing weights
        become exactly 0, incoming weights are drawn from the initial distribution, the producer's bias becomes 0, and
        norms and the units' own state get their initial values. After all groups, the optimizer's state of these slices
        is reset.

        If a unit and one of its consumer's units are replaced together, the weight between them is the consumer's new
        draw.

        Args:
            units: indices for each group, as `select` returns them, or any others.
            incoming: for each group new incoming weights (k, fan-in shape...) to use instead of draws, or None; for a
                group with several producers a list of such tensors, one for each.

        Raises:
            ValueError: wrong number of groups, indices out of range or repeated, protected units, wrong shape of
                ``incoming``. Nothing is changed.
        """
        self.feature_buffer.check_open()
        self.read_protection()
        selected = self.is_selection(units)
        if not selected:
            self.check_structure()
        chosen = list(units) if selected else checked_units(units, self.groups)
        for number in self.frozen:
            check_not_frozen(self.groups[number], chosen[number])
        if not selected:
            for group, indices in zip(self.groups, chosen, strict=True):
                check_not_protected(group, indices)
        fresh = checked_incoming(incoming, chosen, self.groups)
        self.replace_units(chosen, fresh, selected=selected)

    def is_selection(self, units: Any) -> bool:
        """True if these are the indices of the latest `select`, not edited since, and not replaced yet."""
        return bool(self.selected) and self._selection.is_unchanged(units)
