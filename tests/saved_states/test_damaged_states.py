"""A damaged state is refused before anything is loaded, or it is loaded and is sound.

Each entry of the saved state of each class is damaged in turn, in many ways.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import gnt
from gnt.optim import CBPSGD, CBPAdam
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, assert_same, batch, make_run, mlp, train
from tests.saved_states.damages import Path, damaged, damages_to, entries

WIDTHS = (4, 5, 2)


@dataclass
class Case:
    """An object with a saved state; ``part``: the path of what is damaged; ``go_on`` takes a step after loading."""

    saved: Callable[[], dict[str, Any]]
    load: Callable[[Any], Any]
    go_on: Callable[[], Any]
    part: Path = ()


def engine_case() -> Case:
    net, optimizer, engine = make_run(mlp(4, 5, 3, 2))
    train(net, optimizer, engine, range(6))
    return Case(engine.state_dict, engine.load_state_dict, lambda: train(net, optimizer, engine, range(6, 8)))


def algorithm_1_case() -> Case:
    net, optimizer, engine = make_run(mlp(*WIDTHS), **{**gnt.ALGORITHM_1, "replacement_rate": 0.9})
    train(net, optimizer, engine, range(6))
    return Case(engine.state_dict, engine.load_state_dict, lambda: train(net, optimizer, engine, range(6, 8)))


def attached_case(kind: Callable[..., torch.optim.Optimizer]) -> Case:
    net = mlp(*WIDTHS)
    optimizer = kind(net, **FREQUENT_REPLACEMENT)
    train(net, optimizer, None, range(6))
    return Case(
        optimizer.state_dict,
        optimizer.load_state_dict,
        lambda: train(net, optimizer, None, range(6, 8)),
        part=("gnt",),
    )


def layer_case() -> Case:
    fc1, fc2 = nn.Linear(4, 5), nn.Linear(5, 2)
    layer = gnt.CBPLinear(fc1, fc2, **FREQUENT_REPLACEMENT)
    net = nn.Sequential(fc1, nn.ReLU(), layer, fc2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    train(net, optimizer, None, range(6))
    return Case(layer.get_extra_state, layer.set_extra_state, lambda: train(net, optimizer, None, range(6, 8)))


def learner_case(part: str) -> Case:
    learner = gnt.ContinualBackprop(mlp(*WIDTHS), opt="sgd", momentum=0.9, **FREQUENT_REPLACEMENT)
    for t in range(6):
        learner.learn(*batch(t))
    # torch loads any numbers into a network
    go_on = (lambda: learner.learn(*batch(6))) if part == "gnt" else (lambda: None)
    return Case(learner.state_dict, learner.load_state_dict, go_on, part=(part,))


def ensemble_case(part: str) -> Case:
    def make_net() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, 2))

    learner = gnt.Ensemble(make_net, [1, 2], **FREQUENT_REPLACEMENT)
    x, y = (torch.stack(each) for each in zip(batch(0), batch(1), strict=True))
    for _ in range(6):
        learner.learn(x, y)
    return Case(learner.state_dict, learner.load_state_dict, lambda: learner.learn(x, y), part=(part,) if part else ())


def rule_case(kind: Any, **settings: Any) -> Case:
    net = mlp(*WIDTHS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    rule = kind(net, optimizer, **settings)
    train(net, optimizer, rule, range(5))
    return Case(rule.state_dict, rule.load_state_dict, lambda: train(net, optimizer, rule, range(5, 8)))


def regularizer_case(method: Any) -> Case:
    return Case(method.state_dict, method.load_state_dict, method.step if hasattr(method, "step") else method.penalty)


def probe_case() -> Case:
    net = mlp(*WIDTHS)
    probe = gnt.metrics.Probe(net, net, torch.randn(6, 4), update=True, ranks=False)
    return Case(probe.state_dict, probe.load_state_dict, probe.step)


CASES: dict[str, Callable[[], Case]] = {
    "GnT": engine_case,
    "algorithm_1": algorithm_1_case,
    "CBPSGD": lambda: attached_case(lambda net, **settings: CBPSGD(net, momentum=0.9, **settings)),
    "CBPAdam": lambda: attached_case(CBPAdam),
    "CBPLinear": layer_case,
    "ContinualBackprop": lambda: learner_case("gnt"),
    "network of a learner": lambda: learner_case("net"),
    "Ensemble": lambda: ensemble_case("gnt"),
    "dropout of an ensemble": lambda: ensemble_case("dropout"),
    "seeds of an ensemble": lambda: ensemble_case("seeds"),
    "ReDo": lambda: rule_case(gnt.ReDo, tau=0.5, period=2),
    "SNR": lambda: rule_case(gnt.SNR, longest=4, estimate_every=2),
    "SWR": lambda: rule_case(gnt.SWR, period=2, maturity=1, decay_rate=0.5),
    "Spectral": lambda: regularizer_case(gnt.Spectral(mlp(*WIDTHS), strength=0.1)),
    "L2Init": lambda: regularizer_case(gnt.L2Init(mlp(*WIDTHS), strength=0.1)),
    "ShrinkAndPerturb": lambda: regularizer_case(gnt.ShrinkAndPerturb(mlp(*WIDTHS), shrink=0.9, noise=0.1)),
    "Probe": probe_case,
}
ENGINES = {"GnT", "algorithm_1", "CBPSGD", "CBPAdam", "CBPLinear", "ContinualBackprop", "Ensemble", "ReDo", "SNR"}
# damages after which no state is sound
ALWAYS_REFUSED = {"None", "text", "missing", "an object", "NaN", "inf", "-inf", "negative", "fractional", "complex"}
ALWAYS_REFUSED |= {"very huge", "huge", "on meta", "one more dimension", "cut", "100 bytes", "longer", "shorter"}


def assert_sound_engine(state: dict[str, Any]) -> None:
    """The invariants of an engine's state, also within that of another object."""
    state = state.get("gnt", state.get("engine", state))
    assert 0 <= state["counted"] <= state["updates"] < 2**60
    for init in (init for slots in state["inits"] for init in slots):
        assert all(0 <= scale <= 1e6 for _, scale in (*init["weights"], *init["biases"]))
    for group in state["groups"]:
        assert 0 <= group["updates"] <= state["updates"]
        assert group["replaced"] >= 0
        assert math.isfinite(group["accumulated"])
        assert group["accumulated"] >= 0
        for name in ("born", "last_active", "nonfinite"):
            assert 0 <= int(group[name].min()) <= int(group[name].max()) <= group["updates"]
        assert group["utility"].isfinite().all()
        assert group["mean_feature"].isfinite().all()


