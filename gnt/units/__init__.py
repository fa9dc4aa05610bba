"""Unit groups: which tensors hold the units of one hidden layer, and how they are found."""

from gnt.units._activations import (
    Activation,
    activation_gain,
    activation_names,
    identify_activation,
    parse_activation,
)
from gnt.units._group import CONV_LAYERS, WEIGHT_LAYERS, Slot, UnitGroup, input_groups
from gnt.units._passthrough import WalkError, has_torch_forward
from gnt.units._trace import Groups, trace
from gnt.units._tracing.errors import TraceError
from gnt.units._tracing.isolation import preserve_model
from gnt.units._tracing.refused import Refused
from gnt.units._unwrap import unwrap
from gnt.units._walk import Layers, flatten_layers, groups_for_engine, walk

__all__ = [
    "CONV_LAYERS",
    "WEIGHT_LAYERS",
    "Activation",
    "Groups",
    "Layers",
    "Refused",
    "Slot",
    "TraceError",
    "UnitGroup",
    "WalkError",
    "activation_gain",
    "activation_names",
    "flatten_layers",
    "groups_for_engine",
    "has_torch_forward",
    "identify_activation",
    "input_groups",
    "parse_activation",
    "preserve_model",
    "trace",
    "unwrap",
    "walk",
]
