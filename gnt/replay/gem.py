"""GEM: no step raises the loss on the memory of any earlier task, to first order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gnt._utils.generators import new_generator
from gnt._utils.settings import checked_settings, non_negative
from gnt._utils.state_dicts import Entry, check_saved_state, random_state
from gnt._utils.validation import check_positive
from gnt.replay._arguments import checked_task, saved_task
from gnt.replay._item_copies import ItemCopies
from gnt.replay._nnls import nonnegative_least_squares
from gnt.replay._products import products_of_all
from gnt.replay._projection import SAFE, GradientProjection, rescale
from gnt.replay._reference_gradients import Loss
from gnt.replay._step_batches import StepBatches
from gnt.replay.buffer import ReplayBuffer

STATE_VERSION = 1


@checked_settings(margin=non_negative, fixed=("per_task",))
class GEM(GradientProjection):
    """Gradient episodic memory: the nearest gradient along which no earlier task's loss on its memory rises.

    With g the gradient of the current loss and g_k that of the mean loss on the memory of task k, for all tasks but
    the current one, the gradient becomes::

        g + sum over k of v_k g_k,   v = margin + u,   u >= 0 that minimizes ||g + sum over k of (margin + u_k) g_k||

    if some g.g_k < 0, and stays g otherwise. With margin 0 this is the vector nearest to g whose products with all g_k
    are >= 0; a larger margin favours earlier tasks. The problem is solved exactly, as non-negative least squares
    on the products of the g_k, t x t numbers in float64; the gradients stay on their device.

    The memory of each task is a uniform random sample of its items. As a method of a learner, which should be the last
    of the list, it needs `begin_task` of the learner; in a loop of your own::

        gem = gnt.GEM(net, criterion)                                       # 1; at a task's start gem.begin_task(task)
        loss.backward(); gem.project(); optimizer.step(); gem.add(x, y)     # 2

    g_k is computed in evaluation mode. Nothing else is touched: gradients and their hooks, statistics of normalization
    layers, random generators, and the features that an engine records are those of the current batch.

    Args:
        net: the network, called as ``net(x)``.
        loss: (output, y) -> scalar, the mean over samples.
        per_task: number of items kept of each task, >= 1.
        margin: the smallest v_k of a projection, >= 0 and finite.
        forward: (x, task) -> output, in place of ``net(x)``, for a network with several heads; ``task`` is the number
            of the task that the items belong to.
        generator: a generator on the CPU that chooses the items; None creates one, seeded from torch's global
            generator.
        process_group: the processes that train together, as for `GnT`: g_k is the mean over them. Each must begin the
            same tasks.

    Raises:
        TypeError: not a module or a function, a generator that is not one on the CPU, or a parameter that is complex or
            a DTensor.
        ValueError: a number out of range, or no parameter requires a gradient.

    A step with t earlier tasks costs t forward and backward passes on ``per_task`` items, and while it projects holds t
    gradients. A parameter without gradient counts as one with gradient 0, and gets one if the projection changes it.
    With a GradScaler call ``scaler.unscale_(optimizer)`` before, or use `attach`.

    Source: Lopez-Paz & Ranzato, NeurIPS 2017 (arXiv 1706.08840), with v >= margin as in the authors' code.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(4, 3)
    >>> gem = gnt.GEM(net, torch.nn.functional.cross_entropy, per_task=20)
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[gem])
    >>> for task in range(3):
    ...     learner.begin_task(task=task)
    ...     for _ in range(3):
    ...         step = learner.learn(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> gem
    GEM(3 tasks, per_task=20, margin=0.5, task=2)
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        *,
        per_task: int = 256,
        margin: float = 0.5,
        forward: Callable[[Tensor, int], Tensor] | None = None,
        generator: torch.Generator | None = None,
        process_group: Any = None,
    ) -> None:
        check_positive(per_task=per_task)
        self.per_task, self.margin = int(per_task), margin
        super().__init__(net, loss, forward, process_group)
        self.generator = new_generator(torch.device("cpu")) if generator is None else generator
        ReplayBuffer(self.per_task, generator=self.generator)  # refuses a generator that is not one on the CPU
        self.task: int | None = None
        self._batches = StepBatches()  # of a learner, until their step was made
        self.memories: dict[int, ReplayBuffer] = {}  # of each task, in the order in which they began

    def begin_task(self, task: int | None = None) -> None:
        """Begin a task: the memories of all others constrain the next steps.

        Args:
            task: its number; None: the next one, from 0. The number of the current task changes nothing.

        Raises:
            TypeError: not an integer or None.
            ValueError: a task that has ended because another one began.
        """
        task = max(self.memories, default=-1) + 1 if checked_task(task) is None else task
        assert task is not None
        if task in self.memories and task != self.task:
            raise ValueError(f"task {task} has ended: its memory is a constraint of task {self.task}")
        self.task = task
        if task not in self.memories:
            self.memories[task] = ReplayBuffer(self.per_task, generator=self.generator)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add a batch to the memory of the current task.

        Raises:
            RuntimeError: no task has begun.
            TypeError, ValueError: as `ReplayBuffer.add`. Nothing is changed.
        """
        self.memories[self._current_task()].add(x, y)

    def before_batch(self, x: Tensor, y: Tensor) -> None:
        """Check the batch. Hook of learners, which add it in `after_step`; errors as `add`."""
        self.memories[self._current_task()].check(x, y)
        self._batches.note(x, y)

    def keep_batch(self) -> None:
        """Hook for gradient accumulation: another batch of the same step follows, and `after_step` adds all of them."""
        self._batches.keep()

    def after_step(self) -> None:
        """Hook of learners: `add`."""
        for x, y in self._batches.take():
            self.add(x, y)

    def discard(self) -> None:
        """Hook of learners: forget the batch of a step that failed."""
        self._batches.drop()

    def _current_task(self) -> int:
        if self.task is None:
            raise RuntimeError("GEM needs to know when a task begins: call begin_task(task=...) first")
        return self.task

    def project(self) -> None:
        """Change ``.grad`` as little as needed for no earlier task's loss to rise; nothing in the first task.

        Called once between backward and step, after other changes of gradients. Gradients that are not finite stay as
        they are.

        Raises:
            RuntimeError: there are no gradients, or no task has begun.
            TypeError: sparse gradients.
            ValueError: items were stored in another dtype than the network now takes. Nothing is changed.
            FloatingPointError: the gradient on a memory is not finite. Nothing is changed.
        """
        super().project()

    @torch.no_grad()
    def _project(self, scale: float) -> None:
        current = self._current_task()
        parameters = self._parameters()
        gradients = self._gradients(parameters)
        tasks = [task for task in self.memories if task != current]
        copies = ItemCopies()
        memories = ((self.memories[task], task) for task in tasks)
        rows = self._references(((copies.of(each), task) if len(each) else None for each, task in memories), parameters)
        if all(each is None for row in rows for each in row):
            return
        products = products_of_all([*rows, gradients], parameters)
        absent = [all(each is None for each in row) for row in rows]
        squares = np.diagonal(products)[:-1]
        sizes = np.ones(len(rows))  # the gradient on a memory is size * row
        if parameters[0].device.type == "cpu" and not ((squares > SAFE) & (squares < 1 / SAFE) | absent).all():
            sizes = np.array([1.0 / rescale(row) for row in rows])
            products = products_of_all([*rows, gradients], parameters)
        gram, linear = products[:-1, :-1] * np.outer(sizes, sizes), products[:-1, -1] * sizes / scale
        if (linear >= 0).all() and np.isfinite(linear).all():
            return
        for task, finite in zip(tasks, np.isfinite(np.diagonal(gram)), strict=True):
            if not finite:
                raise FloatingPointError(f"the gradient on the memory of task {task} is not finite; .grad is unchanged")
        if not np.isfinite(products).all():
            return
        weights = self.margin + nonnegative_least_squares(gram, linear + self.margin * gram.sum(1))
        active = [
            (row, float(weight * size) * scale)
            for row, weight, size in zip(rows, weights, sizes, strict=True)
            if weight > 0
        ]
        for i, parameter in enumerate(parameters):
            if gradients[i] is None and any(row[i] is not None for row, _ in active):
                parameter.grad = torch.zeros_like(parameter)
        for row, weight in active:
            pairs = [(p.grad, r) for p, r in zip(parameters, row, strict=True) if p.grad is not None and r is not None]
            if pairs:  # a task may have no items, or no trained parameter
                torch._foreach_add_([g for g, _ in pairs], [r for _, r in pairs], alpha=weight)

    def state_dict(self) -> dict[str, Any]:
        """The memory of each task, which includes its items, the current task and the generator."""
        return {
            "version": STATE_VERSION,
            "task": self.task,
            "tasks": list(self.memories),
            "memories": [memory.state_dict() for memory in self.memories.values()],
            "generator": self.generator.get_state(),
        }

    def checked_state(self, state_dict: Any) -> dict[str, Any]:
        """Check a saved state, changing nothing; the result goes to `load_checked_state`."""
        kinds = {
            "task": saved_task,
            "tasks": _saved_tasks,
            "memories": self._loaded_memories,
            "generator": random_state(self.generator),
        }
        state = check_saved_state(state_dict, "GEM.state_dict()", kinds, STATE_VERSION)
        tasks, task = state["tasks"], state["task"]
        if len(state["memories"]) != len(tasks) or (task not in tasks if tasks else task is not None):
            raise ValueError(
                f"state_dict has {len(state['memories'])} memories and the current task {task}, which do not fit "
                f"tasks {tasks}"
            )
        return state

    def load_checked_state(self, state: dict[str, Any]) -> None:
        """Load a checked state."""
        for memory in state["memories"]:
            memory.generator = self.generator
        self.task, self.memories = state["task"], dict(zip(state["tasks"], state["memories"], strict=True))
        self.generator.set_state(state["generator"])

    def _loaded_memories(self, entry: Entry, value: Any) -> list[ReplayBuffer]:
        if not isinstance(value, (list, tuple)):
            raise entry.wrong_value(value, "a list with the memory of each task")
        memories = []
        for saved in value:
            memory = ReplayBuffer(self.per_task, generator=torch.Generator())
            memory.load_state_dict(saved)
            memories.append(memory)
        return memories

    def __repr__(self) -> str:
        number = f"{len(self.memories)} task{'s' * (len(self.memories) != 1)}"
        return f"GEM({number}, per_task={self.per_task}, margin={self.margin:g}, task={self.task})"


def _saved_tasks(entry: Entry, value: Any) -> list[int]:
    if not isinstance(value, (list, tuple)) or any(
        isinstance(each, bool) or not isinstance(each, int) for each in value
    ):
        raise entry.wrong_value(value, "a list of integers")
    if len(set(value)) < len(value):
        raise entry.wrong_value(value, "a list of different integers")
    return list(value)