def error_of_loading(case: Case, state: dict[str, Any]) -> Exception | None:
    try:
        case.load(state)
    except (ValueError, TypeError) as error:
        return error
    return None


@pytest.mark.filterwarnings("ignore:this state_dict of CBP.* was saved without an engine")
@pytest.mark.parametrize("name", CASES)
def test_a_damaged_state_is_refused_and_changes_nothing_or_is_loaded_and_sound(name: str) -> None:
    case = CASES[name]()
    before = copy.deepcopy(case.saved())
    is_engine = name in ENGINES
    damaged_part = [(path, value) for path, value in entries(before) if path[: len(case.part)] == case.part]
    assert len(damaged_part) >= len(case.part)
    for path, value in damaged_part:
        for damage, instead in damages_to(value).items():
            where = f"{path} {damage}"
            error = error_of_loading(case, damaged(before, path, instead))
            if error is not None:
                names = [str(key) for key in path if isinstance(key, str)]
                assert any(name in str(error) for name in (*names, "state_dict")), f"{where}: {error}"
                assert_same(case.saved(), before, where)
                continue
            # no distribution is loaded for what the setting of the engine names
            # states of earlier versions have no "measure_every"
            optional = "inits" in path or (damage == "missing" and (path == ("gnt",) or path[-1] == "measure_every"))
            assert damage not in ALWAYS_REFUSED or optional or not is_engine, f"{where} was loaded"
            if is_engine:
                assert_sound_engine(case.saved())
            case.go_on()
            case.load(before)
            assert_same(case.saved(), before, f"{where}, after loading the original again")


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a group ahead of the engine": (
        lambda s: s["groups"][0].update(updates=7),
        "holds updates 7 for group '0', which must be an integer >= 0 and <= 6, the engine's number of updates",
    ),
    "an engine behind its groups": (lambda s: s.update(updates=5, counted=5), "updates 6 for group '0', which must"),
    "selected after the last update": (lambda s: s.update(counted=7), "counted 7, the update of the last selection"),
    "born after the last update": (lambda s: s["groups"][0]["born"].fill_(7), "'born' with values in 7..7 for group"),
    "active after the last update": (lambda s: s["groups"][1]["last_active"].add_(9), "'last_active' with values in"),
    "more non-finite updates than updates": (lambda s: s["groups"][0]["nonfinite"].fill_(9), "'nonfinite' with"),
    "more due than one unit": (lambda s: s["groups"][0].update(accumulated=1.5), "accumulated 1.5 for group '0'"),
    "an overflowing mean": (lambda s: s["groups"][0]["mean_feature"].fill_(3e38), "'mean_feature' for group '0' with"),
}


@pytest.mark.parametrize(("contradict", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_entries_that_contradict_each_other_are_refused(contradict: Any, message: str) -> None:
    net, optimizer, engine = make_run(mlp(4, 5, 3, 2))
    train(net, optimizer, engine, range(6))
    before, state = copy.deepcopy(engine.state_dict()), copy.deepcopy(engine.state_dict())
    contradict(state)
    with pytest.raises(ValueError, match=re.escape(message)):
        engine.load_state_dict(state)
    assert_same(engine.state_dict(), before)


def test_groups_that_sat_out_updates_are_loaded() -> None:
    net, optimizer, engine = make_run(mlp(4, 5, 3, 2))
    train(net, optimizer, engine, range(6))
    state = engine.state_dict()
    engine.load_state_dict({**state, "updates": 9})
    assert engine.updates == 9
    assert [group.state.updates for group in engine.groups] == [6, 6]


def test_the_accumulators_of_another_rule_fit_after_a_change_of_the_rule() -> None:
    net, optimizer, engine = make_run(mlp(*WIDTHS), **{**gnt.ALGORITHM_1, "replacement_rate": 0.9})
    train(net, optimizer, engine, range(6))
    assert engine.groups[0].state.accumulated > 1
    engine.accumulate = True
    engine.load_state_dict(engine.state_dict())
    assert engine.groups[0].state.accumulated == 1
