"""Generative replay: samples of a generative model, labelled by an old copy of the network, stand for earlier tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.settings import above_zero, checked_settings, optional, share
from gnt._utils.state_dicts import Entry, check_entries, check_saved_state, counter
from gnt._utils.validation import check_positive
from gnt.names import TargetName
from gnt.replay._arguments import batch_size_setting, checked_task, saved_number, saved_task
from gnt.replay._frozen_copy import FrozenCopy, saved_copy
from gnt.replay._model_training import ModelTraining
from gnt.replay._old_outputs import Loss, checked_targets, first_outputs, loss_on_old, number_of_outputs
from gnt.replay._reference_gradients import unlearned

STATE_VERSION = 1


class _Past(NamedTuple):
    """Model and network as they were when the latest task ended, and the network's number of outputs."""

    model: FrozenCopy
    solver: FrozenCopy
    outputs: int | None


@checked_settings(
    targets=lambda _, value: checked_targets(value),
    temperature=above_zero,
    weight=optional(share),
    batch_size=batch_size_setting,
)
class GenerativeReplay:
    """Generative replay: learn from the current batch and from generated inputs, labelled by a copy of the old network.

    When a task ends, frozen copies of the generative model G and of the network S are kept. In the t-th task (from 1),
    with r = 1/t, x' = samples of the frozen G and S' the frozen network, each step minimizes::

        network:   r * loss(S(x), y) + (1 - r) * loss(S(x'), S'(x'))
        model:     r * G.loss(x)     + (1 - r) * G.loss(x')

    so that neither forgets: both learn from samples of the frozen model, never from those of the one that is
    being trained. r = 1/t gives each task so far the same weight, however many samples are drawn. No data are
    kept.

    As a method of a learner it needs `begin_task` or `end_task` of the learner; in a loop of your own::

        replay = gnt.GenerativeReplay(net, gnt.VAE(784))                    # 1; at a task's end replay.end_task()
        output = net(x); loss = criterion(output, y) + replay(x, y, output) # 2: also trains the model

    `penalty` returns (1 - r) * (loss(S(x'), S'(x')) - loss(S(x), y)), which added to loss(S(x), y) is the above.

    Args:
        net: the network S, called as ``net(x)``.
        model: the generative model G: a module with ``loss(x) -> scalar``, a mean over samples, and ``sample(n) -> x``,
            n inputs, such as `gnt.VAE`. Both may draw from torch's global generators: these are seeded from
            ``generator`` before, and are as before afterwards. Samples are drawn in evaluation mode, without gradients.
        loss: the loss of the current batch, (output, y) -> scalar, which must be the one that is trained with.
        targets: "hard": the class of the largest output of S', with ``loss``; "soft": distillation, that is T^2 times
            the cross-entropy of softmax(S(x') / T) and softmax(S'(x') / T); or a function (S(x'), S'(x')) -> scalar,
            for other outputs.
        temperature: T of "soft", > 0.
        weight: r, in [0, 1]; None: 1/t.
        batch_size: number of samples of a step; None: as many as the current batch has.
        optimizer: trains the model, and must have all of its parameters that require a gradient; None: Adam with
            learning rate 1e-3.
        forward: x -> output, in place of ``net(x)`` for generated inputs, for a network with several heads.
        generator: a generator on the CPU for all draws; None creates one, seeded from torch's global generator.

    Attributes:
        tasks: number of tasks that have ended.
        steps: number of batches learned in the present one.

    Raises:
        TypeError: not a module, not a model with ``loss`` and ``sample``, not a function, an optimizer or a generator.
        ValueError: a number out of range, unknown targets, a model without parameters or that shares parameters with
            the network, or an optimizer that lacks some.

    A step costs a forward and backward pass of the network more, one of the model for the batch and one for the
    samples, and a forward of both frozen copies; an engine measures units on current and generated samples together.
    The frozen network runs in evaluation mode: statistics, random generators and records of engines are as before. If
    the network has got more outputs since (a head that has grown), the old one gives them probability 0. Inside of
    ``torch.autocast`` the model keeps its own precision. Of several processes each trains a model of its own, on its
    own batches.

    Source: Shin et al., NeurIPS 2017 (arXiv 1705.08690), Eq. 1; r = 1/t, one draw for both, and the soft targets of
    van de Ven & Tolias, arXiv 1809.10635.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(6, 4)
    >>> replay = gnt.GenerativeReplay(net, gnt.VAE(6, hidden=[16], latent=3))
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[replay])
    >>> for task in range(2):
    ...     for _ in range(3):
    ...         step = learner.learn(torch.rand(8, 6), torch.randint(2, (8,)) + 2 * task)
    ...     learner.end_task()
    >>> x, old_output = replay.sample(5)
    >>> x.shape, old_output.shape
    (torch.Size([5, 6]), torch.Size([5, 4]))
    """

    def __init__(
        self,
        net: nn.Module,
        model: nn.Module,
        *,
        loss: Loss = F.cross_entropy,
        targets: TargetName | Loss = "hard",
        temperature: float = 2.0,
        weight: float | None = None,
        batch_size: int | None = None,
        optimizer: Optimizer | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.net, self._training = net, ModelTraining(net, model, optimizer, generator)
        if not callable(loss):
            raise TypeError(f"loss must be a function (output, target) -> scalar, got {type(loss).__name__}")
        if forward is not None and not callable(forward):
            raise TypeError(f"forward must be a function x -> output or None, got {type(forward).__name__}")
        self.loss, self.forward, self.targets = loss, forward, targets
        self.temperature = temperature
        self.weight = weight
        self.batch_size = batch_size
        self.task: int | None = None
        self.tasks = self.steps = 0
        self._outputs: int | None = None  # of the network, in the latest step
        self._past: _Past | None = None

    @property
    def model(self) -> nn.Module:
        """The generative model."""
        return self._training.model

    @property
    def optimizer(self) -> Optimizer:
        """The model's optimizer."""
        return self._training.optimizer

    @property
    def generator(self) -> torch.Generator:
        """The generator of all draws."""
        return self._training.generator

    def begin_task(self, task: int | None = None) -> None:
        """Begin a task: ends the one before, if batches were learned since `end_task`.

        Args:
            task: its number. That of the present task changes nothing.

        Raises:
            TypeError: not an integer or None.
        """
        task = checked_task(task)
        if self.steps and (task is None or task != self.task):
            self.end_task()
        self.task = task

    def end_task(self) -> None:
        """End a task: keep copies of model and network as they are now, which stand for all tasks so far.

        Raises:
            RuntimeError: no batch was learned since the task before ended. Nothing is changed.
        """
        if not self.steps:
            raise RuntimeError(f"task {self.tasks + 1} has ended before a batch of it was learned: learn some first")
        self._past = _Past(FrozenCopy.of(self.model), FrozenCopy.of(self.net), self._outputs)
        self.tasks, self.steps, self.task = self.tasks + 1, 0, None

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Draw n inputs from the frozen model; returns them and the frozen network's outputs for them.

        Raises:
            ValueError: n is not a positive integer, or the model returns something else than n inputs.
            RuntimeError: no task has ended yet.
        """
        check_positive(n=n)
        if self._past is None:
            raise RuntimeError("nothing to replay yet: call end_task() at the end of a task")
        x = self._training.sample(self._past.model, int(n))
        like = next(self.net.parameters(), x)
        x = x.to(like.device, like.dtype)
        return x, self._old_outputs(x, self._past)

    def _old_outputs(self, x: Tensor, past: _Past) -> Tensor:
        with unlearned(self.net, x.device):
            output = past.solver.run(self.net, self.forward or self.net, x)
        return first_outputs(output, past.outputs)

    def penalty(self, x: Tensor, y: Tensor, output: Tensor) -> Tensor:
        """What replay adds to the loss of a batch, a differentiable scalar; 0 in the first task.

        It also computes the gradients of the model; `after_step` makes the model's step.

        Args:
            x, y: the current batch.
            output: the network's output for it.

        Raises:
            TypeError: ``output`` is not a tensor.
            ValueError: samples of another shape than x, or outputs without classes for "hard" and "soft".
            FloatingPointError: the model's loss is not finite (checked on the CPU). Nothing is changed.
        """
        outputs = number_of_outputs(output)
        if not len(x):
            return output.new_zeros(())
        share = 1 / (self.tasks + 1) if self.weight is None else self.weight
        total, samples = output.new_zeros(()), None
        self._training.begin()
        try:
            if self._past is not None and share < 1:
                count = len(x) if self.batch_size is None else self.batch_size
                samples = self._training.sample(self._past.model, count).to(x.device, x.dtype)
                if samples.shape[1:] != x.shape[1:]:
                    raise ValueError(
                        f"samples of {type(self.model).__name__} have the shape {tuple(samples.shape[1:])}, and inputs "
                        f"{tuple(x.shape[1:])}"
                    )
                old = self._old_outputs(samples, self._past)
                new = (self.forward or self.net)(samples)
                replayed = loss_on_old(new, old, self.targets, self.temperature, self.loss)
                total = (1 - share) * (replayed - self.loss(output, y))
            self._training.compute(x, samples, share)
        except BaseException:
            self._training.discard()
            raise
        self._outputs = outputs
        return total

    def keep_batch(self) -> None:
        """Hook for gradient accumulation: another batch follows, and `after_step` makes one step of the model on all.

        Its gradient is the mean over the samples of all batches.
        """
        self._training.keep()

    def after_step(self) -> None:
        """Make the model's step on the batch for which `penalty` was computed; without one, nothing."""
        self.steps += self._training.step()

    def discard(self) -> None:
        """Undo the draws of a step that failed."""
        self._training.discard()

    def __call__(self, x: Tensor, y: Tensor, output: Tensor) -> Tensor:
        """`penalty` and, at once, the model's step (`after_step`)."""
        total = self.penalty(x, y, output)
        self.after_step()
        return total

    def state_dict(self) -> dict[str, Any]:
        """Model, its optimizer, the frozen copies of model and network, counts and the generator."""
        past = self._past
        return {
            "version": STATE_VERSION,
            "task": self.task,
            "tasks": self.tasks,
            "steps": self.steps,
            "outputs": self._outputs,
            "past": None
            if past is None
            else {
                "model": {name: each.clone() for name, each in past.model.tensors.items()},
                "solver": {name: each.clone() for name, each in past.solver.tensors.items()},
                "outputs": past.outputs,
            },
            **self._training.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, to continue exactly.

        Raises:
            ValueError: not such a state, or of another network, model or optimizer. Nothing is changed.
        """
        kinds = {
            "task": saved_task,
            "tasks": counter(),
            "steps": counter(),
            "outputs": saved_number,
            "past": self._saved_past,
            **self._training.kinds(),
        }
        state = check_saved_state(state_dict, "GenerativeReplay.state_dict()", kinds, STATE_VERSION)
        if (state["past"] is None) != (state["tasks"] == 0):
            raise ValueError(f"state_dict has {state['tasks']} tasks, which do not fit its 'past'")
        self._training.load(state)
        self.task, self.tasks, self.steps = state["task"], state["tasks"], state["steps"]
        self._outputs, self._past = state["outputs"], state["past"]

    def _saved_past(self, entry: Entry, value: Any) -> _Past | None:
        if value is None:
            return None
        kinds = {"model": saved_copy(self.model), "solver": saved_copy(self.net), "outputs": saved_number}
        return _Past(**check_entries(value, kinds, " in 'past'"))

    def __repr__(self) -> str:
        targets = repr(self.targets) if isinstance(self.targets, str) else "a function"
        return (
            f"GenerativeReplay({type(self.model).__name__}, tasks={self.tasks}, steps={self.steps}, targets={targets})"
        )
