"""A callback for the Trainer of Hugging Face transformers.

>>> from gnt.integrations.huggingface import LogPlasticity
"""

from gnt.integrations.huggingface._log_plasticity import LogPlasticity

__all__ = ["LogPlasticity"]
