"""Optimizers for networks whose units are replaced.

``AdamGnT`` is Adam whose step counts restart per unit; ``CBPSGD``, ``CBPAdam`` and ``CBPAdamW`` bring their engine
along.
"""

from gnt.optim.adam_gnt import AdamGnT
from gnt.optim.cbp import CBPSGD, CBPAdam, CBPAdamW

__all__ = ["CBPSGD", "AdamGnT", "CBPAdam", "CBPAdamW"]
