"""Callbacks for PyTorch Lightning: continual backpropagation, methods with task boundaries, and checks of plasticity.

>>> from gnt.integrations.lightning import ContinualBackprop, LogPlasticity, TaskBoundaries
"""

from gnt.integrations.lightning._continual_backprop import ContinualBackprop
from gnt.integrations.lightning._log_plasticity import LogPlasticity
from gnt.integrations.lightning._task_boundaries import TaskBoundaries

__all__ = ["ContinualBackprop", "LogPlasticity", "TaskBoundaries"]
