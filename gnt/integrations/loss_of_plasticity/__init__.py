"""The learners and layers of the loss-of-plasticity repository, with its argument names, defaults and return values.

For scripts written against that code (github.com/shibhansh/loss-of-plasticity): change the imports, and run them with
gnt. New code is better served by `gnt.ContinualBackprop`, `gnt.GnT` and `gnt.CBPLinear`:
docs/from_loss_of_plasticity.md has names and defaults side by side.

    from gnt.integrations.loss_of_plasticity import Backprop, ContinualBackprop      # in place of lop.algos.bp, .cbp
    from gnt.integrations.loss_of_plasticity import ConvCBP, CBPLinear, CBPConv      # .convCBP, .cbp_linear, .cbp_conv
    from gnt.integrations.loss_of_plasticity import AdamGnT                          # lop.utils.AdamGnT

The algorithm is gnt's: the faults of the published code that docs/differences.md lists are corrected. ``bias_transfer``
is the one argument that the published code does not have. It is False by default, because there the mean feature is set
to zero before the transfer; with True the transfer of the paper takes place.
"""

from gnt._utils.other_names import CLASSES, PUBLISHED_ENGINE, missing_name
from gnt.integrations.loss_of_plasticity._layers import CBPConv, CBPLinear
from gnt.integrations.loss_of_plasticity._learners import Backprop, ContinualBackprop, ConvCBP
from gnt.optim import AdamGnT

__all__ = ["AdamGnT", "Backprop", "CBPConv", "CBPLinear", "ContinualBackprop", "ConvCBP"]


def __getattr__(name: str) -> object:
    """Say what replaces an engine of the published code."""
    raise missing_name(__name__, name, {**CLASSES, **PUBLISHED_ENGINE})
