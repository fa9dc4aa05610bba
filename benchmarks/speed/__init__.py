"""What a step costs with gnt, as ratios to the same step without it.

Every contestant of a workload does the same full training step, in one process and in alternation, so that whatever
slows the machine down slows both sides of a ratio. `workloads` and `entrants` are the two tables to add to; `timing`
does the rounds, `quiet` judges the machine, `results` is the record, `table`, `compare` and `picture` show it.
"""

HELP = "what a step costs with gnt, against the same step without it"
