"""torch.compile before or after the engine: the same units are replaced, without graph breaks or recompilation."""

from __future__ import annotations

import gc
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint

import gnt
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.data_parallel import data_parallel
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp
from tests.helpers.training_loops import ENTRY_POINTS, make_loop

# raised by the compiler's imports at its first use
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:Warning")
EACH = pytest.mark.parametrize("name", ENTRY_POINTS)
DEFAULT = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"


@pytest.fixture(autouse=True)
def reset_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def no_recompilation():
    return torch._dynamo.config.patch(error_on_recompile=True)


def assert_close_runs(run, expected):
    """Assert equal states up to rounding, and equal counts of updates and replaced units."""
    torch.testing.assert_close(run.state(), expected.state(), rtol=1e-4, atol=1e-6)
    assert run.replaced() == expected.replaced() > 6
    assert run.updates() == expected.updates()


@EACH
def test_training_equals_training_without_compilation(name):
    compiled, plain = make_loop(name), make_loop(name).train(range(14))
    compiled.net.compile(backend="aot_eager", fullgraph=True)
    compiled.train(range(2))
    with no_recompilation():
        compiled.train(range(2, 14))
    assert_close_runs(compiled, plain)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def compiled_layers(name, warm):
    """A loop around layers compiled before the engine is built; ``warm``: also run before."""
    layers = mlp(4, 8, 6, 5, 2)
    compiled = torch.compile(layers, backend="aot_eager")
    if warm:
        compiled(batch(0)[0]).sum().backward()
        layers.zero_grad()
    return ENTRY_POINTS[name](layers, lambda _, x: compiled(x))


@pytest.mark.parametrize("warm", [False, True], ids=["not run", "run before"])
@pytest.mark.parametrize("name", [name for name in ENTRY_POINTS if "layers" not in name])
def test_compiled_before_construction(name, warm):
    compiled = compiled_layers(name, warm).train(range(2))
    with no_recompilation():
        compiled.train(range(2, 14))
    assert_close_runs(compiled, make_loop(name).train(range(14)))


@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")  # from torch 2.6
def test_the_default_backend():
    compiled = make_loop("attached")
    compiled.net.compile(backend=DEFAULT)
    assert_close_runs(compiled.train(range(14)), make_loop("attached").train(range(14)))


@pytest.mark.parametrize("name", ["manual", "attached", "layers"])
def test_any_number_of_micro_batches(name):
    compiled, plain = make_loop(name), make_loop(name)
    compiled.net.compile(backend="aot_eager")
    compiled.step(*batch(0))
    plain.step(*batch(0))
    for t in range(1, 10):
        for run in (compiled, plain):
            run.optimizer.zero_grad()
            with no_recompilation():
                for micro in range(t):
                    x, y = batch(10 * t + micro)
                    F.mse_loss(run.net(x), y).backward()
            run.optimizer.step()
            run.after_step()
    assert_close_runs(compiled, plain)


@pytest.mark.parametrize("name", ["manual", "attached", "CBPAdam", "layers"])
def test_a_compiled_training_step(name):
    compiled, plain = make_loop(name), make_loop(name).train(range(14))

    @torch.compile(backend="eager")
    def step(x, y):
        compiled.optimizer.zero_grad()
        F.mse_loss(compiled.net(x), y).backward()
        compiled.optimizer.step()
        compiled.after_step()

    for t in range(2):
        step(*batch(t))
    with no_recompilation():
        for t in range(2, 14):
            step(*batch(t))
    assert_close_runs(compiled, plain)


@pytest.mark.parametrize("name", ["attached", "layers"])
def test_a_compiled_optimizer_step(name):
    compiled, plain = make_loop(name), make_loop(name).train(range(14))
    step = torch.compile(compiled.optimizer.step, backend="eager")
    for t in range(14):
        x, y = batch(t)
        compiled.optimizer.zero_grad()
        F.mse_loss(compiled.net(x), y).backward()
        step()
    assert_close_runs(compiled, plain)


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.up, self.down = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Blocks(nn.Module):
    def __init__(self, reentrant=None):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x):
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)

    def groups(self):
        return [gnt.walk([block.up, F.relu, block.down])[0] for block in self.blocks]


def train_blocks(net, steps=8):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    engine = gnt.GnT(
        net.groups(), optimizer, generator=torch.Generator().manual_seed(5), **FREQUENT_REPLACEMENT
    ).attach()
    for t in range(steps):
        x, y = batch(t)
        optimizer.zero_grad()
        F.mse_loss(net(x.requires_grad_()), y).backward()
        optimizer.step()
    assert engine.updates == steps
    return [dict(net.state_dict()), [group.state.state_dict() for group in engine.groups]]


@pytest.mark.parametrize("reentrant", [None, False, True], ids=["plain", "not reentrant", "reentrant"])
@pytest.mark.parametrize("compiled", ["network", "blocks"])
def test_checkpointed_blocks(compiled, reentrant):
    net = Blocks(reentrant)
    for module in [net] if compiled == "network" else net.blocks:
        module.compile(backend="aot_eager")
    torch.testing.assert_close(train_blocks(net), train_blocks(Blocks()), rtol=1e-4, atol=1e-6)


def wrapped(kind):
    net, seeded = mlp(), torch.Generator().manual_seed(5)
    model = torch.compile(net, backend="eager") if kind != "plain" else net
    return net, model, seeded


