"""Slippery Ant (Dohare et al., Nature 632, 2024): PPO trains MuJoCo's Ant to run while the friction changes from time
to time.

A network that keeps its plasticity learns a new gait after each change; one that has lost it does worse with every
change. PPO is Stable-Baselines3's; gnt's optimizers replace units of the policy and value networks.

Differences from the paper's experiment: the ant is gymnasium's Ant-v5 instead of Ant-v3, and observes the contact
forces on its body (without them, observations have 27 numbers: ``--contact-forces no``); frictions are drawn from our
seeds; episodes that end by the time limit, and the clipping of actions, are handled as in Stable-Baselines3 (see
`ppo`); weight decay is AdamW's unless ``--decay adam`` selects the published code's, as ``--size published`` does.

The quick size only shows that everything works: see `benchmarks.slippery_ant.settings`.
"""
