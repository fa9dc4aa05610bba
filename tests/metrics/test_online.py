"""Online accuracy, online error and plasticity: values computed by hand."""

from __future__ import annotations

import pytest
import torch

from gnt.metrics import online_accuracy, online_error, plasticity


def test_accuracy_and_error_of_classes():
    output = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 5.0, 5.0], [1.0, 1.0, 0.0]])
    target = torch.tensor([0, 0, 1, 1])
    assert online_accuracy(output, target) == 0.5  # the first of equal outputs counts
    assert online_error(output, target) == 0.5
    steps, targets = output.reshape(2, 2, 3), target.reshape(2, 2).to(torch.uint8)
    assert online_accuracy(steps, targets) == 0.5
    assert online_accuracy(output.half(), target.int()) == 0.5


def test_samples_that_cross_entropy_ignores_are_left_out():
    output = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 5.0]])
    target = torch.tensor([0, -100, 0])
    assert online_accuracy(output, target) == online_error(output, target) == 0.5
    with pytest.raises(ValueError, match="at least one sample that is not ignored, got -100 for all"):
        online_accuracy(output, torch.full((3,), -100))
    with pytest.raises(ValueError, match=r"classes in 0\.\.1, got -1\.\.0"):
        online_accuracy(output, target.clamp(min=-1))
    many = torch.eye(200)[[156, 3]]
    assert online_accuracy(many, torch.tensor([156, 3], dtype=torch.uint8)) == 1.0


def test_error_of_real_targets_is_squared():
    output, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert online_error(output, target) == 2.0
    assert online_error(output.bfloat16(), target.double()) == 2.0
    assert (
        online_error(torch.tensor([300.0]).half(), torch.tensor([-300.0]).half()) == 360_000.0
    )  # exceeds the range of float16


def test_plasticity_of_numbers_and_tensors():
    assert plasticity(2.0, 0.5) == 0.75
    assert plasticity(0.5, 2.0) == 0.0
    assert plasticity(0, 0) == 1.0
    assert plasticity(1e-9, 1e-9) == pytest.approx(0.9)  # eps is the divisor
    assert plasticity(1e-9, 1e-9, eps=1e-12) == 0.0
    before, after = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.5, 2.0, 0.5])
    assert plasticity(before, after) == pytest.approx(1.25 / 3)
    assert plasticity(torch.tensor(2.0), 0.5) == 0.75
