"""What each layer shows before the copies learn: dead and dormant units, ranks, sizes of weights and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from gnt.diagnosis._batches import Batch
from gnt.diagnosis._learning import LossFunction, loss_of
from gnt.diagnosis._reinitialize import State, load
from gnt.metrics import Probe
from gnt.units import TraceError, UnitGroup, map_tensors, trace

PROBED = 512  # samples, at most
_PER_UNIT = ("dead_units", "dormant_units", "effective_rank", "nature_rank", "approximate_rank")


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one layer of one network; those of its units are None where they cannot be measured.

    Attributes:
        name: path of the layer; the name of the unit group if it has hidden units.
        weight_magnitude: mean magnitude of its weights, without biases.
        gradient_norm: Euclidean norm of the gradient of its weights, of the loss of the first batch that is learned.
        units: number of hidden units.
        dead_units, dormant_units, effective_rank, nature_rank, approximate_rank: see `gnt.metrics`.
    """

    name: str
    weight_magnitude: float
    gradient_norm: float
    units: int | None = None
    dead_units: float | None = None
    dormant_units: float | None = None
    effective_rank: float | None = None
    nature_rank: float | None = None
    approximate_rank: float | None = None


class LayerReader:
    """Measures all layers of a network with any values of its tensors.

    Args:
        net: a copy of the network, which is used up.
        batches: what is learned; the units are measured on the first samples.
        make_loss: gives the loss, a copy for each measurement if it is a module.
        device: the device of the network.

    Attributes:
        without_units: why there are no figures of units; "" if there are.
    """

    def __init__(
        self,
        net: nn.Module,
        batches: Sequence[Batch],
        make_loss: Callable[[], LossFunction | None],
        device: torch.device,
    ) -> None:
        self._net, self._make_loss, self._device = net, make_loss, device
        self._inputs = _joined(batches)
        self._groups: tuple[UnitGroup, ...] = ()
        self.without_units = ""
        try:
            self._groups = _trace(net, batches[0].to(device).x)
        except TraceError as error:
            self.without_units = _one_line(error)
        self._layers = _layers(net, self._groups)

    def measure(self, state: State, batch: Batch) -> tuple[LayerFigures, ...]:
        """The figures of all layers of the network with the values ``state``, in the order of computation."""
        net = load(self._net, state)
        units = self._of_units(net)
        load(net, state)
        batch = batch.to(self._device)
        for parameter in net.parameters():
            parameter.grad = None
        with torch.inference_mode(mode=False), torch.enable_grad():
            loss_of(net, batch, self._make_loss())[0].backward()
        result = []
        for name, weights, size in self._layers:
            total, count = sum(float(w.detach().double().abs().sum()) for w in weights), sum(w.numel() for w in weights)
            norms = [float(w.grad.double().norm()) for w in weights if w.grad is not None]
            of_units = {key: units.get(f"{key}/{name}") for key in _PER_UNIT} if size is not None else {}
            result.append(LayerFigures(name, total / max(count, 1), math.hypot(*norms), size, **of_units))
        for parameter in net.parameters():
            parameter.grad = None
        return tuple(result)

    def _of_units(self, net: nn.Module) -> dict[str, float]:
        if not self._groups:
            return {}
        inputs = map_tensors(self._inputs, lambda tensor: tensor.to(self._device))
        try:
            return Probe(net, self._groups, inputs).measure()
        except (FloatingPointError, RuntimeError, ValueError) as error:
            self.without_units = _one_line(error)
            return {}


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    more = "; ".join(lines[1:4]) + ("; ..." if len(lines) > 4 else "")
    return f"{lines[0]} {more}".strip()


def mean_figures(several: Sequence[tuple[LayerFigures, ...]]) -> tuple[LayerFigures, ...]:
    """The means over several networks, layer by layer."""
    return tuple(_mean(layers) for layers in zip(*several, strict=True))


def _mean(layers: Sequence[LayerFigures]) -> LayerFigures:
    values: dict[str, Any] = {}
    for field in fields(LayerFigures):
        own = [getattr(each, field.name) for each in layers]
        if field.name in ("name", "units") or None in own:
            values[field.name] = own[0] if field.name in ("name", "units") else None
        else:
            values[field.name] = math.fsum(own) / len(own)
    return LayerFigures(**values)


def _trace(net: nn.Module, inputs: Any) -> tuple[UnitGroup, ...]:
    if isinstance(inputs, dict):
        return trace(net, examples=[inputs])
    return trace(net, *(inputs if isinstance(inputs, tuple) else (inputs,)))


def _joined(batches: Sequence[Batch]) -> Any:
    """The inputs of the first samples of all batches; of the first batch if they are not single tensors."""
    tensors = [batch.x for batch in batches if isinstance(batch.x, Tensor)]
    if len(tensors) < len(batches) or len({each.shape[1:] for each in tensors}) > 1:
        return batches[0].x
    count, kept = 0, []
    for each in tensors:
        kept.append(each)
        count += len(each)
        if count >= PROBED:
            break
    return torch.cat(kept)[:PROBED]


def _layers(net: nn.Module, groups: Sequence[UnitGroup]) -> list[tuple[str, list[nn.Parameter], int | None]]:
    """Name, weights and number of hidden units of each layer: modules with weights, and groups in place of theirs."""
    group_of = {id(slot.module): group for group in groups for slot in group.incoming}
    found: list[tuple[str, list[nn.Parameter], int | None]] = []
    seen: set[int] = set()
    for path, module in net.named_modules():
        weights = [each for each in module._parameters.values() if each is not None and each.ndim >= 2]
        group = group_of.get(id(module))
        if group is None and weights:
            found.append((path or "(the model)", weights, None))
        elif group is not None:
            of_module = {id(g): g for g in groups if any(slot.module is module for slot in g.incoming)}
            for each in of_module.values():
                if id(each) not in seen:
                    seen.add(id(each))
                    own: list[Any] = list({id(s.weight): s.weight for s in each.incoming}.values())
                    found.append((each.name, own, each.num_units))
    return found
