"""Training with several processes.

process_group    the processes that train one network: equal settings, equal random numbers, sums
dtensor          this process's part of a sharded tensor
"""
