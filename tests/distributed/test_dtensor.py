"""FSDP2, tensor parallelism and both together: a sharded run replaces the units that a single process replaces."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.launch import run_ranks


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (
            2,
            [
                "fsdp:adam_gnt:adaptable_contribution:mlp",
                "fsdp:adam:replacement_cost:conv:top",
                "fsdp:sgd:gradient_activation:mlp",
                "tensor_parallel:sgd:gradient:mlp:top",
                "fsdp:adam_gnt:adaptable_contribution:transposed",
                "hybrid:adam_gnt:contribution:mlp:top",
                "tensor_parallel:adam_gnt:adaptable_contribution:mlp",
                "copies:adam_gnt:adaptable_contribution:mlp",
                "dtensor_features:adam_gnt:adaptable_contribution:odd_widths",
            ],
        ),
        (
            3,
            ["fsdp:sgd:contribution:conv:top", "tensor_parallel:sgd:contribution:mlp"],
        ),  # 8 channels on 3 ranks: uneven shards
        (4, ["both:adam_gnt:adaptable_contribution:mlp"]),
    ],
)
def test_a_sharded_run_equals_a_single_process(tmp_path, ranks, cases):
    for rank in run_ranks("dtensor_scenarios.sharded", tmp_path, *cases, ranks=ranks):
        for case in rank:
            replaced_units = [sharded for sharded, _ in case["replaced_units"]]
            assert replaced_units == [single for _, single in case["replaced_units"]]
            assert sum(len(units) for step in replaced_units for units in step) > 10
            torch.testing.assert_close(case["params"], case["single_params"], rtol=0, atol=1e-9)
            assert case["held"][0] == case["held"][1]
            torch.testing.assert_close(*case["utility"], rtol=1e-6, atol=1e-9)
            assert "DTensor" in case["kinds"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of two ranks in the short scenarios, which share one launch."""
    return run_ranks("dtensor_scenarios.accumulated+refused+methods", tmp_path_factory.mktemp("results"))


def test_methods_act_on_shards_or_refuse_them(results):
    for (perturb, penalty), exact in results["methods"]:
        assert perturb.startswith(
            "ShrinkAndPerturb cannot draw noise for weights that are sharded over processes: 0.we"
        )
        assert penalty.startswith("L2.penalty() takes no parameters that are sharded over processes: call backward()")
        assert exact


def test_unsupported_shards_are_refused_on_all_ranks(results):
    for grouped, no_group, sharded_features in results["refused"]:
        assert grouped == "'2' reads the units in 2 groups: its weight cannot be sharded; after 0 updates"
        assert no_group.startswith("0.weight lies in shards on 2 processes, and the engine has 1 of them")
        assert no_group.endswith("after 0 updates")
        assert sharded_features.startswith("the features of group '0' are sharded (DTensor), and gradients of")
        assert sharded_features.endswith("after 0 updates")


def test_micro_batches_of_a_sharded_network_are_one_update(results):
    for result in results["accumulated"]:
        assert all(result["same"])
        assert result["updates"] == 60
        assert min(result["replaced"]) > 3
        # float64; 24 + 18 + 12 units of one position each, 3 taps, and for sharded incoming and outgoing weights one
        # more number for each unit
        assert result["sizes"] == [8 * (54 + 54 + 54 + 3), 8 * (54 + 3)]


@pytest.mark.parametrize(
    ("plan", "optimizer", "worlds"),
    [
        ("fsdp", "adam_gnt", {2: "fsdp", 1: "not sharded"}),
        ("tensor_parallel", "sgd", {3: "tensor_parallel"}),
    ],
)
def test_training_resumes_from_a_distributed_checkpoint_at_another_world_size(tmp_path, plan, optimizer, worlds):
    scenario = "dtensor_scenarios.checkpointed"
    uninterrupted, *_ = run_ranks(scenario, tmp_path, plan, optimizer, 0, 60, ranks=2)
    assert min(uninterrupted["replaced"]) > 5
    for ranks, other_plan in worlds.items():
        for resumed in run_ranks(scenario, tmp_path, other_plan, optimizer, 30, 60, ranks=ranks):
            assert resumed["replaced"] == uninterrupted["replaced"]
            assert all(torch.equal(a, b) for a, b in zip(resumed["ages"], uninterrupted["ages"], strict=True))
            torch.testing.assert_close(resumed["params"], uninterrupted["params"], rtol=0, atol=1e-9)
            assert torch.equal(resumed["params"], uninterrupted["params"]) or ranks != 2
