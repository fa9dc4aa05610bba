"""TaskBoundaries: a callback for methods that are told when a task begins and ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, MultiStepLR, StepLR

from gnt._utils.validation import check_counts
from gnt.integrations.lightning._penalty_calls import PenaltyCalls
from gnt.integrations.lightning._step_calls import StepCalls
from gnt.integrations.lightning._trainer import (
    check_network_function,
    in_precision,
    key_of_callback,
    optimizer_of,
    steps_per_epoch,
    unscales_in_step,
    weight_averaging,
)
from gnt.learners import Methods
from gnt.protection import HAT

# they multiply the present learning rates; others have numbers for each group of parameters
_TAKE_NEW_GROUPS = (StepLR, MultiStepLR, ExponentialLR)


class TaskBoundaries(Callback):
    """Methods against forgetting in Lightning, one fit for each task: ``Trainer(callbacks=[TaskBoundaries(ewc)])``.

    It does what a learner does with ``methods=[...]`` (`gnt.Backprop`), as far as a callback can:

    - when a fit starts, methods with ``attach`` (EWC, SI, MAS, AGEM, GEM) are attached to the optimizer, and
      ``begin_task`` is called, of those methods after a checkpoint was loaded;
    - before each batch, ``before_batch``: a batch that it returns takes the place of the present one, which has to be a
      list [x, y], as a DataLoader of (x, y) makes it;
    - before each optimizer step, ``after_backward`` of methods that are not attached; gradients are not clipped yet;
    - after each optimizer step, ``after_step`` of methods that are not attached, and of AGEM and GEM, which store the
      batch there; with ``accumulate_grad_batches``, ``keep_batch`` after each batch that no step follows. If a step is
      not made, ``discard``;
    - when training ends without an exception, ``end_task``.

    A penalty that reads the output (`gnt.DER`, `gnt.LwF`) or a parameter of its own (`gnt.HAT`) must be added in
    ``training_step``: ``loss + self.hat.penalty()``. If the first batch of a fit does not ask for it, there is a
    warning (HAT raises an error). Hooks get what their signatures name of ``net``, ``task``, ``data``, ``optimizer``
    and ``steps_per_epoch`` (in optimizer steps). A fit that is resumed from a checkpoint goes on with its task, or only
    ends it if all its epochs are done. States are part of checkpoints: attached methods' with the optimizer's state,
    others' with this callback's.

    Args:
        methods: the methods.
        net: function of the LightningModule that returns the network for ``end_task``; None: the module itself.
        data: samples for ``end_task``; None: the training loader of the fit. Batches are in the trainer's precision;
            hooks of the module (``on_after_batch_transfer``) do not see them.
        optimizer: the number of the optimizer, if ``configure_optimizers`` returns several; a callback for each.

    Attributes:
        task: the id of the task that the next fit trains, to be set before it; None: the number of tasks that have
            ended.
        ended: number of tasks that have ended.

    Raises:
        TypeError, ValueError: what `gnt.Backprop` refuses as methods; an optimizer that does not exist, or a fused one
            with a GradScaler for methods with ``after_backward``, which would get scaled gradients; a batch that is
            no pair; `gnt.HAT` with a learning-rate scheduler for an optimizer that does not hold ``hat.embedding``, or
            with Lightning's ``WeightAveraging``, which has to be listed before this callback if a method has
            ``end_task``.

    >>> import gnt, torch
    >>> from gnt.integrations.lightning import TaskBoundaries
    >>> net = torch.nn.Linear(4, 3)
    >>> boundaries = TaskBoundaries(gnt.EWC(net, strength=10.0), net=lambda module: module.net)
    >>> boundaries.ended
    0
    """

    def __init__(
        self,
        *methods: Any,
        net: Callable[[LightningModule], nn.Module] | None = None,
        data: Any = None,
        optimizer: int = 0,
    ) -> None:
        self._methods = Methods.checked(methods)
        if not methods:
            raise ValueError("TaskBoundaries needs at least one method")
        check_counts(optimizer=optimizer)
        check_network_function(net)
        self._net, self._data, self._optimizer = net, data, optimizer
        self._open, self.ended, self.task = False, 0, None
        self._to_begin = False  # attached methods, once the optimizer's state was loaded
        self._resumed = False  # the task is of a checkpoint, and was not trained since
        self._steps = StepCalls(self._methods)
        self._penalties = PenaltyCalls(self._methods)
        self._first_batch = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the methods to the optimizer; begin the task, or go on with it after a checkpoint was loaded.

        Methods with ``attach`` begin it in `on_train_start`: their state is loaded later, with the optimizer's.
        """
        optimizer = optimizer_of(trainer, self._optimizer, "TaskBoundaries")
        self._check_averaging(trainer)
        self._check_schedulers(trainer, optimizer)
        for each in self._methods:
            if isinstance(each, nn.Module):
                each.to(pl_module.device)
        self._steps.attach(optimizer, scaled=unscales_in_step(trainer, optimizer))
        self._first_batch = True
        if self._open:
            for each in self._methods.having("resume"):
                each.resume(optimizer)
            return
        self._begin_task(trainer, pl_module, attached=False)
        self._open = self._to_begin = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the task of methods that are attached to the optimizer, whose state was loaded by now."""
        self._resumed = False
        if self._to_begin:
            self._begin_task(trainer, pl_module, attached=True)
            self._to_begin = False

    def _begin_task(self, trainer: Trainer, module: LightningModule, *, attached: bool) -> None:
        optimizer, steps = optimizer_of(trainer, self._optimizer, "TaskBoundaries"), steps_per_epoch(trainer)
        info = {"optimizer": optimizer, **({} if steps is None else {"steps_per_epoch": steps})}
        methods = Methods(each for each in self._methods if hasattr(each, "attach") is attached)
        methods.tell("begin_task", {**self._info(trainer, module), **info})

    def _check_averaging(self, trainer: Trainer) -> None:
        """Raise ValueError if Lightning averages weights of a network with HAT, or after a task has ended."""
        hat = next((type(each).__name__ for each in self._methods if isinstance(each, HAT)), None)
        averaging = weight_averaging(trainer)
        if hat is not None and averaging:
            raise ValueError(
                f"{type(averaging[0]).__name__} writes averaged weights into the network after the task has ended, and "
                f"{hat} would then not keep the outputs of the task: leave one of the two out"
            )
        later = weight_averaging(trainer, after=self)
        ending = next((type(each).__name__ for each in self._methods.having("end_task")), None)
        if later and ending is not None:
            name = type(later[0]).__name__
            raise ValueError(
                f"{name} is listed after TaskBoundaries: it would write averaged weights into the network after "
                f"{ending} has ended the task on others. List it before: callbacks=[{name}(...), TaskBoundaries(...)]"
            )

    def _check_schedulers(self, trainer: Trainer, optimizer: Optimizer) -> None:
        """Raise ValueError for a scheduler that does not take the parameters that HAT gives the optimizer later."""
        held = {id(each) for options in optimizer.param_groups for each in options["params"]}
        methods = [each for each in self._methods if isinstance(each, HAT) and id(each.embedding) not in held]
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        for scheduler in schedulers if methods else []:
            if getattr(scheduler, "optimizer", optimizer) is optimizer and type(scheduler) not in _TAKE_NEW_GROUPS:
                name, kind = type(methods[0]).__name__, type(optimizer).__name__
                raise ValueError(
                    f"{type(scheduler).__name__} was built before the embedding of {name} is given to the optimizer, "
                    f"and takes no further parameters: let configure_optimizers give it, {kind}([{{'params': "
                    "self.net.parameters()}, {'params': [self.hat.embedding], 'weight_decay': 0.0}])"
                )

    def _info(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        return {
            "net": module if self._net is None else self._net(module),
            "task": self.ended if self.task is None else self.task,
            "data": in_precision(trainer, trainer.train_dataloader if self._data is None else self._data),
        }

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Let methods see the batch, or put another one in its place."""
        if self._first_batch:
            self._penalties.watch()
        automatic = pl_module.automatic_optimization
        self._steps.begin_batch(starts_step=batch_idx % trainer.accumulate_grad_batches == 0 if automatic else None)
        if not any(self._methods.having("before_batch")):
            return
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"methods of TaskBoundaries need batches [x, y], got {type(batch).__name__}")
        learned = self._steps.before_batch(*batch)
        if any(new is not old for new, old in zip(learned, batch, strict=True)):
            if not isinstance(batch, list):
                raise TypeError(
                    "a method of TaskBoundaries replaces the batch, which must be a list [x, y] then, got a tuple: "
                    "return a list from the loader, or call the method in training_step"
                )
            batch[:] = learned

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Call ``after_backward`` of methods that are not attached to the optimizer."""
        if optimizer is trainer.optimizers[self._optimizer]:
            self._steps.before_optimizer_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a batch that no step has followed. After the first batch: warn of penalties that it did not ask for."""
        self._steps.end_batch()
        if self._first_batch:
            self._first_batch = False
            self._penalties.warn()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the methods as they were."""
        self._penalties.stop()
        self._steps.discard()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the task."""
        self._steps.discard()
        self._end_task(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the task of a checkpoint from the end of its training: Lightning then trains no more."""
        if self._resumed and trainer.limit_train_batches and trainer.num_training_batches:
            pl_module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU already
            self._end_task(trainer, pl_module)
            pl_module.cpu()

    def _end_task(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._open:
            self._methods.tell("end_task", self._info(trainer, pl_module))
            self._open = self._resumed = False
            self.task = None
            self.ended += 1

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint, another one for each optimizer."""
        return key_of_callback(super().state_key, self._optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The task, and the states of methods that are not attached to the optimizer."""
        states = [
            each.state_dict() if hasattr(each, "state_dict") and not hasattr(each, "attach") else None
            for each in self._methods
        ]
        return {"task": self.task, "open": self._open, "ended": self.ended, "methods": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: of other methods.
        """
        own = self.state_dict()["methods"]
        if [each is None for each in state_dict["methods"]] != [each is None for each in own]:
            names = ", ".join(type(each).__name__ for each in self._methods)
            raise ValueError(f"the checkpoint was saved with other methods than {names} in TaskBoundaries")
        for each, state in zip(self._methods, state_dict["methods"], strict=True):
            if state is not None:
                each.load_state_dict(state)
        self.task, self._open, self.ended = state_dict["task"], state_dict["open"], state_dict["ended"]
        self._to_begin, self._resumed = False, self._open
