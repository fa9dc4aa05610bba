"""Measures of importance: each a pure function of `gnt.importance.Signals` that returns one number per unit.

With h the feature, f^ its corrected running mean, and mean |w_out|, mean |w_in| over the outgoing and incoming weights:

    contribution             mean |h| * mean |w_out|                              arXiv 2306.13812, Eq. 2
    uncorrected_contribution mean |h| * sum |w_out|                               Nature 632 (2024), Eq. 1
    weight                   mean |w_out|
    adaptation               1 / mean |w_in|                                      arXiv 2306.13812, before Eq. 6
    zero_contribution        mean |h - f^| * mean |w_out|                         arXiv 2306.13812, before Eq. 6
    adaptable_contribution   mean |h - f^| * mean |w_out| / mean |w_in|           arXiv 2306.13812, Eqs. 6-8
    feature_by_input         mean |h - f^| / mean |w_in|
    gradient                 mean |dL/dw_in| / its mean over the layer            GraMa, arXiv 2505.24061
    gradient_activation      mean |h dL/dh|
    replacement_cost         |sum over samples of dL/dh (h - f^)|                 GXD, arXiv 2605.06834
    random                   uniform in [0, 1)

The paper takes sums of |w| where all but one of these take means. Within a group that is a constant factor, so the
order of the units is the same. The running average of uncorrected_contribution is not corrected for age.

A measure is entered in the registry, `gnt.importance._measure_registry`, with the signals that it reads.
"""

from gnt.importance.measures.contributions import (
    adaptable_contribution,
    contribution,
    uncorrected_contribution,
    zero_contribution,
)
from gnt.importance.measures.control import random
from gnt.importance.measures.gradients import gradient, gradient_activation, replacement_cost
from gnt.importance.measures.weights import adaptation, feature_by_input, weight

__all__ = [
    "adaptable_contribution",
    "adaptation",
    "contribution",
    "feature_by_input",
    "gradient",
    "gradient_activation",
    "random",
    "replacement_cost",
    "uncorrected_contribution",
    "weight",
    "zero_contribution",
]
