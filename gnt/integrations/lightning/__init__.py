"""Callbacks for PyTorch Lightning: continual backpropagation, and methods with task boundaries.

>>> from gnt.integrations.lightning import ContinualBackprop, TaskBoundaries
"""

from gnt.integrations.lightning._continual_backprop import ContinualBackprop
from gnt.integrations.lightning._task_boundaries import TaskBoundaries

__all__ = ["ContinualBackprop", "TaskBoundaries"]
