"""What modules between producer and consumer have for each unit: norms, PReLU, depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gnt._utils.initial_values import NORM_INITIAL_VALUES, PRELU_INITIAL_VALUES
from gnt.units._layer_types import CONV_LAYERS
from gnt.units._slot import Slot

_NORMS_AND_PRELU = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)


def initial_scale_values(slot: Slot) -> dict[str, float]:
    """Names and initial values of the per-unit tensors that a norm (or PReLU) has."""
    module, values = slot.module, slot.values
    if values is None:
        values = PRELU_INITIAL_VALUES if isinstance(module, nn.PReLU) else NORM_INITIAL_VALUES
    return {name: value for name, value in values.items() if isinstance(getattr(module, name, None), Tensor)}


def has_entry_per_unit(module: nn.Module) -> bool:
    """False for a layer of torch that mixes units, or has nothing for each: all but norms, PReLU, and depthwise
    convolutions. True for those and for classes of others, which are not known.
    """
    if isinstance(module, _NORMS_AND_PRELU):
        return True
    if isinstance(module, CONV_LAYERS):
        return module.groups == module.in_channels
    return not isinstance(module, nn.Linear) and not type(module).__module__.startswith("torch.")


def check_scales_fit(slots: Sequence[Slot]) -> None:
    """Raise RuntimeError if a tensor of a norm has become too small for the units since the groups were checked."""
    for slot in slots:
        for name in initial_scale_values(slot):
            tensor = getattr(slot.module, name)
            dim = slot.dim_of(tensor)
            if dim >= tensor.ndim or tensor.shape[dim] < slot.reach:
                owner = f"{slot.name!r} ({type(slot.module).__name__})"
                raise RuntimeError(
                    f"{name} of {owner} has shape {tuple(tensor.shape)} now, and the units are at positions below "
                    f"{slot.reach} of its dim {dim}: the network has changed since the engine was built. No unit was "
                    "replaced; build a new engine"
                )
