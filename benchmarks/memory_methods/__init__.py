"""Methods against forgetting for experiments with tasks, alone and beside replacement of units.

scenario            what the outputs of the network stand for in each task
recipes             what a method consists of, by name; a new method is a line here (and a builder in `parts`)
parts               builders of the parts: penalties, replay, projections, masks
method              trains a network with the parts of a recipe
packed              PackNet
progressive         progressive networks
task_heads          a network that is told the task, with an output layer for each
masked              HAT, AdaHAT and FG-AdaHAT
training            the training loop: after each task a test on all tasks so far
heads               a network with an output layer for each task, for scenarios in which tasks have outputs of their own
"""

from __future__ import annotations

from .method import MemoryMethod
from .packed import PackedMethod
from .progressive import ProgressiveMethod
from .recipes import memory_method
from .scenario import Scenario
from .training import MemoryTraining

__all__ = ["MemoryMethod", "MemoryTraining", "PackedMethod", "ProgressiveMethod", "Scenario", "memory_method"]
