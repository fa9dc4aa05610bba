"""Learners: a network, a loss, an optimizer and, for continual backpropagation, the engine, in one ``learn(x, y)``.

    Backprop             the baseline
    ContinualBackprop    continual backpropagation
    LaMAML               online meta-learning with learned rates
    Ensemble             many seeds of the first two, trained together

With ``compile=True`` the whole step of a learner is one compiled graph.
"""

from gnt.learners._loss_and_optimizer import IGNORED_TARGET, Loss, check_mse_shapes, find_loss
from gnt.learners._methods import Methods
from gnt.learners._step_result import Step
from gnt.learners.backprop import Backprop
from gnt.learners.continual_backprop import ContinualBackprop
from gnt.learners.ensemble import Ensemble, EnsembleGnT, MemberLinear, MemberNorm, StackedNet
from gnt.learners.la_maml import LaMAML

__all__ = [
    "IGNORED_TARGET",
    "Backprop",
    "ContinualBackprop",
    "Ensemble",
    "EnsembleGnT",
    "LaMAML",
    "Loss",
    "MemberLinear",
    "MemberNorm",
    "Methods",
    "StackedNet",
    "Step",
    "check_mse_shapes",
    "find_loss",
]
