"""Experiments on real data and on the field's synthetic problems: ``python -m benchmarks <experiment>``.

An experiment is a package here with three modules: ``settings`` (what can be set, importing no torch, so that
a slip of the pen is told at once), ``training`` (the training, in pieces that can be stopped between any two) and
``display`` (what table and picture show). Everything else is shared, one way:

    options, settings       what can be set; which values a method has
    plan, runs, record      a command's runs; a run's folder; its file of rows
    seeds, nets, methods    what learns: each method, for one seed or an ensemble
    training, tasks              what trains, in pieces; task after task of labelled images
    worker, launching       the process of one run; where runs are made (here, or on Ray)
    runner, progress        all runs of a command, and their bars
    summary, tables,        from rows to means over seeds with 95% intervals, and what
    pictures, headline      people look at
    comparison, cli         a command
    report                  all results as one page beside the published figures

``python -m benchmarks speed`` (`benchmarks.speed`) is no experiment: it measures what a step costs. docs/running.md
tells users the rest.
"""
