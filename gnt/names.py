"""Types of the names that arguments take: one `Literal` for each kind, for type checkers and completion in editors.

A function of your own that passes such a name on takes the same type:

    def make_engine(net: nn.Module, init: gnt.names.InitName) -> gnt.GnT: ...

Where names are read at run time, from a file for example, a type checker needs a `typing.cast`; gnt checks them in any
case. The allowed names of each kind are ``typing.get_args(gnt.names.InitName)``.
"""

from __future__ import annotations

from typing import Literal

# the engine

UtilityName = Literal[
    "contribution",
    "weight",
    "adaptation",
    "zero_contribution",
    "adaptable_contribution",
    "feature_by_input",
    "activation",
    "adaptive_contribution",
    "random",
    "uncorrected_contribution",
    "incoming_weight",
    "incoming_contribution",
    "gradient",
    "incoming_gradient",
    "outgoing_gradient",
    "incoming_fisher",
    "outgoing_fisher",
    "incoming_fisher_activation",
    "outgoing_fisher_activation",
    "gradient_activation",
    "replacement_cost",
]
"""The measures of `gnt.importance.measures`."""

Utility = UtilityName | str
"""A measure of `gnt.importance.measures`, or one that was registered with `gnt.register_utility`."""

InitName = Literal[
    "auto",
    "default",
    "xavier",
    "lecun",
    "kaiming",
    "xavier_normal",
    "lecun_normal",
    "kaiming_normal",
    "normal",
    "truncated_normal",
    "orthogonal",
]
"""Initial distributions of new incoming weights."""

BiasInit = Literal["zero", "initial"]
"""Initial values of the biases of new units."""

Accumulate = bool | Literal["one"]
"""What happens to fractions of a unit that are due."""

ActivationName = Literal[
    "identity",
    "sigmoid",
    "hardsigmoid",
    "softsign",
    "tanh",
    "hardtanh",
    "selu",
    "relu",
    "relu6",
    "elu",
    "celu",
    "silu",
    "gelu",
    "mish",
    "hardswish",
    "softplus",
    "leaky_relu",
    "rrelu",
    "prelu",
    "linear",
    "swish",
    "leakyrelu",
]
"""Activations that have a gain. At run time case does not matter."""

TraceModes = Literal["both", "train", "eval"]
"""Modes of a network that `gnt.trace` examines."""

Average = Literal["ema", "task_mean", "latest"]
"""Averages of `gnt.importance.Importance`."""

LongTermAverage = Literal["ema", "max"]
"""Averages of `gnt.TopUnits`."""

HeldOutgoing = Literal["all", "outputs"]
"""Outgoing weights that `gnt.TopUnits` slows down."""

# learners and the plasticity check

LossName = Literal["mse", "cross_entropy", "nll"]
"""Loss functions of learners."""

OptimizerName = Literal["sgd", "adam", "adamw"]
"""Optimizers of learners."""

FreshTask = Literal["data", "labels", "permutation"]
PlasticityMeasure = Literal["error", "loss"]
"""What `gnt.plasticity_check` lets the copies learn."""

# masks and gates

SparsityMode = Literal["original", "cross"]
"""Sparsity terms of `gnt.HAT`."""

EmbeddingName = Literal["normal", "last"]
"""Initial embeddings of `gnt.HAT`."""

Compensation = Literal["published", "exact", "none"]
"""Gradients of the embedding of `gnt.HAT`."""

Form = Literal["update", "gradient"]
"""What the rates of `gnt.HAT` multiply."""

Uncovered = Literal["freeze", "refuse"]
"""What `gnt.HAT` does with layers that no group has."""

Norms = Literal["per_task", "shared"]
"""Running statistics under `gnt.HAT`."""

Variant = Literal["adahat", "no_sum", "no_reg"]
"""Variants of `gnt.AdaHAT`."""

AttributionName = Literal[
    "gradient_activation",
    "gradcam",
    "lrp",
    "deeplift",
    "deeplift_shap",
    "internal_influence",
    "gradient_shap",
    "conductance",
    "integrated_gradients",
    "ablation",
]
"""Attributions of `gnt.importance.attribute`."""

AttributionOf = Literal["target", "loss"]
"""What an attribution explains."""

SummingName = Literal[
    "add_latest",
    "add_all",
    "add_average",
    "linear_decrease",
    "quadratic_decrease",
    "cubic_decrease",
    "exponential_decrease",
    "log_decrease",
    "factorial_decrease",
]
"""How `gnt.FGAdaHAT` sums importances over tasks."""

Schedule = Literal["linear_sparsity", "sparsity", "summative_mask_sparsity"]
"""Schedules of `gnt.FGAdaHAT`."""

Aggregation = Literal["min", "max", "mean"]
"""How `gnt.FGAdaHAT` joins the importances of two units."""

# regularization, replay, other methods

FisherName = Literal["exact", "sample", "empirical"]
"""How `gnt.EWC` and `gnt.MAS` compute the Fisher information."""

LikelihoodName = Literal["categorical", "bernoulli", "gaussian"]
"""Likelihoods of outputs, for `gnt.EWC`."""

AnchorMode = Literal["separate", "online"]
"""What `gnt.EWC` keeps of several tasks."""

NoiseDistribution = Literal["init", "normal"]
"""Noise of `gnt.ShrinkAndPerturb`."""

Balance = Literal["class", "task"]
"""What a `gnt.ReplayBuffer` keeps equally many samples of."""

TargetName = Literal["hard", "soft"]
"""Targets of `gnt.GenerativeReplay`."""

WeightUtility = Literal["gradient", "magnitude", "random"]
"""Utilities of single weights, for `gnt.SWR`."""

WeightSelection = Literal["threshold", "proportional"]
"""How `gnt.SWR` chooses weights."""

NewValue = Literal["resample", "mean"]
"""New values of the weights that `gnt.SWR` chooses."""

UtilityScaling = Literal["global", "local"]
"""What `gnt.optim.UPGD` divides utilities by."""

Adapter = Literal["linear", "nonlinear"]
"""Lateral connections of `gnt.ProgressiveNet`."""

VAELikelihood = Literal["bernoulli", "gaussian"]
"""Likelihoods of a `gnt.VAE`."""
