"""The settings of the engine that learners take, for the message of the error for unknown settings."""

from __future__ import annotations

from gnt.replacement import ENGINE_SETTINGS

# learners use kernels where they can, unless compile=True, and do not scale losses
CONTINUAL_BACKPROP_SETTINGS = (*(name for name in ENGINE_SETTINGS if name not in ("kernels", "grad_scaler")), "follow")
# an ensemble has a list of generators, and trains in one process; what follows it needs the network that it stacks; all
# members replace equally many units, so that units of single ones cannot be protected
_NOT_OF_ENSEMBLES = ("generator", "process_group", "follow", "protect")
ENSEMBLE_SETTINGS = tuple(name for name in CONTINUAL_BACKPROP_SETTINGS if name not in _NOT_OF_ENSEMBLES)
