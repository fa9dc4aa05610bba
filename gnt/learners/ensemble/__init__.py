"""Many seeds at once: S independent networks of one shape, trained together, each as it would be alone.

An ensemble is one network with S times the units in each hidden layer, whose consumers read them in S groups; so the
engine, the optimizers and the resets work on it as on any other. Member s owns units s * n ... s * n + n - 1 of a layer
of n, and the same share of every parameter, along dimension 0.

layers      layers of all members side by side, whose kinds torch does not have
kinds       which kinds of layers can be stacked, and how
members     networks from seeds, each with its generators; their shapes compared
stacked     the members as one network, and one member's share of it
losses      one loss a member, and where its gradient begins
elementwise which optimizers may train it
checking    what is refused of settings and batches
engine      generate and test with a selection and draws for each member
report      what the engine tells
learner     Ensemble
"""

from gnt.learners.ensemble.learner import Ensemble

__all__ = ["Ensemble"]
