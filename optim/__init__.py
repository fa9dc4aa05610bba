"""Optimizers for networks whose units are replaced during training.

`AdamGnT` is Adam with a step count per unit, which restarts when the unit is replaced. `CBPSGD`, `CBPAdam` and
`CBPAdamW` are optimizers with a continual backpropagation engine (`gnt.GnT`) attached. `UPGD` is
utility-based perturbed gradient descent.
"""

from gnt.optim._learner_step import LearnerStep as LearnerStep  # for gnt.learners
from gnt.optim.adam_gnt import AdamGnT
from gnt.optim.cbp import CBPSGD, CBPAdam, CBPAdamW
from gnt.optim.upgd import UPGD

__all__ = ["CBPSGD", "UPGD", "AdamGnT", "CBPAdam", "CBPAdamW"]
