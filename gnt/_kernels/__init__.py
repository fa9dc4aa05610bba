"""C++ kernels for the inner loops of a step, built at first use."""

from gnt._kernels.build import SCALARS, Kernel, load

__all__ = ["SCALARS", "Kernel", "load"]
