"""Regularization against loss of plasticity: penalties on the parameters, and noise added to them.

They can be compared with continual backpropagation or combined with it, and each adds two lines to a training loop:

l2                  L2: penalty that pulls parameters towards 0
l2_init             L2Init: penalty that pulls parameters towards their initial values
shrink_and_perturb  ShrinkAndPerturb: after the optimizer's step, scales all parameters down and adds noise

`register_init_distribution` makes a layer type known to ``ShrinkAndPerturb(..., distribution="init")``.
"""

from gnt.initialization import register_init_distribution
from gnt.regularization.l2 import L2
from gnt.regularization.l2_init import L2Init
from gnt.regularization.shrink_and_perturb import ShrinkAndPerturb

__all__ = ["L2", "L2Init", "ShrinkAndPerturb", "register_init_distribution"]
