"""Online Permuted MNIST: a stream of images, each seen once, with a new permutation of the pixels in every task.

Images and labels stay the same; which pixels belong together changes with each task. A network that keeps its
plasticity learns the hundredth permutation as fast as the first.
"""
