"""`CReLU`: agreement with its formula, gradients, and its units in `walk` and `trace`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gnt
from tests.twins import regularization as twin


def test_crelu_agrees_with_its_formula() -> None:
    x = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    output = gnt.CReLU()(x)
    assert output.shape == (3, 10, 2)
    for i in range(3):
        for j in range(2):
            assert output[i, :, j].tolist() == twin.crelu(x[i, :, j].tolist())
    assert torch.equal(gnt.CReLU(dim=-1)(x.transpose(1, 2)), output.transpose(1, 2))


def test_repr_and_gradients() -> None:
    crelu = gnt.CReLU(dim=-1)
    assert repr(crelu) == "CReLU(dim=-1)"
    x = torch.tensor([[-2.0, 3.0]], requires_grad=True)
    crelu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-1.0, 1.0]]


def test_walk_refuses_crelu_and_trace_finds_both_columns_of_a_unit() -> None:
    some = nn.Sequential(nn.Linear(4, 6), gnt.CReLU(), nn.Linear(12, 2)).double()
    with pytest.raises(ValueError, match=r"CReLU \('1'\) after '0' cannot be walked: .*; gnt.trace\(model, inputs\)"):
        gnt.walk(some)
    x = torch.randn(1, 4, dtype=torch.float64)
    engine = gnt.GnT(gnt.trace(some, x))
    before = some(x)
    engine.update()
    engine.replace([torch.tensor([1, 4])])
    assert not some[2].weight[:, [1, 4, 7, 10]].any()  # both columns of each unit
    assert some[2].weight[:, [0, 2, 3, 5, 6, 8, 9, 11]].all()
    torch.testing.assert_close(some(x), before)  # the bias holds the mean contribution, which for one input is exact


def test_dim_must_be_an_integer() -> None:
    with pytest.raises(TypeError, match=r"dim must be an integer, got 1\.0"):
        gnt.CReLU(1.0)  # type: ignore[arg-type]
