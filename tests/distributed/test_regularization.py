"""Regularization methods and ReDo under DistributedDataParallel: each rank equals one process with the whole batch."""

from __future__ import annotations

import torch

import gnt
from tests.distributed.launch import run_ranks


def test_methods_equal_those_of_one_process_with_the_whole_batch(tmp_path):
    first, second = run_ranks("regularization_scenarios.train_with_all_methods", tmp_path)
    assert torch.equal(first["params"], second["params"])
    for rank in (first, second):
        assert [together for together, _ in rank["replaced_units"]] == [single for _, single in rank["replaced_units"]]
        torch.testing.assert_close(rank["params"], rank["single"], rtol=0, atol=1e-9)
    assert sum(len(units) for step, _ in first["replaced_units"] for units in step) > 20


def test_importances_are_means_over_the_samples_of_all_ranks(tmp_path):
    first, second = run_ranks("regularization_scenarios.consolidate_on_parts", tmp_path)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).double()
    net.load_state_dict(first["net"])
    for number, single in enumerate((gnt.EWC(net, 1.0), gnt.MAS(net, 1.0))):
        single.consolidate(net, first["x"])
        for rank in (first, second):
            for mine, p in zip(rank["found"][number]["importance"], net.parameters(), strict=True):
                torch.testing.assert_close(mine, single.importance(p), rtol=1e-10, atol=1e-14)
        assert "at least one sample" in first["found"][number]["message"]
        assert "failed in another process" in second["found"][number]["message"]
