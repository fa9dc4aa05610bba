"""TaskMatrix: the accuracies on all tasks after each task, and the metrics of forgetting that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from gnt._utils.state_dicts import check_saved_state, equal_to
from gnt._utils.tables import align_columns
from gnt._utils.validation import check_positive, to_float
from gnt.metrics import memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATE_VERSION = 1

_FIGURES: dict[str, Callable[[Tensor], float]] = {
    "average_accuracy": memory.average_accuracy,
    "learning_accuracy": memory.learning_accuracy,
    "forgetting": memory.forgetting,
    "backward_transfer": memory.backward_transfer,
    "one_step_backward_transfer": memory.one_step_backward_transfer,
    "average_incremental_accuracy": memory.average_incremental_accuracy,
}


class TaskMatrix:
    """Accuracies on all tasks after each task, NaN where not measured, with the metrics of `gnt.metrics.memory`.

    Printing it shows a table: a row for each task that was trained, a column for each task that was tested.

    Args:
        tasks: the number of tasks, or their names, which must differ.

    Attributes:
        names: the names of the tasks; their numbers as text if only a number was given.

    Raises:
        ValueError: no tasks, or names that are not different strings.

    >>> matrix = TaskMatrix(["even", "odd"])
    >>> matrix.put("even", "even", 0.875)
    >>> matrix.put("odd", "even", 0.5), matrix.put("odd", "odd", 0.75)
    (None, None)
    >>> matrix.forgetting(), matrix.average_accuracy()
    (0.375, 0.625)
    >>> print(matrix)
    after task   even    odd
    even        0.875      -
    odd         0.500  0.750
    """

    def __init__(self, tasks: int | Sequence[str]) -> None:
        if isinstance(tasks, (list, tuple)):
            if not tasks or not all(isinstance(name, str) for name in tasks) or len(set(tasks)) < len(tasks):
                raise ValueError(f"tasks must be a positive number or a list of different names, got {tasks!r}")
            self.names = tuple(tasks)
        else:
            check_positive(tasks=tasks)
            self.names = tuple(map(str, range(cast(int, tasks))))
        self._matrix = torch.full((len(self.names), len(self.names)), torch.nan, dtype=torch.float64, device="cpu")
        self._baseline = self._matrix[0].clone()

    def put(self, after: int | str, task: int | str, value: float | Tensor) -> None:
        """Record the accuracy on ``task`` after training on the task ``after``; an earlier value is replaced.

        Args:
            after, task: numbers from 0, or names.
            value: a finite number, or a tensor with one element.

        Raises:
            ValueError: an unknown task, or a value that is not a finite number.
        """
        row, column = self._number("after", after), self._number("task", task)
        self._matrix[row, column] = _finite("value", value)

    def baseline(self, task: int | str, value: float | Tensor) -> None:
        """Record the accuracy on ``task`` of the network at its initialization, for `forward_transfer`.

        Args, Raises:
            as `put`.
        """
        self._baseline[self._number("task", task)] = _finite("value", value)

    def as_tensor(self) -> Tensor:
        """A copy of the matrix, float64 (tasks, tasks): row i after task i, column j on task j."""
        return self._matrix.clone()

    def average_accuracy(self) -> float:
        """`gnt.metrics.average_accuracy`."""
        return memory.average_accuracy(self._matrix)

    def learning_accuracy(self) -> float:
        """`gnt.metrics.learning_accuracy`."""
        return memory.learning_accuracy(self._matrix)

    def forgetting(self) -> float:
        """`gnt.metrics.forgetting`."""
        return memory.forgetting(self._matrix)

    def backward_transfer(self) -> float:
        """`gnt.metrics.backward_transfer`."""
        return memory.backward_transfer(self._matrix)

    def one_step_backward_transfer(self) -> float:
        """`gnt.metrics.one_step_backward_transfer`."""
        return memory.one_step_backward_transfer(self._matrix)

    def forward_transfer(self) -> float:
        """`gnt.metrics.forward_transfer`, with the accuracies given to `baseline`."""
        return memory.forward_transfer(self._matrix, self._baseline)

    def average_incremental_accuracy(self) -> float:
        """`gnt.metrics.average_incremental_accuracy`."""
        return memory.average_incremental_accuracy(self._matrix)

    def figures(self, prefix: str = "memory/", *, after: int | str | None = None) -> dict[str, float]:
        """All metrics that the measured entries allow, as a flat dict for a logger such as TensorBoard's.

        Args:
            prefix: prepended to all names.
            after: a task: metrics as if it and those before were all tasks, to log them while later ones are still to
                come; None: all tasks.

        Raises:
            ValueError: an unknown task.

        >>> matrix = TaskMatrix(1)
        >>> matrix.put(0, 0, 0.5)
        >>> matrix.figures()
        {'memory/average_accuracy': 0.5, 'memory/learning_accuracy': 0.5, 'memory/average_incremental_accuracy': 0.5}
        >>> matrix = TaskMatrix(3)
        >>> matrix.put(0, 0, 0.5)
        >>> matrix.figures(), matrix.figures(after=0)["memory/average_accuracy"]
        ({}, 0.5)
        """
        count = len(self.names) if after is None else self._number("after", after) + 1
        matrix, baseline = self._matrix[:count, :count], self._baseline[:count]
        found = {}
        for name, function in (
            _FIGURES | {"forward_transfer": lambda own: memory.forward_transfer(own, baseline)}
        ).items():
            try:
                found[f"{prefix}{name}"] = function(matrix)
            except ValueError:  # an entry was not measured, or there is one task only
                continue
        return found

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the matrix as a heat map with matplotlib, and return the axes.

        Args:
            ax: axes to draw into; None makes a figure.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        from gnt.metrics._task_heat_map import draw_task_matrix

        return draw_task_matrix(self._matrix, self.names, ax)

    def state_dict(self) -> dict[str, Any]:
        """All values and the names; loads with ``torch.load(weights_only=True)``."""
        return {
            "version": STATE_VERSION,
            "names": list(self.names),
            "matrix": self._matrix.clone(),
            "baseline": self._baseline.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`.

        Raises:
            ValueError: of other tasks, or damaged. Nothing is changed.
        """
        names = list(self.names)
        kinds = {
            "names": equal_to(names, lambda saved: f"state_dict is of tasks {saved}, this matrix has {names}"),
            "matrix": _measured(self._matrix),
            "baseline": _measured(self._baseline),
        }
        checked = check_saved_state(state_dict, "TaskMatrix.state_dict()", kinds, STATE_VERSION)
        self._matrix, self._baseline = checked["matrix"], checked["baseline"]

    def _number(self, argument: str, task: Any) -> int:
        if isinstance(task, str) and task in self.names:
            return self.names.index(task)
        if isinstance(task, (int, np.integer)) and not isinstance(task, bool) and 0 <= task < len(self.names):
            return int(task)
        raise ValueError(
            f"{argument} must be a task: a number in 0..{len(self.names) - 1} or one of {', '.join(self.names)}, got "
            f"{task!r}"
        )

    def __str__(self) -> str:
        rows = [("after task", *self.names)]
        for name, row in zip(self.names, self._matrix.tolist(), strict=True):
            rows.append((name, *("-" if value != value else f"{value:.3f}" for value in row)))
        return "\n".join(align_columns(rows))

    def __repr__(self) -> str:
        measured = int((~self._matrix.isnan()).sum())
        return f"TaskMatrix({len(self.names)} tasks, {measured} of {self._matrix.numel()} entries)"


def _finite(name: str, value: Any) -> float:
    number = to_float(value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{name} must be a finite number, got {value!r:.80}")
    return number


def _measured(like: Tensor) -> Any:
    """The kind of a saved tensor of measured values: NaN is allowed, infinity is not."""

    def check(entry: Any, value: Any) -> Tensor:
        wanted = f"a floating point tensor of shape {tuple(like.shape)}, finite or NaN"
        if not isinstance(value, Tensor) or value.shape != like.shape or not value.is_floating_point():
            raise entry.wrong_value(value, wanted)
        if value.isinf().any():
            raise entry.wrong_tensor(value, "with infinite values", wanted)
        return value.detach().to(like.device, like.dtype, copy=True)

    return check
