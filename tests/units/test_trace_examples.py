"""Tracing with several examples, and with one mode: every forward that may run must be seen, or it is said so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt
from gnt.optim import CBPSGD
from tests.units.tracing.group_checks import assert_complete, reasons, summary

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two hidden layers and two heads; the forward is given and takes the number of the task."""

    def __init__(self, forward, **modules) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleList([nn.Linear(6, 2), nn.Linear(6, 2)])
        for name, module in modules.items():
            setattr(self, name, module)
        self.own_forward = forward

    def forward(self, x: Tensor, task: int = 0) -> Tensor:
        return self.own_forward(self, x, task)


def heads(net, x, task):
    return net.heads[task](F.relu(net.fc2(F.relu(net.fc1(x)))))


BOTH = [(X, 0), (torch.randn(3, 6), 1)]
TWO_NORMS = {"norms": nn.ModuleList([nn.BatchNorm1d(6), nn.BatchNorm1d(6)])}
MASKS = [torch.tensor([1.0, 0, 1, 0, 1, 1]), torch.tensor([0.0, 1, 1, 1, 0, 1])]
# forward, modules, the line of fc2's units, and the taps of their consumers
SOUND = {
    "a head for each task": (heads, {}, "6 relu: fc2 > heads.0 heads.1", [0, 0]),
    "a norm for each task": (
        lambda n, x, t: n.heads[t](F.relu(n.norms[t](n.fc2(F.relu(n.fc1(x)))))), TWO_NORMS,
        "6 relu: fc2 > norms.0 norms.1 > heads.0 heads.1", [0, 1],
    ),
    "a mask for each task": (
        lambda n, x, t: n.heads[t](MASKS[t] * F.relu(n.fc2(F.relu(n.fc1(x))))), {}, "6 relu: fc2 > heads.0 heads.1",
        [0, 1],
    ),
    "a common consumer and a head for each task": (
        lambda n, x, t: (h := F.relu(n.fc2(F.relu(n.fc1(x)))), n.heads[t](h) + n.common(h))[1],
        {"common": nn.Linear(6, 2)}, "6 relu: fc2 > common heads.0 heads.1", [0, 0, 0],
    ),
    "another activation in each task": (
        lambda n, x, t: n.heads[t]((F.relu, torch.tanh)[t](n.fc2(F.relu(n.fc1(x))))), {},
        "6 None: fc2 > heads.0 heads.1", [0, 1],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SOUND)
def test_units_get_the_consumers_and_norms_of_all_examples(case):
    forward, modules, line, taps = SOUND[case]
    net = Net(forward, **modules)
    groups = gnt.trace(net, examples=BOTH)
    (group,) = [group for group in groups if group.name == "fc2"]
    found = {name: [slot.name for slot in slots] for name, slots in (("out", group.outgoing), ("scales", group.scales))}
    expected = line.split(": ")[1].split(" > ")
    assert sorted(found["out"]) == expected[-1].split()
    assert found["scales"] == (expected[1].split() if len(expected) == 3 else [])
    assert (group.activation or (None,))[0] == (None if "None" in line else "relu")
    assert sorted(slot.tap for slot in group.outgoing) == taps
    assert not groups.notes
    for x, task in BOTH:
        used = [g for g in groups if g.name == "fc1"]
        assert_complete(net, used, x, task)
    for _, task in BOTH:  # units with zero columns in all heads do not affect any task
        changed = Net(forward, **modules)
        changed.load_state_dict(net.state_dict())
        for slot in group.outgoing:
            nn.init.zeros_(changed.get_submodule(slot.name).weight)
        before = changed.eval()(X, task)
        nn.init.normal_(changed.fc2.weight)
        assert torch.equal(changed(X, task), before)


def test_units_that_tasks_read_in_part_form_a_group_for_each_set_of_consumers():
    def forward(net, x, task):
        h = F.relu(net.fc2(F.relu(net.fc1(x))))
        return net.part(h[:, 2:]) if task else net.heads[0](h)

    found = summary(gnt.trace(Net(forward, part=nn.Linear(4, 2)), examples=BOTH))
    assert found["fc2[0:2]"] == "2 relu: fc2 > heads.0"
    assert found["fc2[2:6]"] == "4 relu: fc2+2 > heads.0+2 part"


def test_units_that_one_example_does_not_read_are_kept():
    net = Net(lambda n, x, t: (a := F.relu(n.fc1(x)), b := F.relu(n.fc2(x)), n.heads[t]((a, b)[t]))[2])
    groups = gnt.trace(net, examples=BOTH)
    assert summary(groups) == {"fc1": "6 relu: fc1 > heads.0", "fc2": "6 relu: fc2 > heads.1"}
    assert list(reasons(groups)) == ["heads.0", "heads.1"]


UNSOUND = {
    "returned in one task": (
        lambda n, x, t: (h := F.relu(n.fc2(F.relu(n.fc1(x)))), h if t else n.heads[0](h))[1], {},
        "in example 2: output units: they are the model's output",
    ),
    "summed in one task": (
        lambda n, x, t: n.heads[t](F.relu(n.fc2(h := F.relu(n.fc1(x)))) + (h if t else 0)), {},
        "in example 2: its channels",
    ),
    "a head that reads other units in one task": (
        lambda n, x, t: n.heads[0](F.relu((n.fc2, n.other)[t](F.relu(n.fc1(x))))), {"other": nn.Linear(6, 6)},
        "'heads.0' reads them in example 1, and other values in example 2",
    ),
    "a head that reads the input in one task": (
        lambda n, x, t: n.heads[0](x if t else F.relu(n.fc2(F.relu(n.fc1(x))))), {},
        "'heads.0' reads them in example 1, and other values in example 2",
    ),
    "a norm of other values in one task": (
        lambda n, x, t: n.heads[t](F.relu(n.fc2(n.norm(n.fc1(x))) if t else n.norm(n.fc2(F.relu(n.fc1(x)))))),
        {"norm": nn.BatchNorm1d(6)}, "'norm' scales them in example 1, and other values in example 2",
    ),
    "rows joined differently": (
        lambda n, x, t: n.heads[t](n.fc2(F.relu(n.fc1(x))).roll(1, -1) * torch.sigmoid(n.gate(x)) if t
                                   else n.fc2(F.relu(n.fc1(x))) * torch.sigmoid(n.gate(x))),
        {"gate": nn.Linear(6, 6)}, "form different units",
    ),
}  # fmt: skip


@pytest.mark.parametrize("order", [BOTH, [(X, 1), (X, 0)]], ids=["first", "second"])
@pytest.mark.parametrize("case", UNSOUND)
def test_units_that_are_unsound_in_one_example_are_refused_with_its_number(case, order):
    forward, modules, reason = UNSOUND[case]
    net = Net(forward, **modules, more=nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)))
    net.own_forward = lambda n, x, t: (forward(n, x, t), n.more(x))
    groups = gnt.trace(net, examples=order)
    assert not any(name.startswith("fc2") for name in summary(groups))
    assert summary(groups)["more.0"] == "4 relu: more.0 > more.2"
    if order is BOTH:
        assert any(reason in why for name, why in reasons(groups).items() if name.startswith(("fc2", "gate")))


