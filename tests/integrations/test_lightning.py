"""Lightning: an engine attached to the optimizer gives bit for bit the results of a plain PyTorch loop."""

from __future__ import annotations

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import gnt
from gnt.optim import CBPAdamW
from tests.helpers.data_parallel import data_parallel
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp, replaced

pytestmark = [
    # lightning 2.6 uses an interface that torch 2.13 deprecates
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # advice on machines with more cores or with a GPU
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]

BATCHES, ACCUMULATED, CLIP = 12, 3, 0.5
AUTOMATIC = {"accumulate_grad_batches": ACCUMULATED, "gradient_clip_val": CLIP}
STEPS = BATCHES // ACCUMULATED  # optimizer steps in an epoch


def batches(infinite=()):
    """A loader of the same twelve batches each time; the targets of the batches ``infinite`` are infinite."""
    pairs = [batch(t) for t in range(BATCHES)]
    x, y = (torch.cat(part) for part in zip(*pairs, strict=True))
    for t in infinite:
        y[8 * t : 8 * t + 8] = torch.inf
    return DataLoader(TensorDataset(x, y), batch_size=8)


def seeded():
    return torch.Generator().manual_seed(5)


def cbp(net, **settings):
    optimizer = CBPAdamW(net, lr=0.01, generator=seeded(), **{**FREQUENT_REPLACEMENT, **settings})
    return optimizer, optimizer.gnt


def attached(net):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    return optimizer, gnt.GnT(net, optimizer, generator=seeded(), **FREQUENT_REPLACEMENT).attach()


EACH = pytest.mark.parametrize("make", [cbp, attached])


def schedule(optimizer):
    return OneCycleLR(optimizer, 0.05, total_steps=50)


class Regression(lightning.LightningModule):
    """A module that builds optimizer and engine with ``make``, and keeps the engine for the tests."""

    def __init__(self, make, seed=0):
        super().__init__()
        self.net, self.make = mlp(seed=seed), make

    def training_step(self, pair, index):
        x, y = pair
        return F.mse_loss(self.net(x), y)

    def optimizer_and_engine(self):
        return self.make(self.net)

    def configure_optimizers(self):
        optimizer, self.engine = self.optimizer_and_engine()
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer), "interval": "step"}}


class Validated(Regression):
    validated = 0

    def validation_step(self, pair, index):
        self.validated += 1
        return self.training_step(pair, index)


class Traced(Regression):
    """Finds its units by tracing with Lightning's ``example_input_array``."""

    example_input_array = torch.zeros(1, 4)

    def forward(self, x):
        return self.net(x)

    def optimizer_and_engine(self):
        return cbp(self, example_inputs=self.example_input_array)


