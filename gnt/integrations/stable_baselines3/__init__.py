"""Optimizers that Stable-Baselines3 can construct, and a callback that logs their units.

>>> from gnt.integrations.stable_baselines3 import CBPAdam, CBPAdamW, CBPSGD, LogUnits
"""

from gnt.integrations.stable_baselines3._log_units import LogUnits
from gnt.integrations.stable_baselines3._optimizers import CBPSGD, CBPAdam, CBPAdamW

__all__ = ["CBPSGD", "CBPAdam", "CBPAdamW", "LogUnits"]
