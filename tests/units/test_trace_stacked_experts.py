"""Experts whose weights are stacked in one parameter are refused by name; the other layers are found."""

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn

import gnt
from tests.units.tracing.group_checks import reasons, summary

TOKENS = torch.tensor([[1, 4, 2, 9]])
WHAT_TO_DO = "can be listed: gnt.GnT([expert.up, torch.relu, expert.down])"


def _transformer(implementation):
    """A layer with a dense feed-forward network and one with experts."""
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "moe_intermediate_size": 6, "head_dim": 4}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "mlp_only_layers": [0]}
    config = hf.Qwen3MoeConfig(**sizes, **layers, num_experts=4, num_experts_per_tok=2)
    model = hf.Qwen3MoeForCausalLM(config)
    model.set_experts_implementation(implementation)
    return model


@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_stacked_experts_of_transformers_are_refused_by_name(implementation):
    groups = gnt.trace(_transformer(implementation), input_ids=TOKENS, use_cache=False)
    assert set(summary(groups)) == {"model.layers.0.mlp.gate_proj"}
    for name, shape in (("gate_up_proj", "(4, 12, 8)"), ("down_proj", "(4, 8, 6)")):
        reason = reasons(groups)[f"model.layers.1.mlp.experts.{name}"]
        assert reason.startswith(f"stacked experts: one parameter of shape {shape} holds the weights of all of them")
        assert reason.endswith(WHAT_TO_DO)


def test_the_error_for_a_loop_over_experts_says_how_to_trace_the_other_layers():
    with pytest.raises(gnt.TraceError, match=r"cannot be traced by torch.export") as caught:
        gnt.trace(_transformer("eager"), input_ids=TOKENS, use_cache=False)
    assert "'model.layers.1.mlp.experts' are stacked in one parameter (gate_up_proj, down_proj)" in str(caught.value)
    assert "model.set_experts_implementation('grouped_mm')" in str(caught.value)


class Experts(nn.Module):
    """A hidden layer, then stacked experts in a given function."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 4)
        self.up, self.down = nn.Parameter(torch.randn(3, 6, 4)), nn.Parameter(torch.randn(3, 4, 6))
        self.function = function

    def forward(self, x):
        return self.function(self.second(F.relu(self.first(x))), self.up, self.down)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, up, down: sum(F.linear(F.relu(F.linear(x, up[e])), down[e]) for e in range(3)),
        lambda x, up, down: sum(F.relu(x @ u.T) @ d.T for u, d in zip(up.unbind(0), down.unbind(0), strict=True)),
        lambda x, up, down: torch.bmm(F.relu(torch.bmm(x.expand(3, -1, -1), up.mT)), down.mT).sum(0),
    ],
)
def test_other_ways_to_read_stacked_experts_are_refused_by_name(function):
    groups = gnt.trace(Experts(function), torch.randn(2, 4))
    assert summary(groups) == {"first": "5 relu: first > second"}
    names = [name for name in reasons(groups) if name != "second"]
    assert {name.partition("[")[0] for name in names} == {"up", "down"}
    for name in names:
        assert "stacked experts: one parameter of shape (3, " in reasons(groups)[name]
        assert reasons(groups)[name].endswith(WHAT_TO_DO)
