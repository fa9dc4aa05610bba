"""Output layers for several tasks, and output layers that grow by classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gnt._utils.validation import check_flags, check_positive

Task = int | str


class MultiHead(nn.Module):
    """One linear output layer (head) for each task, of which a forward runs one; each can grow by further outputs.

    A head is a list of linear layers whose outputs are concatenated: `grow` adds one. The parameters before stay the
    same tensors, so that optimizer state, penalties and `PackNet` need no change for them, and the earlier outputs stay
    equal bit for bit.

    Args:
        in_features: number of inputs.
        outputs: numbers of outputs: an integer for one head, of task 0; a list for the tasks 0, 1, ...; or a dict by
            task. The default is no head (`add`).
        bias: the layers have a bias.

    A task is an integer or a string; 0 and "0" are the same head.

    Shape:
        ``heads(x, task)``: (..., in_features) -> (..., outputs of the task).

    Raises:
        TypeError, ValueError: a number that is not an integer >= 1, or a task of another type.

    For an engine, trace with one example for each head, and after `add` or `grow` give the optimizer the new layer and
    rebind the engine:

    >>> import torch, gnt
    >>> class Net(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden, self.heads = torch.nn.Linear(4, 16), gnt.MultiHead(16, [2, 2])
    ...     def forward(self, x, task):
    ...         return self.heads(torch.relu(self.hidden(x)), task)
    >>> net, x = Net(), torch.randn(8, 4)
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> engine = gnt.GnT(gnt.trace(net, examples=[(x, 0), (x, 1)]), optimizer).attach()
    >>> before = net(x, 1)
    >>> new = net.heads.grow(3, task=1)
    >>> torch.equal(net(x, 1)[:, :2], before)
    True
    >>> optimizer.add_param_group({"params": new.parameters()})
    >>> len(engine.rebind(gnt.trace(net, examples=[(x, 0), (x, 1)])).groups[0].consumers)
    3
    """

    def __init__(
        self, in_features: int, outputs: int | Sequence[int] | Mapping[Task, int] | None = None, *, bias: bool = True
    ) -> None:
        super().__init__()
        check_positive(in_features=in_features)
        check_flags(bias=bias)
        self.in_features, self.bias = in_features, bias
        self.heads = nn.ModuleDict()
        if isinstance(outputs, Mapping):
            sizes = list(outputs.items())
        elif isinstance(outputs, (list, tuple)):
            sizes = list(enumerate(outputs))
        else:
            sizes = [] if outputs is None else [(0, outputs)]  # type: ignore[list-item]
        for task, size in sizes:
            self.add(task, size)

    @property
    def tasks(self) -> list[str]:
        """The tasks that have a head, as strings, in the order in which they were added."""
        return [key.removeprefix("task_") for key in self.heads]

    def add(self, task: Task, outputs: int) -> nn.Linear:
        """Add a head for a task, and return its layer.

        Raises:
            TypeError, ValueError: a task of another type or that has a head; ``outputs`` not an integer >= 1.
        """
        key = _key(task)
        if key in self.heads:
            raise ValueError(f"task {task!r} has a head; grow(outputs, task={task!r}) adds outputs to it")
        check_positive(outputs=outputs)
        new = self._new_layer(outputs)
        self.heads[key] = nn.ModuleList([new])
        return new

    def grow(self, outputs: int, task: Task | None = None) -> nn.Linear:
        """Add outputs behind those of a head, and return the new layer, for ``optimizer.add_param_group``.

        Args:
            outputs: number of further outputs.
            task: the task; None: the only head.

        Raises:
            TypeError, ValueError: a task without a head; ``outputs`` not an integer >= 1.
        """
        head = self._head(task)
        check_positive(outputs=outputs)
        new = self._new_layer(outputs)
        head.append(new)
        return new

    def num_outputs(self, task: Task | None = None) -> int:
        """Return the number of outputs of a head."""
        return sum(layer.out_features for layer in self._head(task))  # type: ignore[misc]

    def forward(self, x: Tensor, task: Task | None = None) -> Tensor:
        """Return the outputs of one head; ``task`` may be left out if there is only one."""
        parts = [layer(x) for layer in self._head(task)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _head(self, task: Task | None) -> nn.ModuleList:
        if task is None and len(self.heads) != 1:
            raise ValueError(f"task must be given: there are {len(self.heads)} heads, for the tasks {self.tasks}")
        key = next(iter(self.heads)) if task is None else _key(task)
        if key not in self.heads:
            raise ValueError(f"task must be one of {self.tasks}, got {task!r}; add(task, outputs) adds a head")
        head = self.heads[key]
        assert isinstance(head, nn.ModuleList)
        return head

    def _new_layer(self, outputs: int) -> nn.Linear:
        like = next(self.parameters(), torch.empty(0))
        return nn.Linear(self.in_features, outputs, self.bias, device=like.device, dtype=like.dtype)


def _key(task: Task) -> str:
    if isinstance(task, bool) or not isinstance(task, (int, str)):
        raise TypeError(f"task must be an integer or a string, got {task!r}")
    if isinstance(task, str) and "." in task:
        raise ValueError(f"task must not contain a dot, got {task!r}")
    return f"task_{task}"
