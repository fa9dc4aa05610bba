"""How measures are computed for all groups of an engine.

means_layout shared tensors for the means of features and weights of simple groups
eager        simple groups by torch operations
kernels      simple groups by one call of a C kernel
evaluator    chooses for each group how it is evaluated; all other groups are evaluated one by one
repeated     an update like the one before, in one function
"""
