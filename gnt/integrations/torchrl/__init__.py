"""The hidden units of TorchRL's loss modules.

>>> from gnt.integrations.torchrl import units
"""

from gnt.integrations.torchrl._units import units

__all__ = ["units"]
