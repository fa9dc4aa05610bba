"""HAT: hard attention to the task, masks of units for each task, on any network whose units gnt finds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.other_names import explains_unknown_settings
from gnt._utils.renamed_argument import renamed_argument
from gnt._utils.validation import check_positive
from gnt.distributed.process_group import check_process_group
from gnt.names import Compensation, Form, Norms, SparsityMode, Uncovered
from gnt.protection._changed_settings import changed_settings, check_generator, settings_of_hat
from gnt.protection._gated_network import Progress
from gnt.protection._hat_optimizer import add_embedding, check_optimizer, reset_embedding_state
from gnt.protection._hat_processes import copy_from_first_process
from gnt.protection._hat_settings import EmbeddingInit, HATSettings, check_groups, check_norms
from gnt.protection._protecting_network import ProtectingNetwork
from gnt.protection._rates import Hard, Rates
from gnt.protection._saved_state import is_task_id
from gnt.protection._unused_layers import warn_of_unused_layers
from gnt.replacement import unwrap_optimizer
from gnt.units import UnitGroup


@settings_of_hat
class HAT(ProtectingNetwork):
    """Hard attention to the task: each task learns which units it uses, and their weights are fixed for later tasks.

    Each unit has a number e for the task that is trained, and what its consumers read is multiplied by its gate
    sigmoid(s e). In each epoch s grows from 1 / s_max to s_max, so that gates end near 0 or 1. When the task ends the
    mask 1(e > 0) is kept, and c is the union of all masks. A weight between units i and j changes at the rate

        1 - min(c_i, c_j)

    in later tasks, so that it is fixed where both are used; a bias at 1 - c_i. What belongs to no unit that gnt has
    found (output layers, residual streams, embeddings, the inputs of the first layer) counts as used by every task that
    has trained it. A term of the loss, sparsity * R, limits how many free units a task uses:

        R = sum of a (1 - c) / sum of (1 - c) over all units, with a the gates

    Fixed weights get their values back after each optimizer step, whatever the optimizer does with momentum and weight
    decay: the outputs of a task under `use` stay equal bit for bit, except that an output of exactly zero may change
    its sign. Running statistics are kept for each task.

        hat = gnt.HAT(net, gnt.trace(net, x))
        for task, loader in enumerate(tasks):
            with hat.learning(task, optimizer, steps_per_epoch=len(loader)):
                for x, y in loader:
                    optimizer.zero_grad()
                    (F.cross_entropy(net(x), y) + hat.penalty()).backward()
                    optimizer.step()
        hat.use(0)                      # net.eval() now computes what it did after task 0

    Steps are optimizer steps: micro-batches before one step share its gates. It is a module with one parameter, the
    ``embedding`` e, and its state dict contains everything; register it beside the network, not in it.

    Args:
        net: the network.
        groups: its units, of `gnt.trace` or `gnt.walk`.
        s_max: the largest s, >= 1.
        sparsity: factor of R in `penalty`, >= 0.
        sparsity_mode: "original"; "cross": (R + 1 - sum of a c / sum of c) / 2, which also rewards used units.
        embedding: how e is drawn for a task: "normal" (0, 1), "last" (those of the task before), or a pair (low, high)
            of a uniform distribution.
        embedding_clamp: e is clamped to this magnitude after each step, > 0.
        compensation: the gradient of e. "published": s_max sigmoid'(e), for |s e| above ``gradient_clip`` times
            (cosh(clip) + 1) / (cosh(s e) + 1); "exact": without the clip; "none": the derivative of sigmoid(s e).
        gradient_clip: see above, > 0.
        protection: how weights are held: ``Hard()``; `gnt.protection.Random`, `Constant` and `Adaptive` forget.
        apply: "update": the change of a weight in a step is multiplied by the rate, for any optimizer; "gradient": the
            gradient is, as published. Fixed weights are restored in both.
        uncovered: "freeze", or "refuse": refuse a network with layers that no group has.
        norms: "per_task": each task has running statistics of its own; "shared": all tasks change the same ones, and
            the outputs of earlier tasks move.
        min_free: with as few free units or fewer, the sparsity term of a group (or of all) is 0.
        idle: an engine with ``protect=hat`` may replace units whose gates are off in the task that is trained.
        protect_above: `protected` keeps units that more than this number of tasks use; 0 where weights are fixed.
        generator: for drawing e, and random rates; None: torch's.
        process_group: the processes that train one network, as for `GnT`: all start a task with the first one's e, and
            average its gradients in each step. None: all processes; False: this one alone.

    Attributes:
        tasks: ids of the tasks that have ended.
        task: id of the task that is trained; None between tasks.
        cumulative: c, (units,), the units of all groups one after the other.
        counts: M, the number of tasks that use each unit, (units,).
        net, groups: the arguments.

    The settings are attributes, too. A new value is checked as at construction. ``idle`` and ``protect_above`` may be
    changed at any time; ``sparsity``, ``sparsity_mode``, ``embedding_clamp``, ``compensation``, ``gradient_clip``,
    ``uncovered`` and ``min_free`` between tasks; ``s_max``, ``norms`` and ``protection`` not at all.

    Raises:
        TypeError, ValueError: a setting out of range; groups that are not the network's; units that another HAT gates;
            a norm over several units before which gates cannot act; BatchNorm with momentum=None.

    Source: Serra et al., ICML 2018 (arXiv 1801.01423).

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    >>> hat, x, outputs = gnt.HAT(net, gnt.walk(net)), torch.randn(8, 4), []
    >>> for task in range(2):
    ...     with hat.learning(task, optimizer, steps_per_epoch=10):
    ...         for _ in range(20):
    ...             optimizer.zero_grad()
    ...             (net(torch.randn(8, 4)).square().mean() + hat.penalty()).backward()
    ...             optimizer.step()
    ...     with hat.use(0), torch.no_grad():
    ...         outputs.append(net.eval()(x))
    ...     _ = net.train()
    >>> torch.equal(*outputs)
    True
    """

    s_max: float
    sparsity: float
    sparsity_mode: SparsityMode
    embedding_clamp: float
    compensation: Compensation
    gradient_clip: float
    protection: Rates
    uncovered: Uncovered
    norms: Norms
    min_free: int
    idle: bool
    protect_above: int

    @renamed_argument("model", "net")
    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module,
        groups: Sequence[UnitGroup],
        *,
        s_max: float = 400.0,
        sparsity: float = 0.75,
        sparsity_mode: SparsityMode = "original",
        embedding: EmbeddingInit = "normal",
        embedding_clamp: float = 6.0,
        compensation: Compensation = "published",
        gradient_clip: float = 50.0,
        protection: Rates | None = None,
        apply: Form = "update",
        uncovered: Uncovered = "freeze",
        norms: Norms = "per_task",
        min_free: int = 0,
        idle: bool = False,
        protect_above: int = 0,
        generator: torch.Generator | None = None,
        process_group: Any = None,
    ) -> None:
        settings = HATSettings.checked(
            s_max=s_max, sparsity=sparsity, sparsity_mode=sparsity_mode, embedding=embedding,
            embedding_clamp=embedding_clamp, compensation=compensation, gradient_clip=gradient_clip,
            protection=Hard() if protection is None else protection, apply=apply, uncovered=uncovered, norms=norms,
            min_free=min_free, idle=idle, protect_above=protect_above,
        )  # fmt: skip
        check_generator(generator)
        check_process_group(process_group)
        checked = check_groups(net, groups)
        check_norms(net)
        super().__init__(net, checked, settings, generator, process_group)

    def change_setting(self, name: str, value: Any) -> None:
        """Assign a setting, as ``hat.sparsity = 0.5`` does.

        Raises:
            AttributeError: a setting that cannot be changed: s_max, norms, protection.
            RuntimeError: a task is open. Only ``idle`` and ``protect_above`` may be changed then.
            TypeError, ValueError: as at construction. Nothing is changed.
        """
        self.settings = changed_settings(self.settings, name, value, open_task=self.task if self._open else None)

    def begin(self, task: Any, optimizer: Optimizer, *, steps_per_epoch: int) -> None:
        """Begin a task: draw e, reset its running statistics, and hold what earlier tasks need.

        Args:
            task: its id, an integer or a string that is new.
            optimizer: the optimizer that trains the task; it gets the embedding, if it does not hold it, without weight
                decay. Schedulers should be made after this.
            steps_per_epoch: B, the number of optimizer steps in which s grows to s_max before it starts again, >= 1.

        Raises:
            RuntimeError: a task is open, or this object is closed.
            TypeError: an id or an optimizer of another type.
            ValueError: an id that was used before; ``steps_per_epoch`` below 1; an optimizer that lacks parameters of
                the groups; LBFGS without the embedding, which cannot be added to it; a layer that was added or replaced
                since construction. Nothing is changed.
        """
        self._require_not_closed()
        if self._open:
            raise RuntimeError(f"begin: task {self.task!r} is open, call end() first")
        if not is_task_id(task):
            raise TypeError(f"task must be an integer or a string, got {task!r}")
        if task in self.tasks:
            raise ValueError(f"task must be a new id, got {task!r}, which has ended; known are {self.tasks}")
        check_positive(steps_per_epoch=steps_per_epoch)
        self.check_layers()
        coverage = self._find_coverage()
        check_optimizer(optimizer, coverage.parameters, self.embedding)
        self._warn_without_capacity(task)
        add_embedding(optimizer, self.embedding)  # the optimizer may refuse it
        self._coverage = coverage
        self._trained.follow(coverage.parameters, new=False)
        if self.settings.norms == "per_task":
            self._task_buffers.use(None)
            self._task_buffers.reset()
        with torch.no_grad():
            self.settings.draw_embedding(self.embedding, self.generator, first=not self.tasks)
            copy_from_first_process(self.embedding, self.process_group)
        self.embedding.grad = None
        self.task, self._open, self._selected = task, True, len(self.tasks)
        self._progress = Progress(steps_per_epoch=int(steps_per_epoch))
        self._trained.begin()
        self._hang_on_optimizer(optimizer)
        self._set_in_force()
        reset_embedding_state(unwrap_optimizer(optimizer), self.embedding)
        self._start()
        assert self._conditioning is not None
        self._conditioning.hold()  # at once: another optimizer may step before this one
        self._begin_task()

    @torch.no_grad()
    def end(self, *, refresh: Any = None) -> None:
        """End the task: keep its mask 1(e > 0) and running statistics, and let its units count as used.

        Args:
            refresh: an engine (`GnT`) on the same groups, which replaces all units that no task uses: they were trained
                as long as their gates were open.

        Raises:
            TypeError: ``refresh`` is no engine.
            RuntimeError: no task is open, or none of its steps was made.
            ValueError: an embedding that is not finite; layers without a group, with ``uncovered="refuse"``. Nothing is
                changed.
        """
        self._require_open("end")
        if refresh is not None and not (hasattr(refresh, "groups") and callable(getattr(refresh, "replace", None))):
            raise TypeError(f"refresh must be an engine such as gnt.GnT, or None, got {refresh!r:.80}")
        if not self._progress.step:
            raise RuntimeError(f"task {self.task!r} is empty: no optimizer step was made since begin()")
        if not bool(torch.isfinite(self.embedding).all()):
            raise ValueError(f"the embedding of task {self.task!r} is not finite, so that it has no mask")
        assert self._conditioning is not None
        mask, coverage = self._kept_mask(), self._find_coverage()
        warn_of_unused_layers(self._trained.without_forward(), self.task)
        self._end_task(mask)
        self._conditioning.restore()
        self._conditioning.remove()
        self._trained.end()
        self._trained.follow(coverage.parameters, new=True)
        self._coverage = coverage
        self.masks_by_task = torch.cat([self.masks_by_task, mask[None]])
        self.cumulative = torch.maximum(self.cumulative, mask.to(self.cumulative.dtype))
        self.counts = self.counts + mask.to(self.counts.dtype)
        if self.settings.norms == "per_task":
            self._task_buffers.end_task()
        self.tasks.append(self.task)
        self.task, self._open, self._conditioning = None, False, None
        self._optimizers[-1].deactivate()
        self._protection.forget()
        self._set_in_force()
        if refresh is not None:
            refresh.replace(self._protection.free_units(refresh.groups, self.cumulative))

    @contextlib.contextmanager
    def learning(self, task: Any, optimizer: Optimizer, *, steps_per_epoch: int) -> Iterator[HAT]:
        """Context in which a task is trained: `begin` and, unless there is an exception, `end`.

        Args, Raises:
            as `begin`.
        """
        self.begin(task, optimizer, steps_per_epoch=steps_per_epoch)
        yield self
        self.end()

    def close(self) -> None:
        """Remove all hooks: the network is then without gates, and no weight is held."""
        for each in self._optimizers:
            each.remove()
        if self._conditioning is not None:
            self._conditioning.remove()
        self._gates.remove()
        self._trained.unwatch()
        self._optimizers, self._closed, self._selected = [], True, None
        self._set_in_force()

    def penalty(self) -> Tensor:
        """Return sparsity * R of the present gates, to be added to the loss; differentiable.

        Raises:
            RuntimeError: no task is open.
        """
        self._require_open("penalty")
        self._progress.penalty_seen = True
        found = self._gates.penalty  # a copy, because the other micro-batches of the step get the same
        return self._sparsity.penalty(self._gates.values) if found is None else found.clone()

    def begin_task(self, task: Any, optimizer: Optimizer, steps_per_epoch: int) -> None:
        """Hook of learners: `begin`."""
        self.begin(task, optimizer, steps_per_epoch=steps_per_epoch)

    def end_task(self) -> None:
        """Hook of learners: `end`."""
        self.end()

    def _begin_task(self) -> None:
        """Called at the end of `begin`."""

    def _end_task(self, mask: Tensor) -> None:
        """Called by `end` with the mask that will be kept, bool (units,): an error must come before any change."""

    def _kept_mask(self) -> Tensor:
        """1(e > 0), without the units of groups that the task has not run."""
        mask = self.embedding.detach() > 0
        for number, group in enumerate(self.groups):
            if not self._trained.ran(group):
                self.layout.part(mask, number).fill_(False)
        return mask
