"""Class-incremental CIFAR-100 (Dohare et al., Nature 632, 2024): a ResNet-18 that is given more classes to tell apart,
stage by stage, the earlier ones always among them.

It never has to delete_results; yet in the end a network trained from scratch on all classes is better than one that came
all the way. Without CIFAR-100, Fashion-MNIST's ten classes stand in.
"""
