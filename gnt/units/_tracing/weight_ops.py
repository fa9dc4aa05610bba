"""Weight operations: matrix products and convolutions whose second operand is computed from parameters."""

from __future__ import annotations

from dataclasses import dataclass

from gnt.units._tracing.graph import Node

CASTS = ("_to_copy", "to", "alias")
TRANSPOSES = ("t", "transpose", "permute", "numpy_T", "mT")


@dataclass(frozen=True)
class WeightOp:
    """The operands of a weight operation, and the dimension of the weight that indexes its outputs."""

    node: Node
    read: Node
    weight: Node
    bias: Node | None
    out_dim: int = 0
    spatial: int = 0  # number of dimensions after the channels of its input
    groups: int = 1

    @property
    def parameter(self) -> Node | None:
        """The parameter that is its weight, directly or transposed; None for a computed weight."""
        return parameter_behind(self.weight)[0]

    @property
    def bias_parameter(self) -> Node | None:
        """The parameter that is its bias, as an operand or added to its result; None if there is none."""
        if self.bias is not None:
            return parameter_behind(self.bias)[0]
        added = self.added_bias
        return added[1] if added is not None else None

    @property
    def added_bias(self) -> tuple[Node, Node] | None:
        """The addition that alone reads the result of a product, and the parameter that it adds to it; or None."""
        node = self.node
        if self.spatial or self.bias is not None or [user.op for user in node.users] != ["add"]:
            return None
        addition = node.users[0]
        others = [parameter_behind(other)[0] for other in addition.inputs() if other is not node]
        one = others[0] if len(others) == 1 else None
        if addition.module != node.module or one is None or addition.kwargs or one.shape != node.shape[-1:]:
            return None
        return (addition, one) if one.name.rpartition(".")[0] == self._owner_path else None

    @property
    def _owner_path(self) -> str:
        return self.parameter.name.rpartition(".")[0] if self.parameter is not None else ""

    @property
    def is_depthwise(self) -> bool:
        """True for a depthwise convolution of several channels."""
        return self.spatial > 0 and self.groups == self.read.shape[-1 - self.spatial] > 1 and self.weight.shape[1] == 1


def weight_op(node: Node) -> WeightOp | None:
    """The weight operation of a node, or None for a node of another kind."""
    get, name = node.argument, node.op
    if name == "linear":
        return WeightOp(node, get("input"), get("weight"), get("bias"))
    if name in ("conv1d", "conv2d", "conv3d"):
        return WeightOp(node, get("input"), get("weight"), get("bias"), 0, int(name[4]), get("groups"))
    if name == "convolution" and not get("transposed"):
        spatial = len(get("weight").shape) - 2
        return WeightOp(node, get("input"), get("weight"), get("bias"), 0, spatial, get("groups"))
    if name == "addmm" and get("beta") == get("alpha") == 1:
        return _matrix_product(node, get("mat1"), get("mat2"), get("self"))
    if name in ("mm", "matmul"):
        read, weight = node.args[0], node.args[1]
        return _matrix_product(node, read, weight, None) if len(weight.shape) == 2 else None
    return None


def _matrix_product(node: Node, read: Node, weight: Node, bias: Node | None) -> WeightOp | None:
    if weight.from_input or not weight.from_parameter:
        return None  # a product of activations, or with a constant
    return WeightOp(node, read, weight, bias, 0 if parameter_behind(weight)[1] else 1)


def parameter_behind(node: Node) -> tuple[Node | None, bool]:
    """The parameter of which a node is a cast or transpose (or None), and whether it is transposed."""
    if node.kind == "parameter":
        return node, False
    if node.op in CASTS:
        return parameter_behind(node.args[0])
    if node.op in TRANSPOSES and len(node.shape) == 2:
        if node.op == "permute" and [d % 2 for d in node.args[1]] != [1, 0]:
            return parameter_behind(node.args[0])
        if node.op == "transpose" and node.args[1] % 2 == node.args[2] % 2:
            return parameter_behind(node.args[0])
        parameter, transposed = parameter_behind(node.args[0])
        return parameter, not transposed
    return None, False


def uses(parameter: Node) -> list[Node]:
    """The operations that read a parameter, directly or through casts and transposes."""
    found = []
    for user in parameter.users:
        if user.op == "_assert_tensor_metadata":  # of a cast
            continue
        found += uses(user) if user.op in (*CASTS, *TRANSPOSES, "view") else [user]
    return list(dict.fromkeys(found))
