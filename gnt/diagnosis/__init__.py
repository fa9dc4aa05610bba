"""Whether a network can still learn, and what helps.

plasticity_check    copies of a network learn something new, and are compared with fresh ones
"""

from gnt.diagnosis._advice import Advice, WorstLayer
from gnt.diagnosis._layer_figures import LayerFigures
from gnt.diagnosis._plasticity_check import plasticity_check
from gnt.diagnosis._progress import Progress
from gnt.diagnosis._result import PlasticityCheck
from gnt.diagnosis._statistics import Estimate
from gnt.diagnosis._verdict import Gaps

__all__ = [
    "Advice",
    "Estimate",
    "Gaps",
    "LayerFigures",
    "PlasticityCheck",
    "Progress",
    "WorstLayer",
    "plasticity_check",
]
