"""DistributedDataParallel: the same units and the same fresh weights on every rank, those of the joined batch."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.launch import torchrun


@pytest.mark.parametrize(
    ("ranks", "utility", "optimizer"), [(2, "contribution", "adam_gnt"), (3, "adaptable_contribution", "sgd")]
)
def test_parameters_are_bit_equal_after_a_thousand_steps(tmp_path, ranks, utility, optimizer):
    first, *others = torchrun("ddp_scenarios.thousand_steps", tmp_path, utility, optimizer, ranks=ranks)
    assert min(first["replaced"]) > 50
    for other in others:
        assert other["replaced"] == first["replaced"]
        assert torch.equal(other["params"], first["params"])
        assert torch.equal(other["memory"], first["memory"])


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """What the ranks saw beside one process with the joined batch, and of three what two saw without the third."""
    two = torchrun(
        "ddp_scenarios.joined", tmp_path_factory.mktemp("two"), "contribution:conv", "zero_contribution:conv"
    )
    three = "ddp_scenarios.joined+some", tmp_path_factory.mktemp("three"), "adaptable_contribution:mlp"
    return {"two": {"joined": two}, "three": torchrun(*three, ranks=3)}


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_the_choices_are_those_of_one_process_with_the_joined_batch(joined, ranks):
    for rank in joined[ranks]["joined"]:
        for seen in rank:
            chosen = [together for together, _ in seen["chosen"]]
            assert chosen == [alone for _, alone in seen["chosen"]]
            assert sum(len(units) for step in chosen for units in step) > 20
            torch.testing.assert_close(seen["params"], seen["alone"], rtol=0, atol=1e-9)
            assert seen["worst"]["age"] == 0
            assert max(seen["worst"].values()) < 1e-9


def test_some_of_the_processes_act_as_one_without_the_others(joined):
    first, other, second = joined["three"]["some"]
    assert first["updates"] == second["updates"] == 30
    assert other["updates"] == 20
    assert first["replaced"] == second["replaced"] > 5
    assert torch.equal(first["params"], second["params"])
    assert not torch.equal(first["params"], other["params"])


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """What two ranks saw in all the short scenarios, one after the other."""
    scenarios = "layers+accumulated+cost+different+uneven+not_finite+alone"
    return torchrun(f"ddp_scenarios.{scenarios}", tmp_path_factory.mktemp("reports"))


def test_layers_act_together_in_one_exchange(reports):
    first, second = reports["layers"]
    assert min(first["replaced"]) > 10
    assert first["replaced"] == second["replaced"]
    assert torch.equal(first["params"], second["params"])
    assert first["exchanges"] == 1


def test_a_killed_rank_goes_on_in_step_from_the_checkpoint(tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    torchrun("ddp_scenarios.killed", killed, 70, dies=True)
    after = torchrun("ddp_scenarios.killed", killed, -1)
    without = torchrun("ddp_scenarios.killed", whole, -1)
    for mine, theirs in zip(after, without, strict=True):
        assert (mine["start"], theirs["start"]) == (60, 0)
        assert mine["replaced"] == theirs["replaced"]
        assert min(mine["replaced"]) > 5
        assert torch.equal(mine["params"], theirs["params"])


# convnet: 6 + 8 channels, the second read at 4 positions each, and 12 units; taps: 3; float64
@pytest.mark.parametrize(
    ("utility", "sizes"),
    [
        ("contribution", [8 * (2 * (6 + 8 * 4 + 12) + 3)]),
        ("weight", [8 * (6 + 8 * 4 + 12 + 3)]),
        ("adaptable_contribution", [8 * (6 + 8 * 4 + 12 + 3)] * 2),
    ],
)
def test_a_step_costs_the_collectives_and_bytes_that_are_documented(reports, utility, sizes):
    for steps in (rank[utility] for rank in reports["cost"]):
        assert sum(replaced for _, replaced in steps) > 3
        joining, *rest = [seen for seen, _ in steps]
        assert joining[-len(sizes) :] == sizes  # the first step also compares the ranks
        assert rest == [sizes] * len(rest)  # with replacements and without


@pytest.mark.parametrize("what", ["groups", "settings", "ages", "loaded ages", "networks"])
def test_ranks_that_differ_are_told_on_all_of_them(reports, what):
    first, second = (rank[what] for rank in reports["different"])
    assert first == second
    assert first.startswith(f"the {what.split()[-1]} of the engine's ranks differ from those of rank 0 on rank 1")
    assert {"networks": "process_group=False", "groups": "12 units"}.get(what, "") in first


@pytest.mark.parametrize("way", ["each time", "once", "in buckets", "built early"])
def test_micro_batches_are_one_update(reports, way):
    for seen in (rank[way] for rank in reports["accumulated"]):
        assert all(seen["same"])
        assert seen["updates"] == 60
        assert min(seen["replaced"]) > 3


def test_samples_count_not_ranks(reports):
    for seen in reports["uneven"]:
        torch.testing.assert_close(seen["found"], seen["wanted"], rtol=0, atol=1e-12)
        assert seen["updates"] == 2


def test_a_nan_on_one_rank_is_told_on_all_and_changes_nothing(reports):
    first, second = reports["not_finite"]
    assert first["told"] == second["told"]
    assert first["told"].startswith("features or weights of group '0' are not finite")
    assert first["told"].endswith("(step 9)")
    for seen in (first, second):
        assert seen["same"]
        assert seen["updates"] == 11
    assert torch.equal(first["params"], second["params"])


def test_processes_on_their_own_exchange_nothing(reports):
    first, second = reports["alone"]
    assert (first["updates"], second["updates"]) == (20, 40)
    assert first["exchanges"] == second["exchanges"] == 0
    assert not torch.equal(first["params"], second["params"])
