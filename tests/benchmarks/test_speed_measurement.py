"""The parts of the speed benchmark, on known numbers. Nothing here depends on actual times."""

import doctest
import math
import time
from dataclasses import replace

import pytest
import torch

import gnt
from benchmarks.errors import CannotRun
from benchmarks.speed import (
    compare,
    machine_load,
    measurement,
    memory,
    selection,
    table,
    timing,
    variants,
)
from benchmarks.speed.machine_load import LoadMonitor
from benchmarks.speed.networks import batches, fresh_net, make_net
from benchmarks.speed.selection import Ratio, WorkloadPlan
from benchmarks.speed.step_runners import StepRunner, loop
from benchmarks.speed.timing import Rounds, Timings
from benchmarks.speed.variants import VARIANTS, Variant, variants_of
from benchmarks.speed.workloads import WORKLOADS, Workload

TINY = Workload("tiny", (4, 300, 1), 2, "mse", targets={"sgd": 1.15}, maturity=3)
MOMENT = Rounds(block=0.01, budget=0.1, most=2, least=2)


@pytest.mark.parametrize("module", [variants, selection, machine_load, measurement, table, timing, compare])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


def test_workloads_and_variants_are_consistent():
    assert len({one.name for one in WORKLOADS}) == len(WORKLOADS)
    for kind in {one.kind for one in WORKLOADS}:
        names = [one.name for one in VARIANTS if one.kind == kind]
        assert len(set(names)) == len(names)
        used = {target for one in VARIANTS if one.kind == kind for _, target in one.against if target}
        assert used == {name for one in WORKLOADS if one.kind == kind for name in one.targets}
        assert {peer for one in VARIANTS if one.kind == kind for peer, _ in one.against} <= set(names)
    for chosen in selection.select_workloads([], quick=False):
        names = {one.name for one in chosen.variants}
        assert {name for ratio in chosen.ratios for name in (ratio.variant, ratio.against)} == names


SMALL = ("20-5-1, batch 1", "ConvNet", "GPT-2-like blocks", "Task masks, 784-256", "10 networks", "Adam's step")


@pytest.mark.parametrize("workload", [one for one in WORKLOADS if one.name.startswith(SMALL)], ids=lambda one: one.name)
def test_every_available_variant_updates_the_weights(workload):
    for one in variants_of(workload):
        if one.missing() is None and not one.graph:
            runner = one.build(workload)
            before = [param.detach().clone() for net in runner.nets for param in net.parameters()]
            runner.step()
            after = [param for net in runner.nets for param in net.parameters()]
            assert not after or any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)), one.name


def test_variants_have_the_same_initial_weights_and_data():
    a, b = make_net(WORKLOADS[5]), make_net(WORKLOADS[5])
    assert torch.equal(a[0].weight, b[0].weight)
    assert all(torch.equal(x, y) for x, y in zip(next(batches(TINY)), next(batches(TINY)), strict=True))
    assert next(batches(TINY, lead=(3,)))[0].shape == (3, 2, 4)


def test_the_convolutional_network_has_the_specified_layers():
    net = fresh_net("convnet")
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 2)
    assert [group.num_units for group in gnt.walk(net)] == [32, 64, 128, 128, 128]


def test_patterns_select_workloads_and_variants():
    chosen = selection.select_workloads(["20-5-1, batch 1: cbpsgd"], quick=True)
    assert [(one.workload.name, one.workload.maturity) for one in chosen] == [("20-5-1, batch 1", 10)]
    assert Ratio("CBPSGD", "SGD", 1.15) in chosen[0].ratios
    assert {one.name for one in chosen[0].variants} == {
        name for f in chosen[0].ratios for name in (f.variant, f.against)
    }
    assert len(selection.select_workloads([], quick=False)) == len(WORKLOADS)
    assert "784-8192x2-10, batch 64" not in {one.workload.name for one in selection.select_workloads([], quick=True)}
    assert "784-8192x2-10, batch 64" not in {
        one.workload.name for one in selection.select_workloads(["cbpsgd"], quick=True)
    }
    assert len(selection.select_workloads(["8192"], quick=True)) == 1
    with pytest.raises(CannotRun, match=r"did you mean CBPAdam\?"):
        selection.select_workloads(["CPBAdam"], quick=True)


