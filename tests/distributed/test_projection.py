"""A-GEM and GEM under DistributedDataParallel: reference gradients are means over the items of all processes."""

from __future__ import annotations

import torch

from tests.distributed.launch import run_ranks


def test_projected_gradients_equal_those_of_one_process_with_all_items(tmp_path):
    first, second = run_ranks("projection_scenarios.project_gradients", tmp_path)
    for one, other in zip(first, second, strict=True):
        assert one["changed"] > 2
        assert torch.equal(one["net"], other["net"])
        torch.testing.assert_close(one["net"], one["single"], rtol=0, atol=1e-9)
