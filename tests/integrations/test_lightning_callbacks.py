"""The callback with an engine equals one in a plain loop; the callbacks resume from checkpoints, and run under DDP."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import gnt
from gnt.integrations.lightning import ContinualBackprop, LogPlasticity, TaskBoundaries
from tests.distributed.launch import run_ranks
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, mlp, replaced
from tests.integrations.lightning_helpers import BATCHES, USUAL_WARNINGS, Regression, cbp, loader, trainer

pytestmark = USUAL_WARNINGS


def state(module: Regression, run: lightning.Trainer) -> Any:
    return copy.deepcopy([dict(module.net.state_dict()), run.optimizers[0].state_dict()])


def test_the_callback_equals_an_engine_in_a_plain_loop(tmp_path):
    """Units are found by tracing, and chosen by the names of their layers."""
    callback, module = cbp(include="net.*", exclude="net.2"), Regression()
    run = trainer(tmp_path, [callback], 3)
    run.fit(module, loader())
    net = mlp()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(5)
    gnt.GnT(list(net)[:3], optimizer, generator=generator, **FREQUENT_REPLACEMENT).attach()
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
    mine, plain = state(module, run), [dict(net.state_dict()), optimizer.state_dict()]
    assert mine[1]["gnt"]["groups"][0].pop("name") == "net.0"
    assert plain[1]["gnt"]["groups"][0].pop("name") == "0"
    assert_same(mine, plain)
    assert replaced(callback.engine)[0] > 3


def test_averaged_weights_of_replaced_units_are_those_of_the_new_units(tmp_path):
    callback, module = cbp(layers=lambda module: module.net), Regression()
    averaging = EMAWeightAveraging(decay=0.9)
    trainer(tmp_path, [callback, averaging], 3).fit(module, loader())
    net = mlp()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(5)
    averaged = AveragedModel(net, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    engine = gnt.GnT(net, optimizer, generator=generator, follow=[averaged], **FREQUENT_REPLACEMENT).attach()
    for _ in range(3):
        for x, y in loader():
            optimizer.zero_grad()
            F.mse_loss(net(x), y).backward()
            optimizer.step()
            averaged.update_parameters(net)
    assert min(replaced(engine)) > 3
    assert_same(dict(module.net.state_dict()), dict(averaged.module.state_dict()))
    trainer(tmp_path, [EMAWeightAveraging(decay=0.9), callback], 1).fit(module, loader())
    assert len(callback.engine.followers) == 1


def test_a_resumed_fit_continues_bit_for_bit_and_logs(tmp_path):
    whole = [Regression(), trainer(tmp_path, [cbp()], 4)]
    whole[1].fit(whole[0], loader())
    half = trainer(tmp_path, [cbp()], 2)
    half.fit(Regression(), loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    saved = torch.load(tmp_path / "half.ckpt", weights_only=True)
    (settings,) = [each["settings"] for name, each in saved["callbacks"].items() if "ContinualBackprop" in name]
    assert settings["maturity_threshold"] == 2
    logger, callback = CSVLogger(tmp_path), cbp()
    resumed = [Regression(seed=9), trainer(tmp_path, [callback], 4, logger=logger, log_every_n_steps=3)]
    resumed[1].fit(resumed[0], loader(), ckpt_path=tmp_path / "half.ckpt")
    assert_same(state(*resumed), state(*whole))
    assert callback.engine.figures()["net.0/replaced"] == replaced(callback.engine)[0] > 3
    assert logger.experiment.hparams["gnt/replacement_rate"] == 0.1
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = {int(row["step"]): float(row["gnt/net.0/replaced"]) for row in csv.DictReader(file)}
    assert list(logged) == [15, 18, 21, 24]
    assert logged[24] == replaced(callback.engine)[0]
    with pytest.warns(UserWarning, match="settings of ContinualBackprop differ .* decay_rate: 0.9 -> 0.5"):
        trainer(tmp_path, [cbp(decay_rate=0.5)], 3).fit(Regression(), loader(), ckpt_path=tmp_path / "half.ckpt")


def test_the_next_fit_goes_on_with_the_ages(tmp_path):
    callback, module = cbp(replacement_rate=0.0), Regression()
    for epochs in (1, 2):
        trainer(tmp_path, [callback], epochs).fit(module, loader())
    assert callback.engine.updates == 3 * BATCHES
    assert callback.engine.group("net.0").state.age.unique().tolist() == [3 * BATCHES]
    with pytest.raises(KeyError, match=r"no group is named 'net.1'; .* did you mean 'net."):
        callback.engine.group("net.1")


def test_a_fit_of_another_module_starts_anew(tmp_path):
    callback, alone = cbp(), cbp()
    trainer(tmp_path, [callback], 2).fit(Regression(), loader())
    assert replaced(callback.engine)[0] > 0
    callback._settings["generator"].manual_seed(5)
    for each in (callback, alone):
        module, run = Regression(seed=1), trainer(tmp_path, [each], 1)
        run.fit(module, loader())
        assert each.engine.updates == BATCHES
    assert callback.engine.figures() == alone.engine.figures()


def test_every_fit_logs(tmp_path):
    callback, module = cbp(), Regression()
    for task in range(2):
        logger = CSVLogger(tmp_path / str(task))
        trainer(tmp_path, [callback], 1, logger=logger, log_every_n_steps=4).fit(module, loader())
        with Path(logger.log_dir, "metrics.csv").open() as file:
            logged = [int(row["step"]) for row in csv.DictReader(file) if row["gnt/net.0/replaced"]]
        assert logged == [[4], [2, 6]][task]  # steps 4, 8 and 12 of both


@pytest.mark.parametrize("find", [lambda net: gnt.walk(net), lambda net: list(gnt.walk(net)), lambda net: net])
@pytest.mark.parametrize("by_function", [True, False])
def test_layers_are_a_network_or_unit_groups_or_a_function_that_returns_them(find, by_function, tmp_path):
    module = Regression()
    callback = cbp(layers=(lambda module: find(module.net)) if by_function else find(module.net))
    trainer(tmp_path, [callback], 1).fit(module, loader())
    assert [group.name for group in callback.engine.groups] == [group.name for group in gnt.walk(module.net)]


class Two(Regression):
    """Two networks, each with an optimizer."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.automatic_optimization = False
        self.other = mlp(seed=seed + 1)

    def forward(self, x):
        return self.net(x) + self.other(x)

    def training_step(self, pair, index):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(self(pair[0]), pair[1]))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.AdamW(each.parameters(), lr=0.01) for each in (self.net, self.other)]


