"""Tiny versions of published architectures with random weights, and the groups and refusals that are expected.

Patterns are those of fnmatch.
"""

from __future__ import annotations

from typing import Any

import transformers as hf
from torch import nn

from tests.units.tracing.example_cases import EXAMPLES
from tests.units.tracing.model_case import ATTENTION, OUTPUT, SUM, Case, noise, tokens


def resnet(**settings: Any) -> nn.Module:
    return hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=3, **settings))


def vit() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))


def bert() -> nn.Module:
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = hf.BertConfig(vocab_size=11, max_position_embeddings=8, num_labels=3, **sizes, **no_dropout)
    return hf.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 12}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **no_dropout, bos_token_id=0, eos_token_id=0))


DECODER = {
    "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**DECODER))


def mixtral(experts: str) -> nn.Module:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**DECODER, num_local_experts=3, experts_implementation=experts))


def qwen_moe() -> nn.Module:
    experts = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 5}
    config = hf.Qwen2MoeConfig(
        **DECODER, **experts, shared_expert_intermediate_size=10, experts_implementation="batched_mm"
    )
    return hf.Qwen2MoeForCausalLM(config)


def t5() -> nn.Module:
    sizes = {"vocab_size": 11, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    gated = {"feed_forward_proj": "gated-gelu"}  # as in version 1.1
    config = hf.T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0, use_cache=False, **gated)
    return hf.T5ForConditionalGeneration(config)


def bart() -> nn.Module:
    encoder = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 12}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 10}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "decoder_start_token_id": 0}
    config = hf.BartConfig(
        vocab_size=11, d_model=8, max_position_embeddings=8, dropout=0.0, forced_eos_token_id=None,
        **encoder, **decoder, **ids,
    )  # fmt: skip
    model = hf.BartForConditionalGeneration(config)
    model.model.encoder.layerdrop = model.model.decoder.layerdrop = NoLayerDrop()
    return model


class NoLayerDrop:
    """A rate of 0 at which layers are skipped: some transformers 5 compare it with a random tensor in any case."""

    def __gt__(self, other: object) -> bool:
        return False


def convnext() -> nn.Module:
    config = hf.ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 2], num_stages=2, num_labels=3)
    return hf.ConvNextForImageClassification(config)


def convnextv2() -> nn.Module:
    config = hf.ConvNextV2Config(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, num_labels=3)
    return hf.ConvNextV2ForImageClassification(config)


def mobilenet() -> nn.Module:
    """The first three blocks, with four channels each, so that the following layer fits."""
    small = {"depth_multiplier": 0.01, "min_depth": 4, "depth_divisible_by": 4, "finegrained_output": False}
    config = hf.MobileNetV2Config(**small, tf_padding=False, num_labels=3)
    model = hf.MobileNetV2ForImageClassification(config)
    model.mobilenet_v2.layer = model.mobilenet_v2.layer[:3]
    return model


def mamba() -> nn.Module:
    config = hf.MambaConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, state_size=4, use_mambapy=False)
    return hf.MambaForCausalLM(config)


RESNET = {"*.convolution": SUM, "classifier.1": OUTPUT}
IDS = {"input_ids": tokens(), "use_cache": False}
SEQ2SEQ = {"input_ids": tokens(), "decoder_input_ids": tokens()[:, :4]}

