"""Callbacks and a mixin for the Trainer of Hugging Face transformers.

>>> from gnt.integrations.huggingface import ContinualBackprop, ContinualBackpropMixin, LogPlasticity
"""

from gnt.integrations.huggingface._continual_backprop import ContinualBackprop, ContinualBackpropMixin
from gnt.integrations.huggingface._log_plasticity import LogPlasticity

__all__ = ["ContinualBackprop", "ContinualBackpropMixin", "LogPlasticity"]
