"""Random-label MNIST (Kumar et al., arXiv 2308.11958): the same 1,200 digits, with new random labels in every task.

A network that keeps its plasticity memorises the labels of the fiftieth task as fast as those of the first.
"""
