"""What a training step costs with gnt, as ratios to the same step without it: ``python -m benchmarks speed``.

All variants of a workload do the same full training step, in one process and in alternation, so that whatever slows the
machine down affects both sides of a ratio.

    workloads, variants         the two tables to add to: networks and data; ways to train
    gpu_variants                ways to train on a GPU (--device cuda); gpu_markdown shows them
    step_runners, networks      build the variants; third_party: ccbp-pytorch
    selection                   which workloads and variants a command measures
    measurement, timing         measure them, in rounds; memory: bytes of state
    machine_load, cpu_counters  whether the machine was idle enough; allocator: settings of the C library
    record_file                 the JSON record (it calls a variant "entrant" and a ratio "figure")
    table, compare, picture, markdown    show records
    command                     the command line
"""

HELP = "what a step costs with gnt, against the same step without it"