def test_layers_that_no_example_runs_are_noted():
    groups = gnt.trace(Net(heads, unrelated=nn.Linear(3, 3)), X, 0)
    note = "this example does not run heads.1: if another forward reads units there, give an example of it too"
    assert groups.notes[0].startswith(note)
    assert reasons(groups)["heads.1"] == "this forward does not use it"
    net = Net(heads, spare=nn.Linear(6, 2))
    engine = gnt.GnT(gnt.trace(net, examples=BOTH))
    assert engine.notes[0].startswith("no example runs spare: if")
    for text in (repr(engine), str(engine.report()), repr(CBPSGD(net, examples=BOTH))):
        assert f"note: {engine.notes[0]}" in text


def test_the_optimizers_take_several_examples():
    net = Net(heads)
    assert [s.name for s in CBPSGD(net, examples=BOTH).gnt.groups[1].outgoing] == ["heads.0", "heads.1"]
    with pytest.raises(TypeError, match="example_inputs and examples were both given"):
        CBPSGD(net, example_inputs=X, examples=BOTH)
    with pytest.raises(TypeError, match="examples would be ignored: layers already selects"):
        CBPSGD(net, layers=[net.fc1, net.fc2], examples=BOTH)


@pytest.mark.parametrize(
    ("args", "settings", "error", "message"),
    [
        ((X,), {"examples": BOTH}, TypeError, "examples was given in addition to the inputs of one forward"),
        ((), {"examples": X}, TypeError, "examples must be a list .*, got Tensor; .* by position"),
        ((), {"examples": []}, ValueError, r"at least one example, got \[\]"),
        ((), {"examples": [X, 3]}, TypeError, "example 2 must be a tensor, .*, got int"),
        ((), {"examples": [X, {"y": X}]}, gnt.TraceError, "example 2: the example inputs do not fit Net.forward"),
        ((), {"examples": [X, X[:, :4]]}, gnt.TraceError, "example 2: the example inputs do not fit Net.forward.*mat1"),
        ((X,), {"modes": "training"}, ValueError, "modes must be one of 'both', 'train', 'eval', got 'training'"),
        ((X,), {"modes": True}, ValueError, "modes must be one of .*, got True"),
    ],
)
def test_wrong_examples_and_modes_are_refused(args, settings, error, message):
    with pytest.raises(error, match=message):
        gnt.trace(Net(heads), *args, **settings)


