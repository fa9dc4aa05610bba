"""Learning without forgetting: outputs for current inputs stay near those of the network of earlier tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from gnt._utils.settings import above_zero, checked_settings, non_negative
from gnt._utils.state_dicts import Entry, check_saved_state, counter
from gnt.replay._arguments import saved_number
from gnt.replay._frozen_copy import FrozenCopy, saved_copy
from gnt.replay._old_outputs import first_outputs, number_of_outputs, soft_cross_entropy
from gnt.replay._reference_gradients import unlearned

STATE_VERSION = 1

Outputs = Tensor | Sequence[Tensor]


@checked_settings(strength=non_negative, temperature=above_zero)
class LwF:
    """Learning without forgetting: distillation of the network of earlier tasks, on the inputs of the current one.

    When a task ends, a copy S' of the network S is frozen. From then on the penalty, which is added to the loss of the
    current batch, is::

        strength * sum over heads of mean over samples of -sum over classes of p'_c log p_c,
        p = softmax(S(x) / T),   p' = softmax(S'(x) / T)

    No data are kept. It works where the task is known and each has a head of its own; where all classes compete, inputs
    of new classes say little about the old ones.

    As a method of a learner it needs `end_task` of the learner; in a loop of your own::

        lwf = gnt.LwF(net)                                              # 1; at a task's end lwf.end_task()
        output = net(x); loss = criterion(output, y) + lwf(x, output)   # 2

    Args:
        net: the network S, called as ``net(x)``.
        strength: factor of the penalty, >= 0.
        temperature: T, > 0.
        forward: x -> outputs of all earlier heads, a tensor or a list of them, for a network with several heads: it
            runs the network in training, and with the frozen weights. None: the network's output, without a further
            forward.

    Attributes:
        tasks: number of tasks that have ended.

    Raises:
        TypeError: not a module or a function.
        ValueError: a number out of range.

    S' runs in evaluation mode: statistics, random generators and records of engines are as before. If the network has
    got more outputs since (a head that has grown), the penalty compares the earlier ones: as many as the output had in
    the penalty's latest call in that task, or without one those that do not depend on parameters which are new.

    Source: Li & Hoiem, ECCV 2016 (arXiv 1606.09282), Eqs. 2 and 3, with T = 2; the heads' losses are summed.

    >>> import torch, gnt
    >>> net = torch.nn.Linear(6, 4)
    >>> lwf = gnt.LwF(net)
    >>> learner = gnt.Backprop(net, loss="cross_entropy", methods=[lwf])
    >>> for task in range(2):
    ...     for _ in range(3):
    ...         step = learner.learn(torch.randn(8, 6), torch.randint(2, (8,)) + 2 * task)
    ...     learner.end_task()
    >>> lwf
    LwF(strength=1, temperature=2, tasks=2)
    """

    def __init__(
        self,
        net: nn.Module,
        strength: float = 1.0,
        *,
        temperature: float = 2.0,
        forward: Callable[[Tensor], Outputs] | None = None,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if forward is not None and not callable(forward):
            raise TypeError(f"forward must be a function x -> output or None, got {type(forward).__name__}")
        self.net, self.forward = net, forward
        self.strength = strength
        self.temperature = temperature
        self.tasks = 0
        self._outputs: int | None = None  # of the network, in the latest step of the task
        self._past: tuple[FrozenCopy, int | None] | None = None  # the network, and its number of outputs

    @property
    def expects_classes(self) -> str:
        """For learners: what to use if outputs are no logits."""
        return "use gnt.DER, which keeps outputs of any kind"

    def end_task(self) -> None:
        """End a task: keep a copy of the network as it is now, in place of the one before."""
        self._past = FrozenCopy.of(self.net), self._outputs
        self._outputs = None
        self.tasks += 1

    def penalty(self, x: Tensor, output: Tensor) -> Tensor:
        """The penalty for the current batch, a differentiable scalar; 0 in the first task.

        Args:
            x: the current inputs.
            output: the network's output for them, (batch, classes, ...).

        Raises:
            TypeError: ``output`` is not a tensor.
            ValueError: outputs without classes or of one class, ``forward`` returned other numbers of heads, or the
                network has got new parameters since the latest task ended, in which no penalty was computed, and
                outputs other than the last ones depend on them.
        """
        self._outputs = number_of_outputs(output)
        if self._past is None or not self.strength or not len(x):
            return output.new_zeros(())
        frozen, width = self._past
        with unlearned(self.net, x.device):
            old = _heads(frozen.run(self.net, self.forward or self.net, x))
            if self.forward is None and width is None and len(old) == 1:  # no penalty was computed in that task
                width = frozen.earlier_outputs(self.net, self.net, (x,), old[0])
                if not old[0].isnan().any():  # which would hide what new parameters change
                    self._past = frozen, width
        if self.forward is None:
            new, old = [first_outputs(output, width)], [first_outputs(each, width) for each in old]
        else:
            new = _heads(self.forward(x))
        if len(new) != len(old) or any(a.ndim < 2 or a.shape != b.shape for a, b in zip(new, old, strict=True)):
            shapes = [[tuple(each.shape) for each in heads] for heads in (new, old)]
            raise ValueError(
                f"outputs must be (batch, classes, ...), and as before: the network gives {shapes[0]}, and with the "
                f"weights of earlier tasks {shapes[1]}"
            )
        if any(each.shape[1] < 2 for each in old):
            raise ValueError(
                "LwF compares the probabilities of classes, and of one output there are none: give the network an "
                "output for each class, or use gnt.DER"
            )
        losses = [soft_cross_entropy(a, b, self.temperature) for a, b in zip(new, old, strict=True)]
        return self.strength * sum(losses, start=output.new_zeros(()))

    def __call__(self, x: Tensor, output: Tensor) -> Tensor:
        """`penalty`."""
        return self.penalty(x, output)

    def state_dict(self) -> dict[str, Any]:
        """The frozen weights, and the number of tasks."""
        past = None if self._past is None else {n: each.clone() for n, each in self._past[0].tensors.items()}
        return {
            "version": STATE_VERSION,
            "tasks": self.tasks,
            "outputs": self._outputs,
            "network": past,
            "network_outputs": None if self._past is None else self._past[1],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, to continue exactly.

        Raises:
            ValueError: not such a state, or of another network. Nothing is changed.
        """

        def network(entry: Entry, value: Any) -> FrozenCopy | None:
            return None if value is None else saved_copy(self.net)(entry, value)

        kinds = {
            "tasks": counter(),
            "outputs": saved_number,
            "network": network,
            "network_outputs": saved_number,
        }
        state = check_saved_state(state_dict, "LwF.state_dict()", kinds, STATE_VERSION)
        if (state["network"] is None) != (state["tasks"] == 0):
            raise ValueError(f"state_dict has {state['tasks']} tasks, which do not fit its 'network'")
        self.tasks, self._outputs = state["tasks"], state["outputs"]
        self._past = None if state["network"] is None else (state["network"], state["network_outputs"])

    def __repr__(self) -> str:
        return f"LwF(strength={self.strength:g}, temperature={self.temperature:g}, tasks={self.tasks})"


def _heads(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)
