"""Steps, the fixed batch, and saved states of `Probe`."""

from __future__ import annotations

import torch
from torch import nn

from gnt.metrics import Probe
from tests.helpers.small_runs import batch, make_run, mlp, train
from tests.metrics.probe_cases import inputs


def test_every_third_step_is_measured():
    net = mlp()
    probe = Probe(net, net, inputs(), every=3, prefix="probe/")
    due = [bool(probe.step()) for _ in range(7)]
    assert due == [False, False, True, False, False, True, False]
    assert probe.steps == 7
    assert all(name.startswith("probe/") for name in probe.measure())
    assert probe.steps == 7


def test_a_probe_resumes_from_a_saved_state(tmp_path):
    def values(resume_at: int | None) -> list[dict[str, float]]:
        net, optimizer, engine = make_run(mlp())
        x, y = batch(7, n=20)
        probe = Probe(net, engine, x, y=y, every=2, update=True)
        measured = []
        for t in range(7):
            train(net, optimizer, engine, range(t, t + 1))
            measured.append(probe.step())
            if t == resume_at:
                torch.save(probe.state_dict(), tmp_path / "probe.pt")
                probe = Probe(net, engine, x, y=y, every=2, update=True)
                probe.load_state_dict(torch.load(tmp_path / "probe.pt", weights_only=True))
        return measured

    whole = values(None)
    assert [bool(each) for each in whole] == [False, True] * 3 + [False]
    assert len({each["update_size"] for each in whole if each}) == 3
    for t in range(7):
        assert values(t) == whole


def test_the_batch_is_copied():
    net, x = mlp(), inputs()
    y = torch.randint(2, (32,), generator=torch.Generator().manual_seed(0))
    probe = Probe(net, net, x, y=y)
    before = probe.measure()
    x.zero_()
    y.zero_()
    assert probe.measure() == before


def test_tensors_inside_of_the_arguments_are_copied():
    class Stateful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, state):
            return self.net(x + state[0] + state[1]["more"][0])

    net, x = Stateful(), inputs()
    state = (torch.zeros(32, 4), {"more": [torch.zeros(4)]})
    probe = Probe(net, net.net, (x, state))
    before = probe.measure()
    state[0].fill_(3.0)
    state[1]["more"][0].fill_(3.0)
    assert probe.measure() == before
