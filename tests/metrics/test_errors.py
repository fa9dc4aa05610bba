"""Errors of the metric functions, and metrics of tensors that require a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gnt.metrics import (
    dormant_units,
    gradient_norm,
    online_accuracy,
    online_error,
    plasticity,
    update_size,
    weight_magnitude,
)
from tests.metrics.feature_metrics import FEATURE_METRICS

NAN, INF = float("nan"), float("inf")
BAD_FEATURES = {
    "not a tensor": (np.ones((2, 2)), TypeError, "features must be a torch.Tensor, got ndarray"),
    "integers": (torch.ones(2, 2, dtype=torch.int64), ValueError, "features must be float16.*got torch.int64"),
    "complex": (torch.ones(2, 2, dtype=torch.complex64), ValueError, "got torch.complex64"),
    "one dimension": (torch.ones(3), ValueError, r"\(samples, units\) or .*got \(3,\)"),
    "no samples": (torch.ones(0, 3), ValueError, r"at least one of each, got \(0, 3\)"),
    "no units": (torch.ones(3, 0), ValueError, r"got \(3, 0\)"),
    "no positions": (torch.ones(3, 2, 0), ValueError, r"got \(3, 2, 0\)"),
    "nan": (torch.tensor([[1.0, NAN]]), FloatingPointError, "features must be finite, got 1 of 2"),
    "inf": (torch.tensor([[INF, -INF]]).half(), FloatingPointError, "features must be finite, got 2 of 2"),
}


@pytest.mark.parametrize("name", FEATURE_METRICS)
@pytest.mark.parametrize("case", BAD_FEATURES)
def test_invalid_features_raise(name, case):
    features, error, message = BAD_FEATURES[case]
    with pytest.raises(error, match=message):
        FEATURE_METRICS[name](features)


ONES = torch.ones(2, 3)
CLASSES = torch.tensor([0, 2])
INVALID_ARGUMENTS = {
    "tau negative": (lambda: dormant_units(ONES, tau=-0.1), ValueError, "tau must be a finite number >= 0, got -0.1"),
    "tau nan": (lambda: dormant_units(ONES, tau=NAN), ValueError, "tau must be a finite number >= 0, got nan"),
    "tau text": (lambda: dormant_units(ONES, tau="0.1"), TypeError, "tau must be a number, got '0.1'"),
    "tau flag": (lambda: dormant_units(ONES, tau=True), TypeError, "tau must be a number, got True"),
    "output list": (lambda: online_accuracy([[1.0]], CLASSES), TypeError, "output must be a torch.Tensor, got list"),
    "output int": (lambda: online_accuracy(ONES.long(), CLASSES), ValueError, "output must be float16"),
    "output nan": (lambda: online_accuracy(ONES * NAN, CLASSES), FloatingPointError, "output must be finite"),
    "target list": (lambda: online_accuracy(ONES, [0, 2]), TypeError, "target must be a torch.Tensor, got list"),
    "target real": (lambda: online_accuracy(ONES, ONES[:, 0]), ValueError, "classes as integers, got torch.float32"),
    "target bool": (lambda: online_error(ONES, CLASSES > 0), ValueError, "classes as integers, got torch.bool"),
    "target shape": (lambda: online_accuracy(ONES, CLASSES[:1]), ValueError, r"got \(2, 3\) and \(1,\)"),
    "one class": (lambda: online_accuracy(ONES[:, :1], CLASSES), ValueError, "at least 2 classes"),
    "class 3": (lambda: online_error(ONES, CLASSES + 1), ValueError, r"classes in 0\.\.2, got 1\.\.3"),
    "class -1": (lambda: online_error(ONES, CLASSES - 1), ValueError, r"classes in 0\.\.2, got -1\.\.1"),
    "no samples": (lambda: online_accuracy(ONES[:0], CLASSES[:0]), ValueError, "at least one sample"),
    "real shape": (lambda: online_error(ONES, ONES[0]), ValueError, r"shape of a real target.*\(2, 3\) and \(3,\)"),
    "real empty": (lambda: online_error(ONES[:0], ONES[:0]), ValueError, "with at least one value"),
    "real nan": (lambda: online_error(ONES, ONES * NAN), FloatingPointError, "target must be finite, got 6 of 6"),
    "eps": (lambda: plasticity(1.0, 1.0, eps=0.0), ValueError, "eps must be a finite number > 0, got 0.0"),
    "loss < 0": (lambda: plasticity(1.0, -1.0), ValueError, "loss_after must be at least 0, got -1.0"),
    "loss nan": (lambda: plasticity(NAN, 1.0), FloatingPointError, "loss_before must be finite"),
    "loss text": (lambda: plasticity("1", 1.0), TypeError, "loss_before must be a number or a torch.Tensor, got str"),
    "loss shapes": (lambda: plasticity(ONES, ONES[0]), ValueError, r"of one shape, got \(2, 3\) and \(3,\)"),
    "loss empty": (lambda: plasticity(ONES[:0], ONES[:0]), ValueError, "loss_before must hold at least one sample"),
    "no weights": (lambda: weight_magnitude(nn.ReLU()), ValueError, "at least one value, got 0 tensors"),
    "a number": (lambda: weight_magnitude(3.0), TypeError, "must be a module, a tensor or tensors, got float"),
    "a dict": (lambda: weight_magnitude({"w": ONES}), TypeError, "must be a module, a tensor or tensors, got dict"),
    "numbers": (lambda: weight_magnitude([1.0]), TypeError, r"parameters\[0\] must be a torch.Tensor, got float"),
    "weights int": (lambda: weight_magnitude([ONES, CLASSES]), ValueError, r"parameters\[1\] must be float16"),
    "lazy": (lambda: weight_magnitude(nn.LazyLinear(2)), ValueError, r"parameters\[0\] is lazy"),
    "weights inf": (lambda: weight_magnitude(ONES * INF), FloatingPointError, r"parameters\[0\] must be finite"),
    "no gradient": (lambda: gradient_norm(nn.Linear(2, 2)), ValueError, "none of the 2 parameters has a gradient"),
    "other count": (lambda: update_size([ONES], [ONES, ONES]), ValueError, "got 1 and 2 tensors"),
    "other shape": (lambda: update_size([ONES], [ONES[0]]), ValueError, r"got \(2, 3\) and \(3,\) for tensor 0"),
    "change nan": (lambda: update_size(ONES, ONES * NAN), FloatingPointError, "before and after .* must be finite"),
}


@pytest.mark.parametrize("case", INVALID_ARGUMENTS)
def test_invalid_arguments_raise(case):
    call, error, message = INVALID_ARGUMENTS[case]
    with pytest.raises(error, match=message):
        call()


def test_an_infinite_gradient_raises():
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.tensor([INF, 1.0])
    with pytest.raises(FloatingPointError, match=r"gradients \[0\] must be finite, got 1 of 2"):
        gradient_norm(w)


def test_metrics_do_not_affect_the_autograd_graph():
    w = torch.ones(2, 2, requires_grad=True)
    h = torch.ones(3, 2) @ w
    for of in FEATURE_METRICS.values():
        of(h)
    online_error(h, torch.ones(3, 2))
    online_accuracy(h, torch.zeros(3, dtype=torch.int64))
    plasticity(h.mean(), h.mean())
    weight_magnitude(w)
    h.sum().backward()
    assert gradient_norm(w) == 6.0
