"""Other remedies for loss of plasticity, to compare with continual backpropagation or to use beside it.

Each stands alone and goes into any loop in two lines (docs/remedies.md):

    l2, l2_init           a penalty to add to the loss: pull towards 0, or towards the initial values
    shrink_and_perturb    after the optimizer's step: shrink all parameters, add noise
    redo                  every so often: units that are all but silent begin anew
    algorithm_1           continual backpropagation exactly as the Nature paper prints it
    crelu                 an activation whose units cannot die
"""

from gnt.nn.crelu import CReLU
from gnt.regularization.l2 import L2
from gnt.regularization.l2_init import L2Init
from gnt.regularization.shrink_and_perturb import ShrinkAndPerturb
from gnt.replacement._algorithm_1 import ALGORITHM_1, algorithm_1
from gnt.replacement.redo import ReDo

__all__ = ["ALGORITHM_1", "L2", "CReLU", "L2Init", "ReDo", "ShrinkAndPerturb", "algorithm_1"]
