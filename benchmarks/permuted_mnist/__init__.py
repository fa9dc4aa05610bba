"""Online Permuted MNIST: images one by one, each once, whose pixels are permuted anew in every task.

The pixels that belong together are others in each task; labels and images stay. A network that stays plastic learns the
hundredth permutation as fast as the first.
"""
