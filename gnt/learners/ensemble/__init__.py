"""Ensembles: independent networks of one shape, from different seeds, trained together.

The networks are stacked into one with S times as many units in each hidden layer, in which a unit reads only units of
its own member. So the engine, the optimizers and the resets of optimizer state work on it as on any other network.
Member s owns units s * n ... s * n + n - 1 of a layer of n, and the same share of each parameter along dimension 0.
"""

from gnt.learners.ensemble.engine import EnsembleGnT
from gnt.learners.ensemble.layers import MemberLinear, MemberNorm
from gnt.learners.ensemble.learner import Ensemble
from gnt.learners.ensemble.stacked_net import StackedNet

__all__ = ["Ensemble", "EnsembleGnT", "MemberLinear", "MemberNorm", "StackedNet"]
