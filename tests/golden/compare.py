"""Replay of a golden trace, with a comparison of everything that was recorded at every step."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden import networks as nets
from tests.golden.traces import Trace

Array = np.ndarray

# name of optimizer state in a trace -> name in the optimizer
OPTIMIZER_STATE = {"mom": "momentum_buffer", "adam_m": "exp_avg", "adam_v": "exp_avg_sq", "adam_t": "step"}


class Implementation(Protocol):
    """An implementation that can replay a trace."""

    net: nn.Sequential
    opt: torch.optim.Optimizer

    def record_features(self, x: Tensor) -> None: ...
    def update(self, t: int) -> None: ...
    def select(self) -> list[list[int]]: ...
    def replace(self, units: list[list[int]], incoming: list[Array]) -> None: ...
    def history(self, layer: int, what: str) -> Array: ...
    def accumulated(self, layer: int) -> float: ...


class Comparison:
    """Compares one implementation with one trace. The first difference fails the test with a full description."""

    def __init__(self, trace: Trace, implementation: Implementation) -> None:
        self.trace, self.implementation = trace, implementation
        self.layers = range(trace.n_hidden_layers)
        self.exact = {"rtol": 0.0, "atol": 0.0}
        self.close = {"rtol": trace.suggested_rtol, "atol": trace.suggested_atol}
        # histories and outputs were stored in float32; traces with a larger atol amplify rounding errors
        rounding = 1e-6 if trace.dtype == "float64" else 1e-5
        amplified = trace.suggested_atol if trace.suggested_atol > 1e-5 else 1e-6
        self.rounded = {"rtol": rounding, "atol": amplified}
        # an output accumulates the errors of many parameters
        self.summed = {"rtol": self.close["rtol"], "atol": 4 * self.close["atol"]}
        self.output = {"rtol": rounding, "atol": max(1e-6, self.summed["atol"])}
        self.t = 0

    def replay(self) -> None:
        """Run all steps of the trace and compare each."""
        for t in range(self.trace.T):
            self.t = t
            self.learn()
            self.implementation.update(self.t)
            for layer in self.layers:
                self.check_history(layer, "corrected_utility", "bc_util")
            recorded = [self.trace.replaced(self.t, layer) for layer in self.layers]
            units = self.select(recorded)
            incoming = [self.recorded_weights(layer, recorded[layer], units[layer]) for layer in self.layers]
            self.implementation.replace(units, incoming)
            for layer in self.layers:
                self.check_unit_state(layer)
            self.check_parameters()

    def learn(self) -> None:
        """Run forward, backward and optimizer step, and compare loss and output."""
        net = self.implementation.net
        self.implementation.record_features(self.trace.batch(self.t, next(net.parameters()).dtype)[0])
        loss, output = nets.learn(net, self.implementation.opt, self.trace, self.t)
        self.assert_close("loss", loss, self.trace["loss"][self.t], self.summed)
        self.assert_close("output", output, self.trace["out"][self.t], self.output)

    def select(self, recorded: list[dict[int, Array]]) -> list[list[int]]:
        """The units that the implementation selects, compared with the recorded ones.

        The published code for convolutions counts all units of a layer, not the eligible ones. So for convolutional
        traces the recorded number of units with the lowest utility is taken, and accumulators are not compared.
        """
        if self.trace.kind == "gnt":
            units = self.implementation.select()
        else:
            units = [self.lowest(layer, len(recorded[layer])) for layer in self.layers]
        for layer in self.layers:
            self.assert_equal(f"replaced units of layer {layer}", sorted(units[layer]), sorted(recorded[layer]))
        return units

    def lowest(self, layer: int, count: int) -> list[int]:
        utility = self.implementation.history(layer, "corrected_utility")
        eligible = np.flatnonzero(self.implementation.history(layer, "age") > self.trace.maturity)
        return sorted(eligible.tolist(), key=lambda unit: utility[unit])[:count]

    def recorded_weights(self, layer: int, recorded: dict[int, Array], units: list[int]) -> Array:
        """The recorded incoming weights of replaced units, in the order of ``units``."""
        rows = np.array([recorded[unit] for unit in units])
        return rows.reshape(len(units), *self.trace[f"init/W{layer}"].shape[1:])

    def check_unit_state(self, layer: int) -> None:
        """Compare ages, accumulator and running averages at the end of the step."""
        ages = self.trace[f"ages/L{layer}"][self.t]
        self.assert_close(f"age of layer {layer}", self.implementation.history(layer, "age"), ages, self.exact)
        if self.trace.kind == "gnt" and self.trace.accumulate:
            accumulated = float(self.trace[f"accum/L{layer}"][self.t])
            self.assert_equal(f"accumulator of layer {layer}", self.implementation.accumulated(layer), accumulated)
        self.check_history(layer, "mean_feature", "mfa")
        if self.trace.util != "random":  # the published code keeps no average of random draws
            self.check_history(layer, "utility", "util")

    def check_parameters(self) -> None:
        """Compare the sum of squares of each parameter; at checkpoints also all parameters and optimizer state."""
        named = nets.parameters(self.implementation.net)
        for name, p in named.items():
            found = p.detach().double().square().sum()
            self.assert_close(f"sum of squares of {name}", found, self.trace[f"stat/{name}"][self.t], self.summed)
        row = self.trace.checkpoints.get(self.t)
        if row is None:
            return
        for key, recorded in self.trace.under("ckpt").items():
            kind, _, name = key.partition("/")
            if kind == "p":
                self.assert_close(f"parameter {name}", named[name], recorded[row], self.close)
            elif kind in OPTIMIZER_STATE:
                state = self.implementation.opt.state[named[name]][OPTIMIZER_STATE[kind]]
                self.assert_close(f"{OPTIMIZER_STATE[kind]} of {name}", state, recorded[row], self.close)

    def check_history(self, layer: int, name: str, recorded_name: str) -> None:
        recorded = self.trace[f"{recorded_name}/L{layer}"][self.t]
        self.assert_close(f"{name} of layer {layer}", self.implementation.history(layer, name), recorded, self.rounded)

    def assert_equal(self, what: str, found: object, recorded: object) -> None:
        assert found == recorded, f"{self.where} {what}: {found!r}, recorded {recorded!r}"

    def assert_close(self, what: str, found: object, recorded: object, within: dict[str, float]) -> None:
        found = torch.as_tensor(found).detach().double().numpy()
        recorded = np.asarray(recorded, dtype=np.float64)
        self.assert_equal(f"shape of {what}", found.shape, recorded.shape)
        difference = np.abs(found - recorded)
        if (difference <= within["atol"] + within["rtol"] * np.abs(recorded)).all():
            return
        worst = np.unravel_index(difference.argmax(), found.shape)  # argmax takes a NaN as the largest
        raise AssertionError(
            f"{self.where} {what} differs by {difference[worst]:.3g} at {tuple(map(int, worst))}: "
            f"{found[worst]:.9g}, recorded {recorded[worst]:.9g}, allowed {within}"
        )

    @property
    def where(self) -> str:
        return f"{self.trace.name}, step {self.t}:"
