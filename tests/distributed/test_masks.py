"""Task masks beside DistributedDataParallel: one embedding, and the mean of its gradients over the processes."""

from __future__ import annotations

import pytest
import torch

from tests.distributed.launch import run_ranks


@pytest.mark.parametrize("way", ["before", "closure", "named closure"])
def test_masks_of_several_processes_equal_those_of_one_with_all_samples(tmp_path, way):
    one, other = run_ranks("mask_scenarios.learn_masks", tmp_path, way)
    assert torch.equal(one["net"], other["net"])
    assert torch.equal(one["masks"], other["masks"])
    torch.testing.assert_close(one["net"], one["single"], rtol=0, atol=1e-9)
    assert torch.equal(one["masks"], one["single masks"])
    assert one["masks"].any()
