"""A variational autoencoder: a small generator of inputs, as for generative replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt._utils.validation import check_positive, finite_number
from gnt.names import VAELikelihood

LIKELIHOODS = get_args(VAELikelihood)


class VAE(nn.Module):
    """A variational autoencoder of multilayer perceptrons: q(z|x) = N(m(x), diag s(x)^2), prior N(0, I).

    The loss is the mean over samples of::

        reconstruction(x, decode(z)) + 1/2 sum over latent dimensions of (m^2 + s^2 - 1 - log s^2),   z ~ q(z|x)

    where both terms are sums over dimensions, so that it is the negative evidence lower bound up to a constant, and
    draws from the prior are decoded into samples.

    Args:
        shape: number of inputs, or the shape of one input, which is flattened.
        hidden: numbers of units of the encoder's hidden layers; the decoder has the same in reverse order.
        latent: number of latent dimensions.
        likelihood: "bernoulli" for inputs in [0, 1], such as pixels: cross-entropy with the sigmoid of the decoder's
            outputs; "gaussian" for any real inputs: squared distance / (2 scale^2).
        scale: standard deviation of the Gaussian, > 0. A small one gives accurate reconstructions, and codes that are
            further from the prior.
        activation: makes the module after each hidden layer.

    Raises:
        TypeError: an activation that is no class of modules.
        ValueError: a number that is not an integer >= 1, an unknown likelihood, or a scale out of range.

    Shape:
        x (batch, *shape) -> z (batch, latent) -> (batch, *shape).

    Source: Kingma & Welling, ICLR 2014 (arXiv 1312.6114), Eq. 10.

    >>> import torch, gnt
    >>> vae = gnt.VAE((1, 8, 8), hidden=[32], latent=5)
    >>> vae.loss(torch.rand(16, 1, 8, 8)).shape, vae.sample(3).shape
    (torch.Size([]), torch.Size([3, 1, 8, 8]))
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        hidden: Sequence[int] = (400, 400),
        latent: int = 100,
        *,
        likelihood: VAELikelihood = "bernoulli",
        scale: float = 1.0,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        sizes = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else (shape,)
        if isinstance(hidden, str) or not isinstance(hidden, Sequence):
            raise ValueError(f"hidden must be a list with the number of units of each hidden layer, got {hidden!r}")
        if isinstance(activation, nn.Module) or not callable(activation):
            raise TypeError(f"activation must be a class of modules, such as torch.nn.ReLU, got {activation!r:.60}")
        check_positive(**{f"shape[{i}]": size for i, size in enumerate(sizes)}, latent=latent)
        check_positive(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
        self.shape, self.latent, self.likelihood = torch.Size(sizes), latent, likelihood
        self.scale = finite_number("scale", scale, exclusive=True)
        inputs = math.prod(sizes)
        self.encoder = nn.Sequential(*_hidden_layers([inputs, *hidden], activation))
        self.moments = nn.Linear(hidden[-1] if hidden else inputs, 2 * latent)
        widths = [latent, *reversed(hidden)]
        self.decoder = nn.Sequential(*_hidden_layers(widths, activation), nn.Linear(widths[-1], inputs))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return m(x) and log s(x)^2, each (batch, latent).

        Raises:
            ValueError: inputs of another shape.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have the shape (batch, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        mean, log_variance = self.moments(self.encoder(x.flatten(1))).chunk(2, 1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of p(x|z), (batch, *shape)."""
        output = self._decoded(z)
        return output.sigmoid() if self.likelihood == "bernoulli" else output

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction of x: ``decode`` of the mean code."""
        return self.decode(self.encode(x)[0])

    def loss(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the loss, a differentiable scalar, with one draw of z for each sample.

        Args:
            x: inputs, (batch, *shape).
            generator: for the draws; None: torch's global generator.

        Raises:
            ValueError: another shape, or inputs outside [0, 1] for "bernoulli" (checked on the CPU).
        """
        mean, log_variance = self.encode(x)
        if self.likelihood == "bernoulli" and x.device.type == "cpu" and x.numel():
            low, high = (each.item() for each in x.detach().aminmax())
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"x must be in [0, 1] for likelihood='bernoulli', got values in [{low:g}, {high:g}]; scale the "
                    "inputs, or take likelihood='gaussian'"
                )
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        output = self._decoded(mean + (0.5 * log_variance).exp() * noise)
        if self.likelihood == "bernoulli":
            reconstruction = F.binary_cross_entropy_with_logits(output, x, reduction="sum")
        else:
            reconstruction = (output - x).square().sum() / (2 * self.scale**2)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + divergence) / len(x)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Return ``decode(z)`` for n draws of z from the prior, (n, *shape); the Gaussian's noise is not added.

        Args:
            n: number of samples, >= 1.
            generator: for the draws, on the module's device; None: torch's global generator.

        Raises:
            ValueError: ``n`` is not an integer >= 1.
        """
        check_positive(n=n)
        like = self.moments.weight
        return self.decode(torch.randn(n, self.latent, generator=generator, device=like.device, dtype=like.dtype))

    def _decoded(self, z: Tensor) -> Tensor:
        """The decoder's outputs: logits for "bernoulli"."""
        output: Tensor = self.decoder(z)
        return output.view(-1, *self.shape)

    def extra_repr(self) -> str:
        """Return shape, latent dimensions and likelihood."""
        return f"shape={tuple(self.shape)}, latent={self.latent}, likelihood={self.likelihood!r}"


def _hidden_layers(widths: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    return [module for a, b in pairwise(widths) for module in (nn.Linear(a, b), activation())]
