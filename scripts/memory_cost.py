#!/usr/bin/env python3
"""Print what methods against forgetting cost in a training step, as ratios to the same step without them.

    python scripts/memory_cost.py [--rounds 15] [--threads N] [--cpu-time] [--only NAME ...]

All variants of a table are timed in turn, round after round, and the smallest time of each counts: load of the machine
only makes times longer. ``--cpu-time`` counts the processor time of the process instead, which other processes change
less; use it with one thread, because waiting threads count. Printed are the time of the plain step, the ratio of each
variant, and the ratio that it is meant to stay below. With Avalanche installed its plugins are timed, too.

    step    784-2000-2000-2000-10, batch 128, SGD: EWC, SI, experience replay, A-GEM
    gem     784-100-100-10, batch 10, 20 earlier tasks of 256 items: GEM beside its backward passes alone
    fisher  784-400-400-10: seconds for the exact Fisher information of 1,000 samples over 10 classes
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gnt

Variant = Callable[[], Any]


def mlp(*widths: int) -> nn.Sequential:
    """A ReLU network."""
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def data(size: int) -> tuple[Tensor, Tensor]:
    """Random inputs and labels of 10 classes."""
    return torch.randn(size, 784), torch.randint(10, (size,))


class Run:
    """One network with its optimizer, which makes plain steps, changed by the arguments of `step`."""

    def __init__(self, *widths: int, batch: int) -> None:
        self.net = mlp(*widths)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=1e-5)
        self.x, self.y = data(batch)

    def step(
        self,
        penalty: Callable[[], Tensor] | None = None,
        after_backward: Variant | None = None,
        after_step: Variant | None = None,
        replay: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Forward, loss, backward and optimizer step."""
        x, y = (self.x, self.y) if replay is None else replay(self.x, self.y)
        self.opt.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        (loss if penalty is None else loss + penalty()).backward()
        if after_backward is not None:
            after_backward()
        self.opt.step()
        if after_step is not None:
            after_step()


def step_variants() -> dict[str, tuple[Variant, float | None]]:
    """The variants of the table "step", with the ratios that are wanted; the first one is the plain step."""
    widths, batch = (784, 2000, 2000, 2000, 10), 128
    plain, run = Run(*widths, batch=batch), Run(*widths, batch=batch)
    ewc, si = gnt.EWC(run.net, 1.0), gnt.SI(run.net, 0.1)
    ewc.consolidate(run.net, run.x[:32])
    run.step(after_backward=si.backward, after_step=si.step)
    si.consolidate()
    agem, buffer = gnt.AGEM(run.net, gnt.ReplayBuffer(1000), F.cross_entropy, batch_size=batch), gnt.ReplayBuffer(1000)
    agem.add(*data(1000))
    buffer.add(*data(1000))
    replay = gnt.ExperienceReplay(buffer)
    variants: dict[str, tuple[Variant, float | None]] = {
        "plain": (plain.step, None),
        "EWC, backward()": (lambda: run.step(after_backward=ewc.backward), 1.15),
        "EWC, in the loss": (lambda: run.step(penalty=ewc), None),
        "SI, backward() and step()": (lambda: run.step(after_backward=si.backward, after_step=si.step), 1.15),
        "experience replay, equal batch": (lambda: run.step(replay=replay), 2.05),
        "A-GEM, equal batch": (lambda: run.step(after_backward=agem.project), 2.1),
        "learner": learner_step(widths, batch),
        "learner, EWC": (learner_step(widths, batch, ewc)[0], None),
        "learner, SI": (learner_step(widths, batch, si)[0], None),
    }
    return {**variants, **avalanche_variants(Run(*widths, batch=batch))}


