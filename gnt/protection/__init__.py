"""Methods that keep what earlier tasks need by fixing it.

hat         HAT: each task learns a mask of the units that it uses
ada_hat     AdaHAT: weights of used units change by less, the more tasks use the units
fg_ada_hat  FGAdaHAT: by less, the more important the units were in earlier tasks
packnet     PackNet: prunes each task's weights, and fixes those that are left
TopUnits    without tasks: the units of highest importance are held (gnt.replacement, whose engine chooses them)

Rules for `HAT(protection=...)`: Hard, Random, Constant, Adaptive.
"""

from gnt.protection._rates import Adaptive, Constant, EarlierTasks, Hard, Random, Rates
from gnt.protection.ada_hat import AdaHAT
from gnt.protection.fg_ada_hat import FGAdaHAT
from gnt.protection.hat import HAT
from gnt.protection.packnet import PackNet
from gnt.replacement import TopUnits

__all__ = [
    "HAT",
    "AdaHAT",
    "Adaptive",
    "Constant",
    "EarlierTasks",
    "FGAdaHAT",
    "Hard",
    "PackNet",
    "Random",
    "Rates",
    "TopUnits",
]