class Auxiliary(nn.Module):
    """As Inception: an auxiliary head that needs larger images in training, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.aux = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> object:
        h = F.relu(self.norm(self.conv(x)))
        y = self.head(h.mean((2, 3)))
        return (y, self.aux(F.avg_pool2d(h, 2))) if self.training else y


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((2, 1, 8, 8), r"inputs of shape \(2, 1, 16, 16\) in place of \(2, 1, 8, 8\) runs in training mode"),
        ((1, 1, 1, 1), r"Give an example that runs in training mode: larger inputs, or a batch of two"),
    ],
)
def test_an_example_that_does_not_run_in_training_is_an_error_that_says_which_would(shape, advice):
    net = Auxiliary()
    with pytest.raises(
        gnt.TraceError, match=r"training mode cannot be traced(.|\n)*" + advice + r"(.|\n)*modes='eval'"
    ):
        gnt.trace(net, torch.randn(shape))
    groups = gnt.trace(net, torch.randn(shape), modes="eval")
    assert summary(groups) == {"conv": "4 relu: conv > norm > head"}
    optimizer = CBPSGD(net, example_inputs=torch.randn(shape), modes="eval")
    note = "note: training mode was not traced (modes='eval'): layers that run only in that mode were not seen"
    for text in (str(groups), repr(optimizer), repr(optimizer.gnt), str(optimizer.gnt.report())):
        assert note in text
    assert repr(optimizer.gnt) in repr(optimizer)


def test_a_batch_of_two_is_proposed_for_a_batch_norm():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(gnt.TraceError, match=r"An example with inputs of shape \(2, 6\) in place of \(1, 6\) runs in"):
        gnt.trace(net, X[:1])
    assert list(summary(gnt.trace(net, X))) == ["0"]


def test_a_model_that_cannot_be_traced_in_evaluation_mode_is_traced_in_training_mode_only_on_request():
    net = Net(lambda n, x, t: heads(n, x, t) if n.training or x.sum() > 0 else n.heads[1](x))
    with pytest.raises(gnt.TraceError, match=r"evaluation mode cannot be traced(.|\n)*pass modes='train'"):
        gnt.trace(net, X)
    groups = gnt.trace(net, X, modes="train")
    assert list(summary(groups)) == ["fc1", "fc2"]
    assert groups.notes[0].startswith("evaluation mode was not traced (modes='train')")
    with pytest.raises(gnt.TraceError, match=r"cannot be traced by torch.export"):
        gnt.trace(net, X, modes="eval")
