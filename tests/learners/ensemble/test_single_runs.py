"""Each member of an ensemble equals a single run: the same random draws, replaced units and numbers."""

import pytest
import torch
from torch import nn

import gnt
from tests.helpers.ensembles import (
    FREQUENT_REPLACEMENT,
    compare_with_single_runs,
    conv_net,
    copy_runs_into_ensemble,
    member_batches,
    mlp,
    single_run,
)

SEEDS = [3, 11, 4]

OPTIMIZERS = {
    "sgd": {"opt": "sgd", "step_size": 0.02},
    "momentum": {"opt": "sgd", "step_size": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adam": {"opt": "adam", "step_size": 0.01},
    "adamw": {"opt": "adamw", "step_size": 0.01, "amsgrad": True},
}


@pytest.mark.parametrize(("loss", "batch"), [("mse", 1), ("cross_entropy", 3)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_and_loss(optimizer: str, loss: str, batch: int) -> None:
    settings = {**OPTIMIZERS[optimizer], **FREQUENT_REPLACEMENT, "loss": loss}
    compared = compare_with_single_runs(mlp(6, 8, 7, 3), [3, 11], 200, shape=(6,), out=3, batch=batch, **settings)
    assert compared.replaced > 100
    assert compared.max_difference < 1e-11


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer_without_replacement(optimizer: str) -> None:
    settings = {**OPTIMIZERS[optimizer], "replacement_rate": 0.0}
    compared = compare_with_single_runs(mlp(6, 8, 7, 3), SEEDS, 60, shape=(6,), out=3, **settings)
    assert compared.replaced == 0
    assert compared.max_difference < 1e-11


@pytest.mark.parametrize(
    "utility",
    [
        *("weight", "adaptation", "zero_contribution", "adaptable_contribution", "feature_by_input", "random"),
        *("gradient", "gradient_activation", "replacement_cost"),
    ],
)
def test_each_utility_measure(utility: str) -> None:
    compared = compare_with_single_runs(
        mlp(6, 8, 7, 3), [1, 2], 80, shape=(6,), out=3, step_size=0.02, utility=utility, **FREQUENT_REPLACEMENT
    )
    assert compared.replaced > 20
    assert compared.max_difference < 1e-11


@pytest.mark.parametrize("init", ["default", "xavier", "lecun", "kaiming"])
def test_each_init(init: str) -> None:
    compared = compare_with_single_runs(
        mlp(6, 8, 7, 3),
        [1, 2],
        60,
        shape=(6,),
        out=3,
        step_size=0.02,
        init=init,
        bias_transfer=False,
        **FREQUENT_REPLACEMENT,
    )
    assert compared.replaced > 10
    assert compared.max_difference < 1e-11


@pytest.mark.parametrize("rate", [0.0, 0.02])
def test_each_type_of_layer(rate: float) -> None:
    """Convolutions, grouped convolutions, all norms, and dropout, which draws the same random numbers."""
    settings = {
        **FREQUENT_REPLACEMENT,
        "replacement_rate": rate,
        "loss": "cross_entropy",
        "opt": "sgd",
        "step_size": 0.02,
    }
    compared = compare_with_single_runs(conv_net, [3, 11], 40, shape=(1, 10, 10), out=3, batch=4, **settings)
    assert compared.replaced > 15 or rate == 0.0
    assert compared.max_difference < 1e-8


@pytest.mark.parametrize("layer", [nn.CircularPad2d(1), nn.ZeroPad2d(1), nn.LPPool2d(2, 2)], ids=str)
def test_paddings_and_poolings(layer: nn.Module) -> None:
    def make_net() -> nn.Module:
        size = layer(torch.zeros(1, 3, 4, 4)).numel()
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), layer, nn.Flatten(), nn.Linear(size, 2)).double()

    settings = {**FREQUENT_REPLACEMENT, "replacement_rate": 0.0}
    compared = compare_with_single_runs(make_net, [3, 11], 3, shape=(1, 6, 6), out=2, batch=4, **settings)
    assert compared.max_difference < 1e-11


def test_a_callable_loss_and_a_list_of_layers_without_flatten() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2)]
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = x.flatten(1) if layer is self.layers[3] else x
                x = layer(x)
            return x

    compared = compare_with_single_runs(
        lambda: Net().double(),
        [1, 2],
        60,
        shape=(2, 6),
        out=2,
        loss=nn.functional.smooth_l1_loss,
        **FREQUENT_REPLACEMENT,
    )
    assert compared.replaced > 10
    assert compared.max_difference < 1e-11


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_step_from_the_same_state_gives_the_same_result_in_float32(optimizer: str) -> None:
    """Each step starts from the state of the single runs, so that rounding does not accumulate."""
    make_net, settings = mlp(6, 8, 7, 3, dtype=torch.float32), {**OPTIMIZERS[optimizer], **FREQUENT_REPLACEMENT}
    ensemble = gnt.Ensemble(make_net, SEEDS, **settings)
    runs = [single_run(make_net, seed, **settings) for seed in SEEDS]
    replaced = 0
    for t in range(60):
        x, y = (tensor.float() for tensor in member_batches(t, 3, 4, (6,), 3, "mse"))
        together = ensemble.learn(x, y)
        singles = [run.learn(x[i], y[i]) for i, run in enumerate(runs)]
        for i, (run, single) in enumerate(zip(runs, singles, strict=True)):
            torch.testing.assert_close(together.loss[i], single.loss, rtol=1e-5, atol=1e-6)
            for mine, theirs in zip(together.replaced, single.replaced, strict=True):
                assert torch.equal(mine[i], theirs)
                replaced += len(theirs)
            for mine, theirs in zip(ensemble.member(i).parameters(), run.net.parameters(), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        copy_runs_into_ensemble(ensemble, runs)
    assert replaced > 30
