"""Dead units, dormant units and ranks: values computed by hand, edge cases, and dtypes."""

from __future__ import annotations

import math

import pytest
import torch

from gnt.metrics import approximate_rank, dead_units, dormant_units, effective_rank, nature_rank
from tests.metrics.feature_metrics import FEATURE_METRICS, RANKS
from tests.twins import metrics as twin

HALF_DTYPES = (torch.float16, torch.bfloat16)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def with_spectrum(values: list[float], rows: int = 9, columns: int = 7, seed: int = 0) -> torch.Tensor:
    """A dense matrix with these singular values."""
    u = torch.linalg.qr(normal(rows, len(values), seed=seed, dtype=torch.float64)).Q
    v = torch.linalg.qr(normal(columns, len(values), seed=seed + 1, dtype=torch.float64)).Q
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T


def test_a_unit_is_dead_if_it_is_0_for_every_sample():
    features = torch.tensor([[0.0, -0.0, -3.0, -1.0, 1e-45], [0.0, 0.0, -3.0, 1.0, 0.0]])
    assert dead_units(features) == 2 / 5  # negative, cancelling and subnormal values are not 0
    assert dead_units(torch.zeros(3, 4)) == 1.0
    assert dead_units(torch.zeros(1, 1)) == 1.0
    assert dead_units(torch.ones(1, 1)) == 0.0


def test_a_unit_is_dormant_relative_to_the_mean_of_its_layer():
    features = torch.tensor([[0.0, 0.25, -4.0, 3.0, 2.75], [0.0, -0.25, 4.0, -3.0, 2.75]])  # mean magnitude 2
    assert dormant_units(features, tau=0.125) == 2 / 5  # 0, and a unit exactly at the threshold
    assert dormant_units(features, tau=0.12) == dormant_units(features) == 1 / 5
    assert dormant_units(features, tau=0) == 1 / 5 == dead_units(features)
    assert dormant_units(features, tau=1.5) == 4 / 5
    assert dormant_units(torch.zeros(3, 4)) == 1.0
    assert dormant_units(torch.ones(3, 1), tau=0.99) == 0.0
    assert dormant_units(torch.ones(3, 1), tau=1) == 1.0


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e38])
def test_metrics_do_not_depend_on_the_scale_of_the_features(scale):
    features = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, -2.0, 3.0], [0.0, 0.0, 0.0, 3.0]])
    for name, of in FEATURE_METRICS.items():
        assert of(features * scale) == pytest.approx(of(features), rel=0.02), name  # 1e-44 has two significant digits


@pytest.mark.parametrize("size", [(), (5,), (2, 3), (2, 3, 2)], ids=str)
def test_a_channel_is_one_unit_over_all_its_positions(size):
    features = normal(6, 4, *size)
    features[:, 1] = 0.0
    features[:, 2] *= 0.01
    if size:
        features[:, 3] = 0.0
        features[0, 3].view(-1)[-1] = 5.0  # nonzero at one position of one sample
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
    assert effective_rank(one.float()) == 1.0  # rounding errors do not count as a direction


def test_the_nature_rank_differs_from_stable_rank_and_approximate_rank():
    features = normal(200, 50)
    norms = torch.linalg.matrix_norm(features) ** 2 / torch.linalg.matrix_norm(features, 2) ** 2
    assert nature_rank(features) == twin.nature_rank(features.numpy())
    assert isinstance(nature_rank(features), int)
    assert nature_rank(features) > 1.5 * float(norms)
    squared = with_spectrum([1.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert (nature_rank(squared), approximate_rank(squared)) == (6, 5)


def test_exactly_99_percent_is_enough():
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


@pytest.mark.parametrize("dtype", [*HALF_DTYPES, torch.float64])
@pytest.mark.parametrize("name", FEATURE_METRICS)
def test_half_precision_features_are_measured_in_float32(name, dtype):
    features = normal(40, 20, dtype=dtype).relu_()
    wide = features.float() if dtype in HALF_DTYPES else features
    assert FEATURE_METRICS[name](features) == FEATURE_METRICS[name](wide)
    assert isinstance(
        FEATURE_METRICS[name](features), float if name in ("dead_units", "dormant_units") else (int, float)
    )


def test_half_precision_sums_do_not_overflow():
    features = torch.full((400, 3), 60_000.0).half()
    features[:, 0] /= 20.0
    assert dormant_units(features) == 1 / 3


@pytest.mark.parametrize("metric", [dead_units, dormant_units, effective_rank, approximate_rank, nature_rank])
def test_the_dimension_of_the_units_can_be_chosen(metric):
    h = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)).relu()
    h[..., 2] = 0
    assert metric(h, unit_dim=-1) == metric(h, unit_dim=2) == metric(h.flatten(0, 1)) != metric(h)
    assert metric(h, unit_dim=1) == metric(h)
    for dim in (0, 3, -3, -4):
        with pytest.raises(
            ValueError, match=rf"unit_dim must be a dimension of features .* got {dim} for shape \(4, 5"
        ):
            metric(h, unit_dim=dim)
    with pytest.raises(TypeError, match="unit_dim must be an integer, got True"):
        metric(h, unit_dim=True)
