"""Permuted tasks: memory beside plasticity. The pixels of the same images are permuted in another way in each task, and
the network should learn each task as well as the first, and know all of them at the end.

After each task all tasks so far are tested. One axis is the accuracy on the newest task, the other that on all earlier
ones (Kumar, Marklund & Van Roy, arXiv 2308.11958, Table 2: online accuracy and backward transfer).
"""
