"""gnt keeps neural networks able to learn: continual backpropagation for PyTorch.

Beside any optimizer, a generate-and-test engine watches every hidden unit's utility and, step by step, replaces the
least useful mature ones with fresh ones. Ways in:

    learner = gnt.ContinualBackprop(net, opt="adam")             # learner.learn(x, y) does a whole step
    engine = gnt.GnT(net, optimizer)                             # engine.step() after your own optimizer.step()
    engine = gnt.GnT(gnt.trace(model, x), optimizer).attach()    # any model; acts after each optimizer.step()
    optimizer = gnt.optim.CBPAdamW(net, lr=1e-3)                 # the same by swapping the optimizer's line
    net = Sequential(fc1, ReLU(), gnt.CBPLinear(fc1, fc2), fc2)  # layers that act by themselves
    ensemble = gnt.Ensemble(make_net, range(30))                 # many seeds at once: ensemble.learn(x, y)
    probe = gnt.metrics.Probe(net, engine, x, every=100)         # dead units, ranks, ... : log probe.step()

The house: `walk` turns layers into unit groups, `trace` finds them in any model, `GnT` runs them (features, utility,
selection, reinit, optimizer_state), on one process or many (ranks, shards), the learners put a loss and an optimizer
around it, `gnt.optim` holds AdamGnT, an Adam whose step counts restart with the unit. `gnt.remedies` are the other
methods against loss of plasticity, each by itself: L2, L2Init, ShrinkAndPerturb, ReDo, CReLU, algorithm_1.
"""

from gnt import metrics
from gnt._version import __version__
from gnt.importance._signals import register_utility
from gnt.learners.backprop import Backprop, ContinualBackprop, Step
from gnt.learners.ensemble import Ensemble
from gnt.nn import CReLU
from gnt.optim import AdamGnT
from gnt.regularization import L2, L2Init, ShrinkAndPerturb
from gnt.replacement._algorithm_1 import ALGORITHM_1, algorithm_1
from gnt.replacement.engine import GnT
from gnt.replacement.layers import CBPConv, CBPLinear
from gnt.replacement.optimizer_state import register_state_reset
from gnt.replacement.redo import ReDo
from gnt.units import Groups, TraceError, UnitGroup, trace, walk

__all__ = [
    "ALGORITHM_1",
    "L2",
    "AdamGnT",
    "Backprop",
    "CBPConv",
    "CBPLinear",
    "CReLU",
    "ContinualBackprop",
    "Ensemble",
    "GnT",
    "Groups",
    "L2Init",
    "ReDo",
    "ShrinkAndPerturb",
    "Step",
    "TraceError",
    "UnitGroup",
    "__version__",
    "algorithm_1",
    "metrics",
    "register_state_reset",
    "register_utility",
    "trace",
    "walk",
]
