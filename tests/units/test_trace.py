"""gnt.trace: arguments, errors, printed text, and that the model is left unchanged."""

import copy
import logging
import pickle
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gnt
from gnt._utils.recording_switch import pause_recording
from gnt.optim import CBPSGD
from gnt.units import WalkError, preserve_model, unwrap
from tests.helpers.data_parallel import data_parallel
from tests.units.tracing.group_checks import reasons, summary


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh())
        self.body, self.head, self.drop = nn.Linear(6, 5), nn.Linear(5, 2), nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.body(self.encoder(x)))))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
ALL = ["encoder.0", "encoder.3", "body"]


def _names(groups):
    return [group.name for group in groups]


def test_groups_are_a_tuple_and_print_the_refused_units():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = gnt.trace(net, X)
    assert isinstance(groups, tuple)
    assert str(groups) == (
        "0: 8 units, relu\n"
        "  producer  0 Linear (rows)\n"
        "  consumer  2 Linear (columns)\n"
        "skipped:\n"
        "  2  2 units  output units: they are the model's output"
    )
    assert repr(groups) == "Groups(1 groups, 8 units, 1 skipped)"
    assert str(groups.refused[0]) == "2: 2 units, output units: they are the model's output"


@pytest.mark.parametrize("copy_groups", [copy.copy, copy.deepcopy, lambda groups: pickle.loads(pickle.dumps(groups))])
def test_groups_can_be_copied(copy_groups):
    groups = gnt.trace(Net(), X)
    twin = copy_groups(groups)
    assert str(twin) == str(groups)
    assert reasons(twin) == reasons(groups)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ({"include": "encoder"}, ["encoder.0", "encoder.3"]),
        ({"include": "encoder.0"}, ["encoder.0"]),
        ({"include": ["body", "*.3"]}, ["encoder.3", "body"]),
        ({"exclude": "enc*"}, ["body"]),
        ({"include": "encoder", "exclude": ["encoder.0", "head"]}, ["encoder.3"]),
        ({"include": "*"}, ALL),
        ({}, ALL),
    ],
)
def test_include_and_exclude_select_groups_by_name(patterns, names):
    assert _names(gnt.trace(Net(), X, **patterns)) == names


@pytest.mark.parametrize("patterns", [{"include": "enc"}, {"exclude": ["body", "decoder"]}, {"include": ["", "body"]}])
def test_a_pattern_that_matches_nothing_is_refused(patterns):
    with pytest.raises(ValueError, match=r"pattern '.*' matches nothing; groups are encoder.0, encoder.3, body"):
        gnt.trace(Net(), X, **patterns)


def test_patterns_that_leave_no_group_are_refused():
    with pytest.raises(gnt.TraceError, match=r"no group .* include='head'(.|\n)*head: 2 units, output units"):
        gnt.trace(Net(), X, include="head")
    with pytest.raises(TypeError, match=r"include must be a pattern or a list of patterns, got \[3\]"):
        gnt.trace(Net(), X, include=[3])


@pytest.mark.parametrize("given", [5, True, b"body", {"body": 1}, [None], X])
@pytest.mark.parametrize("key", ["include", "exclude"])
def test_an_include_or_exclude_of_another_type_is_refused(key, given):
    with pytest.raises(
        TypeError, match=rf"{key} must be a pattern or a list of patterns, got (.|\n)*must be passed by position"
    ):
        gnt.trace(Net(), X, **{key: given})


def test_an_empty_selection_is_an_error():
    with pytest.raises(ValueError, match=r"include must be a pattern or a list of at least one, got \[\]"):
        gnt.trace(Net(), X, include=[])
    with pytest.raises(gnt.TraceError, match=r"no group is left with include=None, exclude='\*'; groups are encoder.0"):
        gnt.trace(Net(), X, exclude="*")
    assert _names(gnt.trace(Net(), X, exclude=[])) == ALL


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
@pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
def test_a_scripted_module_is_refused(make):
    net = make(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    with pytest.raises(gnt.TraceError, match=r"made by torch.jit: pass the module that it was made from"):
        gnt.trace(net, X)
    with pytest.raises(WalkError, match=r"has no \.layers; gnt\.trace\(model, inputs\) finds the units"):
        gnt.GnT(net)


def test_an_error_shows_no_lines_of_gnt():
    exported = torch.export.export(Net().eval(), (X,)).module()
    with pytest.raises(gnt.TraceError, match=r"Calling train\(\) is not supported") as error:
        gnt.trace(exported, X)
    assert "trace.py" not in str(error.value)


def test_a_model_of_a_single_layer_is_named_in_the_error():
    with pytest.raises(gnt.TraceError, match=r"\(the model\): 2 units, output units"):
        gnt.trace(nn.Linear(4, 2), X)


def test_noise_of_the_same_shape_is_not_given_as_the_reason():
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.mean, self.spread = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)
            self.decoder = nn.Linear(3, 4)

        def forward(self, x):
            h = torch.tanh(self.encoder(x))
            mean = self.mean(h)
            return self.decoder(mean + torch.randn_like(mean) * self.spread(h).exp())

    groups = gnt.trace(Coder(), X)
    reasons = {one.name: one.reason for one in groups.refused}
    assert _names(groups) == ["encoder"]
    assert reasons["mean"] == "its channels are summed with 'spread' (a residual stream)"
    assert reasons["spread"] == "its channels are summed with 'mean' (a residual stream)"


