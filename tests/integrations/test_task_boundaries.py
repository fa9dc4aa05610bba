"""`TaskBoundaries` equals methods in a plain loop, ends tasks once, and resumes them from checkpoints."""

from __future__ import annotations

from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging

import gnt
from gnt.integrations.lightning import TaskBoundaries
from tests.helpers.small_runs import assert_same, batch, mlp
from tests.integrations.lightning_helpers import USUAL_WARNINGS, Regression, cbp, loader, trainer

pytestmark = USUAL_WARNINGS


def test_ewc_si_and_replay_equal_a_plain_loop_over_two_tasks(tmp_path):
    def methods(net: torch.nn.Module) -> list[Any]:
        buffer = gnt.ReplayBuffer(20, generator=torch.Generator().manual_seed(1))
        ewc = gnt.EWC(net, 10.0, likelihood="gaussian")
        return [ewc, gnt.SI(net, 1.0), gnt.ExperienceReplay(buffer, batch_size=4)]

    module = Regression()
    ewc, si, replay = methods(module.net)
    boundaries = TaskBoundaries(ewc, si, replay, net=lambda module: module.net)
    for task in range(2):
        trainer(tmp_path, [boundaries], 2).fit(module, loader(task))
    net = mlp()
    own = methods(net)
    for task in range(2):
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
        for each in own[:2]:
            each.detach()
            each.attach(optimizer)
        own[2].begin_task(task)
        for _ in range(2):
            for x, y in loader(task):
                x, y = own[2](x, y)
                optimizer.zero_grad()
                F.mse_loss(net(x), y).backward()
                optimizer.step()
        own[0].end_task(net, loader(task))
        own[1].end_task()
    assert_same(dict(module.net.state_dict()), dict(net.state_dict()))
    assert_same([ewc.state_dict(), si.state_dict(), replay.state_dict()], [each.state_dict() for each in own])
    assert (boundaries.ended, ewc.tasks) == (2, 2)


def test_a_task_resumes_from_a_checkpoint_in_its_middle(tmp_path):
    def parts() -> tuple[Regression, TaskBoundaries, list[Any]]:
        module = Regression()
        buffer = gnt.ReplayBuffer(20, generator=torch.Generator().manual_seed(1))
        methods = [gnt.SI(module.net, 1.0), gnt.ExperienceReplay(buffer, batch_size=4)]
        return module, TaskBoundaries(*methods), methods

    module, boundaries, methods = parts()
    trainer(tmp_path, [boundaries], 2).fit(module, loader())
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    middle = parts()
    trainer(tmp_path, [middle[1], checkpoint], 2, enable_checkpointing=True).fit(middle[0], loader())
    resumed = parts()
    trainer(tmp_path, [resumed[1]], 2).fit(resumed[0], loader(), ckpt_path=tmp_path / "epoch=0.ckpt")
    expected = [dict(module.net.state_dict()), *(each.state_dict() for each in methods)]
    assert_same(expected, [dict(resumed[0].net.state_dict()), *(each.state_dict() for each in resumed[2])])
    assert resumed[1].ended == 1


class Masked(Regression):
    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.hat = gnt.HAT(self.net, gnt.walk(self.net), generator=torch.Generator().manual_seed(7))

    def training_step(self, pair, index):
        return super().training_step(pair, index) + self.hat.penalty()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=0.01)

    @torch.no_grad()
    def outputs(self, task: int) -> torch.Tensor:
        self.eval()
        with self.hat.use(task):
            return self.net(batch(0)[0])


class MaskedWithSchedule(Masked):
    def __init__(self, schedule: Any, seed: int = 0) -> None:
        super().__init__(seed)
        self.schedule, self.groups = schedule, [{"params": [*self.net.parameters()]}]

    def configure_optimizers(self):
        groups = [dict(each) for each in self.groups]
        optimizer = torch.optim.AdamW(groups, lr=0.01)
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def test_schedulers_that_take_no_further_parameters_need_the_embedding_in_the_optimizer(tmp_path):
    def warm_up(optimizer: torch.optim.Optimizer) -> Any:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))

    module = MaskedWithSchedule(warm_up)
    boundaries = TaskBoundaries(module.hat)
    with pytest.raises(ValueError, match=r"LambdaLR was built before the embedding of HAT .* \[self\.hat\.embedding\]"):
        trainer(tmp_path, [boundaries], 1).fit(module, loader())
    assert module.hat.task is None
    module.groups = [{"params": [*module.net.parameters()]}, {"params": [module.hat.embedding], "weight_decay": 0.0}]
    for task in range(2):
        run = trainer(tmp_path, [boundaries], 1)
        run.fit(module, loader(task))
        assert [group["lr"] for group in run.optimizers[0].param_groups] == [0.01, 0.01]
    assert module.hat.tasks == [0, 1]
    other = MaskedWithSchedule(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3))
    trainer(tmp_path, [TaskBoundaries(other.hat)], 1).fit(other, loader())


