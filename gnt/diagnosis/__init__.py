"""Whether a network can still learn, what helps, and which settings fit.

plasticity_check    copies of a network learn something new, and are compared with fresh ones
run_command         gnt check: the check of a script's network
suggest             replacement rate, maturity threshold and decay rate, and what given ones mean
"""

from gnt.diagnosis._advice import Advice, WorstLayer
from gnt.diagnosis._arguments import check_settings
from gnt.diagnosis._batches import check_data
from gnt.diagnosis._command import run_command
from gnt.diagnosis._layer_figures import LayerFigures
from gnt.diagnosis._plasticity_check import plasticity_check
from gnt.diagnosis._progress import Progress
from gnt.diagnosis._result import PlasticityCheck
from gnt.diagnosis._statistics import Estimate
from gnt.diagnosis._suggest import GroupRenewal, Suggestion, suggest
from gnt.diagnosis._verdict import Gaps

__all__ = [
    "Advice",
    "Estimate",
    "Gaps",
    "GroupRenewal",
    "LayerFigures",
    "PlasticityCheck",
    "Progress",
    "Suggestion",
    "WorstLayer",
    "check_data",
    "check_settings",
    "plasticity_check",
    "run_command",
    "suggest",
]