def test_units_with_added_noise_are_found():
    class Noisy(Net):
        def forward(self, x):
            h = F.relu(self.body(self.encoder(x)))
            return self.head(h + 0.1 * torch.randn_like(h))

    assert "body" in _names(gnt.trace(Noisy(), X))


def test_the_given_activation_is_used_where_none_is_recognised():
    class SineNet(Net):
        def forward(self, x):
            return self.head(torch.sin(self.body(torch.relu(self.encoder[0](x))[:, :6])))

    assert gnt.trace(SineNet(), X)[-1].activation is None
    groups = gnt.trace(SineNet(), X, activation="tanh")
    assert [group.activation for group in groups] == [("relu", None), ("tanh", None)]
    with pytest.raises(ValueError, match="activation='tanh' would be ignored"):
        gnt.trace(Net(), X, activation="tanh")
    with pytest.raises(ValueError, match="unknown activation 'sine'"):
        gnt.trace(SineNet(), X, activation="sine")


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"trace needs example inputs for Net.forward\(x\): missing a required argument: 'x'"),
        ((X, X), {}, r"the example inputs do not fit Net.forward\(x\): too many positional arguments"),
        (
            (X,),
            {"mask": X},
            r"the example inputs do not fit Net.forward\(x\): got an unexpected keyword argument 'mask'",
        ),
        ((X[:, :3],), {}, r"the example inputs do not fit Net.forward\(x\): RuntimeError: mat1 and mat2 shapes"),
        (("text",), {}, r"the example inputs do not fit Net.forward\(x\): TypeError"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(args, kwargs, message):
    with pytest.raises(gnt.TraceError, match=message):
        gnt.trace(Net(), *args, **kwargs)


def test_the_error_for_an_untraceable_model_names_the_line_and_the_alternative():
    class Branching(Net):
        def forward(self, x):
            if x.sum() > 0:
                return self.head(x)
            return super().forward(x)

    with pytest.raises(gnt.TraceError) as caught:
        gnt.trace(Branching(), -X.abs())
    message = str(caught.value)
    assert message.startswith(
        "Branching cannot be traced by torch.export: GuardOnDataDependentSymNode: Could not guard"
    )
    assert "in forward, " in message
    assert "test_trace.py" in message
    assert "if x.sum() > 0:" in message
    assert "To give groups by hand: gnt.GnT takes a list of layers" in message


def test_the_error_for_no_group_lists_the_reasons():
    with pytest.raises(gnt.TraceError, match=r"no group of units (.|\n)*0: 2 units, output units(.|\n)*by hand"):
        gnt.trace(nn.Sequential(nn.Linear(4, 2)), X)
    with pytest.raises(gnt.TraceError, match="no Linear or Conv layer is used"):
        gnt.trace(nn.ReLU(), X)


def test_lazy_layers_and_non_modules_are_refused():
    with pytest.raises(gnt.TraceError, match=r"'0\.weight' is lazy"):
        gnt.trace(nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2)), X)
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        gnt.trace(F.relu, X)


