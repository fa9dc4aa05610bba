"""Measures of importance: each a pure function of `gnt.importance.Signals` that returns one number per unit.

With h the feature, f^ its corrected running mean, w_out and w_in outgoing and incoming weights, g their gradients:

    contribution               mean |h| * mean |w_out|                            arXiv 2306.13812, Eq. 2
    uncorrected_contribution   mean |h| * sum |w_out|                             Nature 632 (2024), Eq. 1
    incoming_contribution      mean |h| * mean |w_in|
    adaptive_contribution      mean |h| * mean |w_out| / mean |w_in|
    zero_contribution          mean |h - f^| * mean |w_out|                       arXiv 2306.13812, before Eq. 6
    adaptable_contribution     mean |h - f^| * mean |w_out| / mean |w_in|         arXiv 2306.13812, Eqs. 6-8
    feature_by_input           mean |h - f^| / mean |w_in|
    activation                 mean |h|
    weight                     mean |w_out|
    incoming_weight            mean |w_in|
    adaptation                 1 / mean |w_in|                                    arXiv 2306.13812, before Eq. 6
    gradient                   mean |g_in| / its mean over the layer              GraMa, arXiv 2505.24061
    incoming_gradient          mean |g_in|
    outgoing_gradient          mean |g_out|
    incoming_fisher            mean g_in^2
    outgoing_fisher            mean g_out^2
    incoming_fisher_activation mean |h| * mean g_in^2
    outgoing_fisher_activation mean |h| * mean g_out^2
    gradient_activation        mean |h dL/dh|
    replacement_cost           |sum over samples of dL/dh (h - f^)|               GXD, arXiv 2605.06834
    random                     uniform in [0, 1)

Papers take sums of |w| where all but one of these take means. Within a group that is a constant factor, so the
order of the units is the same. The running average of uncorrected_contribution is not corrected for age.

A measure is entered in the registry, `gnt.importance._measure_registry`, with the signals that it reads.
"""

from gnt.importance.measures.contributions import (
    adaptable_contribution,
    adaptive_contribution,
    contribution,
    incoming_contribution,
    uncorrected_contribution,
    zero_contribution,
)
from gnt.importance.measures.control import random
from gnt.importance.measures.features import activation
from gnt.importance.measures.gradients import (
    gradient,
    gradient_activation,
    incoming_fisher,
    incoming_fisher_activation,
    incoming_gradient,
    outgoing_fisher,
    outgoing_fisher_activation,
    outgoing_gradient,
    replacement_cost,
)
from gnt.importance.measures.weights import adaptation, feature_by_input, incoming_weight, weight

__all__ = [
    "activation",
    "adaptable_contribution",
    "adaptation",
    "adaptive_contribution",
    "contribution",
    "feature_by_input",
    "gradient",
    "gradient_activation",
    "incoming_contribution",
    "incoming_fisher",
    "incoming_fisher_activation",
    "incoming_gradient",
    "incoming_weight",
    "outgoing_fisher",
    "outgoing_fisher_activation",
    "outgoing_gradient",
    "random",
    "replacement_cost",
    "uncorrected_contribution",
    "weight",
    "zero_contribution",
]
