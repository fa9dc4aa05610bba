"""The training loop of class pairs: what is trained, the rows, and resuming."""

import pytest
import torch

from benchmarks.class_pairs.settings import Settings
from benchmarks.class_pairs.training import Training
from benchmarks.errors import CannotRun
from tests.benchmarks.resumed_training import rows_of, rows_with_interruptions

SMALL = {"tasks": 3, "epochs": 2, "train": 12, "test": 6, "batch": 4}
FASTER = {
    "continual_backprop": {"replacement_rate": 0.02, "maturity_threshold": 3},
    "redo": {"period": 4},
    "shrink_and_perturb": {"noise": 1e-3},
}


def make(folder, method="backprop", seed=0, **settings):
    return Training(Settings.of(method, data=folder, **{**SMALL, **FASTER.get(method, {}), **settings}), method, [seed])


@pytest.mark.parametrize("method", Settings.methods)
def test_interrupted_training_gives_the_same_rows(method, digits_folder):
    whole = rows_of(make(digits_folder, method))
    # within an epoch, at the end of a task, before the last piece
    assert rows_with_interruptions(lambda: make(digits_folder, method), {1, 3, 5, 8}.__contains__) == whole
    assert [row["task"] for row in whole] == [1, 2, 3]
    for row in whole:
        assert 0 <= row["test_accuracy"] <= 1
        assert {"seed", "online_accuracy", "dead_units/0", "nature_rank/0", "weight_magnitude"} <= row.keys()


def test_methods_have_the_same_tasks_and_initial_networks(digits_folder):
    jobs = [make(digits_folder, method) for method in ("backprop", "continual_backprop")]
    first, second = ([training.task(number, 0) for number in range(3)] for training in jobs)
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )
    one, other = (rows_of(training)[0] for training in jobs)
    probes = [name for name in one if "/" in name]
    assert probes
    assert all(one[name] == other[name] for name in probes)


def test_continual_backprop_replaces_units(digits_folder):
    backprop, continual = (rows_of(make(digits_folder, method)) for method in ("backprop", "continual_backprop"))
    assert continual[-1]["weight_magnitude"] != backprop[-1]["weight_magnitude"]


def test_seeds_give_different_rows(digits_folder):
    assert rows_of(make(digits_folder, seed=0)) != [{**row, "seed": 0} for row in rows_of(make(digits_folder, seed=1))]


def test_only_the_head_is_reset_at_the_start_of_a_task(digits_folder):
    training = make(digits_folder)
    net = training.method.nets()[0]
    for task in range(3):
        before = {name: value.clone() for name, value in net.state_dict().items()}
        training.before_task(task)
        assert net[-1].weight.eq(0).all()
        assert net[-1].bias.eq(0).all()
        head = {f"{len(net) - 1}.weight", f"{len(net) - 1}.bias"}
        assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items() if name not in head)
        while not training.advance():
            pass
        assert net[-1].weight.ne(0).any()


def test_the_probe_measures_before_the_task_is_learned(digits_folder):
    training = make(digits_folder, lr=0.1)
    rows_so_far = []
    while not rows_so_far:
        rows_so_far += training.advance()
    fresh = make(digits_folder, lr=0.1)
    net = fresh.method.nets()[0]
    weights = torch.cat([parameter.flatten() for parameter in net[:-1].parameters()]).abs().double().sum()
    count = sum(parameter.numel() for parameter in net.parameters())  # those of the head are zero
    assert rows_so_far[0]["weight_magnitude"] == pytest.approx(weights.item() / count, rel=1e-5)


def test_the_network_learns_real_digits(digits_folder):
    training = make(digits_folder, epochs=20, train=30, test=10, batch=10, lr=0.05, tasks=2)
    assert all(row["test_accuracy"] >= 0.8 for row in rows_of(training))


def test_classes_can_come_from_a_folder_of_arrays(arrays_folder):
    training = make(arrays_folder, source="imagenet", train=12, test=4, tasks=2, epochs=1)
    assert training.task(0, 0).x.shape == (24, 3, 32, 32)
    assert len(rows_of(training)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "imagenet", "data": ""}, r"needs ImageNet's images.*--data FOLDER.*700, 32, 32, 3.*--size fashion"),
        ({"source": "imagenet", "data": "/nowhere"}, "/nowhere must be a folder with one .npy file per class"),
        ({"data": "/nowhere"}, "/nowhere must contain train-images-idx3-ubyte"),
        ({"train": 31}, "has 30 images to train, fewer than the 31 asked for"),
    ],
)
def test_missing_data_are_reported(settings, message, digits_folder):
    with pytest.raises(CannotRun, match=message):
        Training(Settings.of("backprop", **{**SMALL, "data": digits_folder, **settings}), "backprop", [0])


def test_images_of_another_format_are_reported(tmp_path):
    import numpy as np

    for shape, message in (((5, 32, 24, 3), "these are 32 x 24"), ((5, 16, 16, 3), "at least 24 x 24")):
        for name in "012":
            np.save(tmp_path / f"{name}.npy", np.zeros(shape, np.uint8))
        with pytest.raises(CannotRun, match=message):
            make(str(tmp_path), source="imagenet", train=3, test=2)
    (tmp_path / "2.npy").unlink()
    with pytest.raises(CannotRun, match="has 2 classes; pairs that change from task to task need at least 3"):
        make(str(tmp_path), source="imagenet", train=3, test=2)
