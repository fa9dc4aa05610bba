"""Continual backpropagation for PyTorch, which keeps neural networks able to learn.

Beside any optimizer, an engine tracks the utility of every hidden unit and, at a small rate, replaces the least useful
mature units with newly initialised ones (generate and test). Ways to use it:

    learner = gnt.ContinualBackprop(net, opt="adam")             # learner.learn(x, y) is one training step
    engine = gnt.GnT(net, optimizer)                             # call engine.step() after optimizer.step()
    engine = gnt.GnT(gnt.trace(model, x), optimizer).attach()    # any model; steps after each optimizer.step()
    optimizer = gnt.optim.CBPAdamW(net, lr=1e-3)                 # the same, with the engine inside the optimizer
    net = Sequential(fc1, ReLU(), gnt.CBPLinear(fc1, fc2), fc2)  # layers that replace units by themselves
    ensemble = gnt.Ensemble(make_net, range(30))                 # many seeds trained together
    probe = gnt.metrics.Probe(net, engine, x, every=100)         # dead units, ranks, ...: log probe.step()

Packages, each importing only those above it:

    distributed       process groups, sharded tensors
    nn                pieces of networks: CReLU, InputNorm, MultiHead, ProgressiveNet, VAE
    units             unit groups: which tensors hold the units of a layer; walk and trace find them
    importance        the importance of a unit: features, measures of utility, running averages
    replacement       GnT: selection, new weights, optimizer state, CBP layers; ReDo, SNR, SWR, algorithm_1
    replay            ReplayBuffer, ExperienceReplay, DER, AGEM, GEM, GenerativeReplay, LwF
    protection        HAT, AdaHAT, FGAdaHAT, PackNet, TopUnits
    regularization    L2, L2Init, ShrinkAndPerturb, Spectral, Parseval, FIRE; against forgetting: EWC, SI, MAS
    optim             AdamGnT and the optimizers with an engine, CBPSGD, CBPAdam, CBPAdamW; UPGD
    learners          Backprop, ContinualBackprop, LaMAML, Ensemble
    metrics           dead units, ranks, online accuracy, Probe
    diagnosis         plasticity_check: does a network still learn as a fresh one does; suggest: settings
    integrations      callbacks for Lightning; imported only on request

The names that arguments take, such as those of measures, are types in gnt.names.
"""

from gnt import diagnosis as diagnosis
from gnt import distributed as distributed
from gnt import importance as importance
from gnt import initialization as initialization
from gnt import learners as learners
from gnt import metrics
from gnt import names as names
from gnt import nn as nn
from gnt import optim as optim
from gnt import protection as protection
from gnt import regularization as regularization
from gnt import replacement as replacement
from gnt import replay as replay
from gnt import units as units
from gnt._kernels import show_config
from gnt._utils.other_names import missing_name
from gnt._version import __version__
from gnt.diagnosis import PlasticityCheck, Suggestion, plasticity_check, suggest
from gnt.importance import register_utility
from gnt.learners import Backprop, ContinualBackprop, Ensemble, LaMAML, Step
from gnt.nn import VAE, CReLU, InputNorm, MultiHead, ProgressiveNet
from gnt.optim import AdamGnT
from gnt.protection import HAT, AdaHAT, FGAdaHAT, PackNet, TopUnits
from gnt.regularization import EWC, FIRE, L2, MAS, SI, L2Init, Parseval, ShrinkAndPerturb, Spectral
from gnt.replacement import (
    ALGORITHM_1,
    SNR,
    SWR,
    CBPConv,
    CBPLinear,
    GnT,
    ReDo,
    SoftReplacement,
    algorithm_1,
    register_state_reset,
)
from gnt.replay import AGEM, DER, GEM, ExperienceReplay, GenerativeReplay, LwF, ReplayBuffer
from gnt.units import Groups, TraceError, UnitGroup, trace, walk

__all__ = [
    "AGEM",
    "ALGORITHM_1",
    "DER",
    "EWC",
    "FIRE",
    "GEM",
    "HAT",
    "L2",
    "MAS",
    "SI",
    "SNR",
    "SWR",
    "VAE",
    "AdaHAT",
    "AdamGnT",
    "Backprop",
    "CBPConv",
    "CBPLinear",
    "CReLU",
    "ContinualBackprop",
    "Ensemble",
    "ExperienceReplay",
    "FGAdaHAT",
    "GenerativeReplay",
    "GnT",
    "Groups",
    "InputNorm",
    "L2Init",
    "LaMAML",
    "LwF",
    "MultiHead",
    "PackNet",
    "Parseval",
    "PlasticityCheck",
    "ProgressiveNet",
    "ReDo",
    "ReplayBuffer",
    "ShrinkAndPerturb",
    "SoftReplacement",
    "Spectral",
    "Step",
    "Suggestion",
    "TopUnits",
    "TraceError",
    "UnitGroup",
    "__version__",
    "algorithm_1",
    "metrics",
    "plasticity_check",
    "register_state_reset",
    "register_utility",
    "show_config",
    "suggest",
    "trace",
    "walk",
]


def __getattr__(name: str) -> object:
    """Say what replaces a class of other implementations of continual backpropagation."""
    raise missing_name(__name__, name)
