"""The remedies under DistributedDataParallel: every rank does what one process with the joined batch does."""

from __future__ import annotations

import torch

from tests.distributed.launch import torchrun


def test_the_remedies_are_those_of_one_process_with_the_joined_batch(tmp_path):
    first, second = torchrun("remedy_scenarios.together", tmp_path)
    assert torch.equal(first["params"], second["params"])
    for rank in (first, second):
        assert [together for together, _ in rank["chosen"]] == [alone for _, alone in rank["chosen"]]
        torch.testing.assert_close(rank["params"], rank["alone"], rtol=0, atol=1e-9)
    assert sum(len(units) for step, _ in first["chosen"] for units in step) > 20
