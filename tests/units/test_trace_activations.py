"""Activations are recognised by the values that they compute, however they are written; others are unknown."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt


class Net(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.last, self.slope = nn.Linear(4, 6), nn.Linear(6, 2), nn.Parameter(torch.tensor(0.3))
        self.activation = activation

    def forward(self, x):
        return self.last(self.activation(self.first(x), self))


WRITTEN_OUT = {
    "where": (lambda h, _: torch.where(h > 0, h, 0.1 * h), "leaky_relu", 0.1),
    "where with zeros": (lambda h, _: torch.where(h < 0, torch.zeros_like(h), h), "relu", None),
    "masked_fill": (lambda h, _: h.masked_fill(h < 0, 0), "relu", None),
    "product with a comparison": (lambda h, _: h * (h > 0), "relu", None),
    "product with a step": (lambda h, _: h * (h > 0).type_as(h), "relu", None),
    "maximum": (lambda h, _: torch.maximum(h, 0.2 * h), "leaky_relu", 0.2),
    "clamp from below": (lambda h, _: h.clamp(min=0), "relu", None),
    "clamp on both sides": (lambda h, _: torch.clamp(h, -1, 1), "hardtanh", None),
    "difference of two": (lambda h, _: F.relu(h) - 0.25 * F.relu(-h), "leaky_relu", 0.25),
    "a slope that is a parameter": (lambda h, net: torch.where(h > 0, h, net.slope * h), "leaky_relu", 0.3),
    "exponential": (lambda h, _: torch.where(h > 0, h, h.exp() - 1), "elu", None),
    "quotient": (lambda h, _: h / (1 + h.abs()), "softsign", None),
    "logistic": (lambda h, _: 1 / (1 + torch.exp(-h)), "sigmoid", None),
    "swish with a factor": (lambda h, _: h * torch.sigmoid(1.5 * h), "silu", None),
    "gelu by tanh": (lambda h, _: 0.5 * h * (1 + torch.tanh(0.79788 * (h + 0.044715 * h**3))), "gelu", None),
    "affine": (lambda h, _: (2 * h + 1) - 0.5 * h, "identity", None),
    "applied twice": (lambda h, _: F.relu(F.relu(h)), "relu", None),
    "cut above": (lambda h, _: F.relu(h).clamp(max=6), "relu6", None),
    "scaled": (lambda h, _: 2 * F.relu(h) + 1, "relu", None),
    "read beside its square": (lambda h, _: (r := F.relu(h)) * 0.5 + (h * 0) + 0.5 * r, "relu", None),
    "only missing values": (lambda h, _: torch.where(h.isnan(), 0.0, h) * h.isfinite().float(), "identity", None),
}
UNKNOWN = {
    "step": lambda h, _: (h > 0).float(),
    "square": lambda h, _: h * h,
    "reciprocal": lambda h, _: 2 / h,
    "absolute value": lambda h, _: torch.where(h > 0, h, -h),
    "a mask of another value": lambda h, _: torch.where(h.mean(0, keepdim=True) > 0, h, 0.1 * h),
    "hard shrink": lambda h, _: h * (h.abs() > 0.5),
    "squared relu": lambda h, _: F.relu(h) ** 2,
    "logarithm of relu": lambda h, _: torch.log1p(F.relu(h)),
    "relu of tanh": lambda h, _: F.relu(torch.tanh(h)),
    "tanh of relu": lambda h, _: torch.tanh(F.relu(h)),
    "tanh and a straight line": lambda h, _: torch.tanh(h) + 0.1 * h,
    "tanhshrink": lambda h, _: nn.Tanhshrink()(h),
}


@pytest.mark.parametrize("case", WRITTEN_OUT)
def test_an_activation_written_out_is_recognised(case):
    activation, *expected = WRITTEN_OUT[case]
    assert gnt.trace(Net(activation), torch.randn(3, 4))[0].activation == tuple(expected)


@pytest.mark.parametrize("case", UNKNOWN)
def test_another_function_is_an_unknown_activation(case):
    (group,) = gnt.trace(Net(UNKNOWN[case]), torch.randn(3, 4))
    assert group.activation is None


def test_a_gate_is_no_activation_of_the_units_that_it_multiplies():
    class Gated(Net):
        def forward(self, x):
            return self.last(self.first(x) * torch.sigmoid(self.gate(x)))

    net = Gated(None)
    net.gate = nn.Linear(4, 6)
    (group,) = gnt.trace(net, torch.randn(3, 4))
    activations = {slot.name: slot.activation or group.activation for slot in group.incoming}
    assert activations == {"first": ("identity", None), "gate": ("sigmoid", None)}
