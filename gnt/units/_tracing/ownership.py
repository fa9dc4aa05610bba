"""Whose weight is it, and may a unit's part of it be made anew? Every refusal of a weight layer stands here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from gnt.units._group import CONV_LAYERS, WEIGHT_LAYERS
from gnt.units._passthrough import has_torch_forward
from gnt.units._tracing.capture import Node
from gnt.units._tracing.refused import Refused
from gnt.units._tracing.shared_memory import Memory

_CASTS = ("_to_copy", "to", "alias")


@dataclass(frozen=True)
class WeightOp:
    """A matrix product or convolution with weights: who reads what, and which dimension of the weight is the output."""

    node: Node
    read: Node
    weight: Node
    bias: Node | None
    out_dim: int = 0
    spatial: int = 0  # dimensions that follow the channels in what it reads
    groups: int = 1

    @property
    def parameter(self) -> Node | None:
        """The parameter that is its weight, as it is or transposed."""
        return _parameter(self.weight)[0]


def weight_op(node: Node) -> WeightOp | None:
    """What an operation reads with which weights; None for those without."""
    get, name = node.argument, node.op
    if name == "linear":
        return WeightOp(node, get("input"), get("weight"), get("bias"))
    if name in ("conv1d", "conv2d", "conv3d"):
        return WeightOp(node, get("input"), get("weight"), get("bias"), 0, int(name[4]), get("groups"))
    if name == "convolution" and not get("transposed"):
        spatial = len(get("weight").shape) - 2
        return WeightOp(node, get("input"), get("weight"), get("bias"), 0, spatial, get("groups"))
    if name == "addmm" and get("beta") == get("alpha") == 1:
        return _product(node, get("mat1"), get("mat2"), get("self"))
    if name in ("mm", "matmul"):
        read, weight = node.args[0], node.args[1]
        return _product(node, read, weight, None) if len(weight.shape) == 2 else None
    return None


def _product(node: Node, read: Node, weight: Node, bias: Node | None) -> WeightOp | None:
    if weight.from_input or not weight.from_parameter:
        return None  # a product of activations, or with a constant
    return WeightOp(node, read, weight, bias, 0 if _parameter(weight)[1] else 1)


def _parameter(node: Node) -> tuple[Node | None, bool]:
    """The parameter behind transposes, and whether it is transposed."""
    if node.kind == "parameter":
        return node, False
    if node.op in _CASTS:
        return _parameter(node.args[0])
    if node.op in ("t", "transpose", "permute", "numpy_T") and len(node.shape) == 2:
        if node.op == "permute" and [d % 2 for d in node.args[1]] != [1, 0]:
            return _parameter(node.args[0])
        if node.op == "transpose" and node.args[1] % 2 == node.args[2] % 2:
            return _parameter(node.args[0])
        behind, transposed = _parameter(node.args[0])
        return behind, not transposed
    return None, False


def uses(parameter: Node) -> list[Node]:
    """The operations that read a parameter, casts and transposes looked through."""
    found = []
    for user in parameter.users:
        found += uses(user) if user.op in (*_CASTS, "t", "transpose", "permute", "numpy_T", "view") else [user]
    return list(dict.fromkeys(found))


class Owners:
    """The modules of a model by their parameters."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.paths: dict[int, str] = {
            id(module): path for path, module in reversed(list(model.named_modules(remove_duplicate=False)))
        }
        self._engines = {
            id(slot.module): path
            for path, layer in model.named_modules()
            if hasattr(layer, "looks_after_units")
            for slot in layer.group.incoming
        }
        self._memory = Memory(model)

    def path(self, module: nn.Module) -> str:
        """The first path of a module."""
        return self.paths[id(module)]

    def module_at(self, path: str) -> nn.Module:
        """The module of that path."""
        return self.model.get_submodule(path)

    def owner(self, node: Node) -> tuple[nn.Module, str]:
        """The module that holds a parameter or buffer, and its name there."""
        path, _, key = node.name.rpartition(".")
        return self.model.get_submodule(path), key

    def sharing(self, parameter: Node, module: nn.Module | None = None) -> str | None:
        """A phrase for a parameter of ``module`` that does not belong to one operation of that module alone."""
        owner, key = self.owner(parameter)
        module = owner if module is None else module
        other = self._memory.sharing(module, key)
        if other is not None:
            return f"shares its {key} with {other!r} (tied weights)"
        users = uses(parameter)
        if len(users) > 1:
            kinds = {user.op for user in users}
            if len(kinds) == 1:
                return f"is called {len(users)} times in one forward"
            return f"has its {key} read by several operations ({', '.join(sorted(kinds))})"
        return None

    def layer(self, op: WeightOp) -> tuple[str, nn.Module | None, str | None]:
        """(name, module, phrase) of the weight layer that runs ``op``; the phrase says why it is refused, if it is."""
        parameter = op.parameter
        if parameter is None:
            module = self.module_at(op.node.module)
            if is_weight_layer(module):
                return (
                    self.path(module),
                    module,
                    ("is parametrized: its weight is not a plain parameter and cannot be reset row by row"),
                )
            return op.node.module or type(module).__name__, None, "has a computed weight and is not a weight layer"
        module, key = self.owner(parameter)
        if isinstance(module, nn.MultiheadAttention):
            return self.path(module), None, "makes attention heads' inner units"
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            return self.path(module), None, "makes recurrent gates"
        running = self.module_at(op.node.module)
        if is_weight_layer(running) and running._parameters.get("weight") is module._parameters.get(key):
            module, key = running, "weight"  # of tied weights, the graph knows the first owner alone
        if key != "weight" or not is_weight_layer(module):
            return (
                parameter.name,
                None,
                f"is a parameter of {type(module).__name__}, which is not a weight layer that gnt knows",
            )
        return self.path(module), module, self._fault(op, module, parameter)

    def _fault(self, op: WeightOp, module: nn.Module, parameter: Node) -> str | None:
        if id(module) in self._engines:
            return f"has an engine of its own, {self._engines[id(module)]!r}: use layers or trace, not both"
        if not has_torch_forward(module) and not is_conv1d(module):
            return "has a forward of its own: gnt does not know what its weight is to it"
        bias: Any = _parameter(op.bias)[0] if op.bias is not None else None
        if op.bias is not None and bias is None:
            return "has a bias that is not a plain parameter of its own (it is parametrized)"
        if (bias is None) != (getattr(module, "bias", None) is None) or (
            bias is not None and getattr(self.owner(bias)[0], self.owner(bias)[1]) is not module.bias
        ):
            return "has a bias that is not a plain parameter of its own (it is parametrized)"
        more = [key for key, _ in module.named_parameters() if key not in ("weight", "bias")]
        if more:
            return f"has parameters ({', '.join(more)}) of which gnt does not know what belongs to a unit"
        shared = self.sharing(parameter, module) or (self.sharing(bias, module) if bias is not None else None)
        if shared is not None:
            return shared
        weight = module._parameters["weight"]
        assert weight is not None
        if weight.is_complex():
            return "has complex weights; utilities are defined for real networks"
        if not weight.requires_grad:
            return "is frozen (requires_grad=False)"
        return None

    def unreadable(self, op: WeightOp, module: nn.Module) -> str | None:
        """A phrase for a consumer whose input its own forward does not receive, so that nobody could record it."""
        if self.module_at(op.node.module) is not module:
            return f"is not called: its weight is used in {op.node.module!r}, where its input cannot be recorded"
        return None


