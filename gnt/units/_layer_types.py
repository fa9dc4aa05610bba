"""Layer types that gnt can treat as producers and consumers of units, and questions about a layer's type."""

from __future__ import annotations

from torch import Tensor, nn

CONV_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHT_LAYERS = (nn.Linear, *CONV_LAYERS)


def is_weight_layer(module: nn.Module) -> bool:
    """True for linear and convolution layers, including transformers' Conv1D."""
    return isinstance(module, WEIGHT_LAYERS) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """True for transformers' Conv1D: a linear layer that stores its weight as (in, out)."""
    weight = module._parameters.get("weight")
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and weight is not None and weight.ndim == 2


def num_outputs(module: nn.Module) -> int:
    """Number of output features of a linear layer, or of output channels of a convolution."""
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def input_groups(module: nn.Module) -> int:
    """Number of groups in which a layer's outputs read its inputs.

    This is ``groups`` of a convolution; a custom layer may declare it by an attribute ``input_groups``. Default 1.
    """
    name = "groups" if isinstance(module, CONV_LAYERS) else "input_groups"
    return int(getattr(module, name, 1))


def couples_units(module: nn.Module) -> bool:
    """True for a norm over channels whose statistics cover several of them."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups < module.num_channels
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm))


def has_torch_forward(module: nn.Module) -> bool:
    """True if the module's ``forward`` is defined in torch, so that it computes what its torch base class computes."""
    return "forward" not in vars(module) and str(type(module).forward.__module__).startswith("torch.")


def weight_fault(weight: Tensor, *, frozen_allowed: bool = False) -> str | None:
    """Why a weight cannot be replaced unit by unit, as a phrase that follows "its weight"; None if it can."""
    if weight.is_complex():
        return "is complex: utilities are defined for real-valued networks"
    if not weight.requires_grad and not frozen_allowed:
        return "is frozen (requires_grad=False): its replaced units could not learn"
    return None
