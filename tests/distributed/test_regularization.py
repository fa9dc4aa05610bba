"""Regularization methods and ReDo under DistributedDataParallel: each rank equals one process with the whole batch."""

from __future__ import annotations

import torch

from tests.distributed.launch import run_ranks


def test_methods_equal_those_of_one_process_with_the_whole_batch(tmp_path):
    first, second = run_ranks("regularization_scenarios.train_with_all_methods", tmp_path)
    assert torch.equal(first["params"], second["params"])
    for rank in (first, second):
        assert [together for together, _ in rank["replaced_units"]] == [single for _, single in rank["replaced_units"]]
        torch.testing.assert_close(rank["params"], rank["single"], rtol=0, atol=1e-9)
    assert sum(len(units) for step, _ in first["replaced_units"] for units in step) > 20