def test_a_workloads_results_contain_ratios_replacements_and_reasons():
    def broken(workload):
        raise RuntimeError("no compiler\nat all")

    part = WorkloadPlan(
        TINY,
        [
            Variant("SGD", lambda w: loop(w, _sgd)),
            Variant("ours", lambda w: loop(w, _sgd, lambda net, opt: gnt.GnT(net, opt, maturity_threshold=3))),
            Variant("broken", broken),
        ],
        [Ratio("ours", "SGD", 1.15), Ratio("broken", "SGD", None)],
        {"absent": "not installed"},
    )
    shown = []
    found = measurement.measure_one(part, MOMENT, LoadMonitor(), lambda share, what: shown.append(share))
    asleep = WorkloadPlan(
        TINY,
        [Variant("SGD", lambda w: loop(w, _sgd)), Variant("slept", lambda w: StepRunner(lambda: time.sleep(0.001)))],
        [Ratio("slept", "SGD", None)],
    )
    by_cpu = measurement.measure_one(asleep, replace(MOMENT, clock="cpu"), LoadMonitor(), lambda share, what: None)
    assert by_cpu["entrants"]["slept"]["seconds"] < 0.001  # waiting takes no processor time
    assert found["left_out"] == {"absent": "not installed", "broken": "failed: RuntimeError: no compiler"}
    (figure,) = found["figures"]
    assert (figure["entrant"], figure["against"], figure["target"]) == ("ours", "SGD", 1.15)
    assert 0 < figure["low"] <= figure["ratio"] <= figure["high"]
    assert found["rounds"] == 2
    assert found["entrants"]["SGD"]["replaced"] is None
    assert found["entrants"]["ours"]["replaced"] > 0  # the timed steps include replacements
    assert found["entrants"]["ours"]["denormals"] == 0.0
    assert found["parameters"] == 4 * 300 + 300 + 300 + 1
    assert shown == sorted(shown)


def test_warm_up_ends_with_mature_units_and_a_replacement():
    workload = Workload(
        "small", (4, 5, 5, 1), 2, "mse", maturity=3
    )  # without warm-up, the first replacement is due after 2,000 steps
    runner = loop(workload, lambda net: gnt.optim.CBPAdam(net, maturity_threshold=3))
    timing.warm_up(runner, workload)
    assert runner.replaced == 2
    assert all(group.state.eligible >= 4 for group in runner.engine.groups)


def _sgd(net):
    return torch.optim.SGD(net.parameters(), lr=1e-6)


def test_a_ratio_is_the_median_of_the_ratios_of_rounds():
    # the machine was ten times slower in the last round, for both
    timed = Timings(5, {"a": [1.1, 1.2, 13.0], "b": [1.0, 1.0, 10.0]}, {})
    assert timed.ratio("a", "b") == pytest.approx({"ratio": 1.2, "low": 1.15, "high": 1.25})


def test_members_trained_one_after_another_count_separately():
    workload = next(one for one in WORKLOADS if one.members == 30)
    alone = next(one for one in variants_of(workload) if "one after another" in one.name)
    assert alone.build(workload).share == 30


def test_shared_memory_is_counted_once():
    whole = torch.zeros(10)
    assert memory.held_bytes([whole[:5], whole[5:], torch.zeros(3, dtype=torch.int64)]) == 40 + 24


def test_tensors_of_the_engine_exclude_those_of_the_network():
    net = fresh_net((4, 8, 2))
    engine = gnt.GnT(net, torch.optim.Adam(net.parameters()))
    net(torch.randn(3, 4)).sum().backward()
    engine.optimizer.step()
    engine.step()
    found = list(memory.engine_tensors(StepRunner(engine.step, [net], engine.optimizer, engine)))
    owned = {tensor.untyped_storage().data_ptr() for tensor in found}
    assert engine.groups[0].state.utility.untyped_storage().data_ptr() in owned
    assert not owned & {param.untyped_storage().data_ptr() for param in net.parameters()}


def record(**ratios):
    return {
        "settings": {"only": [], "quick": False},
        "workloads": [
            {
                "name": "w",
                "rounds": 16,
                "figures": [
                    {
                        "entrant": name,
                        "against": "SGD",
                        "ratio": r,
                        "low": r - spread,
                        "high": r + spread,
                        "target": 1.2,
                    }
                    for name, (r, spread) in ratios.items()
                ],
            }
        ],
    }


def test_changes_within_noise_count_as_unchanged():
    old = record(same=(1.5, 0.01), noisy=(1.5, 0.3), quick=(1.5, 0.01), slow=(1.5, 0.01), gone=(1.0, 0.0))
    new = record(same=(1.52, 0.01), noisy=(1.6, 0.3), quick=(1.2, 0.01), slow=(1.6, 0.01), fresh=(1.0, 0.0))
    changes = {row["name"][1]: row["change"] for row in compare.changes(old, new)}
    assert changes == {
        "same": "unchanged",
        "noisy": "unchanged",
        "quick": "faster",
        "slow": "slower",
        "gone": "gone",
        "fresh": "new",
    }
    new["settings"]["only"] = ["w"]  # a selection: missing comparisons are not gone
    assert "gone" not in {row["change"] for row in compare.changes(old, new)}
    one = {"ratio": 1.5, "low": 1.2, "high": 1.8, "rounds": 16}
    assert compare.noise(one, one) == pytest.approx(3 * math.sqrt(2) * 1.25 * 0.6 / 1.35 / 4)
    assert compare.noise({**one, "low": 1.5, "high": 1.5}, {**one, "low": 1.5, "high": 1.5}) == pytest.approx(0.03)


def test_targets_are_met_up_to_equality():
    assert [table.is_met({"ratio": r, "target": 1.2}) for r in (1.19, 1.2, 1.21)] == [True, True, False]
    assert table.is_met({"ratio": 5.0, "target": None}) is None
