"""Warm-up of compiled learners with the recorded batch layouts."""

import torch

from benchmarks.graph_warmup import GraphWarmup


class RecordingLearner:
    """A learner that stores its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def learn(self, *batch: torch.Tensor) -> None:
        self.batches.append(batch)


def test_warm_up_takes_two_steps_with_each_layout() -> None:
    wide = torch.randn(3, 250, 20)
    layouts = [
        (wide[:, :1], torch.zeros(3, 1, dtype=torch.int64)),
        (wide[:, :2], torch.zeros(3, 2, dtype=torch.int64)),
        (torch.randn(1, 20, dtype=torch.float64).expand(3, 20), torch.randn(3, 1).t()),
    ]
    old = GraphWarmup()
    for batch in [*layouts, layouts[0]]:
        old.record(*batch)
    new, learner = GraphWarmup(), RecordingLearner()
    before = torch.get_rng_state()
    new.warm_up(learner, old.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert new.state_dict() == old.state_dict()
    assert len(learner.batches) == 2 * len(layouts)
    for number, batch in enumerate(learner.batches):
        for made, then in zip(batch, layouts[number // 2], strict=True):
            assert (made.shape, made.stride(), made.dtype) == (then.shape, then.stride(), then.dtype)
            assert made.isfinite().all()
            assert made.any() == then.dtype.is_floating_point
