"""Hypothesis strategies: random networks, settings and training runs, for properties that hold for all of them.

Example of a property test:

    from hypothesis import given, strategies as st
    from tests.helpers.strategies import training_runs, unit_choices

    @given(run=training_runs(), data=st.data())
    def test_replaced_units_have_age_zero(run, data):
        run.train_without_replacement(3)
        units = data.draw(unit_choices(run))
        run.engine.replace(units)
        for group, chosen in zip(run.engine.groups, units, strict=True):
            assert not group.state.age[chosen].any()

`training_runs` draws a `tests.helpers.training_run.TrainingRun`: a network, its optimizer and an engine. `networks` and
`engine_settings` draw its parts; their arguments exclude what a property does not hold for. Networks are small: a few
units and a few pixels. `pytest --hypothesis-profile=thorough` tries more examples.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gnt.importance import GRADIENT_SIGNALS, MEASURES
from gnt.initialization import INITS
from tests.helpers.layer_builder import LayerBuilder
from tests.helpers.training_run import TrainingRun
from tests.replacement.optimizer_cases import CASES, OptimizerCase

# those that can be computed of features that are given; tests/importance/test_gradient_signals.py has the others
BUILT_IN_MEASURES = tuple(name for name, measure in MEASURES.items() if not measure.reads & GRADIENT_SIGNALS)
NORMS = ("batch", "group", "layer", "flat")
PER_UNIT_NORMS = ("batch",)  # norms after which a unit's features depend neither on other units nor on the pixel
DTYPES = (torch.float32, torch.float64)
seeds = st.integers(0, 2**16)


class Network(NamedTuple):
    """A network and the shape of one sample of its input."""

    net: nn.Sequential
    shape: tuple[int, ...]


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    spaces: tuple[int, ...] = (0, 1, 2, 3),
    norms: tuple[str, ...] = NORMS,
    dropout: bool = True,
    padding: bool = True,
    bias: bool = False,
    dtypes: tuple[torch.dtype, ...] = DTYPES,
) -> Network:
    """Flat Sequentials with one to three hidden layers and random parameters.

    Args:
        draw: passed by hypothesis.
        spaces: numbers of spatial dimensions: 0 for networks of linear layers (some with a time dimension), 1 to 3 for
            convolutions (grouped, strided, dilated) followed by a convolution or by linear layers.
        norms: kinds of norms before or after the activation: "batch", "group", "layer", and "flat" for norms after a
            Flatten.
        dropout: whether some networks have dropout.
        padding: whether some convolutions and pools are padded with zeros.
        bias: True if every weight layer has a bias; otherwise some have none.
        dtypes: dtypes of the parameters.
    """
    builder = LayerBuilder(draw, norms, dropout, padding, bias)
    space = draw(st.sampled_from(spaces))
    if space:
        builder.start_conv(space)
        for _ in range(draw(st.integers(1, 2))):
            builder.convolution()
            builder.norm_and_activation()
        if draw(st.booleans()):
            builder.convolution()
        else:
            builder.flatten()
            for _ in range(draw(st.integers(0, 1))):
                builder.linear()
                builder.norm_and_activation()
            builder.linear()
    else:
        builder.start_linear()
        for _ in range(draw(st.integers(1, 3))):
            builder.linear()
            builder.norm_and_activation()
        builder.linear()
    net = nn.Sequential(*builder.modules).to(draw(st.sampled_from(dtypes)))
    randomize(net, draw(seeds))
    return Network(net, builder.shape)


def randomize(net: nn.Module, seed: int) -> None:
    """Set every parameter and running statistic to a random value, so that none has its initial value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / 2)
        for name, value in net.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)


@st.composite
def engine_settings(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    """Keyword arguments of `GnT`; those in ``fixed`` keep the given value."""
    drawn = {
        "replacement_rate": st.floats(0.0, 1.0),
        "maturity_threshold": st.integers(0, 4),
        "decay_rate": st.sampled_from([0.0, 0.5, 0.9, 0.99]),
        "utility": st.sampled_from(BUILT_IN_MEASURES),
        "init": st.sampled_from(("auto", *INITS)),
        "accumulate": st.booleans(),
        "bias_transfer": st.booleans(),
        "kernels": st.booleans(),
    }
    return {name: fixed[name] if name in fixed else draw(strategy) for name, strategy in drawn.items()}


def optimizer_cases() -> st.SearchStrategy[OptimizerCase]:
    """Rows of the optimizer table that accept parameters of any shape."""
    return st.sampled_from([case for case in CASES if not case.matrices_only])


@st.composite
def training_runs(
    draw: st.DrawFn,
    *,
    of: st.SearchStrategy[Network] | None = None,
    settings: st.SearchStrategy[dict[str, Any]] | None = None,
    cases: st.SearchStrategy[OptimizerCase | None] | None = None,
) -> TrainingRun:
    """Training runs before their first step, of networks from ``of`` with engine settings and an optimizer."""
    net, shape = draw(networks() if of is None else of)
    case = draw(optimizer_cases() if cases is None else cases)
    return TrainingRun(net, shape, case, draw(engine_settings() if settings is None else settings), draw(seeds))


@st.composite
def unit_choices(draw: st.DrawFn, run: TrainingRun) -> list[Tensor]:
    """Units of each group, in any order, as arguments of ``replace``; none for some groups."""
    chosen = []
    for group in run.engine.groups:
        order = draw(st.permutations(range(group.num_units)))
        count = draw(st.sampled_from(range(group.num_units, -1, -1)))  # the simplest example replaces all
        chosen.append(torch.tensor(order[:count], dtype=torch.int64))
    return chosen
