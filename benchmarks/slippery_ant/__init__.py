"""Slippery Ant (Dohare et al., Nature 632, 2024): PPO teaches MuJoCo's Ant to run, and now and then the friction of
everything changes.

A network that stays plastic learns the new gait; one that has lost its plasticity falls behind with every change.
Stable-Baselines3 does the PPO, gnt's optimizers replace units of the policy's and the value's network.

Where this is not the paper's experiment to the letter: the ant is gymnasium's Ant-v5, not Ant-v3, and it sees the
forces on its body (27 numbers without them: ``--contact-forces no``); frictions are draws of our own seeds; episodes
that the time limit ends, and the clipping of actions, are as Stable-Baselines3 does them (see `ppo`);
weight decay is AdamW's unless ``--decay adam`` asks for the published code's, as ``--size published`` does.

The quick size proves that it works, no more: see `benchmarks.slippery_ant.settings`.
"""
