"""How `gnt.trace` finds units: from a model to a graph, along it with labels, and from labels to groups.

untouched, untraceable     the model stays as it was; errors in a user's words
graph, outputs, regions    torch.export's graph as a few plain nodes; what leaves a forward; autocast regions opened
owners, memory             which module a weight belongs to, and whether its units could be replaced; shared memory
labels, flow               which unit each element of a value belongs to, carried from node to node
moving, pointwise,         what each kind of operation does to labels; an operation that is in no table ends them
norms, passing, ending
joining, modes, refused    units with the same fate are one group; what training and evaluation agree on; the rest
"""