WRAPPED = {
    "GnT": lambda model, g: gnt.GnT(
        model, torch.optim.SGD(model.parameters(), 0.1), generator=g, **FREQUENT_REPLACEMENT
    ).attach(),
    "CBPSGD": lambda model, g: CBPSGD(model, 0.1, generator=g, **FREQUENT_REPLACEMENT).gnt,
    "CBPAdam": lambda model, g: CBPAdam(model, 0.1, generator=g, **FREQUENT_REPLACEMENT).gnt,
    "learner": lambda model, g: gnt.ContinualBackprop(model, step_size=0.1, generator=g, **FREQUENT_REPLACEMENT),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_units_of_a_compiled_model_are_found(kind):
    nets = []
    for how in ("plain", "compiled"):
        net, model, seeded = wrapped(how)
        run = WRAPPED[kind](model, seeded)
        for t in range(10):
            x, y = batch(t)
            if kind == "learner":
                run.learn(x, y)
                continue
            run.optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            run.optimizer.step()
        engine = run.gnt if kind == "learner" else run
        assert sum(group.state.replaced for group in engine.groups) > 6
        nets.append(net.state_dict())
    torch.testing.assert_close(*nets)


def test_units_of_nested_wrappers_and_compiled_layers_are_found():
    net = mlp()
    first, *rest = net
    assert [g.name for g in gnt.walk(data_parallel(torch.compile(net, backend="eager")))] == ["0", "2"]
    compiled = nn.Sequential(torch.compile(first, backend="eager"), *rest)
    assert gnt.walk(compiled)[0].producer is first


@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_a_compiled_network_runs_without_its_engine(end):
    run = make_loop("attached")
    run.net.compile(backend="eager")
    run.train(range(3))
    taps, net, plain = run.engines[0].feature_buffer.taps, run.net, make_loop("attached")
    plain.net.load_state_dict(net.state_dict())
    if end == "closed":
        run.engines[0].close()
    del run
    gc.collect()
    for t in range(3):
        x, y = batch(t)
        F.mse_loss(net(x), y).backward()
    assert not any(tap.waiting for tap in taps)
    torch.testing.assert_close(net(x), plain.net(x))


def test_a_second_engine_on_a_compiled_network_after_the_first_is_closed():
    """The second engine's hooks are added after compilation, when the first engine's are removed."""
    run = make_loop("attached")
    run.net.compile(backend="eager")
    run.train(range(3))
    run.engines[0].close()
    optimizer = torch.optim.SGD(run.net.parameters(), lr=0.1)
    engine = gnt.GnT(run.net.layers, optimizer, **FREQUENT_REPLACEMENT).attach()
    for t in range(3):
        x, y = batch(t)
        F.mse_loss(run.net(x), y).backward()
        optimizer.step()
    assert engine.updates == 3


def test_rollouts_and_evaluation_are_not_recorded_in_compiled_networks():
    compiled, plain = make_loop("attached"), make_loop("attached").train(range(8))
    compiled.net.compile(backend="eager")
    for t in range(8):
        with torch.no_grad():
            compiled.net(batch(100 + t)[0])
        compiled.net.eval()(batch(200 + t)[0])
        compiled.net.train()
        compiled.step(*batch(t))
    assert_same(compiled.state()["units"], plain.state()["units"])


def test_export_records_no_features():
    run = make_loop("attached").train(range(2))
    before = run.state()
    torch.export.export(run.net, (batch(0)[0],), strict=False)
    assert not run.engines[0].waiting
    assert_same(run.state(), before)


def compiled_blocks(with_engine):
    """A compiled network with its optimizer, and an engine or None."""
    net = Blocks()
    net.compile(backend="eager")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    return net, optimizer, gnt.GnT(net.groups(), optimizer, **FREQUENT_REPLACEMENT).attach() if with_engine else None


def train_step(net, optimizer, t):
    x, y = batch(t)
    optimizer.zero_grad()
    F.mse_loss(net(x), y).backward()
    optimizer.step()


def test_networks_of_one_class_share_compiled_graphs():
    """One graph with hooks and one without, for any number of engines; each engine records its own features."""
    runs = [compiled_blocks(with_engine=number % 3 != 0) for number in range(8)]
    for t in range(3):
        for number, (net, optimizer, engine) in enumerate(runs):
            train_step(net, optimizer, t)
            if engine is not None:
                assert engine.updates == t + 1, number
                assert not engine.waiting
    graph_per_engine = torch.__version__.startswith("2.6.")  # torch 2.6 guards on the identity of hooks
    assert counters["stats"]["unique_graphs"] == (1 + 5 if graph_per_engine else 2)
    assert not counters["graph_break"]


def test_an_engine_does_not_invalidate_other_compiled_functions():
    compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
    compiled_blocks(with_engine=True)
    compiled(torch.ones(3))
    compiled_blocks(with_engine=True)
    with no_recompilation():
        compiled(torch.ones(3))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_network_stays_compiled_when_its_engine_is_built_and_closed():
    net, optimizer, _ = compiled_blocks(with_engine=False)
    train_step(net, optimizer, 0)
    engine = gnt.GnT(net.groups(), optimizer, **FREQUENT_REPLACEMENT).attach()
    for t in range(3):
        train_step(net, optimizer, t)
    assert engine.updates == 3
    engine.close()
    with no_recompilation():
        train_step(net, optimizer, 3)
    assert engine.updates == 3


def test_an_engine_resets_the_compiler_only_if_something_was_compiled(monkeypatch):
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(True))
    for compiles in (False, True):
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=True):
            if compiles:
                torch.compile(lambda x: x.sin() + 1, backend="eager")(torch.ones(3))
            gnt.GnT(mlp())
            assert resets == [True] * compiles
            assert not torch._dynamo.config.skip_nnmodule_hook_guards
