"""How `gnt.trace` finds unit groups.

1. capture: the forward as a graph of torch operations (torch.export), once in training and once in evaluation mode.
   Helpers: autocast, outputs, isolation (restores the model), reachable, quiet, errors, submodules.
2. propagation: walks the graph in the order of computation and labels each element of each value with the unit it
   belongs to. Helpers: labels, state, ops (one module per kind of operation).
   Which parameter belongs to which layer: weight_ops, ownership, shared_memory.
3. grouping: units with the same producers, consumers and activation form one `UnitGroup`; all others are refused.
4. train_eval: keeps the groups that are the same in both modes.
"""
