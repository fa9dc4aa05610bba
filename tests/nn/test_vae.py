"""`VAE`: its loss against the written-out sums, its samples, and its refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import gnt


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_loss_is_the_mean_over_samples_of_sums_over_dimensions(likelihood):
    torch.manual_seed(0)
    vae = gnt.VAE((2, 3), hidden=[7], latent=4, likelihood=likelihood, scale=0.5).double()
    x = torch.rand(5, 2, 3, dtype=torch.float64)
    mean, log_variance = vae.encode(x)
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 0.0
    for i in range(5):
        q = torch.distributions.Normal(mean[i], (0.5 * log_variance[i]).exp())
        expected += torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum().item()
        decoded = vae.decode((mean[i] + q.scale * noise[i])[None])[0]
        for a, b in zip(x[i].flatten().tolist(), decoded.flatten().tolist(), strict=True):
            if likelihood == "bernoulli":
                expected -= a * math.log(b) + (1 - a) * math.log(1 - b)
            else:
                expected += (a - b) ** 2 / (2 * 0.5**2)
    loss = vae.loss(x, torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(expected / 5, rel=1e-12)


def test_samples_are_decoded_draws_from_the_prior():
    vae = gnt.VAE(6, hidden=[], latent=2)
    x = vae.sample(4, torch.Generator().manual_seed(0))
    z = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    assert x.equal(vae.decode(z))
    assert ((x >= 0) & (x <= 1)).all()
    assert vae(x).shape == x.shape == (4, 6)


def test_a_trained_vae_generates_what_it_has_learned():
    torch.manual_seed(0)
    vae = gnt.VAE(4, hidden=[16], latent=2)
    data = torch.tensor([[0.95, 0.05, 0.05, 0.95], [0.05, 0.95, 0.95, 0.05]]).repeat(16, 1)
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimizer.zero_grad()
        vae.loss(data).backward()
        optimizer.step()
    samples = vae.sample(200)
    nearest = torch.cdist(samples, data[:2]).min(1)
    assert nearest.values.mean() < 0.25
    assert 60 < (nearest.indices == 0).sum() < 140


def test_wrong_settings_and_inputs_are_refused():
    for arguments, settings, message in [
        ((0,), {}, r"shape\[0\] must be an integer >= 1, got 0"),
        (((2, 0.5),), {}, r"shape\[1\] must be an integer >= 1, got 0.5"),
        ((4, 8), {}, "hidden must be a list"),
        ((4, [8, 0]), {}, r"hidden\[1\] must be an integer >= 1"),
        ((4, [8], 0), {}, "latent must be an integer >= 1"),
        ((4,), {"likelihood": "poisson"}, "likelihood must be one of bernoulli, gaussian, got 'poisson'"),
        ((4,), {"scale": 0.0}, "scale must be a finite number > 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            gnt.VAE(*arguments, **settings)
    with pytest.raises(TypeError, match=r"activation must be a class of modules, such as torch.nn.ReLU, got ReLU\(\)"):
        gnt.VAE(4, activation=nn.ReLU())
    vae = gnt.VAE(4, [8], 2, activation=nn.Tanh)
    with pytest.raises(ValueError, match="n must be an integer >= 1, got -1"):
        vae.sample(-1)
    assert isinstance(vae.encoder[1], nn.Tanh)
    with pytest.raises(ValueError, match=r"x must have the shape \(batch, 4\), got \(3, 5\)"):
        vae.loss(torch.rand(3, 5))
    with pytest.raises(ValueError, match=r"x must be in \[0, 1\] for likelihood='bernoulli', got values in \[-1, 0\]"):
        vae.loss(torch.tensor([[-1.0, 0, 0, 0]]))
