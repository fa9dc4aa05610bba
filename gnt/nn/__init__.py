"""Network modules that help against loss of plasticity.

crelu  CReLU: concatenated ReLU, an activation with a gradient for every nonzero input
"""

from gnt.nn.crelu import CReLU

__all__ = ["CReLU"]
