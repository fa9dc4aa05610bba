"""Each member equals a single run for any number of members, widths and batch size."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnt.replacement import selection
from tests.helpers.ensembles import compare_with_single_runs, mlp


@settings(max_examples=10)
@given(
    widths=st.lists(st.integers(1, 6), min_size=3, max_size=5),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4),
    batch=st.integers(1, 3),
    rate=st.sampled_from([0.01, 0.1, 1.0]),
    maturity=st.integers(0, 6),
    opt=st.sampled_from(["sgd", "adam"]),
    loss=st.sampled_from(["mse", "cross_entropy"]),
)
def test_each_member_equals_a_single_run(
    widths: list[int], seeds: list[int], batch: int, rate: float, maturity: int, opt: str, loss: str
) -> None:
    compared = compare_with_single_runs(
        *(mlp(*widths), seeds, 25),
        shape=(widths[0],),
        out=widths[-1],
        batch=batch,
        loss=loss,
        opt=opt,
        replacement_rate=rate,
        maturity_threshold=maturity,
    )
    assert compared.max_difference < 1e-9


@given(
    members=st.integers(1, 5),
    utility=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    count=st.integers(1, 8),
    seed=st.integers(0, 1000),
)
def test_lowest_of_each_equals_lowest_of_each_member(members: int, utility: list[int], count: int, seed: int) -> None:
    """With few different values, so that there are ties."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 4, (members, len(utility)), generator=generator).double()
    eligible = torch.rand(members, len(utility), generator=generator) < 0.7
    count = min(count, int(eligible.sum(1).min()))
    if not count:
        return
    units = selection.lowest_of_each(values.flatten(), eligible.flatten(), count, members).view(members, count)
    for i in range(members):
        single = selection.lowest(values[i], eligible[i], count)
        assert torch.equal(units[i] - i * len(utility), single)
