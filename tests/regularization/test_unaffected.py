"""What remedies must leave alone: parameters frozen since, rows that mean nothing; and gradients of every layout."""

import pytest
import torch
from torch import nn

import gnt


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize("kind", [gnt.L2, gnt.L2Init])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_was_frozen_since_is_not_pulled(kind: type[gnt.L2], at_once: bool) -> None:
    some = net()
    reg = kind(some, 0.5)
    some[0].requires_grad_(False)
    with torch.no_grad():
        some[2].bias.fill_(3.0)
    reg.backward() if at_once else reg.penalty().backward()
    assert all(p.grad is None for p in some[0].parameters())  # an optimizer would move it by anything else
    assert all(p.grad is not None for p in some[2].parameters())


def test_nothing_to_pull_is_no_error() -> None:
    some = net()
    reg = gnt.L2(some, 0.5)
    some.requires_grad_(False)
    reg.backward()
    assert all(p.grad is None for p in some.parameters())


def test_a_sparse_gradient_is_added_to() -> None:
    def gradients(at_once: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        some = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1))
        reg = gnt.L2(some, 0.5)
        some(torch.tensor([1, 1, 4])).square().sum().backward()
        assert some[0].weight.grad.is_sparse
        reg.backward() if at_once else reg.penalty().backward()
        return [p.grad for p in some.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False))


@pytest.mark.parametrize("distribution", ["init", "normal"])
def test_what_was_frozen_since_is_neither_shrunk_nor_perturbed(distribution: str) -> None:
    def stepped(freeze: bool) -> list[torch.Tensor]:
        some = nn.Sequential(*net(), nn.LayerNorm(2))
        generator = torch.Generator().manual_seed(1)
        perturb = gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1, distribution=distribution, generator=generator)  # type: ignore[arg-type]
        some[2 * freeze : 4 if freeze else 0].requires_grad_(False)
        perturb.step()
        return [p.detach() for p in some.parameters()]

    free, frozen = stepped(False), stepped(True)
    born = [*net().parameters(), torch.ones(2), torch.zeros(2)]
    assert [torch.equal(a, b) for a, b in zip(frozen, born, strict=True)] == [False, False, True, True, True, True]
    assert all(torch.equal(a, b) for a, b in zip(frozen[:2], free[:2], strict=True))  # and draw the same


def test_a_fresh_embedding_has_a_padding_row_of_0() -> None:
    some = nn.Embedding(5, 3, padding_idx=-2)
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert not some.weight[3].any()
    assert (some.weight[[0, 1, 2, 4]] != 0).all()


def test_a_layer_without_inputs_has_a_bias_of_0() -> None:
    some = nn.Linear(1, 3)
    some.weight = nn.Parameter(torch.empty(3, 0))
    nn.init.zeros_(some.bias)
    gnt.ShrinkAndPerturb(some, shrink=0.5, noise=0.1).step()
    assert not some.bias.any()


def test_an_ensemble_takes_a_generator_for_each_member() -> None:
    ensemble = gnt.Ensemble(net, range(2), replacement_rate=0.0)
    for number in (1, 2):
        generators = [torch.Generator() for _ in range(number)]
        assert gnt.ShrinkAndPerturb(ensemble.net, shrink=0.5, noise=0.1, generator=generators).step()
    four = [torch.Generator() for _ in range(4)]  # by the shapes alone it could be: 12 and 4 units
    with pytest.raises(ValueError, match="generator holds 4 generators; this ensemble has 2 members"):
        gnt.ShrinkAndPerturb(ensemble.net, shrink=0.5, noise=0.1, generator=four)
