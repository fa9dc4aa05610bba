"""Summing strategies and the scaling of a measure: weights as they are meant, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnt.protection._strategies import SUMMING, RangeScaling, Summing

ARGUMENTS = {"linear_decrease": {"step": 2.5}, "exponential_decrease": {"rate": 1.5}, "log_decrease": {"base": 3.0}}


def literal_weight(name: str, t: int, last: int) -> float:
    """The weight of task t after ``last`` tasks, by adding up what each task's end adds."""
    age = last - t + 1
    return {
        "add_latest": 1.0 if age == 1 else 0.0,
        "add_all": sum(1.0 for k in range(1, last + 1) if t <= k),  # task t is in the running sums after t, ..., last
        "add_average": sum(1 / k for k in range(1, last + 1) if t <= k),
        "linear_decrease": 2.5 * (last - t) + 1,
        "quadratic_decrease": age * age,
        "cubic_decrease": age * age * age,
        "exponential_decrease": math.prod([1.5] * age),
        "log_decrease": math.log(age, 3.0) + 1,
        "factorial_decrease": math.prod(range(1, age + 1)),
    }[name]


@pytest.mark.parametrize("name", SUMMING)
def test_each_task_counts_as_its_strategy_says(name):
    summing = Summing(name, **ARGUMENTS.get(name, {}))
    for last in range(1, 7):
        wanted = [literal_weight(name, t, last) for t in range(1, last + 1)]
        assert summing.weights(last) == pytest.approx(wanted, rel=1e-13)
        importances = torch.rand(last, 4, generator=torch.Generator().manual_seed(last))
        by_loop = sum((w * row.double() for w, row in zip(wanted, importances, strict=True)), torch.zeros(4).double())
        torch.testing.assert_close(summing.total(importances), by_loop.float())


def test_decreases_weigh_older_tasks_more_and_all_of_them():
    """The published code adds the last task only (and log_decrease divides by log 0 there)."""
    for name in SUMMING:
        weights = Summing(name, **ARGUMENTS.get(name, {})).weights(5)
        if name.endswith("decrease"):
            assert weights == sorted(weights, reverse=True)
            assert weights[-2] > weights[-1] > 0


def test_linear_decrease_with_step_1_is_add_all():
    assert Summing("linear_decrease", step=1).weights(6) == Summing("add_all").weights(6)


def test_weights_beyond_the_dtype_count_as_its_largest_number():
    importances = torch.ones(400, 2)
    for name in ("factorial_decrease", "exponential_decrease"):
        rate = {"rate": 1e5} if name == "exponential_decrease" else {}
        assert Summing(name, **rate).total(importances).tolist() == [torch.finfo(torch.float32).max] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("add_al", {}, "summing must be one of add_latest, .* did you mean 'add_all'"),
        ("linear_decrease", {}, "summing='linear_decrease' needs step, a finite number above 0, got None"),
        ("linear_decrease", {"step": 0.0}, "needs step, a finite number above 0, got 0.0"),
        ("exponential_decrease", {"rate": 1.0}, "needs rate, a finite number above 1, got 1.0"),
        ("log_decrease", {"base": math.inf}, "needs base, a finite number above 1, got inf"),
        ("add_all", {"step": 1.0}, "step must not be given for summing='add_all', which takes no argument"),
        (
            "log_decrease",
            {"base": 2.0, "rate": 2.0},
            "rate must not be given for summing='log_decrease', which takes base",
        ),
    ],
)
def test_wrong_strategies_are_refused_at_construction(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        Summing(name, **arguments)


@settings(max_examples=20)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=6, max_size=6),
    factor=st.sampled_from([1e-30, 1e-12, 1.0, 1e30]),
    shift=st.sampled_from([0.0, 4.0]),
)
def test_scaled_values_do_not_depend_on_units_of_measurement(values, factor, shift):
    """Sums and means of a measure give the same importance, gradients of 1e-12 as well; equal values give 0."""
    scale = RangeScaling([4, 2])
    v = torch.tensor(values, dtype=torch.float64)
    scaled = scale(v)
    for part in (slice(0, 4), slice(4, 6)):
        span = v[part].max() - v[part].min()
        wanted = (v[part] - v[part].min()) / span if span > 0 else torch.zeros_like(v[part])
        torch.testing.assert_close(scaled[part], wanted, rtol=1e-9, atol=1e-12)
        if span == 0 or span > 1e-3:
            other = scale(factor * (v + shift))[part]
            torch.testing.assert_close(other, wanted, rtol=1e-7, atol=1e-9)


def test_squares_of_small_gradients_fill_the_range():
    """With an absolute epsilon of 1e-8 in the denominator they would reach 0.08 at most."""
    values = torch.tensor([1e-18, 4e-18, 9e-18])
    assert RangeScaling([3])(values).tolist() == pytest.approx([0, 0.375, 1])
