"""Random networks, settings and lives, for hypothesis: what gnt promises must hold for all of them.

To check a change of your own, write what must hold and let it be tried:

    from hypothesis import given, strategies as st
    from tests.helpers.strategies import choices, lives

    @given(run=training_runs(), data=st.data())
    def test_replaced_units_are_young(run, data):
        run.train_without_replacement(3)
        units = data.draw(unit_choices(run))
        run.engine.replace(units)
        for group, chosen in zip(run.engine.groups, units, strict=True):
            assert not group.state.age[chosen].any()

`lives` gives a network that learns random data beside an engine (`tests.helpers.training_run.Life`); `networks` and
`engine_settings`
give its parts, and their arguments leave out what a property does not hold for. Everything is small: a few units, a
few pixels. `pytest --hypothesis-profile=thorough` tries many more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from gnt.importance import MEASURES
from gnt.replacement.reinitialization import INITS
from tests.helpers.layer_builder import LayerBuilder
from tests.helpers.training_run import TrainingRun
from tests.replacement.optimizer_cases import CASES, OptimizerCase

BUILT_IN_MEASURES = tuple(MEASURES)
NORMS = ("batch", "group", "layer", "flat")
PER_UNIT_NORMS = ("batch",)  # norms that do not let a unit's features depend on other units, nor on the pixel
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
        draw: given by hypothesis.
        spaces: dimensions of space: 0 for networks of linear layers (some with a time dimension), 1 to 3 for
            convolutions (grouped, strided, dilated) that end in a convolution or in linear layers.
        norms: which may stand before or after the activation: "batch", "group", "layer", and "flat" for norms
            behind a Flatten.
        dropout: some networks have it.
        padding: some convolutions and pools are padded with zeros.
        bias: every weight layer has one; else some have none.
        dtypes: of the parameters.
    """
    builder = LayerBuilder(draw, norms, dropout, padding, bias)
    space = draw(st.sampled_from(spaces))
    if space:
        builder.open_space(space)
        for _ in range(draw(st.integers(1, 2))):
            builder.convolution()
            builder.between()
        if draw(st.booleans()):
            builder.convolution()
        else:
            builder.flatten()
            for _ in range(draw(st.integers(0, 1))):
                builder.linear()
                builder.between()
            builder.linear()
    else:
        builder.open_line()
        for _ in range(draw(st.integers(1, 3))):
            builder.linear()
            builder.between()
        builder.linear()
    net = nn.Sequential(*builder.modules).to(draw(st.sampled_from(dtypes)))
    randomise(net, draw(seeds))
    return Network(net, builder.shape)


def randomise(net: nn.Module, seed: int) -> None:
    """Give every parameter and running statistic a random value, so that none stands where it stands at birth."""
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
    """Keyword arguments of `GnT`; those given in ``fixed`` are as given."""
    drawn = {
        "replacement_rate": st.floats(0.0, 1.0),
        "maturity_threshold": st.integers(0, 4),
        "decay_rate": st.sampled_from([0.0, 0.5, 0.9, 0.99]),
        "utility": st.sampled_from(BUILT_IN_MEASURES),
        "init": st.sampled_from(INITS),
        "accumulate": st.booleans(),
        "bias_transfer": st.booleans(),
        "kernels": st.booleans(),
    }
    return {name: fixed[name] if name in fixed else draw(strategy) for name, strategy in drawn.items()}


def optimizer_cases() -> st.SearchStrategy[OptimizerCase]:
    """Rows of the optimizer table, those that take any parameters."""
    return st.sampled_from([case for case in CASES if not case.matrices_only])


@st.composite
def training_runs(
    draw: st.DrawFn,
    *,
    of: st.SearchStrategy[Network] | None = None,
    settings: st.SearchStrategy[dict[str, Any]] | None = None,
    cases: st.SearchStrategy[OptimizerCase | None] | None = None,
) -> TrainingRun:
    """Networks of ``of`` with engine settings and an optimizer, at the beginning of their lives."""
    net, shape = draw(networks() if of is None else of)
    case = draw(optimizer_cases() if cases is None else cases)
    return TrainingRun(net, shape, case, draw(engine_settings() if settings is None else settings), draw(seeds))


@st.composite
def unit_choices(draw: st.DrawFn, run: TrainingRun) -> list[Tensor]:
    """Units for each group, in any order, as a user may give them to ``replace``; some groups have none."""
    chosen = []
    for group in run.engine.groups:
        order = draw(st.permutations(range(group.num_units)))
        count = draw(st.sampled_from(range(group.num_units, -1, -1)))  # the simplest example replaces all
        chosen.append(torch.tensor(order[:count], dtype=torch.int64))
    return chosen
