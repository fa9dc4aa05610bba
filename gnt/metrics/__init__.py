"""Metrics of plasticity and memory: pure functions, `Probe`, which measures during training, and `TaskMatrix`.

    gnt.metrics.dead_units(features)                      # features: what the layer's consumers read
    probe = gnt.metrics.Probe(net, engine, x, every=100)
    for name, value in probe.step().items():              # metrics of every layer on a fixed batch
        writer.add_scalar(name, value, probe.steps)

online         online accuracy and error, plasticity of a sample
dormancy       dead and dormant units
spectral       effective rank, approximate rank, and the rank that Dohare et al. (Nature, 2024) call stable rank
parameters     weight magnitude, gradient norm, update size
memory         forgetting, transfer and accuracies, from the accuracies on all tasks after each task
task_matrix    TaskMatrix: these accuracies, with all metrics of memory, as a table and as a heat map
probe          Probe: metrics of all unit groups of a model on a fixed batch, at an interval, as a flat dict
"""

from gnt.metrics.dormancy import dead_units, dormant_units
from gnt.metrics.memory import (
    average_accuracy,
    average_incremental_accuracy,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    one_step_backward_transfer,
)
from gnt.metrics.online import online_accuracy, online_error, plasticity
from gnt.metrics.parameters import UpdateSize, gradient_norm, update_size, weight_magnitude
from gnt.metrics.probe import Probe
from gnt.metrics.spectral import approximate_rank, effective_rank, nature_rank
from gnt.metrics.task_matrix import TaskMatrix

__all__ = [
    "Probe",
    "TaskMatrix",
    "UpdateSize",
    "approximate_rank",
    "average_accuracy",
    "average_incremental_accuracy",
    "backward_transfer",
    "dead_units",
    "dormant_units",
    "effective_rank",
    "forgetting",
    "forward_transfer",
    "gradient_norm",
    "learning_accuracy",
    "nature_rank",
    "one_step_backward_transfer",
    "online_accuracy",
    "online_error",
    "plasticity",
    "update_size",
    "weight_magnitude",
]