def test_a_callback_for_each_optimizer_and_a_resumed_fit(tmp_path):
    def parts() -> tuple[Two, list[ContinualBackprop], list[Any]]:
        module = Two()
        engines = [cbp(include="net*"), cbp(include="other*", optimizer=1, replacement_rate=0.05)]
        tasks = [
            TaskBoundaries(gnt.SI(net, 1.0), net=lambda _, net=net: net, optimizer=number)
            for number, net in enumerate((module.net, module.other))
        ]
        return module, engines, tasks

    module, engines, tasks = parts()
    whole = trainer(tmp_path, [*engines, *tasks], 3)
    whole.fit(module, loader())
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    middle = parts()
    trainer(tmp_path, [*middle[1], *middle[2], checkpoint], 1, enable_checkpointing=True).fit(middle[0], loader())
    resumed, others, resumed_tasks = parts()
    logger = CSVLogger(tmp_path)
    run = trainer(tmp_path, [*others, *resumed_tasks], 3, logger=logger, log_every_n_steps=3)
    run.fit(resumed, loader(), ckpt_path=tmp_path / "epoch=0.ckpt")  # warnings of other settings are errors
    states = [
        [dict(each[0].state_dict()), *(o.state_dict() for o in each[1].optimizers)]
        for each in ((module, whole), (resumed, run))
    ]
    assert_same(*states)
    assert min(replaced(each.engine)[0] for each in engines) > 1
    assert [each.ended for each in resumed_tasks] == [1, 1]
    rates = {name: value for name, value in logger.experiment.hparams.items() if "replacement_rate" in name}
    assert rates == {"gnt/replacement_rate": 0.1, "gnt/optimizer_1/replacement_rate": 0.05}


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_the_data_of_callbacks_have_the_precision_of_the_module(precision, tmp_path):
    module = Regression()
    first, second = (gnt.EWC(module, 1.0, likelihood="gaussian") for _ in range(2))
    log = LogPlasticity(every=4, loss="mse", steps=4, seeds=2)
    samples = TensorDataset(*batch(0))
    for tasks in (TaskBoundaries(first), TaskBoundaries(second, data=DataLoader(samples, 4))):
        trainer(tmp_path, [tasks, log, cbp()], 1, precision=precision).fit(module, loader())
    assert (first.tasks, second.tasks) == (1, 1)
    assert list(log.history) == [4, 8, 12]
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {each.dtype for each in module.parameters()} == {dtype}


