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
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.dynamo import not_compiled
from gnt._utils.validation import check_flags, check_positive
from gnt.importance import Features
from gnt.initialization import Init
from gnt.replacement import _checkpoint
from gnt.replacement._config import EngineSettings
from gnt.replacement._figures import figures, find_group
from gnt.replacement._followers import Followers
from gnt.replacement._optimizer_hooks import CopiedHooks, OptimizerHooks
from gnt.replacement._protection import Protect
from gnt.replacement._step import EngineCore
from gnt.replacement._validation import (
    Selection,
    check_not_frozen,
    check_not_protected,
    checked_incoming,
    checked_units,
)
from gnt.replacement.dry_run import DryRun, plan_replacements
from gnt.replacement.idle_warning import first_check
from gnt.replacement.optimizer_state import OptimizerStateReset, state_of_further_optimizer, unwrap_optimizer
from gnt.replacement.report import Report
from gnt.units import Layers, Refused, UnitGroup, frozen_layers, groups_for_engine


class GnT(EngineCore):
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
        kernels: update the units by C++ kernels, which torch's compiler builds at first use; several times as fast. For
            float32 and float64 networks on the CPU; for others it has no effect. Needs a C++ compiler.
        bias_init: "zero": the bias of a new unit is 0. "initial": it is drawn from the initial distribution of the
            layer's biases, which is found as for ``init="auto"``.
        follow: list of objects that take part in each replacement, as with `follow`.
        protect: an object with a method ``protected(group) -> (num_units,)`` in [0, 1], which is asked in each step
            (`gnt.replacement.Protector`), or a list of such; the maximum counts. A unit with p = 1 is never replaced:
            the replacement rate applies to the eligible units that are not protected. Others are ranked by
            u^ / (1 - p), with u^ the corrected utility. "top:0.2" protects the 20% of highest running importance, as
            `gnt.protection.TopUnits` does, which has more settings.

    Attributes:
        groups: tuple of `UnitGroup`, in order; ``group.state`` holds ages, running averages and accumulator.
        followers: tuple of the objects that take part in each replacement, besides the optimizer.
        refused: what `trace` found and refused, with the reasons; empty for a list of layers.
        notes: parts of the network that `trace` could not examine; empty for a list of layers.
        updates: number of updates so far.
        replaced: what the latest `step` replaced, indices for each group.
        loaded: True after `load_state_dict` until the next update.

    The settings are attributes, too. A new value is checked as at construction and in force from the next step on; only
    ``utility`` and ``activation`` cannot be changed.

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

    notes: tuple[str, ...] = ()

    def __init__(
        self,
        layers: Layers | Iterable[UnitGroup],
        optimizer: Optimizer | None = None,
        *,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: str = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: bool | str = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: str | None = None,
        record: bool = True,
        process_group: Any = None,
        kernels: bool = EngineSettings.kernels,
        bias_init: str = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
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
        )
        check_flags(record=record)
        groups = groups_for_engine(layers, activation)
        optimizer_state = OptimizerStateReset(optimizer, groups) if optimizer is not None else None
        make = partial(state_of_further_optimizer, groups=groups, own=unwrap_optimizer(optimizer))
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

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer whose state is reset for replaced units."""
        return self.optimizer_state.optimizer if self.optimizer_state is not None else None

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        if getattr(self, "_hooks", None) is not None:
            raise RuntimeError("this engine is attached to its optimizer: build a new GnT for another one")
        self.optimizer_state = OptimizerStateReset(optimizer, self.groups) if optimizer is not None else None
        self.protection_changed()

    @property
    def followers(self) -> tuple[Any, ...]:
        """The objects that take part in each replacement, besides the optimizer."""
        return self._followers.targets

    def follow(self, follower: Any, *, network: nn.Module | None = None) -> GnT:
        """Let an object that keeps numbers per weight, or per unit, take part in each replacement; returns the engine.

        Whenever this engine replaces units, what the object keeps for them becomes that of new units:

        - an object with the method ``reset_units`` of `gnt.replacement.Follower`, such as `L2Init`, whose anchors
          become the new weights;
        - ``torch.optim.swa_utils.AveragedModel`` (EMA and SWA): the averaged parameters of the new units, and their
          running statistics in norms, become those of the network; the averaged biases of the consumers change by
          as much as the biases;
        - another `GnT`, a `ReDo` or a `gnt.importance.Importance` on some of the same units: there, too, these units
          have age 0 and new averages. For the other direction call ``other.follow(engine)``;
        - another torch optimizer of the same parameters: its state is reset as that of the engine's own.

        Followers of a follower are not told. Followers are not part of ``state_dict``. A copy of the engine
        (``copy.deepcopy``) is followed by copies: copy both in one call to have them (``copy.deepcopy((net, engine,
        follower))``); those of an engine copied alone are in its ``followers``.

        Args:
            follower: the object.
            network: for an AveragedModel, the network that it is a copy of. Needed if the units' layers cannot be found
                in it by their names: if the engine was built from a list of layers, for example.

        Raises:
            TypeError: an object that cannot follow.
            ValueError: it is the engine itself or its optimizer, follows already, has none of the engine's parameters
                or units, or is a copy of another network.
            RuntimeError: the engine is closed.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> reg, average = gnt.L2Init(net, strength=1e-3), torch.optim.swa_utils.AveragedModel(net)
        >>> engine = gnt.GnT(net, follow=[reg]).follow(average)
        >>> engine.replace([torch.tensor([3])])
        >>> torch.equal(reg.start[0][3], net[0].weight[3]), torch.equal(average.module[0].weight[3], net[0].weight[3])
        (True, True)
        """
        self.feature_buffer.check_open()
        if follower is self or getattr(follower, "groups", None) is self.groups:
            raise ValueError(f"a {type(follower).__name__} cannot follow itself")
        make = partial(state_of_further_optimizer, groups=self.groups, own=self.optimizer)
        self._followers = self._followers.with_targets([unwrap_optimizer(follower)], self.groups, make, network)
        return self

    def unfollow(self, follower: Any) -> GnT:
        """Let an object take part in replacements no longer; returns the engine.

        Raises:
            ValueError: the object does not follow.
            RuntimeError: it is an engine on the same units, attached to the same optimizer: `close` one of them first.
        """
        followers = self._followers.without(unwrap_optimizer(follower))
        if self._hooks is not None:
            self._hooks.check_unfollow(follower)
        self._followers = followers
        return self

    def is_followed_by(self, other: object) -> bool:
        """True if an object takes part in the replacements of this engine."""
        return self._followers.includes(other)

    def structure_changed(self) -> None:
        """Watch the gradient of a parameter that is trained now."""
        if self._hooks is not None:
            self._hooks.watch_backward()

    @not_compiled
    def step(self, features: Features | None = None) -> list[Tensor]:
        """Update, select and replace; call it after each optimizer step.

        Args:
            features: as for `update`.

        Returns:
            Indices of the replaced units, one int64 tensor for each group.
        """
        batch, before = self.take_features(features), self.updates
        replaced = self.step_with(batch)
        if self.updates == before:
            batch.check_recorded()
        return replaced

    def attach(self) -> GnT:
        """Step after each step of the optimizer, by hooks of the optimizer; returns the engine.

        ``optimizer.step()`` then ends with `step`, whose result is in ``replaced``, and ``optimizer.state_dict()``
        contains the engine's state under "gnt", which ``optimizer.load_state_dict`` loads. A step that a GradScaler
        skips, and one without a forward before it, does not age or replace units.

        A group of which no consumer was run in a step is left alone in that step. After 100 steps in a row without a
        training forward there is one warning.

        Features of a forward whose gradients are abandoned (a skipped step, ``zero_grad`` without a step) are dropped
        at the next backward. Changing gradients in place between the micro-batches of one step has the same effect.

        Several engines may be attached to one optimizer, each with groups of its own; the state of the second is under
        "gnt_1", and so on.

        Raises:
            RuntimeError: the engine is attached or closed, or another engine of this optimizer has a unit of these
                groups: ``close()`` that one first, or let each follow the other. An engine of another optimizer is
                stopped, and its steps raise an error.
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
        if self._hooks is not None:
            raise RuntimeError("this engine is attached already: it steps after each step of its optimizer")
        self._hooks = OptimizerHooks(self, self.optimizer)
        return self

    def rebind(self, layers: Layers | Iterable[UnitGroup]) -> GnT:
        """Go on with a network that was changed on purpose, such as by a new head; returns the engine.

        Units that stay keep their ages, averages and counters; others start fresh. All units of a group stay if its
        producers are the same modules, with the same number of units. If a producer was replaced (by a wider one, for
        example), those units stay whose incoming weights it has taken over. Recorded features are dropped.

        Args:
            layers: the layers or unit groups as they are now, as for `GnT`. Groups of `trace` must be traced again.

        Raises:
            ValueError, TypeError: as at construction; among others, an optimizer that does not hold the parameters of
                new layers (``optimizer.add_param_group``), or a follower of the network before, such as an
                AveragedModel with the old head (`unfollow`). Nothing is changed.
            RuntimeError: the engine is closed, or another engine of this optimizer has a unit of these groups. Nothing
                is changed.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> engine = gnt.GnT(net, optimizer).attach()
        >>> def train(steps):
        ...     for _ in range(steps):
        ...         optimizer.zero_grad()
        ...         net(torch.randn(8, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> train(3)
        >>> net[2] = torch.nn.Linear(16, 5)  # a head for more classes
        >>> optimizer.add_param_group({"params": net[2].parameters()})
        >>> engine.rebind(net).groups[0].state.age.unique().tolist()
        [3]
        >>> train(2)
        >>> engine.groups[0].state.age.unique().tolist()
        [5]
        """
        self.feature_buffer.check_open()
        groups = groups_for_engine(layers, self.activation)
        for group in groups:
            self.new_inits(group, self.init, self.bias_init)
        optimizer = self.optimizer
        optimizer_state = OptimizerStateReset(optimizer, groups) if optimizer is not None else None
        self._followers.check(groups)
        bind_hooks = self._hooks.prepare_rebind(groups) if self._hooks is not None else None
        self.bind(groups, optimizer_state)
        self.refused = tuple(getattr(layers, "refused", ()))
        if bind_hooks is not None:
            bind_hooks()
        return self

    @not_compiled
    @torch.no_grad()
    def update(self, features: Features | None = None) -> None:
        """Increase ages by one, and update the running averages of mean feature and utility.

        With d the decay rate, a the age after its increment, h the features and y the measure:
        f <- d f + (1 - d) mean h;  f^ = f / (1 - d^a);  u <- d u + (1 - d) y;  u^ = u / (1 - d^a).

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
        """
        self.feature_buffer.check_open()
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

    def left_out(self) -> tuple[Any, ...]:
        """What `trace` refused, and the groups that are frozen now."""
        frozen = ((group, frozen_layers(group)) for group in self.groups)
        reasons = [(group, f"frozen (requires_grad=False): {', '.join(layers)}") for group, layers in frozen if layers]
        return (*self.refused, *(Refused(group.name, group.num_units, reason) for group, reason in reasons))

    def is_selection(self, units: Any) -> bool:
        """True if these are the indices of the latest `select`, not edited since, and not replaced yet."""
        return bool(self.selected) and self._selection.is_unchanged(units)

    def report(self) -> Report:
        """Per group: units, protected, eligible, replaced so far, when the next is due, dead units, the initial
        distributions of new units, and what `trace` refused.

        Prints as a table. Reads the device.
        """
        return Report.from_groups(
            self.groups, self.updates, self.replacement_rate, self.slot_inits, self.left_out(), self.notes
        )

    @property
    def settings(self) -> dict[str, Any]:
        """All settings but ``generator`` and ``process_group`` as plain values, to be logged or saved.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> gnt.GnT(net, replacement_rate=0.01).settings["replacement_rate"]
        0.01
        """
        return self.plain()

    def figures(self) -> dict[str, float]:
        """Return figures of each group by "<group>/<figure>", to be logged; reads the device once.

        Means over the units: ``utility`` (corrected), ``age``. Counts: ``dead``, ``eligible``, ``protected``,
        ``replaced`` so far; as in `report`.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> gnt.GnT(net).figures()["0/age"]
        0.0
        """
        return figures(self.groups)

    def group(self, name: str) -> UnitGroup:
        """Return the group of this name, that of its producer.

        Raises:
            KeyError: there is none.
        """
        return find_group(self.groups, name)

    def dry_run(self, most: int = 5) -> DryRun:
        """Which units would be replaced next, when, and what would change with each. Prints as text; changes nothing.

        Args:
            most: maximum number of units listed per group.

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
        movable = self.protection.movable_biases(self.groups) if self.bias_transfer else None
        return plan_replacements(
            self.groups, self.updates, self.replacement_rate, most, movable, self.protection.available
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly: the unit state of all groups, counters, the generator's state.

        Loads with ``torch.load(weights_only=True)``. Take it between steps: features that wait for an update are not
        included.
        """
        return _checkpoint.engine_state(
            self.groups,
            self.utility,
            self.updates,
            self.counted,
            self.generator,
            self.host_generator,
            self.slot_inits,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a saved state. Settings are not saved: build the engine with the same ones. The distributions
        that ``init="auto"`` and ``bias_init="initial"`` chose are.

        On the type of device on which the state was saved the run continues bit for bit. On another one (saved on a
        GPU, loaded on the CPU, or the other way round) the generator gets a seed that the saved state determines,
        because generators of different devices draw different numbers.

        Raises:
            ValueError: saved by another version, with another measure of utility, or for other groups; or a damaged
                state: an entry that is missing, of another kind, not finite or out of range. Nothing is changed.
        """
        self.load_checked_state(self.checked_state(state_dict))

    def checked_state(self, state_dict: Any) -> _checkpoint.CheckedState:
        """Check a saved state for `load_checked_state`, as `load_state_dict` does."""
        self.follow_network()
        return _checkpoint.check_state(
            state_dict,
            self.groups,
            self.utility,
            self.generator,
            self.host_generator,
            self.slot_inits,
            load_weights=self.init == "auto",
            load_biases=self.bias_init == "initial",
        )

    def load_checked_state(self, state: _checkpoint.CheckedState) -> None:
        """Load a checked state; this does not fail."""
        _checkpoint.load_units(state, self.groups)
        _checkpoint.load_generators(state, self.generator, self.host_generator)
        self.updates, self.counted = state.updates, state.counted
        self.slot_inits = state.slot_inits
        self.next_idle_check = first_check(self.updates)
        self.selected, self.importance.absent = [], frozenset()
        self.discard()
        self.loaded = True
        self._processes = None  # before the next step the processes compare what they have loaded

    @property
    def waiting(self) -> bool:
        """True if any forward was recorded since the last update."""
        return self.feature_buffer.waiting

    def discard(self) -> None:
        """Drop the recorded features of forwards that no update will follow.

        A loop that calls `step` itself calls this instead if a GradScaler has skipped the optimizer's step.
        """
        self.importance.discard()

    def close(self) -> None:
        """Remove the hooks. The engine can be read and saved afterwards, but not stepped."""
        self.feature_buffer.close()
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        if self._slowing is not None:
            self._slowing.remove()
            self._slowing = None

    def __getstate__(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "selected": [],
            "_selection": Selection([]),
            "_processes": None,
            "_structure": None,
            "_slowing": None,
            "_hooks": None,
            "_copied_hooks": self._hooks.for_copy() if self._hooks is not None else None,
        }
        return {**self.__dict__, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reattach()

    def reattach(self) -> None:
        """In a copy of an attached engine: attach, as soon as both the engine and its optimizer are complete.

        An engine and an optimizer that refer to each other are copied in either order.
        """
        if "optimizer_state" not in self.__dict__ or (optimizer := self.optimizer) is None:
            return
        if not hasattr(optimizer, "_optimizer_step_post_hooks"):
            return
        self.protection_changed()
        copied, self._copied_hooks = self._copied_hooks, None
        if copied is not None:
            self._hooks = OptimizerHooks(self, optimizer, copied)
