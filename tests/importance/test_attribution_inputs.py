"""Attributions of networks whose layers read units that depend on each other, of samples that do, and of all kinds of
inputs, targets and contexts.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.importance import ATTRIBUTIONS, attribute
from gnt.importance.attribution._evaluation import Evaluation
from gnt.importance.attribution._paths import integrated_gradients
from tests.helpers.small_runs import mlp

WITH_BASELINE = [name for name, entry in ATTRIBUTIONS.items() if entry.baselines != "none"]


def settings_of(method: str, x: Tensor) -> dict[str, Any]:
    """What a method needs."""
    settings: dict[str, Any] = {"method": method}
    if method == "deeplift_shap":
        settings["baselines"] = x[:2] if len(x) else x.new_zeros(1, *x.shape[1:])
    if method == "gradient_shap":
        settings["generator"] = torch.Generator().manual_seed(0)
    return settings


class SqueezeAndExcite(nn.Module):
    """Channels that a gate reads, and that the next layer reads times the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze, self.excite = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.second, self.last = nn.Conv2d(4, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        gate = self.excite(self.squeeze(h.mean((2, 3), keepdim=True)).tanh()).sigmoid()
        return self.after(h * gate)

    def after(self, gated: Tensor) -> Tensor:
        return self.last(self.second(gated).tanh().mean((2, 3)))


def test_integrated_gradients_move_all_that_is_read_of_a_unit_on_straight_paths():
    """Also where one layer reads what another one has made of the unit: the parts add up to the change of F."""
    torch.manual_seed(0)
    net, x = SqueezeAndExcite().double(), torch.randn(3, 1, 5, 5).double()
    groups = gnt.trace(net, x)
    number, group = next((i, group) for i, group in enumerate(groups) if group.name == "first")
    assert [slot.name for slot in group.outgoing] == ["squeeze", "second"]
    of = Evaluation(net, groups, x, torch.tensor([0, 1, 0]))
    with of.isolated():
        _, found = integrated_gradients(of, torch.zeros_like(x), 30, number)
        change = of.values(net(x)) - of.values(net(torch.zeros_like(x)))
    torch.testing.assert_close(sum(each.flatten(1).sum(1) for each in found), change, rtol=0, atol=1e-12)


def without(net: nn.Sequential, place: int, unit: int, x: Tensor) -> Tensor:
    h = net[:place](x)
    h[:, unit] = 0.0
    return net[place:](h)


@torch.no_grad()
def test_ablation_of_a_norm_with_statistics_of_the_batch_compares_batches_of_the_same_samples():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5, track_running_stats=False)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 5), norm, nn.ReLU(), nn.Linear(5, 1)).double()
    x = torch.randn(6, 4).double()
    values, _ = attribute(net, gnt.walk(net), x, method="ablation")
    expected = [(net(x) - without(net, 2, unit, x)).abs().mean() for unit in range(3)]
    torch.testing.assert_close(values, torch.stack(expected))


class Scaled(nn.Module):
    """A network with an input that is no sample."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.net(x) * scale


@pytest.mark.parametrize("method", [name for name in ATTRIBUTIONS if name != "lrp"])
def test_inputs_beside_the_samples_are_passed_as_they_are(method):
    net, x, y = Scaled(), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    groups, settings = gnt.walk(net.net), settings_of(method, x)
    plain = attribute(net.net, groups, x, y, **settings)
    for scale in (torch.tensor(2.0), torch.full((3,), 2)):  # no dimension, or no floating point numbers
        if "baselines" in settings:
            settings["baselines"] = (x[:2], scale)
        scaled = attribute(net, groups, (x, scale), y, **{**settings, **generator_of(method)})
        torch.testing.assert_close(scaled, [2 * values for values in plain], rtol=1e-4, atol=1e-6)


def generator_of(method: str) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(0)} if method == "gradient_shap" else {}


@pytest.mark.parametrize("method", [name for name in WITH_BASELINE if name != "deeplift_shap"])
def test_floating_point_inputs_of_other_lengths_are_refused_by_methods_with_a_baseline(method):
    net, x = Scaled(), torch.randn(6, 4)
    with pytest.raises(ValueError, match=rf"'{method}' moves all floating point inputs .* got \[3, 6\]"):
        attribute(net, gnt.walk(net.net), (x, torch.ones(3)), torch.zeros(6).long(), method=method)


class OnlySome(nn.Module):
    """The second layer reads those samples whose features have a positive sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        kept = h.sum(1) > 0
        return torch.zeros(len(x), 3).index_put((kept,), self.second(h[kept]))

    def groups(self) -> Any:
        return gnt.walk([self.first, nn.Tanh(), self.second])


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 1000])
def test_ablation_of_a_network_that_reads_what_the_data_chooses(chunk):
    torch.manual_seed(1)
    inner = OnlySome()

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.inner = nn.Linear(4, 4), inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.before(x).tanh())

    net, x = Outer(), 3 * torch.randn(30, 4)
    groups = [*gnt.walk([net.before, nn.Tanh(), inner.first]), *inner.groups()]
    values, _ = attribute(net, groups, x, torch.zeros(30).long(), method="ablation", chunk=chunk)
    h = net.before(x).tanh()
    full, kept = inner(h)[:, 0], set()
    for unit in range(4):
        changed = h.clone()
        changed[:, unit] = 0
        kept.add(int((inner.first(changed).tanh().sum(1) > 0).sum()))
        torch.testing.assert_close(values[unit], (full - inner(changed)[:, 0]).abs().mean())
    assert len(kept) > 1


