"""Continual backpropagation in the Trainer of transformers, by a callback and by a mixin."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import gnt
from gnt.integrations.huggingface import ContinualBackprop, ContinualBackpropMixin
from gnt.optim import CBPAdamW
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, replaced

WORDS, LAYERS = 20, "bert.encoder.layer.*.intermediate.dense"


class ContinualTrainer(ContinualBackpropMixin, Trainer):
    pass


def bert():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 12}
    return BertForSequenceClassification(BertConfig(vocab_size=WORDS, max_position_embeddings=8, **sizes))


def settings(**others):
    generator = torch.Generator().manual_seed(5)
    return {"include": LAYERS, "generator": generator, **FREQUENT_REPLACEMENT, **others}


def trainer(root, *, kind=Trainer, model=None, arguments=(), **others):
    words = torch.randint(WORDS, (24, 6), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": each, "attention_mask": torch.ones(6), "labels": int(each[0]) % 2} for each in words]
    quiet = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "steps", "save_steps": 4}
    steps = {"max_steps": 8, "logging_steps": 4, "per_device_train_batch_size": 4, "weight_decay": 0.1}
    made = TrainingArguments(root, **quiet, **steps, **dict(arguments))
    model = {} if "model_init" in others else {"model": model or bert()}
    return kind(**model, args=made, train_dataset=data, **others)


def with_callback(root, **others):
    run = trainer(root)
    callback = ContinualBackprop(run, **settings(**others))
    run.add_callback(callback)
    return run, callback


def state(run):
    parts = [dict(run.model.state_dict()), run.optimizer.state_dict(), run.lr_scheduler.state_dict()]
    return copy.deepcopy(parts)


def test_callback_and_mixin_train_like_an_optimizer_with_an_engine(tmp_path):
    called, callback = with_callback(tmp_path / "a")
    called.train()
    mixed = trainer(tmp_path / "b", kind=ContinualTrainer, continual_backprop=settings(log_layers=True))
    mixed.train()
    model = bert()
    units = gnt.trace(model, input_ids=torch.ones(2, 6, dtype=torch.long), include=LAYERS)
    own = {"lr": 5e-5, "layers": units, **settings()}
    del own["include"]
    plain = trainer(tmp_path / "c", model=model, optimizer_cls_and_kwargs=(CBPAdamW, own))
    plain.train()
    assert_same(state(called), state(plain))
    assert_same(state(mixed), state(plain))
    assert callback.engine.updates == mixed.engine.updates == 8
    assert min(replaced(callback.engine)) > 4

    logged = [entry for entry in called.state.log_history if "gnt/replaced" in entry]
    beside = [entry for entry in mixed.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in logged] == [entry["step"] for entry in beside] == [4, 8]
    own = [entry for entry in called.state.log_history if "loss" in entry]  # the trainer's own entries are written too
    assert [entry["step"] for entry in own] == [4, 8]
    assert {"learning_rate", "grad_norm"} <= own[0].keys()
    assert logged[1]["gnt/replaced"] == beside[1]["gnt/replaced"] == sum(replaced(callback.engine))
    assert beside[1]["gnt/bert.encoder.layer.1.intermediate.dense/age"] <= 8


def test_figures_are_logged_with_the_trainer_at_the_end_of_epochs(tmp_path):
    run = trainer(tmp_path, arguments={"logging_strategy": "epoch"})
    run.add_callback(ContinualBackprop(run, **settings()))
    run.train()
    for key in ("gnt/replaced", "loss"):
        assert [entry["step"] for entry in run.state.log_history if key in entry] == [6, 8]


def test_runs_resumed_from_a_checkpoint_continue_bit_for_bit(tmp_path):
    whole, callback = with_callback(tmp_path)
    whole.train()
    resumed, other = with_callback(tmp_path, generator=torch.Generator().manual_seed(9))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same(state(resumed), state(whole))
    mixed = trainer(tmp_path, kind=ContinualTrainer, continual_backprop=settings(generator=None))
    mixed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert_same(state(mixed), state(whole))
    assert other.engine.updates == callback.engine.updates == 8


def test_a_checkpoint_without_an_engine_gives_a_warning(tmp_path):
    trainer(tmp_path).train()
    mixed = trainer(tmp_path, kind=ContinualTrainer, continual_backprop=settings())
    with pytest.warns(UserWarning, match="this state_dict of AdamGnT was saved without an engine"):
        mixed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert mixed.engine.updates == 4


def test_the_mixin_attaches_an_engine_to_each_optimizer_of_model_init(tmp_path):
    run = trainer(tmp_path, kind=ContinualTrainer, continual_backprop=settings(), model_init=bert)
    run.train()
    first = run.engine
    run.train()
    assert run.engine is not first
    assert run.engine.updates == 8
    assert run.engine.groups[0].producer is run.model.bert.encoder.layer[0].intermediate.dense
    with pytest.raises(ValueError, match="model_init makes a new optimizer for each run: use ContinualBackpropMixin"):
        ContinualBackprop(run)


def test_augmentations_of_the_samples_that_are_traced_draw_nothing(tmp_path):
    def augmented(samples):
        random.random(), np.random.rand(), torch.rand(())
        return default_data_collator(samples)

    run = trainer(tmp_path, data_collator=augmented)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    ContinualBackprop(run, **settings())
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


def test_other_optimizers_are_kept(tmp_path):
    run, callback = with_callback(tmp_path, adam_gnt=False)
    assert type(run.optimizer) is torch.optim.AdamW is type(callback.engine.optimizer)
    sgd = trainer(tmp_path, kind=ContinualTrainer, continual_backprop=settings(), arguments={"optim": "sgd"})
    assert type(sgd.create_optimizer()) is torch.optim.SGD
    assert [group["weight_decay"] for group in sgd.optimizer.param_groups] == [0.1, 0.0]
    model = bert()
    optimizer = CBPAdamW(model, layers=gnt.walk(_feed_forward(model)))
    own = trainer(tmp_path, model=model, optimizers=(optimizer, None))
    assert ContinualBackprop(own).engine is optimizer.gnt
    with pytest.raises(ValueError, match="CBPAdamW has an engine of its own: settings of ContinualBackprop would be"):
        ContinualBackprop(own, replacement_rate=0.1)


def _feed_forward(model):
    block = model.bert.encoder.layer[0]
    return [block.intermediate.dense, torch.nn.GELU(), block.output.dense]


class Classifier(torch.nn.Module):
    """A network that cannot be called without labels, and returns a dict."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = torch.nn.Linear(4, 12), torch.nn.Linear(12, 3)

    def forward(self, x, labels):
        logits = self.head(torch.relu(self.hidden(x)))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_a_model_whose_forward_requires_labels(tmp_path):
    run = trainer(tmp_path, model=Classifier())
    run.train_dataset = [{"x": torch.randn(4), "labels": number % 3} for number in range(24)]
    callback = ContinualBackprop(run, **FREQUENT_REPLACEMENT)
    run.add_callback(callback)
    run.train()
    assert [group.name for group in callback.engine.groups] == ["hidden"]
    assert replaced(callback.engine)[0] > 2


