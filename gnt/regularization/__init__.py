"""Regularization: penalties on the parameters, and noise added to them.

Against loss of plasticity; each adds two lines to a training loop:

l2                  L2: penalty that pulls parameters towards 0
l2_init             L2Init: penalty that pulls parameters towards their initial values
spectral            Spectral, Parseval: penalties on the singular values of weight matrices
fire                FIRE: makes weight matrices orthogonal at the end of a task
shrink_and_perturb  ShrinkAndPerturb: after the optimizer's step, scales all parameters down and adds noise

Against forgetting, with an importance and an anchor for each weight (_weight_memory.py, and _memory.py above it):

ewc                 EWC: importance from the Fisher information
mas                 MAS: importance from the sensitivity of the outputs
si                  SI: importance from the path of the weights during training

`FunctionalPenalty` is the form in which penalties become part of a compiled step.
`register_init_distribution` makes a layer type known to ``ShrinkAndPerturb(..., distribution="init")``.
"""

from gnt.initialization import register_init_distribution
from gnt.regularization._functional_penalty import FunctionalPenalty
from gnt.regularization.ewc import EWC
from gnt.regularization.fire import FIRE
from gnt.regularization.l2 import L2
from gnt.regularization.l2_init import L2Init
from gnt.regularization.mas import MAS
from gnt.regularization.shrink_and_perturb import ShrinkAndPerturb
from gnt.regularization.si import SI
from gnt.regularization.spectral import Parseval, Spectral

__all__ = [
    "EWC",
    "FIRE",
    "L2",
    "MAS",
    "SI",
    "FunctionalPenalty",
    "L2Init",
    "Parseval",
    "ShrinkAndPerturb",
    "Spectral",
    "register_init_distribution",
]
