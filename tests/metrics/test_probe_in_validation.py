"""A probe where people measure: in validation loops, which run in inference mode; and outputs that are no classes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt.metrics import Probe


def net(outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


@pytest.mark.parametrize("built_in", [False, True])
@pytest.mark.parametrize("measured_in", [False, True])
def test_inference_mode_changes_no_figure(built_in: bool, measured_in: bool) -> None:
    some = net(3)
    with torch.inference_mode(built_in):
        x, y = torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3
        probe = Probe(some, some, x, y=y, gradient=True, update=True)
    with torch.inference_mode(measured_in):
        figures = probe.measure()
    x, y = torch.linspace(-1, 1, 48).view(12, 4), torch.arange(12) % 3
    assert figures == Probe(some, some, x, y=y, gradient=True, update=True).measure()
    F.cross_entropy(some(x), y).backward()  # and nothing in the model is marked
    with torch.no_grad():
        some[0].weight.add_(1.0)
    assert probe.measure()["update_size"] == pytest.approx(32**0.5)


def test_integers_beside_one_output_are_no_classes() -> None:
    def loss(output: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(output[:, 0], y.float())

    some, x, y = net(1), torch.randn(12, 4), torch.arange(12) % 2
    figures = Probe(some, some, x, y=y, loss=loss).measure()
    assert figures["loss"] == float(loss(some(x), y).detach())
    assert "accuracy" not in figures
