"""Nightly retraining: which images are learned when, how nights begin and end, and resuming."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.errors import CannotRun
from benchmarks.nightly import training as module
from benchmarks.nightly.data import load_nights
from benchmarks.nightly.settings import Settings
from benchmarks.nightly.training import Training
from benchmarks.plasticity import SHORTEST, Check
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {"nights": 3, "images": 24, "test": 20, "epochs": 3, "batch": 8, "hidden": "12-8"}
FASTER = {"replacement_rate": 0.2, "maturity_threshold": 2}


def make(method: str = "backprop", seed: int = 5, **given: object) -> Training:
    own = {name: value for name, value in FASTER.items() if Settings.affects(name, method)}
    return Training(Settings.of(method, **{**SMALL, **own, **given}), method, [seed])


def parameters(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in training.net.parameters()])


def night_starts(training: Training) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each night after the first: the parameters at the end of the previous one, and at the start of this one."""
    pairs, start = [], training._start

    def watched(night: int) -> None:
        before = parameters(training)
        start(night)
        pairs.append((before, parameters(training)))

    training._start = watched  # type: ignore[method-assign]
    rows_of(training)
    return pairs


@pytest.mark.parametrize("method", Settings.methods)
def test_training_resumed_after_every_piece_gives_the_same_rows(method: str) -> None:
    whole = rows_of(make(method))
    rows = rows_with_interruptions(lambda: make(method))
    assert json.dumps(rows) == json.dumps(whole)
    assert [row["night"] for row in whole] == [1, 2, 3]
    assert {"test_accuracy", "passes", "dead_units/0", "nature_rank/0"} <= whole[0].keys()


def test_each_pass_of_a_night_shows_all_images_so_far_once(monkeypatch: pytest.MonkeyPatch) -> None:
    training = make()
    seen, learn = [], training.method.learn

    def watched(x, y):
        seen.extend(zip(x[0].tolist(), y[0].tolist(), strict=True))
        return learn(x, y)

    monkeypatch.setattr(training.method, "learn", watched)
    assert [row["passes"] for row in rows_of(training)] == [3, 3, 3]
    images = [(x.tolist(), int(y)) for x, y in zip(training.data.x, training.data.y, strict=True)]
    for night in range(3):
        for _ in range(3):
            now, seen = seen[: 24 * (night + 1)], seen[24 * (night + 1) :]
            assert sorted(now) == sorted(images[: 24 * (night + 1)])
    assert not seen


def test_images_are_shared_by_methods_and_those_for_tests_and_a_later_night_are_not_learned() -> None:
    settings = Settings.of("backprop", **SMALL)
    data, again, other = load_nights(settings, 5), make("fire").data, load_nights(settings, 6)
    assert torch.equal(data.x, again.x)
    assert not torch.equal(data.x, other.x)
    assert torch.equal(data.test_x, other.test_x)
    parts = [{tuple(x) for x in part.tolist()} for part in (data.x, data.later_x, data.test_x)]
    assert [len(part) for part in parts] == [72, 24, 20]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_a_night_ends_when_the_images_are_learned() -> None:
    assert [row["passes"] for row in rows_of(make(until=0.0))] == [1, 1, 1]


def test_a_cold_start_begins_with_a_new_network_and_a_warm_one_with_that_of_the_last_night() -> None:
    assert torch.equal(parameters(make("cold")), parameters(make()))  # the first night is the same
    for before, after in night_starts(make()):
        assert torch.equal(before, after)
    cold = [after for _, after in night_starts(make("cold"))]
    assert not torch.equal(cold[0], cold[1])
    assert all(not torch.equal(after, parameters(make())) for after in cold)
    assert all(float(after.abs().max()) <= 1 / 8**0.5 for after in cold)  # initial values of torch


def test_shrink_and_perturb_acts_when_a_night_begins() -> None:
    training = make("shrink_and_perturb", shrink=0.5, noise=1e-3)
    for before, after in night_starts(training):
        noise = after - 0.5 * before
        assert 0.5e-3 < float(noise.std()) < 2e-3


def test_fire_makes_weights_orthogonal_when_a_night_begins() -> None:
    training = make("fire")
    night_starts(training)
    training._start(1)
    weight = training.net[2].weight  # (8, 12)
    torch.testing.assert_close(weight @ weight.T, torch.eye(8) * 8 / 12, rtol=0, atol=0.02)


def test_too_few_images_are_reported() -> None:
    with pytest.raises(CannotRun, match=r"--nights x --images must be at most 4980, the images of the data, got 5016"):
        make(nights=208)
    with pytest.raises(CannotRun, match="--test must be at most 5000, the images of the data, got 5001"):
        load_nights(Settings.of("backprop", **{**SMALL, "test": 5001}), 0)


@pytest.mark.parametrize("method", ["cold", "input_norm"])
def test_networks_are_checked_on_a_further_night(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", Check(steps=12, batch=8))
    training = make(method, nights=1, epochs=1)
    assert training.plasticity() == {}  # too short
    assert all(Settings.of(method, size).most_steps > SHORTEST for size in Settings.size_names())
    monkeypatch.setattr(module, "SHORTEST", 3)
    assert list(training.plasticity()) == ["5"]
