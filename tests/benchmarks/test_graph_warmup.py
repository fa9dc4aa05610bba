"""GraphWarmup of steps: a learner that takes them up goes by its graphs at once, wherever its batches lie."""

import torch

from benchmarks.graph_warmup import GraphWarmup


class Seen:
    """A learner that remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, ...]] = []

    def learn(self, *batch: torch.Tensor) -> None:
        self.batches.append(batch)


def test_two_steps_of_each_kind_as_they_were() -> None:
    wide = torch.randn(3, 250, 20)
    kinds = [
        (wide[:, :1], torch.zeros(3, 1, dtype=torch.int64)),
        (wide[:, :2], torch.zeros(3, 2, dtype=torch.int64)),
        (torch.randn(1, 20, dtype=torch.float64).expand(3, 20), torch.randn(3, 1).t()),
    ]
    old = GraphWarmup()
    for batch in [*kinds, kinds[0]]:
        old.record(*batch)
    new, learner = GraphWarmup(), Seen()
    before = torch.get_rng_state()
    new.warm_up(learner, old.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert new.state_dict() == old.state_dict()
    assert len(learner.batches) == 2 * len(kinds)
    for number, batch in enumerate(learner.batches):
        for made, then in zip(batch, kinds[number // 2], strict=True):
            assert (made.shape, made.stride(), made.dtype) == (then.shape, then.stride(), then.dtype)
            assert made.isfinite().all()
            assert made.any() == then.dtype.is_floating_point
