"""A state saved on a GPU, whose generators have states of 16 bytes, loads on the CPU."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import gnt
from gnt._utils.generators import fitting_state
from tests.helpers.small_runs import assert_same
from tests.saved_states.test_damaged_states import CASES

WITH_GENERATORS = ["GnT", "CBPSGD", "CBPLinear", "ContinualBackprop", "Ensemble", "ReDo", "ShrinkAndPerturb"]
CPU_STATE = torch.Generator().get_state()
GPU_STATE = torch.tensor([7, *[0] * 7, 4, *[0] * 7], dtype=torch.uint8)  # seed 7, offset 4


def as_on_a_gpu(state: Any, gpu_state: Tensor) -> Any:
    """The state as a GPU would have saved it; the "coin" of an engine is on the host there too."""
    if isinstance(state, Tensor) and state.dtype == torch.uint8 and state.shape[-1:] == CPU_STATE.shape:
        return gpu_state.expand(*state.shape[:-1], -1).clone()
    if isinstance(state, dict):
        return {key: value if key == "coin" else as_on_a_gpu(value, gpu_state) for key, value in state.items()}
    return [as_on_a_gpu(value, gpu_state) for value in state] if isinstance(state, list) else state


def without_coin(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: without_coin(value) for key, value in state.items() if key != "coin"}
    return state


@pytest.mark.parametrize("name", WITH_GENERATORS)
def test_a_state_saved_on_a_gpu_loads_on_the_cpu(name: str) -> None:
    case = CASES[name]()
    saved = copy.deepcopy(case.saved())
    loaded = []
    for gpu_state in (GPU_STATE, GPU_STATE, GPU_STATE + 4):
        case.load(as_on_a_gpu(copy.deepcopy(saved), gpu_state))  # torch's optimizers keep the loaded tensors
        loaded.append(copy.deepcopy(case.saved()))
        everything_else = as_on_a_gpu(loaded[-1], GPU_STATE), as_on_a_gpu(saved, GPU_STATE)
        assert_same(*map(without_coin, everything_else))
        case.go_on()
    assert_same(loaded[0], loaded[1])
    with pytest.raises(AssertionError):
        assert_same(loaded[1], loaded[2])


@pytest.mark.parametrize("size", [16, 44, 5056])
def test_states_of_all_devices_fit_and_give_different_draws(size: int) -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    own = torch.Generator().manual_seed(9).get_state()
    saved = own if size == len(own) else torch.arange(size, dtype=torch.uint8)
    fitting = fitting_state(saved, generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(fitting, own) is (size == len(own))
    assert torch.equal(fitting_state(saved.clone(), torch.Generator()), fitting)
    generator.set_state(fitting)


@pytest.mark.parametrize("size", [0, 15, 17, 5055])
def test_a_cut_state_of_a_generator_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a saved generator does not fit this one, on cpu.*got {size} bytes"):
        fitting_state(torch.zeros(size, dtype=torch.uint8), torch.Generator())


def test_an_ensemble_with_dropout_saved_on_a_gpu_loads_on_the_cpu() -> None:
    case = CASES["dropout of an ensemble"]()
    saved = copy.deepcopy(case.saved())
    case.load(as_on_a_gpu(saved, GPU_STATE))
    first = copy.deepcopy(case.saved()["dropout"])
    assert not torch.equal(first[0], saved["dropout"][0])
    case.go_on()
    case.load(as_on_a_gpu(saved, GPU_STATE))
    assert_same(case.saved()["dropout"], first)


def test_engines_on_the_cpu_have_one_generator_after_loading_a_gpu_state() -> None:
    """Otherwise the draws of counts and of weights would repeat each other."""
    engine = gnt.GnT(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)))
    engine.load_state_dict(as_on_a_gpu(engine.state_dict(), GPU_STATE))
    state = engine.state_dict()
    assert torch.equal(state["generator"], state["coin"])
    assert engine.generator is engine.host_generator