@pytest.mark.parametrize("method", ["conductance", "internal_influence", "gradient_shap", "integrated_gradients"])
def test_methods_with_a_baseline_refuse_networks_that_read_other_shapes_on_the_path(method):
    net, x = OnlySome(), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    assert 0 < int((net.first(x).tanh().sum(1) > 0).sum()) < 7
    with pytest.raises(ValueError, match=r"reads features of shapes .* choose a method without a baseline"):
        attribute(net, net.groups(), x, torch.zeros(7).long(), method=method, **generator_of(method))


@pytest.mark.parametrize("method", ATTRIBUTIONS)
def test_inference_mode_changes_nothing(method):
    net, x, y = mlp(4, 5, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    groups = gnt.walk(net)
    (expected,) = attribute(net, groups, x, y, **settings_of(method, x))
    assert expected.any()
    with torch.inference_mode():
        made_inside = x.clone()
        (inside,) = attribute(net, groups, made_inside, y, **settings_of(method, made_inside))
    assert not inside.is_inference()
    assert inside.equal(expected)
    (outside,) = attribute(net, groups, made_inside, y, **settings_of(method, made_inside))
    assert outside.equal(expected)


@pytest.mark.parametrize("method", ATTRIBUTIONS)
def test_values_are_float32_or_wider_and_0_without_samples(method):
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).bfloat16()
    x, y = torch.randn(6, 4).bfloat16(), torch.tensor([0, 1, 2, 0, 1, 2])
    groups = gnt.walk(net)
    assert {values.dtype for values in attribute(net, groups, x, y, **settings_of(method, x))} == {torch.float32}
    x, y = x[:0], y[:0]
    assert not any(values.any() for values in attribute(net, groups, x, y, **settings_of(method, x)))


@pytest.mark.parametrize("method", ["gradient_activation", "ablation"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_classes_of_any_integer_dtype(dtype, method):
    net, x, y = mlp(4, 5, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    (a,), (b,) = (attribute(net, gnt.walk(net), x, each, method=method) for each in (y, y.to(dtype)))
    assert a.equal(b)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda output: output.argmax(1), "must return floating point values, got torch.int64"),
        (lambda output: output.argmax(1).float(), "depend on the output differentiably"),
        (lambda output: F.softmax(output.detach(), 1)[:, 0], "depend on the output differentiably"),
    ],
)
def test_functions_of_the_output_without_gradients_are_refused(target, message):
    net = mlp(4, 5, 3)
    with pytest.raises(ValueError, match=message):
        attribute(net, gnt.walk(net), torch.randn(6, 4), target)


def test_one_group_and_outputs_without_samples_are_refused_by_name():
    class Total(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).sum()

    net, x = Total(), torch.randn(6, 4)
    (group,) = gnt.walk(net.net)
    with pytest.raises(ValueError, match=r"target=None is for outputs of one value per sample, got shape \(\)"):
        attribute(net, [group], x)
    with pytest.raises(TypeError, match=r"got one: pass \[group\] for group '0'"):
        attribute(net, group, x)
    with pytest.raises(TypeError, match=r"groups must be unit groups, .* got NoneType"):
        attribute(net, None, x)
    with pytest.raises(ValueError, match="chunk must be an integer >= 1, got None"):
        attribute(net.net, [group], x, torch.zeros(6).long(), method="ablation", chunk=None)
