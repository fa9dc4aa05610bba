"""Which module owns a parameter of the graph, and whether its units can be replaced.

All reasons for which a weight layer is refused are given here.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from gnt.units._layer_types import (
    WEIGHT_LAYERS,
    has_torch_forward,
    is_transposed_linear,
    is_weight_layer,
    num_outputs,
    weight_fault,
)
from gnt.units._trace_result import Refused
from gnt.units._tracing.graph import Node
from gnt.units._tracing.plain_forward import is_plain_forward
from gnt.units._tracing.shared_memory import SharedMemory
from gnt.units._tracing.stacked import stack_of_slice, stacked_weights
from gnt.units._tracing.weight_ops import WeightOp, uses


class WeightLayer(NamedTuple):
    """The layer that runs a weight operation; ``fault`` is a phrase that says why its units cannot be replaced."""

    name: str
    module: nn.Module | None
    fault: str | None


class ParameterOwners:
    """The modules of a model, found by their parameters or paths.

    Args:
        model: the model.
        frozen: whether a frozen weight is no fault.
    """

    def __init__(self, model: nn.Module, *, frozen: bool = False) -> None:
        self.model, self._frozen = model, frozen
        self.paths: dict[int, str] = {
            id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))
        }
        self._engine_paths = {
            id(slot.module): path
            for path, layer in model.named_modules()
            if hasattr(layer, "has_own_engine")
            for slot in layer.group.incoming
        }
        self._memory = SharedMemory(model)

    def path(self, module: nn.Module) -> str:
        """The first path of a module in the model."""
        return self.paths[id(module)]

    def module_at(self, path: str) -> nn.Module:
        """The module at a path."""
        return self.model.get_submodule(path)

    def owner(self, node: Node) -> tuple[nn.Module, str]:
        """The module that holds a parameter or buffer, and the name under which it does."""
        path, _, key = node.name.rpartition(".")
        return self.model.get_submodule(path), key

    def sharing(self, parameter: Node, module: nn.Module | None = None) -> str | None:
        """A phrase that names the other users of a parameter of ``module``; None if one operation alone reads it."""
        owner, key = self.owner(parameter)
        module = owner if module is None else module
        other = self._memory.shared_with(module, key)
        if other is not None:
            return f"shares its {key} with {other!r} (tied weights)"
        users = uses(parameter)
        if len(users) > 1:
            kinds = {user.op for user in users}
            if len(kinds) == 1:
                return f"is called {len(users)} times in one forward"
            return f"has its {key} read by several operations ({', '.join(sorted(kinds))})"
        return None

    def weight_layer(self, op: WeightOp) -> WeightLayer:
        """The layer that runs a weight operation, and whether its units can be replaced."""
        parameter = op.parameter
        if parameter is None:
            module = self.module_at(op.node.module)
            if is_weight_layer(module):
                return WeightLayer(self.path(module), module, _computed_weight_fault(module))
            stack = stack_of_slice(op.weight)
            if stack is not None:
                return WeightLayer(stack[1], None, f"is one of the {stacked_weights(stack[0], op.node.op)}")
            name = op.node.module or type(module).__name__
            return WeightLayer(name, None, "has a computed weight and is not a weight layer")
        module, key = self.owner(parameter)
        if isinstance(module, nn.MultiheadAttention):
            return WeightLayer(self.path(module), None, "computes attention heads' inner units")
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            return WeightLayer(self.path(module), None, "computes recurrent gates")
        running = self.module_at(op.node.module)
        if is_weight_layer(running) and running._parameters.get("weight") is module._parameters.get(key):
            module, key = running, "weight"  # for tied weights the graph only knows the first owner
        if key != "weight" or not is_weight_layer(module):
            fault = f"is a parameter of {type(module).__name__}, which is not a weight layer that gnt knows"
            return WeightLayer(parameter.name, None, fault)
        return WeightLayer(self.path(module), module, self._fault(op, module, parameter))

    def _fault(self, op: WeightOp, module: nn.Module, parameter: Node) -> str | None:
        if id(module) in self._engine_paths:
            layer = self._engine_paths[id(module)]
            return f"is already replaced by the engine of {layer!r}: use CBPLinear/CBPConv or trace, not both"
        is_known = has_torch_forward(module) or is_transposed_linear(module)
        if not is_known and self.module_at(op.node.module) is module and not is_plain_forward(op, module):
            return "has a custom forward: gnt does not know how it uses its weight"
        bias = op.bias_parameter
        own = getattr(module, "bias", None)
        if (op.bias is not None and bias is None) or own is not (
            None if bias is None else getattr(self.owner(bias)[0], self.owner(bias)[1])
        ):
            return "has a bias that is not a plain parameter of its own (it is parametrized)"
        extra = [key for key, _ in module.named_parameters() if key not in ("weight", "bias")]
        if extra:
            return f"has extra parameters ({', '.join(extra)}), and gnt does not know which of them belong to a unit"
        shared = self.sharing(parameter, module) or (self.sharing(bias, module) if bias is not None else None)
        if shared is not None:
            return shared
        weight = module._parameters["weight"]
        assert weight is not None
        problem = weight_fault(weight, frozen_allowed=self._frozen)
        return f"has a weight that {problem}" if problem is not None else None

    def recording_fault(self, op: WeightOp, module: nn.Module) -> str | None:
        """A phrase for a consumer whose weight is used outside its forward, so that its input cannot be recorded."""
        if self.module_at(op.node.module) is not module:
            return f"is not called: its weight is used in {op.node.module!r}, where its input cannot be recorded"
        return None


def _computed_weight_fault(module: nn.Module) -> str:
    """Why the units of a layer with a weight computed from its parameters cannot be replaced."""
    if "weight" in module._parameters:
        return (
            "computes its weight from its parameter in each forward (as weight standardization does): columns of zeros "
            "would not stay zero"
        )
    return "is parametrized: its weight is not a plain parameter and cannot be reset row by row"


def unused_layers(model: nn.Module, named: set[str], num_examples: int) -> list[Refused]:
    """Refusals for layers with units that are in no group and were not refused yet, such as unused ones.

    Args:
        model: the traced model.
        named: names of the modules in groups and refusals, with or without a range of rows.
        num_examples: number of forwards that were traced.
    """
    refused = []
    known = {name.partition("[")[0] for name in named}
    for path, module in model.named_modules():
        if path in known:
            continue
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            reason = "recurrent gates: the rows of a unit cannot be replaced separately"
            refused.append(Refused(path, int(module.hidden_size), reason))
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            refused.append(
                Refused(path, module.out_channels, "a transposed convolution, which gnt cannot reinitialize")
            )
        elif isinstance(module, nn.Bilinear):
            refused.append(Refused(path, module.out_features, "a bilinear layer, which gnt cannot reinitialize"))
        elif isinstance(module, WEIGHT_LAYERS) and not any(path.startswith(f"{name}.") for name in known):
            reason = "this forward does not use it" if num_examples == 1 else "no example uses it"
            refused.append(Refused(path, num_outputs(module), reason))
    return refused
