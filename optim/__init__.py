"""Optimizers that can forget a unit: ``AdamGnT`` is Adam whose step counts restart per unit."""

from gnt.optim.adam_gnt import AdamGnT

__all__ = ["AdamGnT"]