def is_weight_layer(module: nn.Module) -> bool:
    """Linear and Conv layers, and transformers' Conv1D."""
    return isinstance(module, WEIGHT_LAYERS) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Transformers' Conv1D: a linear layer that keeps its weight as (in, out)."""
    weight = module._parameters.get("weight")
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and weight is not None and weight.ndim == 2


def is_convolution(module: nn.Module) -> bool:
    """One of torch's convolutions."""
    return isinstance(module, CONV_LAYERS)


def unused(model: nn.Module, named: set[str]) -> list[Refused]:
    """Modules in which a user might expect units, and that are in no group and no refusal yet."""
    refused = []
    bare = {name.partition("[")[0] for name in named}
    for path, module in model.named_modules():
        if path in bare:
            continue
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            refused.append(
                Refused(path, int(module.hidden_size), "recurrent gates: a unit's rows are not its own alone")
            )
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            refused.append(Refused(path, module.out_channels, "a transposed convolution, which gnt cannot make anew"))
        elif isinstance(module, nn.Bilinear):
            refused.append(Refused(path, module.out_features, "a bilinear layer, which gnt cannot make anew"))
        elif isinstance(module, WEIGHT_LAYERS) and not any(path.startswith(f"{name}.") for name in bare):
            count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            refused.append(Refused(path, int(count), "this forward does not use it"))
    return refused
