"""Regularization methods and ReDo under DistributedDataParallel: each rank equals one process with the whole batch."""

from __future__ import annotations

import pytest
import torch

import gnt
from tests.distributed.launch import run_ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the scenarios return on two ranks, by name: started once, as starting is most of the time."""
    names = [
        *("train_with_all_methods", "consolidate_on_parts", "learn_tasks_with_packnet", "learn_tasks_with_fg_ada_hat"),
        "replace_after_a_change_of_generators",
    ]
    return run_ranks(f"regularization_scenarios.{'+'.join(names)}", tmp_path_factory.mktemp("ranks"))


def test_methods_equal_those_of_one_process_with_the_whole_batch(results):
    first, second = results["train_with_all_methods"]
    assert torch.equal(first["params"], second["params"])
    for rank in (first, second):
        assert [together for together, _ in rank["replaced_units"]] == [single for _, single in rank["replaced_units"]]
        torch.testing.assert_close(rank["params"], rank["single"], rtol=0, atol=1e-9)
    assert sum(len(units) for step, _ in first["replaced_units"] for units in step) > 20


def test_importances_are_means_over_the_samples_of_all_ranks(results):
    first, second = results["consolidate_on_parts"]
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).double()
    net.load_state_dict(first["net"])
    for number, single in enumerate((gnt.EWC(net, 1.0), gnt.MAS(net, 1.0))):
        single.consolidate(net, first["x"])
        for rank in (first, second):
            for mine, p in zip(rank["found"][number]["importance"], net.parameters(), strict=True):
                torch.testing.assert_close(mine, single.importance(p), rtol=1e-10, atol=1e-14)
        assert "at least one sample" in first["found"][number]["message"]
        assert "failed in another process" in second["found"][number]["message"]


def test_importances_and_checks_of_one_process_wait_for_no_other(results):
    first, second = results["consolidate_on_parts"]
    assert (first["tasks"], second["tasks"]) == (1, 0)
    assert first["check"] == "error"


def test_a_new_generator_is_that_of_the_first_process(results):
    first, second = results["replace_after_a_change_of_generators"]
    assert torch.equal(first["net"], second["net"])
    assert first["replaced"] == second["replaced"] > 10


def test_packnet_fixes_the_same_weights_on_all_ranks_as_one_process_with_the_whole_batch(results):
    first, second = results["learn_tasks_with_packnet"]
    assert torch.equal(first["net"], second["net"])
    for rank in (first, second):
        torch.testing.assert_close(rank["net"], rank["single"], rtol=0, atol=1e-9)
        assert rank["owned"] == rank["owned_single"] == first["owned"]
        assert all(torch.equal(a, b) for a, b in zip(rank["owners"], first["owners"], strict=True))
        assert all(each.equal(rank["outputs"][0]) for each in rank["outputs"])
        assert all(counts[2] > 0 for counts in rank["owned"].values())


def test_importances_of_units_are_those_of_one_process_with_the_whole_batch(results):
    first, second = results["learn_tasks_with_fg_ada_hat"]
    for importance, (together, single) in first.items():
        torch.testing.assert_close(together, single, rtol=0, atol=1e-9)
        assert torch.equal(together, second[importance][0])
