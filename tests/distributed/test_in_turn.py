"""Groups and taps that have features on some ranks only, or on none: each rank equals one process with all batches."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.in_turn_scenarios import schedule
from tests.distributed.launch import run_ranks


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_ranks("in_turn_scenarios.in_turn", tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("how", ["ddp", "averaged by hand", "measured in every third update"])
def test_ranks_that_run_different_layers_equal_one_process(results, how):
    first, second = (rank[how] for rank in results)
    assert torch.equal(first["params"], second["params"])
    assert torch.equal(first["generator"], second["generator"])
    for rank in (first, second):
        replaced = [distributed for distributed, _ in rank["replaced_units"]]
        assert replaced == [single for _, single in rank["replaced_units"]]
        assert min(sum(len(step[group]) for step in replaced) for group in range(3)) > 5
        torch.testing.assert_close(rank["params"], rank["single_params"], rtol=0, atol=1e-9)
        torch.testing.assert_close(*rank["states"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", ["ddp", "averaged by hand", "measured in every third update"])
def test_a_group_counts_the_steps_in_which_any_rank_ran_a_layer_that_reads_it(results, how):
    steps = schedule(100, 2, may_rest=how != "ddp")
    ran = [{task for tasks in step for task in tasks or ()} for step in steps]
    expected = [sum(map(bool, ran)), *(sum(task in tasks for tasks in ran) for task in (0, 1))]
    for rank in results:
        for states in rank[how]["states"]:
            assert [state["updates"] for state in states] == expected
    assert (expected[0] < 101) == (how != "ddp")
    assert 100 > max(expected[1:]) > 20
