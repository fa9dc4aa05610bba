"""FSDP2, tensor parallel plans and both together: what a sharded run replaces is what the whole one does."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.launch import torchrun


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (
            2,
            [
                "fsdp:adam_gnt:adaptable_contribution:mlp",
                "fsdp:adam:contribution:conv",
                "fsdp:adam_gnt:adaptable_contribution:transposed",
                "hybrid:adam_gnt:contribution:mlp",
            ],
        ),
        (
            2,
            [
                "tensor:adam_gnt:adaptable_contribution:mlp",
                "copies:adam_gnt:adaptable_contribution:mlp",
                "loose:adam_gnt:adaptable_contribution:odd",
            ],
        ),
        (3, ["fsdp:sgd:contribution:conv", "tensor:sgd:contribution:mlp"]),  # 8 channels on 3 ranks: uneven parts
        (4, ["both:adam_gnt:adaptable_contribution:mlp"]),
    ],
)
def test_a_sharded_run_is_the_whole_one(tmp_path, ranks, cases):
    for rank in torchrun("dtensor_scenarios.compared", tmp_path, *cases, ranks=ranks):
        for seen in rank:
            chosen = [sharded for sharded, _ in seen["chosen"]]
            assert chosen == [alone for _, alone in seen["chosen"]]
            assert sum(len(units) for step in chosen for units in step) > 20
            torch.testing.assert_close(seen["params"], seen["alone"], rtol=0, atol=1e-9)
            torch.testing.assert_close(*seen["utility"], rtol=1e-6, atol=1e-9)
            assert "DTensor" in seen["kinds"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What two ranks saw in the short scenarios."""
    return torchrun("dtensor_scenarios.accumulated+refused", tmp_path_factory.mktemp("reports"))


def test_shards_that_cannot_be_watched_are_refused_on_all_ranks(reports):
    for grouped, alone in reports["refused"]:
        assert grouped == "'2' reads the units in 2 groups: its weight cannot be sharded; after 0 updates"
        assert alone.startswith("0.weight lies in shards on 2 processes, and the engine has 1 of them")
        assert alone.endswith("after 0 updates")


def test_micro_batches_of_a_sharded_network_are_one_update(reports):
    for seen in reports["accumulated"]:
        assert all(seen["same"])
        assert seen["updates"] == 60
        assert min(seen["replaced"]) > 3
        # 24 + 18 + 12 units of one position each, 3 taps; sharded weights: one more of each for in and out; float64
        assert seen["exchanges"] == [8 * (54 + 54 + 54 + 3), 8 * (54 + 3)]


@pytest.mark.parametrize(
    ("plan", "optimizer", "worlds"),
    [("fsdp", "adam_gnt", {2: "fsdp", 3: "fsdp", 1: "whole"}), ("tensor", "sgd", {3: "tensor"})],
)
def test_a_distributed_checkpoint_goes_on_at_another_world_size(tmp_path, plan, optimizer, worlds):
    whole, *_ = torchrun("dtensor_scenarios.life", tmp_path, plan, optimizer, 0, 60, ranks=2)
    assert min(whole["replaced"]) > 5
    for ranks, other in worlds.items():
        for seen in torchrun("dtensor_scenarios.life", tmp_path, other, optimizer, 30, 60, ranks=ranks):
            assert seen["replaced"] == whole["replaced"]
            assert all(torch.equal(a, b) for a, b in zip(seen["ages"], whole["ages"], strict=True))
            torch.testing.assert_close(seen["params"], whole["params"], rtol=0, atol=1e-9)
            assert torch.equal(seen["params"], whole["params"]) or ranks != 2
