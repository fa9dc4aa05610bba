"""Which values a graph returns so that they are computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import gnt
from gnt.learners._compile import compiled_step
from gnt.learners._compile.repeated_values import return_repeated_values

X, WEIGHT = torch.randn(1, 100), torch.randn(300, 100)


def returned(function: Callable[..., Tensor], *inputs: Tensor) -> list[tuple[int, ...]]:
    """The shapes of what the graph of a function returns besides its result, which stays the same."""
    graph = make_fx(lambda *given: (function(*given),))(*inputs)
    before = graph(*inputs)
    return_repeated_values(graph)
    after = graph(*inputs)
    torch.testing.assert_close(after[: len(before)], before, rtol=0, atol=0)
    return [tuple(each.shape) for each in after[len(before) :]]


def test_an_input_that_is_computed_before_a_product_over_one_sample() -> None:
    assert returned(lambda x, w: (x / (x.square() + 1.0).sqrt()) @ w.t(), X, WEIGHT) == [(1, 100)]
    assert returned(lambda x, w: nn.functional.gelu(x)[None] @ w.t()[None], X, WEIGHT) == [(1, 100)]


def test_a_row_that_is_computed_before_an_outer_product() -> None:
    assert returned(lambda x, d: d[:, None] * torch.tanh(x), X, WEIGHT[:, 0]) == [(1, 100)]


def test_a_scalar_that_a_whole_matrix_reads() -> None:
    assert returned(lambda x, w: w * (torch.expm1(x[0, 0]) * 2.0), X, WEIGHT) == [()]


def test_a_scalar_that_is_stored_for_each_row() -> None:
    assert returned(lambda x, w: w * x[0, 0].expand(300, 1).clone(), X, WEIGHT) == [(300, 1)]


@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lambda x, w: torch.relu(x) @ w.t(), X),  # cheap
        (lambda x, w: torch.tanh(x) @ w.t(), torch.randn(4, 100)),  # the library computes this product
        (lambda x, w: torch.tanh(w) * 2.0 + x, X),  # each element is read once
        (lambda x, w: torch.tanh(x[:, :3]) @ w[:, :3].t(), X),  # small
        (lambda x, w: x @ w.t(), X),  # an input
    ],
)
def test_what_is_not_worth_an_output(function: Callable[..., Tensor], x: Tensor) -> None:
    assert returned(function, x, WEIGHT) == []


def test_each_value_of_a_chain_once() -> None:
    found = returned(lambda x, w: (torch.tanh(torch.exp(x)) @ w.t()) + torch.exp(x) @ w.t(), X, WEIGHT)
    assert found == [(1, 100), (1, 100)]  # the exponential, and the tanh of what is stored


def test_steps_of_adam_store_bias_corrections_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[list[tuple[int, ...]]] = []
    compile_graph = compiled_step.compile_graph

    def recorded(graph: Any, examples: Any) -> Any:
        (output,) = graph.graph.find_nodes(op="output")
        outputs.append([tuple(node.meta["val"].shape) for node in output.args[0][3:]])
        return compile_graph(graph, examples)

    monkeypatch.setattr(compiled_step, "compile_graph", recorded)
    net = nn.Sequential(gnt.nn.InputNorm(80), nn.Linear(80, 100), nn.ReLU(), nn.Linear(100, 2))
    learner = gnt.Backprop(net, loss="mse", opt="adam", compile=True)
    for _ in range(3):
        learner.learn(torch.randn(1, 80), torch.randn(1, 2))
    (found,) = outputs
    # two bias corrections for the first layer, whose inputs are normalized; the second one is small
    assert found.count((100, 1)) == 2
    assert (1, 80) in found
    assert not {(2, 1), (2,)} & set(found)
