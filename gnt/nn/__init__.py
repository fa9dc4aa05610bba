"""Pieces of networks that keep learning, or keep what they have learned.

crelu            CReLU: concatenated ReLU, an activation with a gradient for every nonzero input
input_norm       InputNorm: inputs normalized by running statistics, for a stream whose inputs change
multi_head       MultiHead: one output layer for each task, or one that grows by classes
progressive_net  ProgressiveNet: a new column for each task, beside frozen ones
vae              VAE: a variational autoencoder, the generator of generative replay
"""

from gnt.nn.crelu import CReLU
from gnt.nn.input_norm import InputNorm
from gnt.nn.multi_head import MultiHead
from gnt.nn.progressive_net import ProgressiveNet
from gnt.nn.vae import VAE

__all__ = ["VAE", "CReLU", "InputNorm", "MultiHead", "ProgressiveNet"]
