"""A training run: a network that learns random data, its optimizer, and an engine that replaces its units."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from gnt import GnT
from tests.helpers.ownership import HiddenLayer, hidden_layers, owned
from tests.replacement.optimizer_cases import OptimizerCase

BATCH = 3
UNIT_STATE = ("age", "utility", "mean_feature")


class TrainingRun:
    """A network, its optimizer and its engine. The same arguments give the same run, bit for bit.

    Args:
        net: a flat Sequential.
        shape: shape of one input sample.
        case: row of the optimizer table, or None for a network that is never trained.
        settings: keyword arguments of the engine.
        seed: seed of the data and of the engine's generator.
    """

    def __init__(
        self, net: nn.Sequential, shape: Sequence[int], case: OptimizerCase | None, settings: dict[str, Any], seed: int
    ) -> None:
        self.net, self.shape, self.case, self.settings, self.seed = net, tuple(shape), case, settings, seed
        self._initial_net = copy.deepcopy(net)
        self.dtype = next(net.parameters()).dtype
        self.data = torch.Generator().manual_seed(seed)
        self.optimizer = case.build(net.parameters()) if case else None
        self.engine = GnT(net, self.optimizer, generator=torch.Generator().manual_seed(seed), **settings)

    def __repr__(self) -> str:
        return f"TrainingRun({self.net}, shape={self.shape}, {self.case}, {self.dtype}, {self.settings})"

    def restarted(self) -> TrainingRun:
        """A new run with the same initial network, settings and seed."""
        return TrainingRun(copy.deepcopy(self._initial_net), self.shape, self.case, self.settings, self.seed)

    @property
    def layers(self) -> list[HiddenLayer]:
        """The hidden layers of the network with their owner maps."""
        return hidden_layers(self.net)

    def randn(self, *shape: int) -> Tensor:
        """Normally distributed numbers in the network's dtype."""
        return torch.randn(shape, generator=self.data, dtype=self.dtype)

    def train_without_replacement(self, steps: int = 1) -> None:
        """Run forward, backward, optimizer step and the engine's update. No units are replaced."""
        for _ in range(steps):
            self.optimizer_step()
            self.engine.update()

    def train(self, steps: int = 1) -> list[list[list[int]]]:
        """Run forward, backward, optimizer step and engine step. Returns the replaced units by step and group."""
        replaced = []
        for _ in range(steps):
            self.optimizer_step()
            replaced.append([units.tolist() for units in self.engine.step()])
        return replaced

    def optimizer_step(self) -> None:
        """Run one optimizer step on a random batch; without an optimizer only the forward."""
        seed = int(torch.randint(2**31, (), generator=self.data))
        torch.manual_seed(seed)  # dropout draws from torch's global generator
        output = self.net(self.randn(BATCH, *self.shape))
        loss = smooth_l1_loss(output, self.randn(*output.shape))
        if self.optimizer is not None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def consumer_inputs(self, x: Tensor) -> list[Tensor]:
        """The input of each hidden layer's consumer for the network input ``x``, recorded with forward hooks."""
        read: list[Tensor] = []
        hooks = [
            layer.consumer.register_forward_pre_hook(lambda _, args: read.append(args[0].detach().clone()))
            for layer in self.layers
        ]
        with torch.no_grad():
            self.net(x)
        for hook in hooks:
            hook.remove()
        return read

    def owned_elements(self, chosen: Sequence[Tensor | Sequence[int]]) -> dict[str, Tensor]:
        """Bool masks by tensor name: which elements of the network belong to the chosen units."""
        return owned(self.layers, [torch.as_tensor(units, dtype=torch.int64) for units in chosen])

    def tensors(self) -> dict[str, Tensor]:
        """Copies of parameters and buffers, by their names in the network."""
        return {name: value.detach().clone() for name, value in self.net.state_dict().items()}

    def optimizer_state(self) -> dict[tuple[str, str], Tensor]:
        """Copies of the optimizer's state and of the gradients (key "grad"), by parameter name and key."""
        copies: dict[tuple[str, str], Tensor] = {}
        for name, param in self.net.named_parameters():
            state = self.optimizer.state.get(param, {}) if self.optimizer is not None else {}
            entries = {"grad": param.grad, **state}
            copies |= {(name, key): torch.as_tensor(v).clone() for key, v in entries.items() if v is not None}
        return copies

    def unit_state(self) -> dict[tuple[int, str], Tensor]:
        """Copies of the unit state, by group number and name."""
        return {
            (number, name): getattr(group.state, name).clone()
            for number, group in enumerate(self.engine.groups)
            for name in UNIT_STATE
        }

    def full_state(self) -> dict[Any, Tensor]:
        """Everything that the next step depends on: parameters, buffers, optimizer state and unit state.

        Gradients are left out, because the next step discards them.
        """
        optimizer_state = {key: value for key, value in self.optimizer_state().items() if key[1] != "grad"}
        return {**self.tensors(), **optimizer_state, **self.unit_state()}

    def checkpoint(self) -> dict[str, Any]:
        """The run's state dicts, saved to a file and loaded again with ``weights_only=True``."""
        file = io.BytesIO()
        optimizer = None if self.optimizer is None else self.optimizer.state_dict()
        torch.save({"net": self.net.state_dict(), "opt": optimizer, "gnt": self.engine.state_dict()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load_checkpoint(self, saved: dict[str, Any], data: Tensor) -> None:
        """Resume from a checkpoint; ``data`` is the state of its data generator."""
        self.net.load_state_dict(saved["net"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(saved["opt"])
        self.engine.load_state_dict(saved["gnt"])
        self.data.set_state(data)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if dtype, shape and all bits are equal, including NaN and the sign of zero."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def differences(a: dict[Any, Tensor], b: dict[Any, Tensor]) -> list[Any]:
    """The names whose values differ in any bit or that only one of the two has."""
    return [name for name in {**a, **b} if name not in a or name not in b or not same_bits(a[name], b[name])]
