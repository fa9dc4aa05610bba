"""The products of gradients by the C kernel against torch operations and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnt.replay import _products
from gnt.replay._item_copies import ItemCopies
from gnt.replay.buffer import ReplayBuffer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [1, 4, 6])
def test_products_by_the_kernel_equal_those_by_torch_operations(monkeypatch, dtype, number):
    generator = torch.Generator().manual_seed(number)
    parameters = [torch.zeros(shape, dtype=dtype) for shape in [(3, 5), (1,), (0,), (700, 3), (513,)]]
    rows = [[torch.randn(p.shape, generator=generator, dtype=dtype) for p in parameters] for _ in range(number)]
    rows[0][3] = rows[-1][0] = None
    names = []
    monkeypatch.setattr(
        _products, "load", lambda name, kind, load=_products.load: names.append(name) or load(name, kind)
    )
    products = _products.products_of_all(rows, parameters)
    assert names == ["gram"]
    flat = [np.concatenate([np.zeros(p.numel()) if g is None else g.flatten().double().numpy()
                            for g, p in zip(row, parameters, strict=True)]) for row in rows]  # fmt: skip
    expected = np.array(flat) @ np.array(flat).T
    norms = np.sqrt(np.diagonal(expected))
    tolerance = np.outer(norms, norms) * (1e-6 if dtype == torch.float32 else 1e-14)
    assert (abs(products - expected) <= tolerance + 1e-30).all()
    assert (abs(_products._by_torch_operations(rows, parameters) - expected) <= tolerance + 1e-30).all()
    assert (products == products.T).all()
    rows[0][0] = torch.randn(5, 3, dtype=dtype).T  # not contiguous
    _products.products_of_all(rows, parameters)
    assert names == ["gram"]


def test_a_forward_that_changes_the_copies_of_items_changes_no_memory():
    memories = [ReplayBuffer(4), ReplayBuffer(4), ReplayBuffer(4)]
    for number, memory in enumerate(memories):
        memory.add(torch.full((3 + (number == 2), 2), float(number)), torch.zeros(3 + (number == 2)).long())
    copies = ItemCopies()
    for number in (0, 1, 2, 1):
        items = copies.of(memories[number])
        assert items.x.equal(torch.full((3 + (number == 2), 2), float(number)))
        items.x.mul_(0).sub_(7)
    assert [memory.items().x.unique().tolist() for memory in memories] == [[0.0], [1.0], [2.0]]