REAL: dict[str, Case] = {
    "resnet-basic": Case(
        lambda: resnet(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 2], layer_type="basic"),
        {"resnet.encoder.stages.0.layers.0.layer.0.convolution": (4, "relu"),
         "resnet.encoder.stages.1.layers.?.layer.0.convolution": (8, "relu")},
        RESNET,
        (noise(2, 3, 32, 32),),
    ),
    "resnet-bottleneck": Case(
        lambda: resnet(embedding_size=4, hidden_sizes=[8, 16], depths=[1, 2], layer_type="bottleneck"),
        {"resnet.embedder.embedder.convolution": (4, "relu"),
         "resnet.encoder.stages.0.layers.0.layer.[01].convolution": (2, "relu"),
         "resnet.encoder.stages.1.layers.?.layer.[01].convolution": (4, "relu")},
        RESNET,
        (noise(2, 3, 32, 32),),
    ),
    "vit": Case(
        vit,
        {"vit.layers.?.mlp.fc1": (12, "gelu")},
        {"*.[qkv]_proj": ATTENTION, "*.o_proj": SUM, "*.fc2": SUM, "classifier": OUTPUT,
         "*.patch_embeddings.projection": "position_embeddings"},
        (noise(2, 3, 8, 8),),
    ),
    "bert": Case(
        bert,
        {"bert.encoder.layer.?.intermediate.dense": (12, "gelu"), "bert.pooler.dense": (8, "tanh")},
        {"*.query": ATTENTION, "*.key": ATTENTION, "*.value": ATTENTION, "*.output.dense": SUM, "classifier": OUTPUT},
        kwargs={"input_ids": tokens()},
    ),
    "gpt2": Case(
        gpt2,
        {"transformer.h.?.mlp.c_fc": (12, "gelu")},
        {"*.c_attn": ATTENTION, "*.c_proj": SUM, "lm_head": "tied"},
        kwargs=IDS,
        oracle=False,  # Torch-Pruning does not know Conv1D
    ),
    "llama": Case(
        llama,
        {"model.layers.?.mlp.gate_proj": (12, "silu")},
        {"*.[qkv]_proj": ATTENTION, "*.o_proj": SUM, "*.down_proj": SUM, "lm_head": OUTPUT},
        kwargs=IDS,
    ),
    "qwen-moe": Case(
        qwen_moe,
        {"model.layers.?.mlp.shared_expert.gate_proj": (10, "silu")},
        {"*.mlp.experts*": "routing", "*.[qkv]_proj": ATTENTION, "*.o_proj": SUM, "*.down_proj": SUM, "lm_head": OUTPUT,
         "*.shared_expert_gate": "several units", "*.mlp.gate*": "."},
        kwargs=IDS,
        oracle=False,
    ),
    "mixtral": Case(
        lambda: mixtral("batched_mm"),
        {},
        {"*.[qkv]_proj": ATTENTION, "*.o_proj": SUM, "lm_head": OUTPUT,
         "*.mlp.gate*": ".", "*.mlp.experts*": "routing"},
        kwargs=IDS,
        oracle=False,
    ),
    "t5": Case(
        t5,
        {"*.DenseReluDense.wi_0": (12, "gelu")},
        {"*.[qkv]": ATTENTION, "*.o": SUM, "*.wo": SUM, "lm_head": "tied"},
        kwargs=SEQ2SEQ,
    ),
    "bart": Case(
        bart,
        {"model.encoder.layers.?.fc1": (12, "gelu"), "model.decoder.layers.?.fc1": (10, "gelu")},
        {"*.[qkv]_proj": ATTENTION, "*.out_proj": SUM, "*.fc2": SUM, "lm_head": "tied"},
        kwargs={**SEQ2SEQ, "use_cache": False},
    ),
    "convnext": Case(
        convnext,
        {"convnext.encoder.stages.0.layers.?.dwconv": (4, "identity"),
         "convnext.encoder.stages.1.layers.?.dwconv": (8, "identity"),
         "convnext.encoder.stages.0.layers.?.pwconv1": (16, "gelu"),
         "convnext.encoder.stages.1.layers.?.pwconv1": (32, "gelu")},
        {"*.pwconv2": "layer_scale", "*.downsampling_layer.1": SUM, "*.patch_embeddings": SUM, "classifier": OUTPUT},
        (noise(2, 3, 32, 32),),
    ),
    "convnextv2": Case(
        convnextv2,
        {"convnextv2.encoder.stages.0.layers.0.dwconv": (4, "identity"),
         "convnextv2.encoder.stages.1.layers.0.dwconv": (8, "identity"),
         "convnextv2.encoder.stages.0.layers.0.pwconv1": (16, "gelu"),
         "convnextv2.encoder.stages.1.layers.0.pwconv1": (32, "gelu")},
        {"*.pwconv2": SUM, "*.downsampling_layer.1": SUM, "*.patch_embeddings": SUM, "classifier": OUTPUT},
        (noise(2, 3, 32, 32),),
        oracle=False,  # it does not know which part of a parameter outside torch's layers belongs to a unit
    ),
    "mobilenet": Case(
        mobilenet,
        {"*.conv_stem.first_conv.convolution": (4, "relu6"), "*.conv_stem.reduce_1x1.convolution": (4, "identity"),
         "*.layer.?.expand_1x1.convolution": (24, "relu6"), "*.layer.2.reduce_1x1.convolution": (4, "identity"),
         "*.conv_1x1.convolution": (12, "relu6")},
        {"*.layer.[01].reduce_1x1.convolution": SUM, "classifier": OUTPUT},
        (noise(2, 3, 32, 32),),
    ),
    "mamba": Case(
        mamba,
        {},
        {"*.in_proj*": ".", "*.conv1d": ".", "*.x_proj": ".", "*.dt_proj": ".", "*.out_proj": SUM, "lm_head": "tied"},
        kwargs=IDS,
        oracle=False,
    ),
}  # fmt: skip


def torchvision_cases() -> dict[str, Case]:
    """ResNet-18 and -50 if torchvision can be imported: each of its wheels fits one build of torch."""
    try:
        from torchvision.models import resnet18, resnet50
    except (ImportError, RuntimeError):
        return {}
    image, refused = (noise(2, 3, 64, 64),), {"fc": OUTPUT, "layer*": SUM}
    return {
        "torchvision-resnet18": Case(resnet18, {"layer?.?.conv1": (0, "relu")}, {"conv1": SUM, **refused}, image),
        "torchvision-resnet50": Case(
            resnet50, {"conv1": (64, "relu"), "layer?.?.conv[12]": (0, "relu")}, refused, image
        ),
    }


CASES = {**EXAMPLES, **REAL, **torchvision_cases()}