REFUSED = [
    (lambda: ContinualBackprop(replacement_rate=2), ValueError, "replacement_rate must be a number"),
    (lambda: ContinualBackprop(rate=2), TypeError, "unknown setting rate: ContinualBackprop takes layers"),
    (lambda: ContinualBackprop(layers=[], include="a"), TypeError, "include would be ignored: layers already selects"),
    (lambda: ContinualBackprop(include=3), TypeError, "include must be a pattern or a list of patterns, got 3"),
    (lambda: ContinualBackprop(follow=3), TypeError, "follow must be a list of objects, got int"),
    (lambda: ContinualBackprop(optimizer="a"), ValueError, "optimizer must be an integer >= 0, got 'a'"),
    (lambda: TaskBoundaries(gnt.L2(Regression(), 0.1), net=3), TypeError, "net must be a function of the Lightning"),
    (lambda: TaskBoundaries(), ValueError, "TaskBoundaries needs at least one method"),
    (lambda: TaskBoundaries(3), TypeError, r"methods\[0\] must have one of before_batch"),
]


@pytest.mark.parametrize(("build", "error", "message"), REFUSED)
def test_wrong_arguments_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_what_a_fit_cannot_use_is_refused(tmp_path):
    class Own(Regression):
        example_input_array = None

        def configure_optimizers(self):
            return gnt.optim.CBPAdamW(self.net)

    with pytest.raises(ValueError, match="CBPAdamW has an engine of its own"):
        trainer(tmp_path, [cbp()], 1).fit(Own(), loader())
    with pytest.raises(ValueError, match=r"number of one of the 1 optimizers .* got 3"):
        trainer(tmp_path, [cbp(optimizer=3)], 1).fit(Regression(), loader())
    module = Regression()
    module.example_input_array = None
    with pytest.raises(ValueError, match="pass example_inputs, set example_input_array of the Regression, or pass"):
        trainer(tmp_path, [cbp()], 1).fit(module, loader())
    replay = gnt.ExperienceReplay(gnt.ReplayBuffer(20))
    tuples = DataLoader(range(2), collate_fn=lambda _: batch(0))
    with pytest.raises(TypeError, match=r"must be a list \[x, y\] then, got a tuple"):
        trainer(tmp_path, [TaskBoundaries(replay)], 1).fit(module, tuples)


def test_two_processes_replace_and_hold_the_same_units(tmp_path):
    run_ranks("lightning_scenarios.fit", tmp_path, ranks=1)
    states = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    assert_same(*states)
    assert sum(each["replaced"] for each in states[0][1]["groups"]) > 2
    assert [int(each["held"].sum()) for each in states[0][1]["groups"]] == [2, 1]