class ManualOptimization(Regression):
    """The same training with Lightning's manual optimization."""

    automatic_optimization = False

    def training_step(self, pair, index):
        optimizer = self.optimizers()
        self.manual_backward(super().training_step(pair, index) / ACCUMULATED)
        if index % ACCUMULATED == ACCUMULATED - 1:
            self.clip_gradients(optimizer, gradient_clip_val=CLIP, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
            self.lr_schedulers().step()


def fit(root, module, epochs, train=None, validate=None, ckpt=None, settings=AUTOMATIC, **more):
    """Train a module. Returns the module and the trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    device = {"accelerator": "cpu", "devices": 1, "default_root_dir": root, "enable_checkpointing": False}
    more = {"precision": "bf16-mixed", **settings, **more}
    run = lightning.Trainer(max_epochs=epochs, **device, **quiet, **more)
    run.fit(module, train or batches(), validate, ckpt_path=ckpt)
    return module, run


def state(module, run):
    """Copies of everything that training changes."""
    parts = dict(module.net.state_dict()), run.optimizers[0].state_dict(), module.engine.state_dict()
    return copy.deepcopy([*parts, run.lr_scheduler_configs[0].scheduler.state_dict()])


def loop(make, epochs):
    """The same training without Lightning."""
    net = mlp()
    optimizer, engine = make(net)
    scheduler = schedule(optimizer)
    for t, (x, y) in [each for _ in range(epochs) for each in enumerate(batches())]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.mse_loss(net(x), y) / ACCUMULATED
        loss.backward()
        if t % ACCUMULATED == ACCUMULATED - 1:
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    return copy.deepcopy([dict(net.state_dict()), optimizer.state_dict(), engine.state_dict(), scheduler.state_dict()])


@pytest.mark.parametrize("optimization", [Regression, ManualOptimization])
@EACH
def test_training_equals_a_plain_loop(make, optimization, tmp_path):
    module, run = fit(tmp_path, optimization(make), 3, settings=AUTOMATIC if optimization is Regression else {})
    assert_same(state(module, run), loop(make, 3))
    assert module.engine.updates == run.global_step == 3 * STEPS
    assert min(replaced(module.engine)) > 1


def test_traced_units_equal_listed_ones(tmp_path):
    traced, listed = (state(*fit(tmp_path, kind(cbp), 2)) for kind in (Traced, Regression))
    assert [group.pop("name") for group in traced[2]["groups"]] == ["net.0", "net.2"]
    assert [group.pop("name") for group in listed[2]["groups"]] == ["0", "2"]
    for run in (traced, listed):
        del run[1]["gnt"]
    assert_same(traced, listed)


def test_ages_are_optimizer_steps(tmp_path):
    module, run = fit(tmp_path, Regression(lambda net: cbp(net, replacement_rate=0.0)), 2)
    assert run.global_step == 2 * STEPS
    assert [set(group.state.age.tolist()) for group in module.engine.groups] == [{run.global_step}] * 2


@EACH
def test_training_resumes_bit_for_bit_from_a_checkpoint(make, tmp_path):
    _, half = fit(tmp_path, Regression(make), 2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert saved["optimizer_states"][0]["gnt"]["updates"] == 2 * STEPS
    whole = fit(tmp_path, Regression(make), 4)
    resumed = fit(tmp_path, Regression(make, seed=9), 4, ckpt=tmp_path / "half.ckpt")
    assert_same(state(*resumed), state(*whole))
    assert min(replaced(whole[0].engine)) > 2


@EACH
def test_validation_does_not_affect_training(make, tmp_path):
    """The sanity check before the first step, and validations between the micro-batches of a step."""
    often = {"num_sanity_val_steps": 2, "val_check_interval": 2}
    module, run = fit(tmp_path, Validated(make), 2, validate=batches(), **often)
    assert module.validated == 2 + 2 * (BATCHES // 2) * BATCHES
    assert not module.engine.waiting
    assert_same(state(module, run), state(*fit(tmp_path, Regression(make), 2)))


@EACH
def test_a_step_that_the_scaler_skips_is_no_update(make, tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    half = {"precision": None, "plugins": MixedPrecision("16-mixed", "cpu", scaler)}
    module, run = fit(tmp_path, Regression(make), 2, batches(infinite=[4]), **half)
    assert (run.global_step, module.engine.updates) == (2 * STEPS, 2 * STEPS - 2)
    assert all(parameter.isfinite().all() for parameter in module.net.parameters())
    assert sum(replaced(module.engine)) > 1


@EACH
def test_each_fit_of_a_module_has_its_own_engine(make, tmp_path):
    """Lightning builds new optimizers for each fit, and the first trainer keeps its own."""
    module, first = fit(tmp_path, Regression(make), 1)
    old = module.engine
    _, second = fit(tmp_path, module, 2)
    assert (old.updates, module.engine.updates) == (STEPS, 2 * STEPS)
    assert not old.waiting
    assert first.optimizers != second.optimizers
    assert first.optimizers[0].state_dict()["gnt"]["updates"] == STEPS


class WithMemory(Regression):
    """Regression with SI, EWC and A-GEM attached to its optimizer; the first two consolidate after each epoch."""

    def __init__(self, seed=0):
        super().__init__(lambda net: (torch.optim.AdamW(net.parameters(), lr=0.01), None), seed)

    def configure_optimizers(self):
        configured = super().configure_optimizers()
        optimizer = configured["optimizer"]
        self.agem = gnt.AGEM(self.net, gnt.ReplayBuffer(40, generator=seeded()), F.mse_loss, batch_size=8)
        self.si, self.ewc = gnt.SI(self.net, 20.0), gnt.EWC(self.net, 5.0, likelihood="gaussian")
        for method in (self.agem, self.si, self.ewc):  # projections act last, in whatever order they are attached
            method.attach(optimizer)
        return configured

    def training_step(self, pair, index):
        loss = super().training_step(pair, index)
        self.agem.add(*pair)
        return loss

    def on_train_epoch_end(self):
        self.si.consolidate()
        self.ewc.consolidate(self.net, batch(0)[0])


def memory_state(module, run):
    own = [each.state_dict() for each in (module.agem, module.si, module.ewc)]
    return copy.deepcopy([dict(module.net.state_dict()), run.optimizers[0].state_dict(), *own])


def loop_with_memory(epochs):
    module = WithMemory()
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    for _ in range(epochs):
        for t, pair in enumerate(batches()):
            with torch.autocast("cpu", torch.bfloat16):
                loss = module.training_step(pair, t) / ACCUMULATED
            loss.backward()
            if t % ACCUMULATED == ACCUMULATED - 1:
                torch.nn.utils.clip_grad_norm_(module.net.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        module.on_train_epoch_end()
    own = [each.state_dict() for each in (module.agem, module.si, module.ewc)]
    return copy.deepcopy([dict(module.net.state_dict()), optimizer.state_dict(), *own])


def test_attached_methods_against_forgetting_equal_a_plain_loop_and_resume_from_a_checkpoint(tmp_path):
    module, run = fit(tmp_path, WithMemory(), 2)
    run.save_checkpoint(tmp_path / "half.ckpt")
    assert module.si.tasks == module.ewc.tasks == 2
    assert module.agem.buffer.seen == 2 * BATCHES * 8
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)["optimizer_states"][0]
    assert {"gnt_memory", "gnt_memory_1", "gnt_memory_2"} <= set(saved)
    assert_same(memory_state(module, run), loop_with_memory(2))
    whole = memory_state(*fit(tmp_path, WithMemory(), 3))
    assert_same(whole, loop_with_memory(3))
    assert_same(memory_state(*fit(tmp_path, WithMemory(seed=9), 3, ckpt=tmp_path / "half.ckpt")), whole)


@pytest.mark.parametrize("wrap", [lambda net: net, data_parallel, lambda net: torch.compile(net, backend="eager")])
def test_a_network_set_up_by_fabric_is_opened(wrap):
    net = mlp(4, 8, 2)
    wrapped = lightning.Fabric(accelerator="cpu", devices=1).setup_module(wrap(net))
    engines = gnt.GnT(wrapped), gnt.GnT(gnt.trace(wrapped, torch.randn(2, 4))), CBPAdamW(wrapped).gnt
    assert [engine.groups[0].producer for engine in engines] == [net[0]] * 3
    assert {engine.groups[0].name for engine in engines} == {"0"}
