"""DistributedDataParallel: every rank replaces the units, with the new weights, that the global batch determines."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.launch import run_ranks


@pytest.mark.parametrize(
    ("ranks", "utility", "optimizer"), [(2, "contribution", "adam_gnt"), (3, "adaptable_contribution", "sgd")]
)
def test_ranks_have_equal_parameters_after_many_replacements(tmp_path, ranks, utility, optimizer):
    first, *others = run_ranks("ddp_scenarios.many_steps", tmp_path, utility, optimizer, ranks=ranks)
    assert min(first["replaced"]) > 50
    for other in others:
        assert other["replaced"] == first["replaced"]
        assert torch.equal(other["params"], first["params"])
        assert torch.equal(other["optimizer_state"], first["optimizer_state"])


@pytest.fixture(scope="module")
def global_batch(tmp_path_factory):
    """Results of two and of three ranks with the global batch; of the three, also of a process group of two."""
    two = run_ranks(
        "ddp_scenarios.global_batch",
        tmp_path_factory.mktemp("two"),
        "contribution:conv",
        "zero_contribution:conv",
        *("replacement_cost:conv", "gradient_activation:mlp", "gradient:mlp"),
    )
    three = "ddp_scenarios.global_batch+subgroup", tmp_path_factory.mktemp("three"), "adaptable_contribution:mlp"
    return {"two": {"global_batch": two}, "three": run_ranks(*three, ranks=3)}


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_replaced_units_equal_those_of_one_process_with_the_global_batch(global_batch, ranks):
    for rank in global_batch[ranks]["global_batch"]:
        for case in rank:
            replaced_units = [distributed for distributed, _ in case["replaced_units"]]
            assert replaced_units == [single for _, single in case["replaced_units"]]
            assert sum(len(units) for step in replaced_units for units in step) > 20
            torch.testing.assert_close(case["params"], case["single_params"], rtol=0, atol=1e-9)
            assert case["max_difference"]["age"] == 0
            assert max(case["max_difference"].values()) < 1e-9


def test_a_process_group_of_some_ranks_is_independent_of_the_others(global_batch):
    first, other, second = global_batch["three"]["subgroup"]
    assert first["updates"] == second["updates"] == 30
    assert other["updates"] == 20
    assert first["replaced"] == second["replaced"] > 5
    assert torch.equal(first["params"], second["params"])
    assert not torch.equal(first["params"], other["params"])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two ranks in all short scenarios, which share one launch."""
    scenarios = "layers+accumulated+cost+different+uneven+not_finite+independent"
    return run_ranks(f"ddp_scenarios.{scenarios}", tmp_path_factory.mktemp("results"))


def test_layers_share_one_collective(results):
    first, second = results["layers"]
    assert min(first["replaced"]) > 10
    assert first["replaced"] == second["replaced"]
    assert torch.equal(first["params"], second["params"])
    assert first["collectives"] == 1


def test_training_resumes_from_a_checkpoint_after_a_rank_is_killed(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    run_ranks("ddp_scenarios.killed", killed, 70, dies=True)
    resumed = run_ranks("ddp_scenarios.killed", killed, -1)
    uninterrupted = run_ranks("ddp_scenarios.killed", whole, -1)
    for actual, expected in zip(resumed, uninterrupted, strict=True):
        assert (actual["start"], expected["start"]) == (60, 0)
        assert actual["replaced"] == expected["replaced"]
        assert min(actual["replaced"]) > 5
        assert torch.equal(actual["params"], expected["params"])


# convnet has 6 + 8 channels, the 8 read at 4 positions each, and 12 units; 3 taps; float64
@pytest.mark.parametrize(
    ("utility", "sizes"),
    [
        ("contribution", [8 * (2 * (6 + 8 * 4 + 12) + 3)]),
        ("weight", [8 * (6 + 8 * 4 + 12 + 3)]),
        ("adaptable_contribution", [8 * (6 + 8 * 4 + 12 + 3)] * 2),
    ],
)
def test_a_step_costs_the_documented_collectives_and_bytes(results, utility, sizes):
    for steps in (rank[utility] for rank in results["cost"]):
        assert sum(replaced for _, replaced in steps) > 3
        first, *rest = [collectives for collectives, _ in steps]
        assert first[-len(sizes) :] == sizes  # the first step also compares the ranks
        assert rest == [sizes] * len(rest)  # with replacements and without


@pytest.mark.parametrize(
    "what", ["groups", "settings", "activations", "ages", "loaded ages", "networks", "protected units"]
)
def test_differences_between_ranks_raise_the_same_error_on_all(results, what):
    first, second = (rank[what] for rank in results["different"])
    assert first == second
    named = {"activations": "settings", "loaded ages": "ages"}.get(what, what)
    assert first.startswith(f"the {named} of the engine's ranks differ from those of rank 0 on rank 1")
    assert {"networks": "process_group=False", "groups": "12 units", "activations": "activation='tanh'"}.get(
        what, ""
    ) in first


@pytest.mark.parametrize("mode", ["each time", "once", "in buckets", "built early"])
def test_micro_batches_are_one_update(results, mode):
    for result in (rank[mode] for rank in results["accumulated"]):
        assert all(result["same"])
        assert result["updates"] == 60
        assert min(result["replaced"]) > 3


def test_ranks_are_weighted_by_their_samples(results):
    for result in results["uneven"]:
        torch.testing.assert_close(result["means"], result["expected"], rtol=0, atol=1e-12)
        assert result["updates"] == 2


def test_a_nan_on_one_rank_raises_on_all_and_changes_nothing(results):
    first, second = results["not_finite"]
    assert first["message"] == second["message"]
    assert first["message"].startswith("features or weights of group '0' are not finite")
    assert first["message"].endswith("(step 9)")
    for result in (first, second):
        assert result["unchanged"]
        assert result["updates"] == 11
    assert torch.equal(first["params"], second["params"])


def test_independent_processes_do_not_communicate(results):
    first, second = results["independent"]
    assert (first["updates"], second["updates"]) == (20, 40)
    assert first["collectives"] == second["collectives"] == 0
    assert not torch.equal(first["params"], second["params"])
