"""ReplayBuffer: a uniform sample, of all items or of each class, against a literal reservoir; copies, and bad input."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

import gnt
from gnt import ReplayBuffer


def fill(memory: ReplayBuffer, labels: torch.Tensor, sizes: list[int], **more: Any) -> None:
    """Add items whose x is their number."""
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        numbers = torch.arange(start, start + len(labels[part]))
        memory.add(numbers[:, None].float(), labels[part], **more)
        start += size


@pytest.mark.parametrize("sizes", [[1] * 8, [5, 3], [8]])
def test_each_item_is_kept_equally_often_however_batches_are_split(sizes):
    counts, pairs = np.zeros(8), np.zeros((8, 8))
    generator = torch.Generator().manual_seed(0)
    runs = 600
    for _ in range(runs):
        memory = ReplayBuffer(3, generator=generator)
        fill(memory, torch.zeros(8, dtype=torch.int64), sizes)
        kept = memory.items().x.flatten().long().tolist()
        assert len(set(kept)) == 3
        counts[kept] += 1
        pairs[np.ix_(kept, kept)] += 1
    assert chisquare(counts).pvalue > 1e-3
    assert chisquare(pairs[np.triu_indices(8, 1)]).pvalue > 1e-3


def test_old_items_do_not_fade():
    """A buffer that overwrites with each new item keeps almost nothing of the first half."""
    generator = torch.Generator().manual_seed(1)
    first_half = 0
    for _ in range(60):
        memory = ReplayBuffer(10, generator=generator)
        fill(memory, torch.zeros(400, dtype=torch.int64), [20] * 20)
        first_half += int((memory.items().x < 200).sum())
    assert 0.4 < first_half / 600 < 0.6


@settings(max_examples=30)
@given(st.integers(1, 30), st.lists(st.integers(0, 9), max_size=8), st.sampled_from([None, "class", "task"]), st.data())
def test_a_buffer_holds_what_the_largest_keys_are_of(size, sizes, balance, data):
    """Against a list that is sorted anew after each batch."""
    count = sum(sizes)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), dtype=torch.int64)
    memory = ReplayBuffer(max(size, 3), balance=balance, generator=torch.Generator().manual_seed(7))
    keys = torch.Generator().manual_seed(7)
    expected: list[tuple[float, int, int]] = []
    start = 0
    for n in sizes:
        own = labels[start : start + n]
        memory.add(torch.arange(start, start + n)[:, None].float(), own, own)
        drawn = torch.rand(n, dtype=torch.float64, generator=keys).tolist() if n else []
        new = [(k, int(label), start + i) for i, (k, label) in enumerate(zip(drawn, own, strict=True))]
        groups: dict[int, list[Any]] = {}
        for item in expected + new:
            groups.setdefault(item[1] if balance else 0, []).append(item)
        places = memory.size // max(len(groups), 1)
        expected = [item for group in groups.values() for item in sorted(group, reverse=True)[:places]]
        start += n
        assert memory.seen == start
        assert len(memory) == len(expected) <= memory.size
        if expected:
            held = memory.items()
            assert sorted(held.x.flatten().long().tolist()) == sorted(number for *_, number in expected)
            assert held.y.equal(held.task)
            assert held.y.equal(labels[held.x.flatten().long()])


def test_balanced_buffers_keep_rare_classes():
    memory = ReplayBuffer(30, balance="class", generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(600) % 60 == 0, 1, torch.where(torch.arange(600) % 100 == 1, 2, 0))
    fill(memory, labels, [40] * 15)
    assert Counter(memory.items().y.tolist()) == {0: 10, 1: 10, 2: 6}


def test_items_are_copies_and_sampling_draws_different_items():
    memory = ReplayBuffer(5)
    x = torch.randn(3, 2, requires_grad=True)
    memory.add(x, torch.arange(3), output=torch.arange(6.0).view(3, 2))
    before = memory.items()
    with torch.no_grad():
        x.zero_()
    assert memory.items().x.equal(before.x)
    assert before.x.norm() > 0
    drawn = memory.sample(2)
    assert len(drawn.y.unique()) == 2
    assert drawn.more["output"][:, 0].equal(2.0 * drawn.y)
    assert not drawn.x.requires_grad
    drawn.x.zero_()
    assert memory.items().x.equal(before.x)
    assert sorted(memory.sample(100).y.tolist()) == [0, 1, 2]
    memory.widen("output", 3)
    assert memory.sample(1).more["output"][0, 2].isnan()


def test_a_buffer_that_is_filled_or_changed_in_inference_mode_is_written_outside_of_it():
    memory, loaded = ReplayBuffer(5), ReplayBuffer(5)
    x = torch.arange(6.0).view(3, 2)
    with torch.inference_mode():
        memory.add(x + 0.0, torch.arange(3), output=x + 1.0)
        memory.widen("output", 3)
        loaded.load_state_dict(memory.state_dict())
    for each in (memory, loaded):
        each.add(x + 0.0, torch.arange(3), output=torch.ones(3, 3))
        assert not any(tensor.is_inference() for tensor in each.items()[:2])
        drawn = each.sample(2)
        nn.Linear(2, 1)(drawn.x).sum().backward()
        with torch.inference_mode():
            each.add(x + 0.0, torch.arange(3), output=torch.ones(3, 3))
    assert len(memory) == len(loaded) == 5


def test_a_loaded_buffer_goes_on_exactly():
    memory, loaded = ReplayBuffer(7, balance="task"), ReplayBuffer(7, balance="task")
    for task in range(3):
        memory.add(torch.randn(6, 2), torch.randn(6), task)
    buffer = io.BytesIO()
    torch.save(memory.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    loaded.load_state_dict(state)
    for each in (memory, loaded):
        each.add(torch.arange(8.0).view(4, 2), torch.arange(4.0), 1)
    for a, b in zip(memory.sample(4)[:3], loaded.sample(4)[:3], strict=True):
        assert a.equal(b)
    assert loaded.seen == 22
    before = loaded.items()
    items = {name: value[:2] for name, value in state["items"].items()}
    for damaged, message in [
        ({**state, "size": 8}, "of a buffer of size 8, this one has size 7"),
        ({**state, "seen": 1}, "numbers that do not fit"),
        ({**state, "items": items}, "numbers that do not fit"),
        ({**state, "keys": state["keys"] * torch.nan}, "with NaN"),
        ({**state, "items": {"x": 3}}, "a dict of tensors with 'x' and 'y'"),
        ({}, "ReplayBuffer.state_dict"),
    ]:
        with pytest.raises(ValueError, match=message):
            loaded.load_state_dict(damaged)
    assert loaded.items().x.equal(before.x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be an integer >= 1, got 0"),
        ({"size": 2.5}, ValueError, "size must be"),
        ({"size": 2, "balance": "label"}, ValueError, "balance must be None, 'class' or 'task', got 'label'"),
        ({"size": 2, "generator": 3}, TypeError, "generator must be"),
    ],
)
def test_wrong_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        gnt.ReplayBuffer(**arguments)


def test_wrong_batches_are_refused_and_change_nothing():
    memory = ReplayBuffer(2, balance="class")
    with pytest.raises(RuntimeError, match="the buffer is empty"):
        memory.sample(1)
    x, y = torch.randn(2, 3), torch.tensor([0, 1])
    memory.add(x, y)
    for arguments, error, message in [
        ((x, y[:1]), ValueError, "y has 1 samples, and x has 2"),
        ((x[:, :2], y), ValueError, r"x of the first batch had items of shape \(3,\), torch.float32; got \(2,\)"),
        ((x.double(), y), ValueError, "got .*torch.float64"),
        ((x, y, 1), ValueError, "each batch must have what the first had, x, y; got task, x, y"),
        ((x, y, "a"), TypeError, "task must be an integer"),
        (([1, 2], y), TypeError, "x must be a tensor, got list"),
        ((torch.ones(()), y), ValueError, "x must have samples first"),
        ((x, y.float()), ValueError, "y of the first batch had .*torch.int64; got .*torch.float32"),
        ((x, torch.tensor([2, 3])), ValueError, "size must be at least the number of class labels: 4 were seen"),
    ]:
        with pytest.raises(error, match=message):
            memory.add(*arguments)
    for n in (0, -1, 1.5):
        with pytest.raises(ValueError, match="n must be an integer >= 1"):
            memory.sample(n)
    with pytest.raises(ValueError, match="balance='task' needs the task"):
        ReplayBuffer(2, balance="task").add(x, y)
    with pytest.raises(ValueError, match="balance='class' needs class indices"):
        ReplayBuffer(2, balance="class").add(x, y.float())
    with pytest.raises(ValueError, match="name must be a stored tensor"):
        memory.widen("output", 3)
    with pytest.raises(ValueError, match="width must be at least that of x, 3, got 2"):
        memory.widen("x", 2)
    labels = gnt.ReplayBuffer(4)
    labels.add(torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.uint8))
    for fill in (float("nan"), 0.5, 300):
        with pytest.raises(ValueError, match=r"fill must be a value of y, torch\.uint8, got"):
            labels.widen("y", 3, fill)
    labels.widen("y", 3, 7)
    assert labels.items().y.tolist() == [[0, 0, 7]] * 2
    assert memory.seen == len(memory) == 2