def test_hat_with_averaged_weights_is_an_error(tmp_path):
    module = Masked()
    with pytest.raises(ValueError, match=r"EMAWeightAveraging writes averaged weights .* HAT would then not keep"):
        trainer(tmp_path, [TaskBoundaries(module.hat), EMAWeightAveraging()], 1).fit(module, loader())
    assert module.hat.task is None


def test_hat_without_its_penalty_is_an_error(tmp_path):
    class Bare(Masked):
        def training_step(self, pair, index):
            return Regression.training_step(self, pair, index)

    module = Bare()
    with pytest.raises(RuntimeError, match="no step of task 0 has used penalty"):
        trainer(tmp_path, [TaskBoundaries(module.hat)], 1).fit(module, loader())


@pytest.mark.parametrize("engine_first", [True, False])
def test_hat_keeps_the_outputs_of_a_task_beside_the_engine_and_resumes_within_a_task(engine_first, tmp_path):
    def parts() -> tuple[Masked, list[Any]]:
        module = Masked()
        callbacks = [cbp(layers=lambda module: module.net, protect=module.hat), TaskBoundaries(module.hat)]
        return module, callbacks if engine_first else callbacks[::-1]

    module, callbacks = parts()
    trainer(tmp_path, callbacks, 2).fit(module, loader())
    first = module.outputs(0)
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    trainer(tmp_path, [*callbacks, checkpoint], 2, enable_checkpointing=True).fit(module.train(), loader(1))
    assert_same(module.outputs(0), first)
    assert module.hat.tasks == [0, 1]
    resumed, others = parts()
    trainer(tmp_path, others, 2).fit(resumed, loader(1), ckpt_path=tmp_path / "epoch=0.ckpt")
    results = [[dict(each.net.state_dict()), each.hat.embedding.detach(), each.hat.masks] for each in (resumed, module)]
    assert_same(*results)


