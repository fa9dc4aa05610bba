"""Slowly-Changing Regression (Dohare et al., arXiv 2108.06325): a small network follows a target whose inputs
drift.

Of 20 input bits, 15 change only every 10,000 steps. The learner (5 hidden units) is smaller than the target
(100 threshold units), so it must keep tracking. Its error should not depend on how long it has already
learned; under backprop it grows.
"""
