"""Methods that keep what earlier tasks need by fixing it.

packnet  PackNet: prunes each task's weights, and fixes those that are left
"""

from gnt.protection.packnet import PackNet

__all__ = ["PackNet"]