def _compiled(net):
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize("wrap", [_compiled, data_parallel, lambda net: data_parallel(_compiled(net))])
def test_wrappers_are_opened_by_trace_walk_and_engines(wrap):
    net, chain = Net(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert unwrap(wrap(net)) is net
    assert _names(gnt.trace(wrap(net), X)) == ALL
    assert _names(gnt.walk(wrap(chain))) == _names(gnt.GnT(wrap(chain)).groups) == ["0"]
    assert CBPSGD(wrap(chain)).gnt.groups[0].producer is chain[0]


def test_messages_of_other_threads_and_other_loggers_appear_while_a_model_is_traced(caplog, capfd):
    class Talking(Net):
        def forward(self, x):
            logging.getLogger("training").warning("forward")
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return super().forward(x)

    def elsewhere():
        logging.getLogger("torch.export").warning("torch, elsewhere")
        print("printed elsewhere", file=sys.stderr)

    gnt.trace(Talking(), X)
    assert caplog.messages == ["forward", "torch, elsewhere"] * 2
    printed = capfd.readouterr().err.splitlines()
    # torch 2.14 also prints what its loggers get
    assert [line for line in printed if not line.endswith("torch, elsewhere")] == ["printed elsewhere"] * 2


def test_nothing_is_printed_about_a_model_that_cannot_be_traced(caplog, capfd):
    class Branching(Net):
        def forward(self, x):
            return self.head(x) if x.sum() > 0 else super().forward(x)

    with pytest.raises(gnt.TraceError):
        gnt.trace(Branching(), X)
    assert caplog.messages == []
    assert capfd.readouterr().err == ""


def test_a_mode_that_cannot_be_traced_is_an_error_unless_only_the_other_is_asked_for():
    class Dropping(Net):
        """Skips layers at random in training, as some transformers do."""

        def forward(self, x):
            if self.training and torch.rand([]) < 0.5:
                return self.head(x[:, :1].expand(-1, 5))
            return super().forward(x)

    with pytest.raises(gnt.TraceError, match=r"training mode cannot be traced, .* GuardOnData(.|\n)*modes='eval'"):
        gnt.trace(Dropping(), X)
    groups = gnt.trace(Dropping(), X, modes="eval")
    assert _names(groups) == ALL
    assert "note: training mode was not traced (modes='eval')" in str(groups)


class StatefulNet(Net):
    """A forward that changes an attribute and a buffer."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.count += 1
        return super().forward(x)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_unchanged(fails):
    torch.manual_seed(0)
    net = StatefulNet()
    net.encoder[1].eval()
    net(X)
    state, flags = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    attributes, random = [dict(vars(module)) for module in net.modules()], torch.get_rng_state()
    if fails:
        with pytest.raises(gnt.TraceError):
            gnt.trace(net, X[:, :3])
    else:
        assert _names(gnt.trace(net, X)) == ALL
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == flags
    assert [dict(vars(module)) for module in net.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(p.grad is not None for p in net.parameters())


def test_preserve_model_restores_attributes_and_containers():
    net = Net()
    net.seen, net.last, net.kinds = [X], {"x": X}, {1}

    def change_and_fail():
        net.seen.append(0)
        net.last["x"] = 1
        net.kinds.add(2)
        net.body = nn.Identity()
        raise KeyError

    with pytest.raises(KeyError), preserve_model(net):
        change_and_fail()
    assert net.seen[0] is X
    assert len(net.seen) == 1
    assert net.last["x"] is X
    assert net.kinds == {1}
    assert isinstance(net.body, nn.Linear)


def test_engines_do_not_record_the_forwards_of_trace():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    engine = gnt.GnT(gnt.trace(net, X), optimizer)
    assert _names(gnt.trace(net, X)) == ALL
    assert not engine.waiting
    with pause_recording():
        net(X)
    assert not engine.waiting
    net(X)
    assert engine.waiting


def test_grad_mode_autocast_and_dtype_do_not_change_the_groups():
    expected = summary(gnt.trace(Net(), X))
    with torch.no_grad():
        assert summary(gnt.trace(Net().eval(), X)) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert summary(gnt.trace(Net(), X)) == expected
    assert summary(gnt.trace(Net().to(torch.bfloat16), X.to(torch.bfloat16))) == expected


def test_a_sample_without_batch_dimension_is_accepted():
    net = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(0), nn.Linear(36, 3))
    assert summary(gnt.trace(net, torch.randn(2, 8))) == {"0": "6 relu: 0 > 3*6"}


@pytest.mark.parametrize("loss", [lambda v: v.mean() * 2, lambda v: v.squeeze(1).square().mean() + v.mean()])
def test_an_output_that_is_reduced_to_a_number_may_be_computed_with(loss):
    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.value = nn.Linear(4, 6), nn.Linear(6, 1)

        def forward(self, x):
            return loss(self.value(F.relu(self.body(x))))

    assert _names(gnt.trace(Critic(), X)) == ["body"]


def test_nested_inputs_and_outputs_are_accepted():
    class Several(Net):
        def forward(self, x, *, masks, scale=1.0):
            h = self.encoder(x) * masks["mask"]
            return {"out": [self.head(F.relu(self.body(h)) * scale)], "none": None}

    groups = gnt.trace(Several(), X, masks={"mask": torch.ones(3, 6)}, scale=2.0)
    assert _names(groups) == ALL


def test_a_slice_of_groups_keeps_the_refused_units():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = gnt.trace(net, torch.randn(2, 4))
    assert [group.name for group in groups[:1]] == ["0"]
    assert groups[:1].refused == groups.refused
    assert groups[0].name == "0"
