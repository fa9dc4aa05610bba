"""Slippery Ant (Dohare et al., Nature 632, 2024): PPO teaches MuJoCo's Ant to run, and now and then the friction of
everything changes.

A network that stays plastic learns the new gait; one that has lost its plasticity falls behind with every change.
Stable-Baselines3 does the PPO, gnt's optimizers replace units of the policy's and the value's network.
"""
