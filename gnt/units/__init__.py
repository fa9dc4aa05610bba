"""Unit groups: the units of a hidden layer with the tensor slices that belong to them, and how they are found.

`walk` finds the groups in a list of layers, `trace` in any model with example inputs.
"""

from gnt.units._activations import (
    Activation,
    activation_gain,
    activation_names,
    identify_activation,
    parse_activation,
)
from gnt.units._containers import Container
from gnt.units._errors import TraceError, WalkError
from gnt.units._group import UnitGroup
from gnt.units._isolated_forward import ModelInputs, call_model, isolated, loss_gradients, map_tensors
from gnt.units._layer_types import (
    CONV_LAYERS,
    WEIGHT_LAYERS,
    has_torch_forward,
    input_groups,
    is_transposed_linear,
    is_weight_layer,
)
from gnt.units._scale_values import check_scales_fit, initial_scale_values
from gnt.units._slices import copy_slices, fill_slices, read_slices, write_slices
from gnt.units._slot import Slot
from gnt.units._structure_check import StructureCheck, frozen_layers
from gnt.units._trace import checked_patterns, trace
from gnt.units._trace_result import Groups, Refused
from gnt.units._tracing.isolation import preserve_attributes, preserve_model
from gnt.units._unwrap import unwrap
from gnt.units._walk import Layers, flatten_layers, groups_for_engine, walk

__all__ = [
    "CONV_LAYERS",
    "WEIGHT_LAYERS",
    "Activation",
    "Container",
    "Groups",
    "Layers",
    "ModelInputs",
    "Refused",
    "Slot",
    "StructureCheck",
    "TraceError",
    "UnitGroup",
    "WalkError",
    "activation_gain",
    "activation_names",
    "call_model",
    "check_scales_fit",
    "checked_patterns",
    "copy_slices",
    "fill_slices",
    "flatten_layers",
    "frozen_layers",
    "groups_for_engine",
    "has_torch_forward",
    "identify_activation",
    "initial_scale_values",
    "input_groups",
    "is_transposed_linear",
    "is_weight_layer",
    "isolated",
    "loss_gradients",
    "map_tensors",
    "parse_activation",
    "preserve_attributes",
    "preserve_model",
    "read_slices",
    "trace",
    "unwrap",
    "walk",
    "write_slices",
]
