"""Metrics of plasticity: pure functions with exact definitions, and `Probe`, which measures them during training.

    gnt.metrics.dead_units(features)                      # features: what the layer's consumers read
    probe = gnt.metrics.Probe(net, engine, x, every=100)
    for name, value in probe.step().items():              # metrics of every layer on a fixed batch
        writer.add_scalar(name, value, probe.steps)

online         online accuracy and error, plasticity of a sample
dormancy       dead and dormant units
spectral       effective rank, approximate rank, and the rank that Dohare et al. (Nature, 2024) call stable rank
parameters     weight magnitude, gradient norm, update size
probe          Probe: metrics of all unit groups of a model on a fixed batch, at an interval, as a flat dict
"""

from gnt.metrics.dormancy import dead_units, dormant_units
from gnt.metrics.online import online_accuracy, online_error, plasticity
from gnt.metrics.parameters import UpdateSize, gradient_norm, update_size, weight_magnitude
from gnt.metrics.probe import Probe
from gnt.metrics.spectral import approximate_rank, effective_rank, nature_rank

__all__ = [
    "Probe",
    "UpdateSize",
    "approximate_rank",
    "dead_units",
    "dormant_units",
    "effective_rank",
    "gradient_norm",
    "nature_rank",
    "online_accuracy",
    "online_error",
    "plasticity",
    "update_size",
    "weight_magnitude",
]
