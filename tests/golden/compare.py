"""Playing a golden trace, and comparing everything that was recorded at every step."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tests.golden import networks as nets
from tests.golden.traces import Trace

Array = np.ndarray

# a trace's name of optimizer state -> the optimizer's own
OPTIMIZER_STATE = {"mom": "momentum_buffer", "adam_m": "exp_avg", "adam_v": "exp_avg_sq", "adam_t": "step"}


class Player(Protocol):
    """What can be held to a trace."""

    net: nn.Sequential
    opt: torch.optim.Optimizer

    def look(self, x: Tensor) -> None: ...
    def update(self, t: int) -> None: ...
    def select(self) -> list[list[int]]: ...
    def replace(self, units: list[list[int]], incoming: list[Array]) -> None: ...
    def history(self, layer: int, what: str) -> Array: ...
    def accumulated(self, layer: int) -> float: ...


class Comparison:
    """Compares one player with one trace. The first difference ends the test and is named in full."""

    def __init__(self, trace: Trace, player: Player) -> None:
        self.trace, self.player = trace, player
        self.layers = range(trace.n_hidden_layers)
        self.exact = {"rtol": 0.0, "atol": 0.0}
        self.close = {"rtol": trace.suggested_rtol, "atol": trace.suggested_atol}
        # histories and outputs were stored in float32; traces with a larger atol amplify rounding
        rounding = 1e-6 if trace.dtype == "float64" else 1e-5
        amplified = trace.suggested_atol if trace.suggested_atol > 1e-5 else 1e-6
        self.rounded = {"rtol": rounding, "atol": amplified}
        # an output gathers the errors of many parameters
        self.gathered = {"rtol": self.close["rtol"], "atol": 4 * self.close["atol"]}
        self.output = {"rtol": rounding, "atol": max(1e-6, self.gathered["atol"])}
        self.t = 0

    def play(self) -> None:
        for t in range(self.trace.T):
            self.t = t
            self.learn()
            self.player.update(self.t)
            for layer in self.layers:
                self.history(layer, "corrected_utility", "bc_util")
            recorded = [self.trace.replaced(self.t, layer) for layer in self.layers]
            units = self.choose(recorded)
            self.player.replace(units, [self.fresh(layer, recorded[layer], units[layer]) for layer in self.layers])
            for layer in self.layers:
                self.units(layer)
            self.parameters()

    def learn(self) -> None:
        """Forward, backward, optimizer step: the same loss and output as recorded."""
        net = self.player.net
        self.player.look(self.trace.batch(self.t, next(net.parameters()).dtype)[0])
        loss, output = nets.learn(net, self.player.opt, self.trace, self.t)
        self.values("loss", loss, self.trace["loss"][self.t], self.gathered)
        self.values("output", output, self.trace["out"][self.t], self.output)

    def choose(self, recorded: list[dict[int, Array]]) -> list[list[int]]:
        """The player's own choice; for convolutional traces the lowest eligible, as many as were replaced.

        The published code for convolutions counts all units of a layer, not the eligible ones, so there the
        number of units is the trace's, and the accumulators are not compared.
        """
        if self.trace.kind == "gnt":
            units = self.player.select()
        else:
            units = [self.lowest(layer, len(recorded[layer])) for layer in self.layers]
        for layer in self.layers:
            self.equal(f"replaced units of layer {layer}", sorted(units[layer]), sorted(recorded[layer]))
        return units

    def lowest(self, layer: int, count: int) -> list[int]:
        worth = self.player.history(layer, "corrected_utility")
        eligible = np.flatnonzero(self.player.history(layer, "age") > self.trace.maturity)
        return sorted(eligible.tolist(), key=lambda unit: worth[unit])[:count]

    def fresh(self, layer: int, recorded: dict[int, Array], units: list[int]) -> Array:
        """The recorded fresh weights, in the order of `units`."""
        rows = np.array([recorded[unit] for unit in units])
        return rows.reshape(len(units), *self.trace[f"init/W{layer}"].shape[1:])

    def units(self, layer: int) -> None:
        """Ages, accumulator and running averages at the end of the step."""
        ages = self.trace[f"ages/L{layer}"][self.t]
        self.values(f"age of layer {layer}", self.player.history(layer, "age"), ages, self.exact)
        if self.trace.kind == "gnt" and self.trace.accumulate:
            accumulated = float(self.trace[f"accum/L{layer}"][self.t])
            self.equal(f"accumulator of layer {layer}", self.player.accumulated(layer), accumulated)
        self.history(layer, "mean_feature", "mfa")
        if self.trace.util != "random":  # the published code keeps no average of random draws
            self.history(layer, "utility", "util")

    def parameters(self) -> None:
        """Every parameter's sum of squares; at checkpoints parameters and optimizer state whole."""
        named = nets.parameters(self.player.net)
        for name, p in named.items():
            found = p.detach().double().square().sum()
            self.values(f"sum of squares of {name}", found, self.trace[f"stat/{name}"][self.t], self.gathered)
        row = self.trace.checkpoints.get(self.t)
        if row is None:
            return
        for key, recorded in self.trace.under("ckpt").items():
            kind, _, name = key.partition("/")
            if kind == "p":
                self.values(f"parameter {name}", named[name], recorded[row], self.close)
            elif kind in OPTIMIZER_STATE:
                state = self.player.opt.state[named[name]][OPTIMIZER_STATE[kind]]
                self.values(f"{OPTIMIZER_STATE[kind]} of {name}", state, recorded[row], self.close)

    def history(self, layer: int, ours: str, theirs: str) -> None:
        recorded = self.trace[f"{theirs}/L{layer}"][self.t]
        self.values(f"{ours} of layer {layer}", self.player.history(layer, ours), recorded, self.rounded)

    def equal(self, what: str, found: object, recorded: object) -> None:
        assert found == recorded, f"{self.where} {what}: {found!r}, recorded {recorded!r}"

    def values(self, what: str, found: object, recorded: object, within: dict[str, float]) -> None:
        found = torch.as_tensor(found).detach().double().numpy()
        recorded = np.asarray(recorded, dtype=np.float64)
        self.equal(f"shape of {what}", found.shape, recorded.shape)
        difference = np.abs(found - recorded)
        if (difference <= within["atol"] + within["rtol"] * np.abs(recorded)).all():
            return
        worst = np.unravel_index(difference.argmax(), found.shape)  # a NaN counts as the largest
        raise AssertionError(
            f"{self.where} {what} differs by {difference[worst]:.3g} at {tuple(map(int, worst))}: "
            f"{found[worst]:.9g}, recorded {recorded[worst]:.9g}, allowed {within}"
        )

    @property
    def where(self) -> str:
        return f"{self.trace.name}, step {self.t}:"
