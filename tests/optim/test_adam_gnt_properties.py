"""Property tests of AdamGnT: random shapes, options, steps and resets, compared with a literal twin and with torch."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gnt.optim import AdamGnT
from gnt.optim._adam.bias_correction import BiasCorrections, larger_step_sizes, per_element, smaller_roots
from tests.twins.adam import AdamTwin

OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([1e-3, 0.03]),
        "betas": st.sampled_from([(0.9, 0.999), (0.0, 0.9), (0.95, 0.9), (0.5, 0.99)]),
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
        "decoupled_weight_decay": st.booleans(),
    }
)
IMPLEMENTATIONS = st.sampled_from([{"kernels": False}, {"foreach": False}, {"foreach": True}, {"fused": True}])
ALL_IMPLEMENTATIONS = IMPLEMENTATIONS | st.just({"kernels": True})


@dataclass(frozen=True)
class Reset:
    dim: int
    index: list[int]


@dataclass(frozen=True)
class History:
    """Shape of a parameter, groups of its convolution, and a sequence of events: steps (None) and resets."""

    shape: tuple[int, ...]
    groups: int
    events: list[Reset | None]

    def units(self, dim: int) -> int:
        return self.shape[0] if dim == 0 else self.shape[1] * self.groups


@st.composite
def histories(draw: st.DrawFn, at_least_one_reset: bool = False) -> History:
    size = st.integers(1, 5)
    kernel = draw(st.sampled_from([None, (), (2,), (2, 1), (1, 1)]))  # None: a bias or a norm parameter
    groups = draw(st.integers(1, 3)) if kernel else 1
    shape = (draw(size) * groups,) if kernel is None else (draw(size) * groups, draw(size), *kernel)
    history = History(shape, groups, [])
    dims = st.just(0) if kernel is None else st.integers(0, 1)
    resets = dims.flatmap(
        lambda dim: st.builds(Reset, st.just(dim), st.lists(st.integers(0, history.units(dim) - 1), max_size=3))
    )
    events = draw(st.lists(st.none() | resets, min_size=1, max_size=16))
    if at_least_one_reset:
        events = [None, *events, draw(resets.filter(lambda reset: len(reset.index) > 0)), None]
    history.events.extend(events)
    return history


def gradient(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random gradients of both signs over two orders of magnitude; one in eight is exactly zero."""
    size = 10 ** (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
    sign = torch.randint(-3, 5, shape, generator=generator).sign()
    return size * sign


def reset_elements(value: Tensor, history: History, reset: Reset) -> Tensor:
    """Mask of the elements that a reset concerns, found element by element."""
    twin = AdamTwin(value, groups=history.groups)
    chosen = torch.zeros(value.shape, dtype=torch.bool)
    for position in twin.elements:
        chosen[position] = twin.unit_of(position, reset.dim) in reset.index
    return chosen


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
@given(history=histories(), options=OPTIONS, implementation=ALL_IMPLEMENTATIONS, seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_every_history_agrees_with_the_twin(dtype, tolerance, history, options, implementation, seed):
    """Both get the same gradients. The absolute tolerance grows with the largest parameter, if that exceeds 1."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.nn.Parameter(torch.randn(history.shape, generator=generator, dtype=torch.float64).to(dtype))
    ours = AdamGnT([param], **options, **implementation)
    twin_options = {**options, "decoupled": options["decoupled_weight_decay"], "groups": history.groups}
    del twin_options["decoupled_weight_decay"]
    twin = AdamTwin(param.detach(), **twin_options)
    for event in history.events:
        if event is None:
            param.grad = gradient(history.shape, generator).to(dtype)
            given_gradient = param.grad.clone()
            ours.step()
            twin.step(given_gradient)
            assert torch.equal(param.grad, given_gradient)
        else:
            ours.reset_units(param, event.dim, torch.tensor(event.index, dtype=torch.int64), history.groups)
            twin.reset(event.dim, event.index)
        expected = twin.read("theta")
        torch.testing.assert_close(
            param.detach().double(), expected, rtol=tolerance, atol=tolerance * max(1.0, expected.abs().max().item())
        )


@given(
    history=histories(at_least_one_reset=True), betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5), (0.85123, 0.99997)])
)
@settings(max_examples=100, deadline=None)
def test_counts_and_corrections_equal_the_twins_bit_for_bit(history, betas):
    param = torch.nn.Parameter(torch.ones(history.shape, dtype=torch.float64))
    ours = AdamGnT([param], betas=betas)
    twin = AdamTwin(param.detach(), betas=betas, groups=history.groups)
    for event in history.events:
        if event is None:
            param.grad = torch.ones_like(param)
            ours.step()
            twin.step(param.grad)
        else:
            ours.reset_units(param, event.dim, event.index, history.groups)
            twin.reset(event.dim, event.index)
    state = ours.state[param]
    now = int(state["step"])
    shape = param.shape

    starts = (state.get("row_start"), state.get("column_start"))
    counts = now - per_element(torch.maximum, starts, shape).expand(shape)
    assert torch.equal(counts.double(), twin.read("t"))
    corrections = BiasCorrections([param], [state])
    corrections.compute([now], {"betas": betas, "lr": 1.0})
    step_size, root = corrections.of(0)
    (step_sizes,), (roots,) = larger_step_sizes([step_size]), smaller_roots([root])
    assert torch.equal(step_sizes.expand(shape), 1.0 / twin.correction(0))
    assert torch.equal(roots.expand(shape), twin.correction(1, power=0.5))


@given(
    history=histories(at_least_one_reset=True),
    options=OPTIONS,
    implementation=ALL_IMPLEMENTATIONS,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    memory_format=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
@settings(max_examples=100, deadline=None)
def test_a_reset_clears_its_slices_and_nothing_else(history, options, implementation, dtype, memory_format):
    param = torch.nn.Parameter(torch.randn(history.shape).to(dtype))
    if param.dim() == 4:
        param.data = param.data.contiguous(memory_format=memory_format)
    ours = AdamGnT([param], **options, **implementation)
    for event in history.events:
        if event is None:
            param.grad = torch.randn(history.shape).to(dtype)
            ours.step()
            continue
        before = copy.deepcopy(ours.state[param])
        values, grad = param.detach().clone(), param.grad.clone()
        ours.reset_units(param, event.dim, event.index, history.groups)
        chosen = reset_elements(param.detach(), history, event)
        state = ours.state[param]
        assert torch.equal(param.detach(), values)
        assert torch.equal(param.grad, grad)
        assert torch.equal(state["step"], before["step"])
        for key in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if options["amsgrad"] else [])):
            assert torch.equal(state[key], before[key].masked_fill(chosen, 0.0))
        for dim, key in enumerate(("row_start", "column_start")):
            expected = before.get(key, torch.zeros(history.units(min(dim, param.dim() - 1)), dtype=torch.int64))
            if dim == event.dim:
                expected[event.index] = int(state["step"])
            if key in state:
                assert torch.equal(state[key], expected)
            else:
                assert not expected.any()


@given(
    options=OPTIONS,
    implementation=IMPLEMENTATIONS,
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_without_a_reset_it_equals_torch_bit_for_bit(options, implementation, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (4,), (2, 2, 3, 3)]
    ours_params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    torch_params = copy.deepcopy(ours_params)
    ours = AdamGnT(ours_params, **options, **implementation)
    torch_options = {k: v for k, v in options.items() if k != "decoupled_weight_decay"}
    torch_class = torch.optim.AdamW if options["decoupled_weight_decay"] else torch.optim.Adam
    flags = {"fused": True} if "kernels" in implementation else implementation
    theirs = torch_class(torch_params, **torch_options, **flags)
    for step in range(8):
        for i, (mine, other) in enumerate(zip(ours_params, torch_params, strict=True)):
            grad = None if (step + i) % 4 == 3 else gradient(shapes[i], generator).to(dtype)
            mine.grad, other.grad = grad, None if grad is None else grad.clone()
        ours.step()
        theirs.step()
    for mine, other in zip(ours_params, torch_params, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
        for key, value in theirs.state[other].items():
            kept = ours.state[mine][key]
            torch.testing.assert_close(kept, value, rtol=0, atol=0, equal_nan=True, check_dtype=key != "step")


@given(
    history=histories(at_least_one_reset=True),
    options=OPTIONS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=100, deadline=None)
def test_units_that_were_not_reset_equal_torch_bit_for_bit(history, options, dtype, seed):
    """On the CPU, compared with torch's for-loop implementation; other units of the parameter are reset."""
    generator = torch.Generator().manual_seed(seed)
    param = torch.nn.Parameter(torch.randn(history.shape, generator=generator).to(dtype))
    other = copy.deepcopy(param)
    ours = AdamGnT([param], **options, foreach=False)
    torch_options = {k: v for k, v in options.items() if k != "decoupled_weight_decay"}
    torch_class = torch.optim.AdamW if options["decoupled_weight_decay"] else torch.optim.Adam
    theirs = torch_class([other], **torch_options, foreach=False)
    reset = torch.zeros(history.shape, dtype=torch.bool)
    for event in history.events:
        if event is None:
            param.grad = gradient(history.shape, generator).to(dtype)
            other.grad = param.grad.clone()
            ours.step()
            theirs.step()
        else:
            ours.reset_units(param, event.dim, event.index, history.groups)
            reset |= reset_elements(param.detach(), history, event)
    assert torch.equal(param.detach()[~reset], other.detach()[~reset])
