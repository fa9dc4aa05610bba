"""Slowly-Changing Regression (Dohare et al., arXiv 2108.06325): a small network tracks a target whose inputs drift.

Of 20 input bits, 15 change only every 10,000 steps. The learner (5 hidden units) is smaller than the target network
(100 threshold units), so it has to keep adapting. Without loss of plasticity its error does not grow with time; with
backprop it does.
"""