def test_the_mixin_creates_the_optimizer_with_the_arguments_of_trainer(tmp_path):
    run = trainer(tmp_path, kind=ContinualTrainer, continual_backprop=settings())
    assert run.create_optimizer(model=run.model) is run.engine.optimizer


def test_wrong_settings_are_errors_before_an_optimizer_is_made(tmp_path):
    run = trainer(tmp_path)
    for wrong, error, message in [
        ({"replacment_rate": 0.1}, TypeError, "unknown setting replacment_rate: ContinualBackprop takes layers"),
        ({"replacement_rate": 2}, ValueError, "replacement_rate"),
        ({"log": 1}, TypeError, "log must be True or False, got 1"),
        ({"example_inputs": torch.ones(1)}, TypeError, "example_inputs of ContinualBackprop must be a dict"),
        ({"layers": [], "include": "a"}, TypeError, "include would be ignored"),
        ({"include": 3}, TypeError, "include must be a pattern or a list of patterns, got 3"),
        ({"follow": 3}, TypeError, "follow must be a list of objects, got int"),
        ({"include": "decoder"}, ValueError, "include pattern 'decoder' matches nothing"),
    ]:
        with pytest.raises(error, match=message):
            ContinualBackprop(run, **wrong)
        assert run.optimizer is None
    data, run.train_dataset = run.train_dataset, []
    with pytest.raises(ValueError, match="train_dataset has no samples: pass example_inputs or layers"):
        ContinualBackprop(run)
    run.train_dataset = data
    for wrong, message in [({"follow": [3]}, "int cannot follow"), ({"layers": 3}, "layers must be a Sequential")]:
        with pytest.raises(TypeError, match=message):
            ContinualBackprop(run, **wrong)
        assert run.optimizer is None
    with pytest.raises(TypeError, match=r"trainer must be a transformers\.Trainer, got Linear"):
        ContinualBackprop(torch.nn.Linear(2, 2))
    callback = ContinualBackprop(run, include=LAYERS)
    run.add_callback(callback)
    run.optimizer = torch.optim.SGD(run.model.parameters())
    with pytest.raises(ValueError, match="the trainer has another optimizer than when ContinualBackprop was made"):
        run.train()
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'continual_backprop'"):
        trainer(tmp_path, kind=ContinualTrainer)
    with pytest.raises(TypeError, match="continual_backprop must be a dict of settings, got NoneType"):
        trainer(tmp_path, kind=ContinualTrainer, continual_backprop=None)
