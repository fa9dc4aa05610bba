"""Attributions: how much each unit contributes to an output, from inputs and targets, at what consumers read.

_attribute    `attribute`: the checks, and the methods by name
_reads        what consumers read in a forward, taken and replaced by hooks
_evaluation   forwards of the network as it is, and the values that are attributed
_gradients    methods of one backward; _paths: those along a path from a baseline; _deeplift; _ablation
_operations   which operations between units and output a method can pass
"""

from gnt.importance.attribution._attribute import (
    ATTRIBUTIONS,
    Attribution,
    attribute,
    check_attribution,
    find_attribution,
)

__all__ = ["ATTRIBUTIONS", "Attribution", "attribute", "check_attribution", "find_attribution"]
