"""Metrics by hand: values that can be told without a computer, edges, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from gnt.metrics import (
    UpdateSize,
    approximate_rank,
    dead_units,
    dormant_units,
    effective_rank,
    gradient_norm,
    nature_rank,
    online_accuracy,
    online_error,
    plasticity,
    update_size,
    weight_magnitude,
)
from tests.twins import metrics as twin

OF_FEATURES = {
    "dead_units": dead_units,
    "dormant_units": dormant_units,
    "effective_rank": effective_rank,
    "approximate_rank": approximate_rank,
    "nature_rank": nature_rank,
}
RANKS = {name: of for name, of in OF_FEATURES.items() if "rank" in name}
OF_PARAMETERS = {"weight_magnitude": weight_magnitude, "gradient_norm": gradient_norm}
HALVES = (torch.float16, torch.bfloat16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_spectrum(values: list[float], rows: int = 9, columns: int = 7, seed: int = 0) -> torch.Tensor:
    """A dense matrix with these singular values."""
    u = torch.linalg.qr(normal(rows, len(values), seed=seed, dtype=torch.float64)).Q
    v = torch.linalg.qr(normal(columns, len(values), seed=seed + 1, dtype=torch.float64)).Q
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T


def test_accuracy_and_error_of_classes():
    output = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 5.0, 5.0], [1.0, 1.0, 0.0]])
    target = torch.tensor([0, 0, 1, 1])
    assert online_accuracy(output, target) == 0.5  # of equal outputs the first counts
    assert online_error(output, target) == 0.5
    steps, sites = output.reshape(2, 2, 3), target.reshape(2, 2).to(torch.uint8)
    assert online_accuracy(steps, sites) == 0.5
    assert online_accuracy(output.half(), target.int()) == 0.5


def test_error_of_real_targets_is_squared():
    output, target = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [2.0]])
    assert online_error(output, target) == 2.0
    assert online_error(output.bfloat16(), target.double()) == 2.0
    assert online_error(torch.tensor([300.0]).half(), torch.tensor([-300.0]).half()) == 360_000.0  # beyond half's range


def test_a_unit_is_dead_if_it_is_zero_for_every_sample():
    features = torch.tensor([[0.0, -0.0, -3.0, -1.0, 1e-45], [0.0, 0.0, -3.0, 1.0, 0.0]])
    assert dead_units(features) == 2 / 5  # negative, cancelling and the smallest of numbers are not 0
    assert dead_units(torch.zeros(3, 4)) == 1.0
    assert dead_units(torch.zeros(1, 1)) == 1.0
    assert dead_units(torch.ones(1, 1)) == 0.0


def test_dormant_by_the_mean_of_the_layer():
    features = torch.tensor([[0.0, 0.25, -4.0, 3.0, 2.75], [0.0, -0.25, 4.0, -3.0, 2.75]])  # on average 2
    assert dormant_units(features, tau=0.125) == 2 / 5  # 0, and what is just the threshold
    assert dormant_units(features, tau=0.12) == dormant_units(features) == 1 / 5
    assert dormant_units(features, tau=0) == 1 / 5 == dead_units(features)
    assert dormant_units(features, tau=1.5) == 4 / 5
    assert dormant_units(torch.zeros(3, 4)) == 1.0
    assert dormant_units(torch.ones(3, 1), tau=0.99) == 0.0
    assert dormant_units(torch.ones(3, 1), tau=1) == 1.0


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e38])
def test_shares_and_ranks_do_not_depend_on_the_scale(scale):
    features = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, -2.0, 3.0], [0.0, 0.0, 0.0, 3.0]])
    for name, of in OF_FEATURES.items():
        assert of(features * scale) == pytest.approx(of(features), rel=0.02), name  # 1e-44 has but two digits


@pytest.mark.parametrize("size", [(), (5,), (2, 3), (2, 3, 2)], ids=str)
def test_a_channel_is_one_unit_over_all_its_places(size):
    features = normal(6, 4, *size)
    features[:, 1] = 0.0
    features[:, 2] *= 0.01
    if size:
        features[:, 3] = 0.0
        features[0, 3].view(-1)[-1] = 5.0  # one place of one sample: alive
    assert dead_units(features) == 1 / 4
    assert dormant_units(features, 0.05) == 2 / 4
    array = features.numpy()
    assert dormant_units(features, 0.5) == twin.dormant_units(array, 0.5)
    for name, of in RANKS.items():
        flat = features.flatten(1)
        assert of(features) == of(flat) == pytest.approx(getattr(twin, name)(array), rel=1e-5), name


def test_ranks_of_known_spectra():
    equal = with_spectrum([2.0] * 5)
    assert effective_rank(equal) == pytest.approx(5.0)
    falling = with_spectrum([10.0, 1.0, 0.5])
    p = [10 / 11.5, 1 / 11.5, 0.5 / 11.5]
    assert effective_rank(falling) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))
    assert approximate_rank(falling) == 2  # 100 / 101.25 = .988, 101 / 101.25 = .998
    assert nature_rank(falling) == 3  # 11 / 11.5 = .957
    one = with_spectrum([3.0])
    assert (effective_rank(one), approximate_rank(one), nature_rank(one)) == (1.0, 1, 1)
    assert effective_rank(one.float()) == 1.0  # rounding is no direction


def test_the_nature_rank_is_no_ratio_of_norms():
    """The stable rank of numerical linear algebra is another thing; so is the rank of the squares."""
    features = normal(200, 50)
    norms = torch.linalg.matrix_norm(features) ** 2 / torch.linalg.matrix_norm(features, 2) ** 2
    assert nature_rank(features) == twin.nature_rank(features.numpy())
    assert isinstance(nature_rank(features), int)
    assert nature_rank(features) > 1.5 * float(norms)
    squared = with_spectrum([1.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert (nature_rank(squared), approximate_rank(squared)) == (6, 5)


def test_99_percent_is_reached_when_it_is_met():
    features = torch.eye(100)
    assert nature_rank(features) == approximate_rank(features) == 99
    assert effective_rank(features) == pytest.approx(100)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 2, 2, 2)])
@pytest.mark.parametrize("name", RANKS)
def test_ranks_of_the_smallest_matrices(name, shape):
    assert RANKS[name](torch.zeros(shape)) == 0
    single = torch.zeros(shape)
    single.view(-1)[0] = -2.0
    assert RANKS[name](single) == 1


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("name", OF_FEATURES)
def test_halves_are_measured_in_float32(name, dtype):
    features = normal(40, 20, dtype=dtype).relu_()
    wide = features.float() if dtype in HALVES else features
    assert OF_FEATURES[name](features) == OF_FEATURES[name](wide)
    assert isinstance(OF_FEATURES[name](features), float if name in ("dead_units", "dormant_units") else (int, float))


def test_a_half_sum_would_overflow():
    features = torch.full((400, 3), 60_000.0).half()
    features[:, 0] /= 20.0
    assert dormant_units(features) == 1 / 3


def test_weights_gradients_and_changes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, dtype=torch.bfloat16))
    arrays = [p.detach().double().numpy() for p in net.parameters()]
    assert weight_magnitude(net) == pytest.approx(twin.weight_magnitude(arrays))
    assert weight_magnitude(net.parameters()) == weight_magnitude(net)
    assert weight_magnitude(net[0].weight) == pytest.approx(twin.weight_magnitude(arrays[:1]))
    for p in list(net.parameters())[:3]:
        p.grad = torch.randn_like(p)
    grads = [p.grad.double().numpy() for p in net.parameters() if p.grad is not None]
    assert gradient_norm(net) == pytest.approx(twin.norm(grads))
    change = UpdateSize(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    after = [p.detach().double().numpy() for p in net.parameters()]
    assert change.measure() == pytest.approx(twin.update_size(arrays, after))
    assert change.measure() == 0.0


def test_a_tied_weight_counts_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    expected = [p.detach().numpy() for p in (net[0].weight, net[0].bias, net[1].bias)]
    assert weight_magnitude(net) == pytest.approx(twin.weight_magnitude(expected))


def test_an_sgd_step_is_as_long_as_its_gradient():
    torch.manual_seed(0)
    net = nn.Linear(5, 3, dtype=torch.float64)
    change = UpdateSize(net.parameters())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.125)
    net(torch.randn(7, 5, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert change.measure() == pytest.approx(0.125 * gradient_norm(net), rel=1e-12)


def test_norms_do_not_overflow():
    w = torch.full((4,), 1e30)
    assert weight_magnitude(w) == pytest.approx(1e30)
    assert update_size(-w, w) == pytest.approx(4e30)


def test_sparse_gradients_count():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 1])).sum().backward()
    assert gradient_norm(table) == pytest.approx(math.sqrt(8))


def test_a_change_goes_on_from_a_saved_snapshot():
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    change = UpdateSize(net)
    saved = change.state_dict()
    with torch.no_grad():
        net.weight += 1.0
    later = UpdateSize(net)
    later.load_state_dict(saved)
    assert later.measure() == change.measure() == pytest.approx(2.0)
    for wrong, message in (
        ({}, "no list of tensors 'snapshot'"),
        ({"snapshot": [torch.ones(2, 2)]}, "same parameters, got 1 and 2 tensors"),
        ({"snapshot": [torch.ones(2, 3), torch.ones(2)]}, r"got \(2, 3\) and \(2, 2\) for tensor 0"),
    ):
        with pytest.raises(ValueError, match=message):
            later.load_state_dict(wrong)
    assert later.measure() == 0.0
    assert UpdateSize(other).measure() == 0.0


def test_plasticity_by_hand():
    assert plasticity(2.0, 0.5) == 0.75
    assert plasticity(0.5, 2.0) == 0.0
    assert plasticity(0, 0) == 1.0
    assert plasticity(1e-9, 1e-9) == pytest.approx(0.9)  # divided by eps
    assert plasticity(1e-9, 1e-9, eps=1e-12) == 0.0
    before, after = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.5, 2.0, 0.5])
    assert plasticity(before, after) == pytest.approx(1.25 / 3)
    assert plasticity(torch.tensor(2.0), 0.5) == 0.75


NAN, INF = float("nan"), float("inf")
BAD_FEATURES = {
    "no tensor": (np.ones((2, 2)), TypeError, "features must be a torch.Tensor, got ndarray"),
    "integers": (torch.ones(2, 2, dtype=torch.int64), ValueError, "features must be float16.*got torch.int64"),
    "complex": (torch.ones(2, 2, dtype=torch.complex64), ValueError, "got torch.complex64"),
    "one dimension": (torch.ones(3), ValueError, r"\(samples, units\) or .*got \(3,\)"),
    "no samples": (torch.ones(0, 3), ValueError, r"at least one of each, got \(0, 3\)"),
    "no units": (torch.ones(3, 0), ValueError, r"got \(3, 0\)"),
    "no places": (torch.ones(3, 2, 0), ValueError, r"got \(3, 2, 0\)"),
    "nan": (torch.tensor([[1.0, NAN]]), FloatingPointError, "features must be finite, got 1 of 2"),
    "inf": (torch.tensor([[INF, -INF]]).half(), FloatingPointError, "features must be finite, got 2 of 2"),
}


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features_are_refused(name, case):
    features, error, message = BAD_FEATURES[case]
    with pytest.raises(error, match=message):
        OF_FEATURES[name](features)


ONES = torch.ones(2, 3)
CLASSES = torch.tensor([0, 2])
REFUSED = {
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


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case):
    ask, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        ask()


def test_a_gradient_that_is_not_finite_is_refused():
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.tensor([INF, 1.0])
    with pytest.raises(FloatingPointError, match=r"gradients \[0\] must be finite, got 1 of 2"):
        gradient_norm(w)


def test_nothing_is_kept_of_the_graph():
    w = torch.ones(2, 2, requires_grad=True)
    h = torch.ones(3, 2) @ w
    for of in OF_FEATURES.values():
        of(h)
    online_error(h, torch.ones(3, 2))
    online_accuracy(h, torch.zeros(3, dtype=torch.int64))
    plasticity(h.mean(), h.mean())
    weight_magnitude(w)
    h.sum().backward()
    assert gradient_norm(w) == 6.0
