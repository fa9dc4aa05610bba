"""Hugging Face: Trainer and Accelerator train with an optimizer that has an engine, and save and load its state."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import gnt
from gnt.optim import CBPAdamW
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, replaced

WORDS, STEPS, ACCUMULATED = 50, 8, 2
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert(seed=0, **settings):
    """A classifier with two blocks of 24 feed-forward units, with dropout."""
    torch.manual_seed(seed)
    small = {
        "vocab_size": WORDS,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    return BertForSequenceClassification(BertConfig(**{**small, **settings}))


def sentences(n=48):
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(WORDS, (n, 8), generator=generator)
    return [{"input_ids": each, "labels": int(each.sum()) % 2} for each in words]


def feed_forward(model):
    """The unit groups of the blocks' feed-forward layers, listed explicitly."""
    blocks = [[block.intermediate.dense, block.output.dense] for block in model.bert.encoder.layer]
    return [group for layers in blocks for group in gnt.walk(layers, activation="gelu")]


def seeded():
    return torch.Generator().manual_seed(5)


def cbp(model, **settings):
    return CBPAdamW(
        model, lr=0.01, layers=feed_forward(model), **{"generator": seeded(), **FREQUENT_REPLACEMENT, **settings}
    )


def decreasing_schedule(optimizer):
    return LambdaLR(optimizer, lambda t: 1 / (1 + t))


def train(root, model, optimizer, steps=STEPS, callbacks=(), resume=None, data=None, **settings):
    """Train a model with Trainer. Returns the trainer."""
    quiet = {"logging_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True}
    batches = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": ACCUMULATED, "max_grad_norm": 0.5}
    arguments = TrainingArguments(root, max_steps=steps, **{"save_strategy": "no", **quiet, **batches, **settings})
    given = (
        {"optimizers": (optimizer, decreasing_schedule(optimizer))}
        if isinstance(optimizer, torch.optim.Optimizer)
        else {"optimizer_cls_and_kwargs": optimizer}
    )
    data = {"train_dataset": data or sentences(), "eval_dataset": sentences(8)}
    run = Trainer(model, arguments, callbacks=list(callbacks), **data, **given)
    run.train(resume_from_checkpoint=resume)
    return run


def state(run):
    """Copies of everything that training changes."""
    parts = dict(run.model.state_dict()), run.optimizer.state_dict(), run.lr_scheduler.state_dict()
    return copy.deepcopy(list(parts))


class EngineCallback(TrainerCallback):
    """Calls the engine after each optimizer step."""

    def __init__(self, engine):
        self.engine = engine

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.engine.step()


@pytest.mark.parametrize("settings", [{}, {"bf16": True}], ids=["float32", "bf16"])
def test_training_equals_an_engine_called_by_a_callback(settings, tmp_path):
    model = bert()
    run = train(tmp_path, model, cbp(model), **settings)
    other = bert()
    plain = gnt.AdamGnT(other.parameters(), lr=0.01, weight_decay=0.01, decoupled_weight_decay=True)
    engine = gnt.GnT(feed_forward(other), plain, generator=seeded(), **FREQUENT_REPLACEMENT)
    actual = state(run)
    expected = state(train(tmp_path, other, plain, callbacks=[EngineCallback(engine)], **settings))
    assert_same(actual[1].pop("gnt"), engine.state_dict())
    assert_same(actual, expected)
    assert engine.updates == run.state.global_step == STEPS
    assert min(replaced(engine)) > 4


def test_ages_are_optimizer_steps(tmp_path):
    model = bert()
    run = train(tmp_path, model, cbp(model, replacement_rate=0.0))
    groups = run.optimizer.optimizer.gnt.groups
    assert [group.state.age.tolist() for group in groups] == [[STEPS] * 24] * 2


def gpt2(seed=0):
    torch.manual_seed(seed)
    small = {"vocab_size": WORDS, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24}
    return GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0))


def llama(seed=0):
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return LlamaForCausalLM(LlamaConfig(**small, vocab_size=WORDS, bos_token_id=0, eos_token_id=0))


