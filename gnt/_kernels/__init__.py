"""C kernels for the inner loops of a step.

compiler         compiles the C sources in this folder into shared libraries, for the wheel and at first use
library          finds and loads the library for this processor
configuration    what is in use on this machine: `gnt.show_config`
openmp           the functions of the OpenMP runtime that torch has loaded
members          what kernels read of the parameters of an ensemble
placed_tensors   checks that tensors are where they were when a kernel was given their addresses
"""

from gnt._kernels.configuration import in_use, show_config
from gnt._kernels.library import SCALARS, Kernel, load, use_kernels
from gnt._kernels.members import member_layout, noise_keys
from gnt._kernels.placed_tensors import PlacedTensors, ReadableGradients, check_gradient, is_readable, layout_check

__all__ = [
    "SCALARS",
    "Kernel",
    "PlacedTensors",
    "ReadableGradients",
    "check_gradient",
    "in_use",
    "is_readable",
    "layout_check",
    "load",
    "member_layout",
    "noise_keys",
    "show_config",
    "use_kernels",
]