def test_a_fit_after_one_that_failed_goes_on_with_its_task(tmp_path):
    class Failing(lightning.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            raise KeyError("in the middle of a task")

    module = Masked()
    boundaries = TaskBoundaries(module.hat)
    with pytest.raises(KeyError):
        trainer(tmp_path, [boundaries, Failing()], 1).fit(module, loader())
    assert (module.hat.task, module.hat.tasks) == (0, [])
    trainer(tmp_path, [boundaries], 1).fit(module, loader())
    assert (module.hat.task, module.hat.tasks, boundaries.ended) == (None, [0], 1)


class Distilled(Regression):
    """Adds the penalty of LwF from the second task on, and that of DER as told."""

    def __init__(self, asked: bool) -> None:
        super().__init__()
        self.lwf, self.der, self.asked = gnt.LwF(self.net), gnt.DER(self.net, gnt.ReplayBuffer(20)), asked

    def training_step(self, pair, index):
        x, y = pair
        output = self(x)
        loss = F.mse_loss(output, y)
        if self.lwf.tasks and self.asked:
            loss = loss + self.lwf(x, output)
        return loss + self.der(x, y, output) if self.asked else loss


def test_a_penalty_that_training_step_does_not_add_is_reported_once(tmp_path):
    module = Distilled(asked=True)
    boundaries = TaskBoundaries(module.lwf, module.der, gnt.SI(module.net, 1.0))
    for task in range(2):
        trainer(tmp_path, [boundaries], 1).fit(module, loader(task))  # warnings are errors
    assert "penalty" not in {**vars(module.lwf), **vars(module.der)}
    module = Distilled(asked=False)
    boundaries = TaskBoundaries(module.lwf, module.der)
    with pytest.warns(UserWarning, match=r"penalty of DER is missing.*self\.der\.penalty\(x, y, output\)") as warned:
        trainer(tmp_path, [boundaries], 1).fit(module, loader())
    assert not [each for each in warned if "LwF" in str(each.message)]  # it has no penalty in the first task
    with pytest.warns(UserWarning, match=r"penalty of LwF is missing.*self\.lwf\.penalty\(x, output\)") as warned:
        trainer(tmp_path, [boundaries], 1).fit(module, loader())
    assert not [each for each in warned if "penalty of DER" in str(each.message)]
    trainer(tmp_path, [boundaries], 1).fit(module, loader())


def test_a_penalty_is_still_looked_for_after_a_first_batch_that_was_skipped(tmp_path):
    class Skipping(Distilled):
        def on_train_batch_start(self, pair: Any, index: int) -> int | None:
            return -1 if self.trainer.current_epoch == 0 else None

    module = Skipping(asked=False)
    with pytest.warns(UserWarning, match="penalty of DER is missing"):
        trainer(tmp_path, [TaskBoundaries(module.der)], 2).fit(module, loader())
    assert "penalty" not in vars(module.der)


class Averaged(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.ewc = gnt.EWC(self.net, 1.0, likelihood="gaussian")


@pytest.mark.parametrize("average", [EMAWeightAveraging, lambda: StochasticWeightAveraging(0.1, 0.5)])
def test_averaging_is_listed_before_tasks_end(average, tmp_path):
    module = Averaged()
    boundaries = TaskBoundaries(module.ewc, net=lambda module: module.net)
    with pytest.raises(ValueError, match=r"Averaging is listed after TaskBoundaries: .* List it before"):
        trainer(tmp_path, [boundaries, average()], 1).fit(module, loader())
    replay = TaskBoundaries(gnt.ExperienceReplay(gnt.ReplayBuffer(20)))  # has no end_task
    trainer(tmp_path, [replay, EMAWeightAveraging()], 1).fit(Regression(), loader())
    trainer(tmp_path, [EMAWeightAveraging(decay=0.9), boundaries], 2).fit(module, loader())
    assert module.ewc.tasks == 1
    assert_same(list(module.ewc._anchors), [each.detach() for each in module.net.parameters()])


@pytest.mark.parametrize("kind", ["AGEM", "GEM"])
def test_the_next_task_begins_after_a_checkpoint_was_loaded(kind, tmp_path):
    def parts() -> tuple[Regression, Any, TaskBoundaries]:
        module = Regression()
        buffer = gnt.ReplayBuffer(200, generator=torch.Generator().manual_seed(1))
        method = gnt.AGEM(module.net, buffer, F.mse_loss) if kind == "AGEM" else gnt.GEM(module.net, F.mse_loss)
        return module, method, TaskBoundaries(method)

    module, _, boundaries = parts()
    run = trainer(tmp_path, [boundaries], 1)
    run.fit(module, loader())
    run.save_checkpoint(tmp_path / "task0.ckpt")
    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    module, method, boundaries = parts()
    run = trainer(tmp_path, [boundaries, checkpoint], 3, enable_checkpointing=True)
    run.fit(module, loader(1), ckpt_path=tmp_path / "task0.ckpt")
    assert (method.task, boundaries.ended) == (1, 2)
    again, resumed, boundaries = parts()  # in the middle of the second task, which does not begin twice
    trainer(tmp_path, [boundaries], 3).fit(again, loader(1), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert_same(
        [dict(module.net.state_dict()), method.state_dict()], [dict(again.net.state_dict()), resumed.state_dict()]
    )
    assert (resumed.task, boundaries.ended) == (1, 2)
    if kind == "AGEM":
        assert method.buffer.sample(200).task.bincount().tolist() == [48, 96]
    else:
        assert {task: memory.seen for task, memory in method.memories.items()} == {0: 48, 1: 96}


@pytest.mark.parametrize("kind", ["SI", "EWC", "HAT"])
def test_a_checkpoint_of_the_end_of_training_ends_its_task(kind, tmp_path):
    def parts() -> tuple[Regression, Any, TaskBoundaries]:
        module = Masked() if kind == "HAT" else Regression()
        makers = {"SI": lambda: gnt.SI(module.net, 1.0), "EWC": lambda: gnt.EWC(module.net, 1.0, likelihood="gaussian")}
        method = module.hat if isinstance(module, Masked) else makers[kind]()
        return module, method, TaskBoundaries(method, net=lambda module: module.net)

    checkpoint = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    whole, expected, boundaries = parts()
    trainer(tmp_path, [boundaries, checkpoint], 2, enable_checkpointing=True).fit(whole, loader())
    module, method, boundaries = parts()
    trainer(tmp_path, [boundaries], 2, limit_train_batches=0).fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert boundaries.ended == 0  # nothing to train on
    module, method, boundaries = parts()
    trainer(tmp_path, [boundaries], 2).fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert boundaries.ended == 1
    assert_same([dict(module.state_dict()), method.state_dict()], [dict(whole.state_dict()), expected.state_dict()])
    trainer(tmp_path, [boundaries], 1).fit(module, loader(1))
    assert boundaries.ended == 2