def learner_step(widths: tuple[int, ...], batch: int, method: Any = None) -> tuple[Variant, float | None]:
    """A step of `gnt.Backprop`, with a copy of a method."""
    x, y = data(batch)
    if method is None:
        learner = gnt.Backprop(mlp(*widths), step_size=1e-5, opt="sgd", loss="cross_entropy")
    else:
        method = copy.deepcopy(method)  # with parameters of its own: those of the learner's network
        net = mlp(*widths)
        for layer, (weight, bias) in zip(
            (module for module in net if isinstance(module, nn.Linear)),
            zip(method.parameters[::2], method.parameters[1::2], strict=True),
            strict=True,
        ):
            layer.weight, layer.bias = weight, bias
        learner = gnt.Backprop(net, step_size=1e-5, opt="sgd", loss="cross_entropy", methods=[method])
    return lambda: learner.learn(x, y), None


def avalanche_variants(run: Run) -> dict[str, tuple[Variant, float | None]]:
    """Avalanche's plugins on a step of their own, if it is installed."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):  # what a torchvision built for another torch lacks
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from avalanche.training.plugins import EWCPlugin, SynapticIntelligencePlugin
    except (ImportError, RuntimeError):
        return {}
    from avalanche.training.utils import copy_params_dict, zerolike_params_dict

    strategy: Any = SimpleNamespace(model=run.net, device="cpu", clock=SimpleNamespace(train_exp_counter=1), loss=0)
    ewc, si = EWCPlugin(1.0), SynapticIntelligencePlugin(0.1)
    ewc.saved_params[0], ewc.importances[0] = copy_params_dict(run.net), zerolike_params_dict(run.net)
    si.before_training_exp(strategy)

    def step(plugin: Any) -> None:
        plugin.before_training_iteration(strategy)
        run.opt.zero_grad()
        strategy.loss = F.cross_entropy(run.net(run.x), run.y)
        plugin.before_backward(strategy)
        strategy.loss.backward()
        run.opt.step()
        plugin.after_training_iteration(strategy)

    return {"Avalanche, EWC": (lambda: step(ewc), None), "Avalanche, SI": (lambda: step(si), None)}


def gem_variants() -> dict[str, tuple[Variant, float | None]]:
    """GEM beside a step that runs its backward passes, and does nothing with them."""
    run, passes = Run(784, 100, 100, 10, batch=10), Run(784, 100, 100, 10, batch=10)
    gem = gnt.GEM(run.net, F.cross_entropy, per_task=256)
    memories = [data(256) for _ in range(20)]
    for x, y in memories:
        gem.begin_task()
        gem.add(x, y)
    gem.begin_task()
    parameters = list(passes.net.parameters())

    def backward_passes() -> None:
        for x, y in memories:
            torch.autograd.grad(F.cross_entropy(passes.net(x), y), parameters)

    return {
        "step with 20 backward passes": (lambda: passes.step(after_backward=backward_passes), None),
        "GEM": (lambda: run.step(after_backward=gem.project), 1.2),
    }


def fisher_variants() -> dict[str, tuple[Variant, float | None]]:
    """The exact Fisher information of 1,000 samples."""
    net = mlp(784, 400, 400, 10)
    ewc, (x, _) = gnt.EWC(net, 1.0), data(1000)
    return {"exact Fisher, 1,000 samples": (lambda: ewc.consolidate(net, x), None)}


def smallest_times(
    variants: dict[str, tuple[Variant, float | None]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """The smallest time of each variant, in seconds, timed in turn after one run of each."""
    times = dict.fromkeys(variants, float("inf"))
    for number in range(rounds + 1):
        for name, (variant, _) in variants.items():
            start = clock()
            variant()
            if number:
                times[name] = min(times[name], clock() - start)
    return times


TABLES: dict[str, Callable[[], dict[str, tuple[Variant, float | None]]]] = {
    "step": step_variants,
    "gem": gem_variants,
    "fisher": fisher_variants,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"torch {torch.__version__}, {options.threads} threads, smallest of {options.rounds} times", file=sys.stderr)
    for table in options.only:
        variants = TABLES[table]()
        times = smallest_times(variants, options.rounds, clock)
        base = next(iter(times.values()))
        print(f"\n{table}")
        for name, seconds in times.items():
            limit = variants[name][1]
            wanted = "" if limit is None else f"   wanted <= {limit}"
            print(f"  {name:<32}{1e3 * seconds:9.1f} ms{seconds / base:8.2f}{wanted}")


if __name__ == "__main__":
    main()
