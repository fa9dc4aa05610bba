"""Metrics of forgetting and transfer: by hand, against loops over the formulas, and with entries missing."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gnt.metrics as metrics
from gnt.metrics import TaskMatrix

R = [[0.9, 0.5, 0.2], [0.6, 0.8, 0.4], [1.0, 0.7, 0.9]]
SQUARE_METRICS = [
    metrics.average_accuracy,
    metrics.average_incremental_accuracy,
    metrics.backward_transfer,
    metrics.forgetting,
    metrics.learning_accuracy,
    metrics.one_step_backward_transfer,
]


def filled(matrix: Any = R) -> TaskMatrix:
    result = TaskMatrix(len(matrix))
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            result.put(i, j, value)
    return result


def test_metrics_by_hand():
    """The maximum of forgetting leaves out the last row: task 0 got better at the end, which is a negative drop."""
    matrix = filled()
    for task, value in enumerate([0.5, 0.25, 0.125]):
        matrix.baseline(task, value)
    assert matrix.figures() == pytest.approx(
        {
            "memory/average_accuracy": (1.0 + 0.7 + 0.9) / 3,
            "memory/learning_accuracy": (0.9 + 0.8 + 0.9) / 3,
            "memory/forgetting": ((0.9 - 1.0) + (0.8 - 0.7)) / 2,
            "memory/backward_transfer": ((1.0 - 0.9) + (0.7 - 0.8)) / 2,
            "memory/one_step_backward_transfer": ((0.6 - 0.9) + (0.7 - 0.8)) / 2,
            "memory/average_incremental_accuracy": (0.9 + 0.7 + 2.6 / 3) / 3,
            "memory/forward_transfer": ((0.5 - 0.25) + (0.4 - 0.125)) / 2,
        },
        abs=1e-15,
    )
    assert metrics.forgetting([[0.9, 0.0], [1.0, 0.5]]) == pytest.approx(-0.1)


@given(arrays(np.float64, st.integers(2, 6).map(lambda n: (n, n)), elements=st.floats(0, 1)))
def test_metrics_equal_loops_over_their_formulas(matrix):
    n = len(matrix)
    literal = {
        metrics.average_accuracy: np.mean([matrix[n - 1][j] for j in range(n)]),
        metrics.learning_accuracy: np.mean([matrix[j][j] for j in range(n)]),
        metrics.backward_transfer: np.mean([matrix[n - 1][j] - matrix[j][j] for j in range(n - 1)]),
        metrics.one_step_backward_transfer: np.mean([matrix[j + 1][j] - matrix[j][j] for j in range(n - 1)]),
        metrics.forgetting: np.mean([max(matrix[i][j] for i in range(n - 1)) - matrix[n - 1][j] for j in range(n - 1)]),
        metrics.average_incremental_accuracy: np.mean([np.mean(matrix[i][: i + 1]) for i in range(n)]),
    }
    for metric, expected in literal.items():
        assert metric(torch.from_numpy(matrix)) == pytest.approx(expected, abs=1e-12)
    baseline = matrix[0] / 2
    expected = np.mean([matrix[j - 1][j] - baseline[j] for j in range(1, n)])
    assert metrics.forward_transfer(matrix.tolist(), baseline.tolist()) == pytest.approx(expected, abs=1e-12)


def test_missing_entries_are_named_and_left_out_of_figures():
    matrix = filled()
    matrix._matrix[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"matrix\[1, 0\], the accuracy on task 0 after task 1, is missing"):
        matrix.one_step_backward_transfer()
    assert matrix.forgetting() == pytest.approx(0.0, abs=1e-15)  # needs the diagonal and the last row only
    with pytest.raises(ValueError, match=r"baseline\[1\], the accuracy on task 1 at initialization, is missing"):
        matrix.forward_transfer()
    missing = {"one_step_backward_transfer", "average_incremental_accuracy", "forward_transfer"}
    assert {f"memory/{name}" for name in missing}.isdisjoint(matrix.figures())
    assert len(matrix.figures()) == 4
    for metric in SQUARE_METRICS:
        with pytest.raises(ValueError, match="is missing"):
            metric(torch.full((2, 2), torch.nan))


def test_table_heat_map_and_saved_state():
    pytest.importorskip("matplotlib").use("Agg")
    matrix = TaskMatrix(["zero", "one"])
    matrix.put("zero", "zero", torch.tensor(0.5))
    assert str(matrix).splitlines() == ["after task   zero  one", "zero        0.500    -", "one             -    -"]
    axes = matrix.plot()
    assert [text.get_text() for text in axes.texts] == ["0.50"]
    assert filled().plot(axes) is axes
    matrix.put(np.int64(0), np.int64(1), 0.5)
    assert float(matrix.as_tensor()[0, 1]) == 0.5
    matrix.put(0, 1, 0.25)
    buffer = io.BytesIO()
    torch.save(matrix.state_dict(), buffer)
    buffer.seek(0)
    loaded = TaskMatrix(["zero", "one"])
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(loaded.as_tensor(), matrix.as_tensor(), equal_nan=True)
    state = matrix.state_dict()
    for damaged, message in [
        (TaskMatrix(2).state_dict(), r"is of tasks \['0', '1'\], this matrix has \['zero', 'one'\]"),
        ({**state, "matrix": state["matrix"][:1]}, r"has 'matrix' a tensor of shape \(1, 2\)"),
        ({**state, "baseline": torch.tensor([torch.inf, 0.0])}, "with infinite values"),
    ]:
        with pytest.raises(ValueError, match=message):
            loaded.load_state_dict(damaged)
    loaded.as_tensor().zero_()
    torch.testing.assert_close(loaded.as_tensor(), matrix.as_tensor(), equal_nan=True)


@pytest.mark.parametrize("tasks", [0, -1, 2.0, True, [], ["a", "a"], ["a", 1], "ab"])
def test_wrong_tasks_are_refused(tasks):
    with pytest.raises(ValueError, match="tasks must be"):
        TaskMatrix(tasks)


def test_wrong_entries_and_matrices_are_refused():
    matrix = TaskMatrix(2)
    for arguments, message in [
        ((2, 0, 0.5), r"after must be a task: a number in 0..1 or one of 0, 1, got 2"),
        ((0, "two", 0.5), "task must be a task: .* got 'two'"),
        ((0, True, 0.5), "got True"),
        ((0, 0, math.nan), "value must be a finite number, got nan"),
        ((0, 0, torch.ones(2)), "value must be a finite number"),
        ((0, 0, "0.5"), "value must be a finite number, got '0.5'"),
    ]:
        with pytest.raises(ValueError, match=message):
            matrix.put(*arguments)
    assert matrix.as_tensor().isnan().all()
    for metric in SQUARE_METRICS:
        for wrong, error, message in [
            ("R", TypeError, "matrix must be a tensor or"),
            ([[1.0, 2.0], [1.0]], TypeError, "matrix must be a tensor or"),
            (torch.ones(2, 3), ValueError, r"matrix must be square.* got shape \(2, 3\)"),
            (torch.ones(0, 0), ValueError, "matrix must be square"),
            (torch.tensor([[torch.inf]]), FloatingPointError, "matrix holds infinite values"),
            (torch.ones(2, 2, dtype=torch.bool), TypeError, "matrix must hold real numbers"),
        ]:
            with pytest.raises(error, match=message):
                metric(wrong)
    with pytest.raises(ValueError, match="forgetting needs at least 2 tasks, got 1"):
        metrics.forgetting([[1.0]])
    with pytest.raises(ValueError, match=r"baseline must hold one number for each of 3 tasks, got shape \(2,\)"):
        metrics.forward_transfer(R, [0.1, 0.1])


def test_figures_after_a_task_are_those_of_a_matrix_of_the_tasks_so_far():
    whole = TaskMatrix(["a", "b", "c", "d"])
    draws = torch.Generator().manual_seed(0)
    for after in range(4):
        part = TaskMatrix(after + 1)
        for task in range(4):
            whole.baseline(task, 0.1 * task)
            whole.put(after, task, float(torch.rand((), generator=draws)))
        for task in range(after + 1):
            part.baseline(task, 0.1 * task)
            for row in range(after + 1):
                part.put(row, task, whole.as_tensor()[row, task])
        assert whole.figures(after=after) == part.figures() == whole.figures(after=whole.names[after])
        assert whole.figures("x/", after=after).keys() == part.figures("x/").keys()
    assert whole.figures(after="d") == whole.figures()
    with pytest.raises(ValueError, match=r"after must be a task: a number in 0\.\.3 or one of a, b, c, d, got 4"):
        whole.figures(after=4)
