"""Experiments on real data and on the field's synthetic problems: ``python -m benchmarks <experiment>``.

An experiment is a package here with three modules: ``settings`` (what can be set, importing no torch, so that
a slip of the pen is told at once), ``job`` (the training, in pieces that can be stopped between any two) and
``report`` (table and picture). Everything else is shared: the command line, the worker processes,
checkpoints, progress and results.

``python -m benchmarks speed`` (`benchmarks.speed`) is no experiment: it measures what a step costs.
"""
