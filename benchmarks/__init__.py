"""Experiments of the continual-learning literature, trained with gnt: ``python -m benchmarks <experiment>``
in a checkout; installed as gnt.benchmarks, ``gnt run <experiment>``.

Each experiment is a package with at least three modules: ``settings`` (what can be set; does not import torch, so
that invalid settings are reported at once), ``training`` (the training loop, in pieces between which it can be saved)
and ``display`` (what its table and picture show). The other modules are shared:

    cli, argument_parser, experiment_options        the command line; command_name: how the user starts it
    experiments, errors, atomic_files               the names of the experiments; errors for the user; writing files
    needed_packages                                 the packages that commands need beside gnt
    settings, setting_fields, value_checks          how settings are declared and checked
    method_names, methods, nets, seeds              what is trained: a method on the networks of one or several seeds
    training, task_training                         the interface of a training loop; a loop over tasks of images
    memory_methods                                  methods against forgetting, for experiments with tasks
    graph_warmup                                    how a resumed run gets its compiled graphs back
    run_plan, run, record, provenance               which runs a command asks for; a run's folder; its file of rows
    saved_values, saved_tensors                     kinds of values, to check what is read from files
    record_rows, checkpoint                         the content of records and checkpoints
    results_folder                                  symbolic links below the folder of results are refused
    scheduler, launching, worker, progress          execute runs in processes (here or on Ray), and show their progress
    comparison, summary, comparison_table           from rows to means over seeds with 95% intervals
    comparison_picture, picture_headline            the picture of a comparison
    display, method_styles, plot_layout, line_labels    what is shown, names and colours of methods, layout of pictures
    task_pictures                                   heat maps of tasks, memory beside plasticity
    tensorboard                                     TensorBoard event files
    datasets                                        image data
    published, report                               published values; all results as one page, RESULTS.md
    speed                                           ``python -m benchmarks speed``: what a training step costs

Modules import each other by relative imports, so that the package works under both names. docs/running.md is the
user's guide.
"""
