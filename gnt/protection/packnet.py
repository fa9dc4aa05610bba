"""PackNet: several tasks in one network, each with weights of its own that later tasks read and do not change."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.settings import checked_settings, share
from gnt._utils.state_dicts import check_saved_state
from gnt._utils.validation import to_float
from gnt.protection._evaluated_task import EvaluatedTask
from gnt.protection._owned_units import OwnedUnits
from gnt.protection._packed_network import PackedNetwork
from gnt.protection._saved_state import MOST_TASKS, is_task_id, number_of_owners, saved_kinds
from gnt.protection._step_hook import StepHook
from gnt.protection._unused_layers import runs_as_module, warn_of_unused_layers
from gnt.units import UnitGroup, unwrap

STATE_VERSION = 1


@checked_settings(share=share)
class PackNet:
    """Prune, retrain, freeze: after each task the smallest free weights become 0, and the rest is fixed for ever.

    In a task only free weights are trained; the forward uses the weights of all earlier tasks, too. `prune` sets the
    smallest round(prune * n) of the n free weights of each layer to 0, by magnitude; the others belong to the task.
    Training goes on without the pruned ones, and `end_task` fixes what the task owns. The next task trains the pruned
    weights, from 0.

    Pruned are the weights of linear and convolution layers. All other parameters (biases, norms, embeddings) and the
    running statistics of norms belong to the first task as a whole: from its end on they are frozen
    (``requires_grad=False``), and norms use their statistics in training, too. A layer that no training forward of a
    task ran, such as the head of another task, is left alone.

    Owned weights get their values back after each optimizer step. This is exact for any optimizer: momentum and weight
    decay may act on them. The outputs of a task under `use` are therefore equal bit for bit for ever.

    As ``GnT(..., protect=packnet)`` it keeps units that own a weight of an earlier task from being replaced. Units
    whose weights are all free start a task with zero weights, and cannot learn until an engine has replaced them.

    Under DistributedDataParallel the processes have the same owners, because weights are the same. From the second task
    on some parameters are frozen: wrap with ``find_unused_parameters=True``, or wrap again for each task.

    Args:
        net: the network, or a wrapper around it. Parameters that are added later, such as new heads, are found by
            `begin_task`.
        prune: share of the free weights of each layer that is pruned, in [0, 1]. 0: later tasks have none.
        optimizer: `after_step` is then called after each of its steps. None: call it yourself, after the engine's step;
            a learner with ``methods=[packnet]`` does so.

    Attributes:
        tasks: ids of the tasks that have ended.
        task: id of the task that is trained; None between tasks.

    Raises:
        TypeError: ``net`` is not a module, ``optimizer`` not an optimizer.
        ValueError: ``prune`` outside [0, 1]; a network without linear or convolution weights, or with lazy parameters;
            an optimizer that lacks a parameter.

    State: one byte and one float for each weight. Source: Mallya & Lazebnik, CVPR 2018 (arXiv 1711.05769).

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    >>> packnet = gnt.PackNet(net, prune=0.5, optimizer=optimizer)
    >>> def train(steps):
    ...     for _ in range(steps):
    ...         optimizer.zero_grad()
    ...         net(torch.randn(8, 4)).square().mean().backward()
    ...         optimizer.step()
    >>> x, outputs = torch.randn(8, 4), []
    >>> for task in range(2):
    ...     packnet.begin_task(task)
    ...     train(20)
    ...     packnet.prune()
    ...     train(5)
    ...     packnet.end_task()
    ...     with packnet.use(0):
    ...         outputs.append(net(x))
    >>> torch.equal(*outputs)
    True
    >>> packnet.owned()["0.weight"]
    {'free': 16, 0: 32, 1: 16}
    """

    watches_forward = True  # a learner with compile=True refuses it

    def __init__(self, net: nn.Module, *, prune: float = 0.5, optimizer: Optimizer | None = None) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if not 0 <= to_float(prune) <= 1:
            raise ValueError(f"prune must be a number in [0, 1], got {prune!r}")
        _checked_optimizer(optimizer)
        self.net, self.share, self._optimizer = net, to_float(prune), optimizer
        self._network = PackedNetwork(unwrap(net), optimizer)
        self.tasks: list[Any] = []
        self.task: Any = None
        self._pruned = False
        self._owned_units = OwnedUnits()
        self._add_hook()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._add_hook()

    @property
    def optimizer(self) -> Optimizer | None:
        """The optimizer after whose steps `after_step` is called by itself; another one may be assigned.

        Raises:
            TypeError, ValueError: as at construction. Nothing is changed.
        """
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer | None) -> None:
        self._network.use_optimizer(_checked_optimizer(optimizer))
        self._optimizer = optimizer
        if self._handle is not None:
            self._handle.remove()
        self._add_hook()

    def _add_hook(self) -> None:
        own = self._optimizer
        self._handle = None if own is None else own.register_step_post_hook(StepHook(self.after_step))

    @property
    def _open(self) -> bool:
        return self._network.watches

    def begin_task(self, task: Any = None) -> None:
        """Begin a task: its steps train free weights only.

        Args:
            task: its id, an integer or a string; None: the number of tasks so far.

        Raises:
            RuntimeError: a task is open.
            ValueError: an id that was used before, or the 256th task; a parameter that has changed its shape, or that
                the optimizer lacks. Nothing is changed.
            TypeError: an id of another type.
        """
        if self._open:
            raise RuntimeError(f"begin_task: task {self.task!r} is open, call end_task first")
        task = len(self.tasks) if task is None else task
        if not is_task_id(task):
            raise TypeError(f"task must be an integer, a string or None, got {task!r}")
        if task in self.tasks:
            raise ValueError(f"task must be a new id, got {task!r}, which has ended; known are {self.tasks}")
        if len(self.tasks) == MOST_TASKS:
            raise ValueError(f"PackNet holds at most {MOST_TASKS} tasks, one byte for the owner of a weight")
        self._network.take(self._network.with_new())
        self.task, self._pruned = task, False
        self._network.watches = True
        self._network.keep_values()
        self._hold()

    @torch.no_grad()
    def prune(self) -> None:
        """Set the smallest free weights of each layer that the task ran to 0; the others now belong to the task.

        Further steps retrain them. The pruned weights stay 0 until the next task.

        Raises:
            RuntimeError: no task is open, it was pruned before, or no training forward was run in it.
            ValueError: a weight that is not finite, or a parameter that has changed its shape. Nothing is changed.
        """
        if not self._open or self._pruned:
            raise RuntimeError(f"prune: {'the task was pruned before' if self._open else 'call begin_task first'}")
        network = self._network
        network.check_current()
        took_part = network.used()
        if not took_part:
            raise RuntimeError(f"task {self.task!r} is empty: no training forward was run since begin_task")
        for each in took_part:
            if each.tensor.is_floating_point() and not torch.isfinite(each.tensor).all():
                raise ValueError(f"parameter {each.name} has values that are not finite: they cannot be ranked")
        number = len(self.tasks) + 1
        unused = [each for each in took_part if not network.has_run(each) and runs_as_module(each.modules)]
        warn_of_unused_layers([each.name for each in unused], self.task)
        for each in took_part:
            each.restore()
            each.claim(number, self.share)
            if not each.prunable:
                each.fixed = None if number in each.owner else each.fixed
        self._pruned = True
        self._owned_units.clear()

    def end_task(self) -> None:
        """Fix the weights of the task, after `prune` unless that was called before.

        Raises:
            RuntimeError, ValueError: as `prune`. Nothing is changed.
        """
        if not self._open:
            raise RuntimeError("end_task: call begin_task first")
        self._network.check_current()
        if not self._pruned:
            self.prune()
        self._network.keep_values()
        self.tasks.append(self.task)
        self.task, self._pruned = None, False
        self._network.watches = False
        self._hold()

    def after_step(self) -> None:
        """Give owned weights their values back, and set pruned ones to 0; to be called after each optimizer step."""
        self._network.restore()
        if self._open:
            self._network.note_gradients()

    def use(self, task: Any) -> AbstractContextManager[None]:
        """Evaluate an earlier task, in ``with packnet.use(task):``.

        Inside, the network is in evaluation mode and has the weights of this task and those before; others are 0.
        Afterwards weights and modes are as before, also after an exception.
        Without ``with`` nothing is changed, and there is a warning.

        Args:
            task: the id of a task that has ended.

        Raises:
            ValueError: another id.
        """
        if not is_task_id(task) or task not in self.tasks:
            raise ValueError(f"task must be one that has ended ({self.tasks}), got {task!r}")
        return EvaluatedTask(self.net, self._network, self.tasks.index(task) + 1)

    def protected(self, group: UnitGroup) -> Tensor:
        """For ``GnT(protect=packnet)``: True for units with an incoming or outgoing weight that a task owns."""
        return self._owned_units.of(group, self._network.parameters)

    def owned(self) -> dict[str, dict[Any, int]]:
        """For each layer's weight the number of free weights, and of those that each task owns."""
        names = ["free", *self.tasks, *([self.task] if self._open else [])]
        counts = {
            each.name: torch.bincount(each.owner.flatten().int(), minlength=len(names)).tolist()
            for each in self._network.prunable
        }
        return {name: dict(zip(names, each, strict=True)) for name, each in counts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return owners and held values, and the tasks. ``prune`` is a setting and is not saved."""
        parameters = self._network.parameters
        return {
            "version": STATE_VERSION,
            "names": [each.name for each in parameters],
            "tasks": list(self.tasks),
            "open": [self.task, self._pruned] if self._open else [],
            "owners": [each.owner.clone() for each in parameters],
            "held": [each.held.clone() for each in parameters],
            "used": [each.used for each in parameters],
            "ran": [self._network.has_run(each) for each in parameters],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, for a network with the same parameters; load the network's state, too.

        Raises:
            ValueError: not such a state, or one of another network. Nothing is changed.
        """
        parameters = self._network.with_new()
        kinds = saved_kinds(parameters, number_of_owners(state_dict))
        loaded = check_saved_state(state_dict, "PackNet.state_dict()", kinds, STATE_VERSION)
        self._network.take(parameters)
        self.tasks = loaded["tasks"]
        self._network.watches = bool(loaded["open"])
        self.task, self._pruned = loaded["open"] or (None, False)
        for each, owner, held, used in zip(parameters, loaded["owners"], loaded["held"], loaded["used"], strict=True):
            each.owner, each.held, each.used = owner, held, used
        self._network.set_run(loaded["ran"])
        self._hold()
        if self._pruned:
            number = len(self.tasks) + 1
            for each in self._network.prunable:
                if number in each.owner:
                    each.fixed = each.owner != number

    def _hold(self) -> None:
        self._owned_units.clear()
        self._network.hold(len(self.tasks) + 1)


def _checked_optimizer(optimizer: Any) -> Any:
    """The optimizer, or None; TypeError for anything else."""
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
    return optimizer
