"""Unit groups: which tensors hold the units of one hidden layer, and how they are found."""

from gnt.units._group import Slot, UnitGroup
from gnt.units._passthrough import WalkError
from gnt.units._trace import Groups, trace
from gnt.units._tracing.errors import TraceError
from gnt.units._unwrap import unwrap
from gnt.units._walk import walk

__all__ = ["Groups", "Slot", "TraceError", "UnitGroup", "WalkError", "trace", "unwrap", "walk"]
