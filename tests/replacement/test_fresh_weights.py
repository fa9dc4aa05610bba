"""Fresh incoming weights are uniform within the bound of the initial distribution, in every dtype."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gnt import GnT, UnitGroup
from gnt.replacement.reinitialization import INITS, bound
from tests.helpers.strategies import networks, optimizer_cases, training_runs, unit_choices
from tests.helpers.training_run import TrainingRun

SQRT2 = math.sqrt(2.0)
ALL_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# the gain of xavier and kaiming; None: selu, which has lecun's bound for every init
GAINS = [
    (nn.ReLU(), SQRT2),
    (nn.ReLU6(), SQRT2),
    (nn.LeakyReLU(), math.sqrt(2 / 1.0001)),
    (nn.LeakyReLU(0.3), math.sqrt(2 / 1.09)),
    (nn.PReLU(), math.sqrt(2 / 1.0625)),
    (nn.RReLU(0.1, 0.3), math.sqrt(2 / 1.04)),
    (nn.ELU(), SQRT2),
    (nn.CELU(), SQRT2),
    (nn.SiLU(), SQRT2),
    (nn.GELU(), SQRT2),
    (nn.Mish(), SQRT2),
    (nn.Hardswish(), SQRT2),
    (nn.Softplus(), SQRT2),
    (nn.Tanh(), 5 / 3),
    (nn.Hardtanh(), 5 / 3),
    (nn.Sigmoid(), 1.0),
    (nn.Softsign(), 1.0),
    (nn.Identity(), 1.0),
    (nn.SELU(), None),
]
# producer, consumer, fan-in, fan-out
FANS = [
    (nn.Linear(5, 12), nn.Linear(12, 2), 5, 12),
    (nn.Conv1d(4, 12, 3), nn.Conv1d(12, 2, 1), 12, 36),
    (nn.Conv2d(4, 12, (3, 2), stride=2, dilation=2), nn.Conv2d(12, 2, 1), 24, 72),
    (nn.Conv2d(4, 12, 3, groups=2), nn.Conv2d(12, 12, 3, groups=12), 18, 54),
    (nn.Conv2d(4, 12, 3, groups=4), nn.Conv2d(12, 2, 1), 9, 27),
    (nn.Conv3d(2, 12, 2), nn.Conv3d(12, 2, 1), 16, 96),
]


def expected_bound(init: str, gain: float | None, fan_in: int, fan_out: int) -> float:
    """Half the width of the uniform distribution (the bound)."""
    if gain is None:
        return math.sqrt(3 / fan_in)
    return {
        "default": 1 / math.sqrt(fan_in),
        "lecun": math.sqrt(3 / fan_in),
        "kaiming": gain * math.sqrt(3 / fan_in),
        "xavier": gain * math.sqrt(6 / (fan_in + fan_out)),
    }[init]


def expected_bound_of_group(group: UnitGroup, init: str) -> float:
    """The expected bound of a group, from its activation and the attributes of its producer."""
    name, slope = group.activation
    leaky = math.sqrt(2 / (1 + (slope or 0.0) ** 2))
    gain = {"tanh": 5 / 3, "sigmoid": 1.0, "identity": 1.0, "selu": None}.get(name, leaky)
    producer = group.producer
    kernel, groups = math.prod(getattr(producer, "kernel_size", ())), getattr(producer, "groups", 1)
    inputs, outputs = producer.weight.shape[1] * groups, producer.weight.shape[0]
    return expected_bound(init, gain, inputs // groups * kernel, outputs // groups * kernel)


def redraw(engine: GnT) -> torch.Tensor:
    """Replace all units of the first group and return their incoming weights."""
    group = engine.groups[0]
    engine.replace([torch.arange(g.num_units) if g is group else [] for g in engine.groups])
    return group.incoming[0].weight.detach().double()


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("activation", "gain"), GAINS, ids=lambda a: str(a) if isinstance(a, nn.Module) else "")
def test_bound_of_every_activation(activation, gain, init):
    """The largest drawn weight is within 2% of the bound."""
    engine = GnT(nn.Sequential(nn.Linear(4, 300), activation, nn.Linear(300, 2)), init=init)
    engine.generator.manual_seed(0)
    expected = expected_bound(init, gain, 4, 300)
    assert bound(engine.groups[0], init) == pytest.approx(expected, rel=1e-12)
    assert 0.98 * expected < redraw(engine).abs().max() <= expected


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize(("producer", "consumer", "fan_in", "fan_out"), FANS, ids=lambda a: "")
def test_bound_uses_the_fan_in_and_fan_out_of_one_unit(producer, consumer, fan_in, fan_out, init):
    engine = GnT([producer, nn.Tanh(), consumer], init=init)
    engine.generator.manual_seed(0)
    expected = expected_bound(init, 5 / 3, fan_in, fan_out)
    assert bound(engine.groups[0], init) == pytest.approx(expected, rel=1e-12)
    assert 0.8 * expected < redraw(engine).abs().max() <= expected


def test_unknown_activation_error_names_the_remedy():
    layers = [nn.Linear(4, 8), nn.Tanhshrink(), nn.Linear(8, 2)]
    for init in ("kaiming", "xavier"):
        with pytest.raises(
            ValueError,
            match=f"init '{init}' needs the gain.*group '0'.*'Tanhshrink' has no known gain: pass activation=",
        ):
            GnT(layers, init=init)
        assert bound(GnT(layers, init=init, activation="tanh").groups[0], init) == pytest.approx(
            expected_bound(init, 5 / 3, 4, 8)
        )
    for init in ("default", "lecun"):
        assert bound(GnT(layers, init=init).groups[0], init) == pytest.approx(expected_bound(init, 1.0, 4, 8))


@given(run=training_runs(of=networks(dtypes=ALL_DTYPES), cases=st.none() | optimizer_cases()), data=st.data())
def test_no_fresh_weight_exceeds_the_bound(run: TrainingRun, data: st.DataObject):
    """Also after rounding to half precision."""
    units = data.draw(unit_choices(run))
    run.engine.init = data.draw(st.sampled_from(INITS))
    run.engine.replace(units)
    for group, layer, chosen in zip(run.engine.groups, run.layers, units, strict=True):
        fresh = run.tensors()[layer.incoming][chosen].double()
        assert torch.all(fresh.abs() <= expected_bound_of_group(group, run.engine.init))


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("init", INITS)
def test_fresh_weights_are_uniform(dtype, init):
    """Kolmogorov-Smirnov test at the 0.1% level.

    With 16 parameter sets, at least one fails with probability 1.6% for uniform draws; the seed is fixed.
    """
    engine = GnT(nn.Sequential(nn.Linear(8, 500), nn.ReLU(), nn.Linear(500, 1)).to(dtype), init=init)
    engine.generator.manual_seed(1)
    drawn = redraw(engine)
    limit = expected_bound(init, SQRT2, 8, 500)
    n = drawn.numel()
    cdf = (drawn.flatten().sort().values / limit + 1) / 2  # uniform distribution function at the sorted draws
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - cdf).max(), (cdf - steps[:-1]).max())
    assert distance < 1.95 / math.sqrt(n)
    assert drawn.abs().max() <= limit  # also after rounding
    assert len(drawn.unique(dim=0)) == len(drawn)  # all units have different weights
