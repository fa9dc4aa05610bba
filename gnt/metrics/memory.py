"""Metrics of forgetting and transfer, from the matrix of accuracies on all tasks after each task.

R[i, j] is the accuracy on task j after training on task i, with tasks numbered 0..T-1, and b[j] that of the network at
its initialization. NaN stands for what was not measured. Any figure of which larger is better takes the place of
accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnt.metrics._numerics import to_float64

Matrix = Tensor | Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """Accuracy after the last task, averaged over all tasks: mean over j of R[T-1, j].

    Args:
        matrix: R, (T, T), real numbers.

    Raises:
        TypeError: not a tensor or nested lists of numbers.
        ValueError: not a square matrix of at least one task, or an entry that is needed is NaN; it is named.
        FloatingPointError: an entry is infinite.

    Source: Lopez-Paz & Ranzato, NeurIPS 2017 (GEM, arXiv 1706.08840), ACC.

    >>> R = [[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]
    >>> round(average_accuracy(R), 3)
    0.7
    """
    R = _checked(matrix)
    return _mean([_entry(R, len(R) - 1, j) for j in range(len(R))])


def forgetting(matrix: Matrix) -> float:
    """Mean over j < T-1 of (max over i < T-1 of R[i, j]) - R[T-1, j]; negative if tasks got better at the end.

    The maximum is over the rows before the last one that were measured; R[j, j] must be one of them.

    Args, Raises:
        as `average_accuracy`; at least two tasks.

    Source: Chaudhry et al., ECCV 2018 (RWalk, arXiv 1801.10112).

    >>> round(forgetting([[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]), 3)
    0.25
    """
    R = _checked(matrix, "forgetting", least=2)
    last, drops = len(R) - 1, []
    for j in range(last):
        _entry(R, j, j)
        drops.append(max(value for value in R[:last, j].tolist() if value == value) - _entry(R, last, j))
    return _mean(drops)


def backward_transfer(matrix: Matrix) -> float:
    """Mean over j < T-1 of R[T-1, j] - R[j, j]: what all later tasks changed; negative: forgetting.

    Args, Raises:
        as `average_accuracy`; at least two tasks.

    Source: Lopez-Paz & Ranzato 2017, BWT.

    >>> round(backward_transfer([[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]), 3)
    -0.25
    """
    R = _checked(matrix, "backward_transfer", least=2)
    last = len(R) - 1
    return _mean([_entry(R, last, j) - _entry(R, j, j) for j in range(last)])


def one_step_backward_transfer(matrix: Matrix) -> float:
    """Mean over j < T-1 of R[j+1, j] - R[j, j]: what the next task changed.

    Args, Raises:
        as `average_accuracy`; at least two tasks.

    Source: Kumar, Marklund, Van Roy, arXiv 2308.11958, appendix.

    >>> round(one_step_backward_transfer([[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]), 3)
    -0.2
    """
    R = _checked(matrix, "one_step_backward_transfer", least=2)
    return _mean([_entry(R, j + 1, j) - _entry(R, j, j) for j in range(len(R) - 1)])


def forward_transfer(matrix: Matrix, baseline: Tensor | Sequence[float]) -> float:
    """Mean over j > 0 of R[j-1, j] - b[j]: accuracy on a task before it is trained, above that at initialization.

    If all tasks share the outputs of one head and each has classes of its own (class-incremental learning), nothing can
    be known of a task before it is trained, and the result is about -b[j] for any method.

    Args:
        matrix: as in `average_accuracy`; at least two tasks.
        baseline: b, (T,), accuracies of the network at its initialization; b[0] is not used.

    Raises:
        TypeError, ValueError, FloatingPointError: as `average_accuracy`, for both arguments.

    Source: Lopez-Paz & Ranzato 2017, FWT.

    >>> R = [[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]
    >>> round(forward_transfer(R, [0.1, 0.1, 0.1]), 3)
    0.35
    """
    R = _checked(matrix, "forward_transfer", least=2)
    b = _tensor("baseline", baseline)
    if b.shape != (len(R),):
        raise ValueError(f"baseline must hold one number for each of {len(R)} tasks, got shape {tuple(b.shape)}")
    missing = [j for j in range(1, len(R)) if b[j].isnan()]
    if missing:
        raise ValueError(f"baseline[{missing[0]}], the accuracy on task {missing[0]} at initialization, is missing")
    return _mean([_entry(R, j - 1, j) - float(b[j]) for j in range(1, len(R))])


def learning_accuracy(matrix: Matrix) -> float:
    """Accuracy on each task right after it was trained: mean over j of R[j, j].

    It belongs beside `forgetting`: a network that learns nothing forgets nothing.

    Args, Raises:
        as `average_accuracy`.

    Source: Riemer et al., ICLR 2019 (MER, arXiv 1810.11910).

    >>> round(learning_accuracy([[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]), 3)
    0.867
    """
    R = _checked(matrix)
    return _mean([_entry(R, j, j) for j in range(len(R))])


def average_incremental_accuracy(matrix: Matrix) -> float:
    """Mean over i of the mean over j <= i of R[i, j]: accuracy on all tasks so far, averaged over time.

    Args, Raises:
        as `average_accuracy`.

    Source: Rebuffi et al., CVPR 2017 (iCaRL, arXiv 1611.07725).

    >>> round(average_incremental_accuracy([[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [0.5, 0.7, 0.9]]), 3)
    0.767
    """
    R = _checked(matrix)
    return _mean([_mean([_entry(R, i, j) for j in range(i + 1)]) for i in range(len(R))])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _entry(R: Tensor, i: int, j: int) -> float:
    value = float(R[i, j])
    if value != value:
        raise ValueError(f"matrix[{i}, {j}], the accuracy on task {j} after task {i}, is missing")
    return value


def _tensor(name: str, value: Any) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a tensor or (nested) lists of numbers, got {value!r:.80}") from None
    if tensor.is_complex() or tensor.dtype is torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    tensor = to_float64(tensor.detach()).cpu()
    if tensor.isinf().any():
        raise FloatingPointError(f"{name} holds infinite values")
    return tensor


def _checked(matrix: Matrix, metric: str = "", least: int = 1) -> Tensor:
    R = _tensor("matrix", matrix)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or not len(R):
        raise ValueError(f"matrix must be square, a row and a column for each task, got shape {tuple(R.shape)}")
    if len(R) < least:
        raise ValueError(f"{metric} needs at least {least} tasks, got {len(R)}")
    return R
