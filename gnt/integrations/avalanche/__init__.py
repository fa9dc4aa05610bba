"""A plugin for the strategies of Avalanche.

>>> from gnt.integrations.avalanche import ContinualBackprop
"""

from gnt.integrations.avalanche._continual_backprop import ContinualBackprop

__all__ = ["ContinualBackprop"]
