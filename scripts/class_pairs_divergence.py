#!/usr/bin/env python3
"""Print why continual backprop diverges on class pairs at a learning rate of 0.05 (SGD with momentum 0.9).

    python scripts/class_pairs_divergence.py --data FOLDER      # Fashion-MNIST's four IDX files; default: Debian's

When a task begins, the output layer is zero, so that the largest eigenvalue of its Hessian is half of that of the mean
of h h^T, with h the last hidden features (and a 1 for the bias). Gradient descent with momentum b is stable up to
2 (1 + b) / lr. For each method and seed a line per task shows this eigenvalue at the start of the task as a share of
the limit ("curvature"), the share of dead units, and the largest loss of a batch in the task. A loss above 100 counts
as an explosion. From the state in which the task of the first explosion began, the task is then learned again, with the
same order of its images and with others: as before, without replacement, with new weights of torch's default size
instead of Kaiming's, with half of the learning rate, with the norm of the gradient limited to 1. Printed are the number
of explosions, and the largest loss with the same order.
"""

from __future__ import annotations

import argparse
import copy
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from gnt.benchmarks.class_pairs import training as module
from gnt.benchmarks.class_pairs.settings import Settings
from gnt.benchmarks.methods import Method

EXPLODED, CLIP = 100.0, 1.0


def make(method: str, seed: int, given: dict[str, Any], init: str | None = None) -> module.Training:
    """A training loop; ``init``: distribution of the weights of new units, if it is not the experiment's."""
    module.Method = partial(Method, init=init) if init else Method  # type: ignore[misc, assignment]
    return module.Training(Settings.of(method, **given), method, [seed])


def curvature(net: nn.Module, x: Tensor, limit: float) -> float:
    """The largest eigenvalue of the output layer's Hessian at zero, as a share of the limit of stability."""
    assert isinstance(net, nn.Sequential)
    with torch.no_grad():
        features = net[:-1](x)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    return float(torch.linalg.matrix_norm(features, 2)) ** 2 / len(features) / 2 / limit


def learn_task(training: module.Training) -> tuple[dict[str, float], float]:
    """Learn the next task. Returns its row, empty if the loss was not finite, and the largest loss of a batch."""
    largest, learn = 0.0, Method.learn

    def watched(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal largest
        loss, output = learn(training.method, x, y)
        largest = max(largest, float(loss[0]))
        return loss, output

    training.method.learn = watched  # type: ignore[method-assign]
    try:
        while not (rows := training.advance()):
            pass
    except FloatingPointError:
        return {}, float("inf")
    return rows[0], largest


def follow(method: str, seed: int, tasks: int, given: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """Train one run, and print a line per task. Returns the first task that exploded and the state before it."""
    training, found = make(method, seed, given), None
    for number in range(tasks):
        state = copy.deepcopy(training.state_dict())
        net = training.method.nets()[0]
        share = curvature(net, training.task(number, seed).x[:], _limit(given))  # type: ignore[index]
        row, largest = learn_task(training)
        dead = [value for name, value in row.items() if name.startswith("dead_units/")]
        shown = f"dead units {sum(dead) / len(dead):4.0%}  accuracy {row['test_accuracy']:.2f}" if row else "not finite"
        line = f"{method:18} seed {seed} task {number + 1:2}  curvature {share:5.2f}  largest loss {largest:8.3g}"
        print(f"{line}  {shown}", flush=True)
        if largest > EXPLODED and found is None:
            found = number, state
        if not row:
            break
    return found


def _limit(given: dict[str, Any]) -> float:
    return 2 * (1 + Settings.of("backprop", **given).momentum) / float(given["lr"])


def repeat(method: str, seed: int, number: int, state: dict[str, Any], orders: int, given: dict[str, Any]) -> None:
    """Learn one task again from its start, in variants, and print how many orders of the images explode."""
    variants: dict[str, dict[str, Any]] = {"as before": {}}
    if method == "continual_backprop":
        variants |= {"no replacement": {"replacement_rate": 0.0}, "init default": {"init": "default"}}
    variants |= {"half the learning rate": {"lr": given["lr"] / 2}, "clipped": {"clip": True}}
    for name, own in variants.items():
        losses = []
        settings = {**given, **{k: v for k, v in own.items() if k == "replacement_rate"}}
        for order in range(orders):
            training = make(method, seed, settings, own.get("init"))
            training.load_state_dict(copy.deepcopy(state))
            if order:  # 0: the order of the run
                training._streams[0].manual_seed(order)
            optimizer, net = training.method.learner.opt, training.method.nets()[0]
            for group in optimizer.param_groups:
                group["lr"] = own.get("lr", group["lr"])
            if own.get("clip"):
                optimizer.register_step_pre_hook(partial(_clip, net))
            losses.append(learn_task(training)[1])
        exploded = sum(loss > EXPLODED for loss in losses)
        line = f"{method:18} seed {seed} task {number + 1:2}  {name:22}: {exploded} of {orders} explode"
        print(f"{line}; the same order: largest loss {losses[0]:.3g}", flush=True)


def _clip(net: nn.Module, *_: object) -> None:
    nn.utils.clip_grad_norm_(net.parameters(), CLIP)


def main() -> None:
    """Parse the command line, train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--methods", nargs="+", default=["continual_backprop", "backprop"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    settings = {"data": given.data, "lr": given.lr, "tasks": given.tasks}
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        for method in given.methods:
            found = follow(method, seed, given.tasks, settings)
            if found is not None:
                repeat(method, seed, *found, given.orders, settings)


if __name__ == "__main__":
    main()
