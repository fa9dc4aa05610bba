"""Initial distributions of weights and biases: of replaced units, and of whole networks.

_distribution     the kinds of distribution, and draws from them
_layer_defaults   from which one torch initializes a parameter, by the type of its layer
_names            those that have a name (``init="kaiming"``), for the units of a layer
_known, _fit      the known distributions, and which of them fits present values (``init="auto"``)
_slot_init        the choice for the units of a layer, and draws of new weights and biases
_parameter_distributions   those of all parameters of a module
_saved            the choice in a saved state
"""

from gnt.initialization._distribution import Distribution
from gnt.initialization._layer_defaults import SUPPORTED_LAYERS, init_distribution, register_init_distribution
from gnt.initialization._names import BIAS_INITS, INITS, Fill, Init, check_init, fans, init_name, uniform_bound
from gnt.initialization._parameter_distributions import fitting_distributions, parameter_distributions
from gnt.initialization._saved import loaded_inits, saved_inits
from gnt.initialization._slot_init import (
    USUAL_INIT,
    SlotInit,
    draw_biases,
    draw_weights,
    draws_biases,
    fill_biases,
    fill_weights,
    find_slot_init,
)

__all__ = [
    "BIAS_INITS",
    "INITS",
    "SUPPORTED_LAYERS",
    "USUAL_INIT",
    "Distribution",
    "Fill",
    "Init",
    "SlotInit",
    "check_init",
    "draw_biases",
    "draw_weights",
    "draws_biases",
    "fans",
    "fill_biases",
    "fill_weights",
    "find_slot_init",
    "fitting_distributions",
    "init_distribution",
    "init_name",
    "loaded_inits",
    "parameter_distributions",
    "register_init_distribution",
    "saved_inits",
    "uniform_bound",
]
