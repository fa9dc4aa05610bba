"""C++ kernels for the inner loops of a step, built at first use."""

from gnt._kernels.build import SCALARS, Kernel, load
from gnt._kernels.placed_tensors import PlacedTensors, ReadableGradients, check_gradient, layout_check

__all__ = ["SCALARS", "Kernel", "PlacedTensors", "ReadableGradients", "check_gradient", "layout_check", "load"]
