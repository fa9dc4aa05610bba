"""Metrics of random features agree with numpy and scipy and satisfy the invariants of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import gnt
from gnt.metrics import (
    Probe,
    approximate_rank,
    dead_units,
    dormant_units,
    effective_rank,
    nature_rank,
    online_accuracy,
    online_error,
    plasticity,
    update_size,
    weight_magnitude,
)
from gnt.units import CONV_LAYERS
from tests.helpers.strategies import networks, seeds
from tests.metrics.feature_metrics import RANKS
from tests.twins import metrics as twin

taus = st.floats(0.0, 3.0)


@st.composite
def features(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> Tensor:
    """(samples, units) or (samples, channels, *size); some units are dead, small, or copies of another."""
    shape = (draw(st.integers(1, 12)), draw(st.integers(1, 9)), *draw(st.sampled_from([(), (), (3,), (2, 2)])))
    generator = torch.Generator().manual_seed(draw(seeds))
    h = torch.randn(shape, generator=generator).to(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        h = h.relu()
    for unit in range(shape[1]):
        kind = draw(st.sampled_from(["unchanged", "unchanged", "dead", "small", "copy"]))
        if kind == "dead":
            h[:, unit] = 0.0
        elif kind == "small":
            h[:, unit] *= 0.01
        elif kind == "copy":
            h[:, unit] = h[:, 0]
    return h


def near_threshold(h: Tensor, tau: float) -> bool:
    """Whether a unit's score is at the threshold up to rounding."""
    expected = h.double().abs().transpose(0, 1).flatten(1).mean(1)
    return bool(((expected / expected.mean() - tau).abs() < 1e-5).any()) if expected.any() else False


def rank_is_clear(h: Tensor) -> bool:
    """Whether no partial sum is at 99% up to rounding."""
    sigma = twin.singular_values(h.numpy())
    clear = True
    for parts in (sigma, sigma**2):
        if len(parts):
            clear &= bool(np.abs(parts.cumsum() / parts.sum() - 0.99).min() > 1e-5)
    return clear


@given(h=features(), tau=taus)
def test_dead_and_dormant_units_agree_with_numpy(h, tau):
    assert dead_units(h) == pytest.approx(twin.dead_units(h.numpy()), abs=1e-12)
    assume(not near_threshold(h, tau))
    assert dormant_units(h, tau) == pytest.approx(twin.dormant_units(h.numpy(), tau), abs=1e-12)


@given(h=features())
def test_ranks_agree_with_numpy_and_scipy(h):
    assume(rank_is_clear(h))
    array = h.numpy()
    assert effective_rank(h) == pytest.approx(twin.effective_rank(array), rel=1e-4)
    assert approximate_rank(h) == twin.approximate_rank(array)
    assert nature_rank(h) == twin.nature_rank(array)


@given(h=features(), tau=taus)
def test_bounds_and_order_of_the_metrics(h, tau):
    most = min(h.flatten(1).shape)
    effective, approximate, nature = effective_rank(h), approximate_rank(h), nature_rank(h)
    assert 0 <= approximate <= nature <= most
    assert (effective == 0) == (approximate == 0) == (nature == 0) == (not h.any())
    assert effective == 0 or 1 <= effective <= most * (1 + 1e-9)
    assert 0 <= dead_units(h) <= dormant_units(h, tau) <= 1
    assert dormant_units(h, 0.0) == dead_units(h)


@given(h=features(), seed=seeds, tau=taus, power=st.integers(-20, 20))
def test_order_scale_sign_and_repetition_do_not_matter(h, seed, tau, power):
    generator = torch.Generator().manual_seed(seed)
    assume(rank_is_clear(h))
    assume(not near_threshold(h, tau))
    samples, units = torch.randperm(len(h), generator=generator), torch.randperm(h.shape[1], generator=generator)
    for other in (h[samples], h[:, units], torch.cat([h, h]), h * 2.0**power, -h):
        assert dead_units(other) == dead_units(h)
        assert dormant_units(other, tau) == dormant_units(h, tau)
        assert effective_rank(other) == pytest.approx(effective_rank(h), rel=1e-4)
        assert (approximate_rank(other), nature_rank(other)) == (approximate_rank(h), nature_rank(h))


