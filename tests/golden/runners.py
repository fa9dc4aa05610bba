"""Implementations that replay golden traces: gnt's engine and the literal twin, with the same interface."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from gnt import GnT, register_utility
from tests.golden import networks as nets
from tests.golden.traces import Trace
from tests.twins.engine import MEASURES, ArxivEquations, HiddenLayer, mean_per_sum

Array = np.ndarray


class GnTWithRecordedDraws(GnT):
    """GnT whose random numbers for ``accumulate=False`` come from a trace. Set ``t`` to the step before `select`."""

    trace: Trace
    t: int

    def select(self) -> list[Tensor]:
        due = [self.trace.rho * int((group.state.age > self.trace.maturity).sum()) for group in self.groups]
        self._drawing_layers = iter([layer for layer, q in enumerate(due) if q % 1])
        return super().select()

    def _uniform(self) -> float:
        draw = self.trace.draw(self.t, next(self._drawing_layers))
        return 1.0 if draw is None else draw


class EngineReplay:
    """The engine in its usual setup: it records features, selects units, and resets the optimizer's state."""

    kernels = False

    def __init__(self, trace: Trace) -> None:
        self.net = nets.build(trace, getattr(torch, trace.dtype))
        self.opt = nets.optimizer(trace, self.net)
        self.trace = trace
        self.gnt = GnTWithRecordedDraws(
            self.net,
            None if trace.opt == "sgd" else self.opt,
            replacement_rate=trace.rho,
            maturity_threshold=trace.maturity,
            decay_rate=trace.decay,
            utility=self._measure(),
            init=trace.init,
            accumulate=trace.accumulate,
            bias_transfer=False,
            kernels=self.kernels,
        )
        self.gnt.trace = trace
        self.states = [group.state for group in self.gnt.groups]

    def _measure(self) -> str:
        """The trace's measure; for "random" a measure that returns the recorded draws, layer by layer."""
        if self.trace.util == "random":
            register_utility("recorded_draws", lambda signals: next(self._draws), averaged=False)
            return "recorded_draws"
        return self.trace.util

    def record_features(self, x: Tensor) -> None:
        """Do nothing: the engine records features itself."""

    def update(self, t: int) -> None:
        self.gnt.t = t
        draws = [self.trace[f"bc_util/L{layer}"][t] for layer in range(len(self.states))]
        self._draws = iter([torch.from_numpy(drawn).to(getattr(torch, self.trace.dtype)) for drawn in draws])
        self.gnt.update()

    def select(self) -> list[list[int]]:
        self.selected = self.gnt.select()
        return [units.tolist() for units in self.selected]

    def replace(self, units: list[list[int]], incoming: list[Array]) -> None:
        if self.trace.kind == "conv":  # `select` was not called: the units come from the trace
            self.selected = [torch.tensor(chosen, dtype=torch.int64) for chosen in units]
        weights = [torch.from_numpy(array).to(next(self.net.parameters())) for array in incoming]
        self.gnt.replace(self.selected, incoming=weights)

    def history(self, layer: int, what: str) -> Array:
        return getattr(self.states[layer], what).detach().cpu().double().numpy()

    def accumulated(self, layer: int) -> float:
        return self.states[layer].accumulated


class TwinWithRecordedDraws(ArxivEquations):
    trace: Trace
    t: int

    def uniform(self, number: int) -> float:
        draw = self.trace.draw(self.t, number)
        return 1.0 if draw is None else draw


class KernelEngineReplay(EngineReplay):
    """The engine with C kernels."""

    kernels = True


class TwinReplay:
    """The literal twin, always in float64."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.net = trace, nets.build(trace, torch.float64)
        self.opt = nets.optimizer(trace, self.net)
        weights = nets.weight_layers(self.net)
        self.layers = [HiddenLayer(*pair) for pair in pairwise(weights)]
        # for random utilities `update` takes the recorded draws: the measure named here has no effect
        utility = trace.util if trace.util in MEASURES else "contribution"
        self.scale = [mean_per_sum(layer, utility) for layer in self.layers]
        rules = {"accumulate": trace.accumulate, "bias_transfer": False}
        self.twin = TwinWithRecordedDraws(self.layers, trace.rho, trace.maturity, trace.decay, utility, **rules)
        self.twin.trace = trace

    def record_features(self, x: Tensor) -> None:
        self.features = consumer_inputs(self.net, x)

    def update(self, t: int) -> None:
        self.twin.t = t
        self.twin.update(self.features)
        if self.trace.util == "random":
            for number, layer in enumerate(self.layers):
                layer.corrected_utility[:] = self.trace[f"bc_util/L{number}"][t] / self.scale[number]

    def select(self) -> list[list[int]]:
        return self.twin.select()

    def replace(self, units: list[list[int]], incoming: list[Array]) -> None:
        self.twin.replace(units, incoming)
        if self.trace.opt == "sgd":
            return
        for layer, chosen, (producer, consumer) in zip(
            self.layers, units, pairwise(nets.weight_layers(self.net)), strict=True
        ):
            rows = torch.tensor(chosen, dtype=torch.int64)
            columns = rows[:, None] * layer.positions + torch.arange(layer.positions)
            self.opt.reset_units(producer.weight, 0, rows)
            self.opt.reset_units(producer.bias, 0, rows)
            self.opt.reset_units(consumer.weight, 1, columns.flatten())

    def history(self, layer: int, what: str) -> Array:
        scale = self.scale[layer] if "utility" in what else 1
        return getattr(self.layers[layer], what) * scale

    def accumulated(self, layer: int) -> float:
        return self.layers[layer].accumulated


@torch.no_grad()
def consumer_inputs(net: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The features of every hidden layer: the inputs of all modules with weights except the first."""
    inputs = []
    for module in net:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            inputs.append(x)
        x = module(x)
    return inputs[1:]
