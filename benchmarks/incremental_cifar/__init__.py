"""Class-incremental CIFAR-100 (Dohare et al., Nature 632, 2024): a ResNet-18 learns to classify more classes stage by
stage; earlier classes stay in the training data.

Nothing has to be forgotten, yet in the end a network trained from scratch on all classes is better than one trained
incrementally. Without CIFAR-100, Fashion-MNIST's ten classes are used.
"""