# outputs with a cache cannot be traced
ONE_SENTENCE = {"input_ids": torch.arange(8)[None], "use_cache": False}
FAMILIES = {
    "bert": (bert, lambda model: {"layers": feed_forward(model)}),
    "gpt2": (gpt2, lambda model: {"example_inputs": ONE_SENTENCE, "include": "*.mlp.*"}),
    "llama": (llama, lambda model: {"example_inputs": ONE_SENTENCE}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_training_resumes_bit_for_bit_from_a_checkpoint(family, tmp_path):
    """For models whose units are listed explicitly and for traced models."""
    make, units = FAMILIES[family]
    data = sentences() if make is bert else [{**each, "labels": each["input_ids"]} for each in sentences()]
    runs = []
    for seed, resume in ((0, None), (9, tmp_path / "checkpoint-4")):
        model, generator = make(seed), torch.Generator().manual_seed(seed)
        optimizer = CBPAdamW(model, lr=0.01, **units(model), generator=generator, **FREQUENT_REPLACEMENT)
        run = train(tmp_path, model, optimizer, resume=resume, data=data, save_strategy="steps", save_steps=4)
        runs.append(state(run))
    assert torch.load(tmp_path / "checkpoint-4/optimizer.pt", weights_only=True)["gnt"]["updates"] == 4
    assert_same(*runs)
    assert [group.num_units for group in optimizer.gnt.groups] == [24, 24]
    assert min(replaced(optimizer.gnt)) > 4


def test_evaluation_does_not_affect_training(tmp_path):
    model, other = (bert(**NO_DROPOUT) for _ in range(2))  # starting a data loader draws from torch's generator
    evaluated = train(tmp_path, model, cbp(model), eval_strategy="steps", eval_steps=1)
    assert len([entry for entry in evaluated.state.log_history if "eval_loss" in entry]) == STEPS
    assert not evaluated.optimizer.optimizer.gnt.waiting
    assert_same(state(evaluated), state(train(tmp_path, other, cbp(other))))


def test_recomputed_forwards_are_recorded_once(tmp_path):
    model, other = bert(), bert()
    new_name = getattr(model, "activation_checkpointing_enable", None)  # since transformers 5.23
    (new_name or model.gradient_checkpointing_enable)()
    run = train(tmp_path, model, cbp(model))
    assert_same(state(run), state(train(tmp_path, other, cbp(other))))


def test_an_optimizer_that_trainer_builds_from_the_model(tmp_path):
    model = bert()
    settings = {"model": model, "lr": 0.01, "layers": feed_forward(model), "weight_decay": 0.1, **FREQUENT_REPLACEMENT}
    run = train(tmp_path, model, (CBPAdamW, settings), lr_scheduler_type="constant")
    (options,) = run.optimizer.param_groups
    assert (options["lr"], options["weight_decay"], len(options["params"])) == (
        0.01,
        0.1,
        len(list(model.parameters())),
    )
    assert run.optimizer.optimizer.gnt.updates == STEPS


def test_an_optimizer_that_trainer_builds_from_parameter_groups(tmp_path):
    """Trainer separates parameters with and without weight decay; the optimizer keeps these groups."""
    model = bert()
    settings = {"lr": 0.01, "layers": feed_forward(model), **FREQUENT_REPLACEMENT}
    run = train(tmp_path, model, (CBPAdamW, settings), weight_decay=0.1)
    decaying, others = run.optimizer.param_groups
    assert [decaying["weight_decay"], others["weight_decay"]] == [0.1, 0.0]
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert min(replaced(run.optimizer.optimizer.gnt)) > 4


def accelerated(seed=0, generator=5):
    model = bert(seed, **NO_DROPOUT)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED)
    optimizer = cbp(model, generator=torch.Generator().manual_seed(generator))
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, decreasing_schedule(optimizer))
    return accelerator, model, optimizer, scheduler


def train_accelerated(run, batches):
    accelerator, model, optimizer, scheduler = run
    data = sentences()
    for t in batches:
        rows = [data[(4 * t + i) % len(data)] for i in range(4)]
        batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]}
        with accelerator.accumulate(model):
            accelerator.backward(model(**batch).loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return copy.deepcopy([dict(model.state_dict()), optimizer.state_dict(), scheduler.state_dict()])


def test_training_resumes_bit_for_bit_from_a_state_saved_by_accelerator(tmp_path):
    run = accelerated()
    train_accelerated(run, range(8))
    run[0].save_state(tmp_path)
    resumed = accelerated(seed=9, generator=6)
    resumed[0].load_state(tmp_path)
    whole = train_accelerated(run, range(8, 16))
    assert whole[1]["gnt"]["updates"] == STEPS
    assert_same(train_accelerated(resumed, range(8, 16)), whole)
    assert min(replaced(run[2].optimizer.gnt)) > 4
