"""Paired t-tests over seeds, and Holm's correction."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.report.paired_tests import LOSES, TIES, WINS, against_others, difference, holm


def test_the_p_value_is_that_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    for count in (2, 5, 30):
        own, other = random.normal(0.3, 1, count), random.normal(0, 1, count)
        found = difference(dict(enumerate(own)), {**dict(enumerate(other)), 99: 0.0})
        expected = scipy.stats.ttest_rel(own, other)
        interval = expected.confidence_interval()
        assert found is not None
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert found.estimate.mean - (found.estimate.half or 0.0) == pytest.approx(interval.low)
        assert found.higher == f"{(own > other).sum()} of {count}"


def test_equal_differences_and_few_seeds() -> None:
    same = {0: 0.5, 1: 0.25}
    for shift, p in ((0.0, 1.0), (0.25, 0.0)):
        found = difference({seed: value + shift for seed, value in same.items()}, same)
        assert found is not None
        assert found.p == p
    assert difference(same, {1: 0.5, 2: 0.5}) is None


@settings(max_examples=20)
@given(st.lists(st.sampled_from([0.0, 0.001, 0.009, 0.02, 0.03, 0.04, 0.2, 1.0]), min_size=1, max_size=6))
def test_holm_rejects_what_the_step_down_procedure_rejects(ps: list[float]) -> None:
    level = 0.05
    rejected: set[int] = set()
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):  # Holm 1979, as published
        if ps[i] * (len(ps) - rank) >= level:
            break
        rejected.add(i)
    corrected = holm(ps)
    assert {i for i, p in enumerate(corrected) if p < level} == rejected
    assert all(p <= c <= 1.0 for p, c in zip(ps, corrected, strict=True))


def test_a_method_is_tested_against_all_others_together() -> None:
    seeds = range(5)
    noise = [math.sin(3 * seed) for seed in seeds]
    last = {
        "cbp": {seed: 0.5 + noise[seed] / 100 for seed in seeds},
        "worse": {seed: 0.3 + noise[seed] / 90 for seed in seeds},
        "alike": {seed: 0.5 - noise[seed] / 100 for seed in seeds},
        "better": {seed: 0.9 + noise[seed] / 90 for seed in seeds},
        "alone": {7: 0.1},
    }
    found = against_others("cbp", last)
    verdicts = {name: each.verdict(higher_is_better=True) for name, each in found.items()}
    assert verdicts == {"worse": WINS, "alike": TIES, "better": LOSES}
    assert found["worse"].verdict(higher_is_better=False) == LOSES
    assert found["alike"].p == found["alike"].difference.p  # the largest
    assert [found[name].p for name in last if name in found] == holm([each.difference.p for each in found.values()])
    assert against_others("missing", last) == {}
    planned = against_others("cbp", last, planned="worse")
    assert planned["worse"].p == found["worse"].difference.p
    assert [planned[name].p for name in ("alike", "better")] == holm(
        [found[name].difference.p for name in ("alike", "better")]
    )
