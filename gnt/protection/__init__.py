"""Methods that keep what earlier tasks need by fixing it.

packnet   PackNet: prunes each task's weights, and fixes those that are left
TopUnits  without tasks: the units of highest importance are held (gnt.replacement, whose engine chooses them)
"""

from gnt.protection.packnet import PackNet
from gnt.replacement import TopUnits

__all__ = ["PackNet", "TopUnits"]
