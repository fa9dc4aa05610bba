"""Slowly-Changing Regression: stream and target, resuming, and training several seeds together."""

import json

import pytest
import torch

from benchmarks.errors import Diverged
from benchmarks.run import Run
from benchmarks.slowly_changing_regression.inputs import Inputs
from benchmarks.slowly_changing_regression.settings import Settings
from benchmarks.slowly_changing_regression.target import Target
from benchmarks.slowly_changing_regression.training import Training
from tests.benchmarks.resumed_training import rows_of, rows_resumed_after_every_piece

SHORT = {"steps": 550, "bin": 200, "flip_every": 150}


def settings(method: str, **given: object) -> Settings:
    faster = {"replacement_rate": 0.01, "soft_period": 50, "swr_period": 50, "estimate_every": 50}
    fast = {name: value for name, value in faster.items() if Settings.affects(name, method)}
    made: Settings = Settings.of(method, **SHORT, **fast, **given)
    return made


CASES = [(method, (4, 5) if method in Settings.ensemble_methods else (0,)) for method in Settings.methods]


@pytest.mark.parametrize(("method", "seeds"), CASES)
def test_training_resumed_after_every_piece_gives_the_same_rows(method: str, seeds: tuple[int, ...], tmp_path) -> None:
    run = Run("slowly_changing_regression", method, settings(method), seeds, tmp_path)
    rows = rows_resumed_after_every_piece(run)
    assert json.dumps(rows) == json.dumps(rows_of(run.make_training()))
    # the incomplete last bin is left out
    assert [row["step"] for row in rows] == [200] * len(seeds) + [400] * len(seeds)
    assert all(0 < row["squared_error"] < 20 for row in rows)


@pytest.mark.parametrize(
    ("method", "optimizer"),
    [
        (method, ("adam", "sgd")[number % 2])
        for number, method in enumerate(Settings.ensemble_methods)
        if method not in ("spectral", "parseval")  # tests/regularization compares them
    ],
)
def test_seeds_trained_together_equal_seeds_trained_alone(method: str, optimizer: str) -> None:
    chosen = settings(method, optimizer=optimizer)
    together = rows_of(Training(chosen, method, [4, 5]))
    for seed in (4, 5):
        alone = rows_of(Training(chosen, method, [seed]))
        own = [row for row in together if row["seed"] == seed]
        assert [row["step"] for row in own] == [row["step"] for row in alone]
        errors = ([row["squared_error"] for row in rows] for rows in (own, alone))
        torch.testing.assert_close(*map(torch.tensor, errors), rtol=1e-4, atol=0)


def test_the_target_equals_its_definition() -> None:
    target = Target(seed=3)
    bits = Inputs(seed=3, flip_every=5, variant="redraw").take(40)
    fired = 0
    for x, got in zip(bits.tolist(), target(bits).tolist(), strict=True):
        y = target.out_bias.item()
        for w, b, v in zip(target.weight.tolist(), target.bias.tolist(), target.out_weight.tolist(), strict=True):
            assert {*w, b, v} == {-1.0, 1.0}
            s = (20 - sum(w) + b) / 2
            if sum(wi * xi for wi, xi in zip(w, x, strict=True)) + b > 0.7 * 21 - s:
                y += v
                fired += 1
        assert got == [y]
    assert 0.01 < fired / (40 * 100) < 0.5


def test_slow_bits_change_at_the_specified_steps() -> None:
    changes = {"redraw": range(1, 16), "one_bit": [1]}
    for variant, allowed in changes.items():
        inputs = Inputs(seed=0, flip_every=7, variant=variant)
        bits = torch.cat([inputs.take(5) for _ in range(14)])
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        flips = (bits[1:, :15] != bits[:-1, :15]).sum(1)
        assert [step + 1 for step in flips.nonzero().view(-1).tolist()] == list(range(7, 70, 7))
        assert all(count in allowed for count in flips[flips > 0].tolist())
        assert (bits[1:, 15:] != bits[:-1, 15:]).float().mean() > 0.3


def test_an_ensemble_says_which_of_its_seeds_diverged() -> None:
    training = Training(settings("backprop"), "backprop", [3, 4, 5])
    with torch.no_grad():
        for param in training.method.learner.net.parameters():
            param.view(3, -1)[1] = torch.inf
    with pytest.raises(Diverged, match=r"the loss of seed 4 is not finite") as caught:
        training.advance()
    assert caught.value.seeds == [4]
