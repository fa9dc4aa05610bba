"""What loss of plasticity looks like in numbers: pure functions with exact definitions, and a probe that logs them.

    gnt.metrics.dead_units(features)                    # a function of what a layer's consumers read
    probe = gnt.metrics.Probe(net, engine, x, every=100)
    writer.add_scalar(...) for each of probe.step()     # the same for every layer, on a fixed batch

online      online accuracy and error, plasticity of a sample
units       dead and dormant units
ranks       effective rank, approximate rank, and the rank that the Nature paper calls stable rank
parameters  weight magnitude, gradient norm, update size
probe       Probe: all of a model's groups on a fixed batch, at an interval, as a flat dict
looked_at   which groups a probe looks at
batch       its batch, with the loss on it
trial       a forward of our own, of which nothing is left behind
taps        what consumers read in it
checks      what is refused
"""

from gnt.metrics.online import online_accuracy, online_error, plasticity
from gnt.metrics.parameters import UpdateSize, gradient_norm, update_size, weight_magnitude
from gnt.metrics.probe import Probe
from gnt.metrics.spectral import approximate_rank, effective_rank, nature_rank
from gnt.metrics.unit_activity import dead_units, dormant_units

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