@given(h=features(dtypes=(torch.float64,)), seed=seeds)
def test_rotations_of_the_features_do_not_change_ranks(h, seed):
    assume(rank_is_clear(h))
    flat = h.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(flat.shape[1], flat.shape[1], generator=generator, dtype=flat.dtype)
    rotated = flat @ torch.linalg.qr(square).Q
    for of in RANKS.values():
        assert of(rotated) == pytest.approx(of(h), rel=1e-6)


@given(h=features(), data=st.data())
def test_setting_a_unit_to_0_adds_one_dead_unit(h, data):
    alive = [i for i in range(h.shape[1]) if h[:, i].any()]
    assume(alive)
    zeroed = h.clone()
    zeroed[:, data.draw(st.sampled_from(alive))] = 0.0
    assert dead_units(zeroed) == pytest.approx(dead_units(h) + 1 / h.shape[1])


@given(seed=seeds, n=st.integers(1, 20), classes=st.integers(2, 6))
def test_accuracy_and_error_are_means_over_samples(seed, n, classes):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(n, classes, generator=generator).round()  # with ties
    target = torch.randint(classes, (n,), generator=generator)
    accuracy = online_accuracy(output, target)
    assert accuracy == pytest.approx(twin.online_accuracy(output.numpy(), target.numpy()))
    assert online_error(output, target) == pytest.approx(1 - accuracy)
    parts = [online_accuracy(output[i : i + 1], target[i : i + 1]) for i in range(n)]
    assert accuracy == pytest.approx(sum(parts) / n)
    real = torch.randn(n, classes, generator=generator)
    expected = twin.mean_squared_error(output.numpy(), real.numpy())
    assert online_error(output, real) == pytest.approx(expected, rel=1e-6)


@given(seed=seeds, n=st.integers(1, 20), zeros=st.booleans())
def test_plasticity_agrees_with_its_formula(seed, n, zeros):
    generator = torch.Generator().manual_seed(seed)
    before, after = (torch.rand(n, generator=generator, dtype=torch.float64) for _ in range(2))
    if zeros:
        before[0] = after[-1] = 0.0
    p = plasticity(before, after)
    assert p == pytest.approx(twin.plasticity(before.numpy(), after.numpy()))
    assert 0 <= p <= 1


@given(seed=seeds, shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4))
def test_weight_magnitude_and_update_size_agree_with_numpy(seed, shapes):
    generator = torch.Generator().manual_seed(seed)
    a, b, c = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3))
    assert weight_magnitude(a) == pytest.approx(twin.weight_magnitude([t.numpy() for t in a]))
    ab, bc, ac = update_size(a, b), update_size(b, c), update_size(a, c)
    assert ab == pytest.approx(twin.update_size([t.numpy() for t in a], [t.numpy() for t in b]))
    assert ab == pytest.approx(update_size(b, a))
    assert ac <= (ab + bc) * (1 + 1e-9)
    assert update_size(a, a) == 0.0


@given(of=networks(dtypes=(torch.float64,)), seed=seeds)
def test_a_probe_measures_what_consumers_read(of, seed):
    """For random networks, against numpy on features recorded by hooks; the network is unchanged."""
    net, shape = of
    x = torch.randn(6, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.train()
    values = Probe(net, net, x, tau=0.3).measure()
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    for group in gnt.walk(net):
        read: list[Tensor] = []
        (consumer,) = group.consumers
        handle = consumer.register_forward_pre_hook(lambda module, args, read=read: read.append(args[0].detach()))
        with torch.no_grad():
            net(x)
        handle.remove()
        h = read[0] if isinstance(consumer, CONV_LAYERS) else read[0].flatten(0, -2)
        units = h.flatten(1).unflatten(1, (group.num_units, -1)) if isinstance(group.producer, CONV_LAYERS) else h
        assert values[f"dead_units/{group.name}"] == pytest.approx(twin.dead_units(units.numpy()))
        if not near_threshold(units, 0.3):
            assert values[f"dormant_units/{group.name}"] == pytest.approx(twin.dormant_units(units.numpy(), 0.3))
        assert values[f"effective_rank/{group.name}"] == pytest.approx(twin.effective_rank(h.numpy()), rel=1e-6)
        if rank_is_clear(h):
            assert values[f"approximate_rank/{group.name}"] == twin.approximate_rank(h.numpy())
            assert values[f"nature_rank/{group.name}"] == twin.nature_rank(h.numpy())
        weights = [slot.weight.detach().numpy() for slot in group.incoming]
        assert values[f"weight_magnitude/{group.name}"] == pytest.approx(twin.weight_magnitude(weights))
