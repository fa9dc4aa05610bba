"""ReplayBuffer: a uniform random sample of all items seen, of fixed size."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gnt._utils.generators import new_generator
from gnt._utils.settings import checked_settings
from gnt._utils.state_dicts import Entry, check_saved_state, counter, equal_to, random_state
from gnt._utils.validation import check_positive
from gnt.names import Balance
from gnt.replay._batch_checks import checked_batch, labels_of

BALANCES = (None, "class", "task")
STATE_VERSION = 1


class Samples(NamedTuple):
    """Items of a `ReplayBuffer`, samples first.

    Attributes:
        x, y: inputs and targets.
        task: the task of each item, int64 (n,); None if no tasks were given.
        more: further tensors, by name.
    """

    x: Tensor
    y: Tensor
    task: Tensor | None
    more: dict[str, Tensor]


@checked_settings(fixed=("size", "balance"))
class ReplayBuffer:
    """A uniform random sample, of fixed size, of all items that were added (reservoir sampling).

    After n items each of them is in the buffer with probability size / n, whenever it came. With ``balance`` this holds
    for the items of each class (or task) by itself, and each of the K classes seen so far has at most size // K places.

    Each item draws a random key when it is added, and those with the largest keys (of all, or of each class) stay.
    Draws are made on the host, so no step waits for a device. Items are copied: later changes of a batch do not change
    them.

    Args:
        size: number of items, >= 1.
        balance: None; "class": by ``y``, which must be class indices; or "task": by ``task``.
        generator: a generator on the CPU for all draws; None creates one, seeded from torch's global generator.
        device: where items are stored; None: the device of the first batch.

    Attributes:
        size, balance, device: as given.
        seen: number of items added so far.

    Raises:
        ValueError: a size below 1, or an unknown balance.
        TypeError: a generator that is not one on the CPU.

    Source: Vitter, ACM TOMS 1985; with random keys: Efraimidis & Spirakis, IPL 2006, equal weights.

    >>> import torch, gnt
    >>> memory = gnt.ReplayBuffer(100)
    >>> for _ in range(50):
    ...     memory.add(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> len(memory), memory.seen, memory.sample(32).x.shape
    (100, 400, torch.Size([32, 4]))
    """

    def __init__(
        self,
        size: int,
        *,
        balance: Balance | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_positive(size=size)
        if balance not in BALANCES:
            raise ValueError(f"balance must be None, 'class' or 'task', got {balance!r}")
        if generator is not None and (not isinstance(generator, torch.Generator) or generator.device.type != "cpu"):
            raise TypeError(f"generator must be a torch.Generator on the CPU or None, got {generator!r}")
        self.size, self.balance = int(size), balance
        self.generator = new_generator(torch.device("cpu")) if generator is None else generator
        self.device = None if device is None else torch.device(device)
        self.seen = 0
        self._stored: dict[str, Tensor] = {}  # by name, (size, ...)
        self._keys: NDArray[np.float64] = np.zeros(0)
        self._labels: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # what is balanced; 0 without

    def __len__(self) -> int:
        return len(self._keys)

    @torch.no_grad()
    def add(self, x: Tensor, y: Tensor, task: int | Tensor | None = None, **more: Tensor) -> None:
        """Add the items of a batch.

        Args:
            x, y: inputs and targets, samples first.
            task: the task of the batch, or of each item, int64 (batch,). It must be given always or never.
            more: further tensors, samples first, such as the network's outputs.

        Raises:
            TypeError: something else than tensors.
            ValueError: numbers of samples, shapes or dtypes that differ from each other or from the first batch, or no
                labels to balance by, or more classes than places. Nothing is changed.
        """
        fields, labels, classes = self._prepared(x, y, task, more)
        count = len(x)
        if count == 0:
            return
        keys = torch.rand(count, dtype=torch.float64, generator=self.generator, device="cpu").numpy()
        all_keys, all_labels = np.concatenate([self._keys, keys]), np.concatenate([self._labels, labels])
        kept = _largest_of_each(all_keys, all_labels, self.size // len(classes))
        stored = len(self._keys)
        new = np.flatnonzero(kept[stored:])
        self._write(fields, new, np.flatnonzero(~kept[:stored]), all_keys, all_labels)
        self.seen += count

    def _write(
        self,
        fields: dict[str, Tensor],
        new: NDArray[np.int64],
        dropped: NDArray[np.int64],
        keys: NDArray[np.float64],
        labels: NDArray[np.int64],
    ) -> None:
        """Write the new items into the places of dropped ones and behind the others; close places that stay empty."""
        stored = len(self._keys)
        free = np.concatenate([dropped, np.arange(stored, self.size)])
        places = free[: len(new)]
        if not self._stored:
            self.device = fields["x"].device if self.device is None else self.device
            self._stored = {name: self._places_for(value, self.device) for name, value in fields.items()}
        if len(new):
            index, chosen = torch.from_numpy(places).to(self.device), torch.from_numpy(new)
            for name, value in fields.items():
                self._stored[name][index] = value.detach()[chosen.to(value.device)].to(self.device)
        length = max(stored, int(places.max()) + 1 if len(new) else 0)
        source = np.full(length, -1)
        source[:stored] = np.arange(stored)
        source[dropped] = -1
        source[places] = stored + new
        holes, filled = np.flatnonzero(source < 0), np.flatnonzero(source >= 0)
        # the last items move into the holes before them
        holes = holes[holes < len(filled)]
        last = filled[filled >= len(filled)]
        if len(holes):
            to, origin = torch.from_numpy(holes).to(self.device), torch.from_numpy(last).to(self.device)
            for tensor in self._stored.values():
                tensor[to] = tensor[origin]
            source[holes] = source[last]
        source = source[: len(filled)]
        self._keys, self._labels = keys[source], labels[source]

    def _places_for(self, items: Tensor, device: torch.device | None) -> Tensor:
        """Memory for as many items as the buffer holds; a tensor that can be written outside of inference mode, too."""
        with torch.inference_mode(False):
            return torch.empty(self.size, *items.shape[1:], dtype=items.dtype, device=device)

    @torch.no_grad()
    def sample(self, n: int, *, other_than: int | None = None) -> Samples:
        """Draw n different items, or all if there are fewer, in random order.

        Args:
            n: number of items, >= 1.
            other_than: draw items of other tasks than this one only; there may be none.

        Raises:
            ValueError: n is not a positive integer, or ``other_than`` is given and the buffer stores no tasks.
            RuntimeError: the buffer is empty.
        """
        check_positive(n=n)
        if not len(self):
            raise RuntimeError("the buffer is empty: add(x, y) first")
        if other_than is not None and "task" not in self._stored:
            raise ValueError(
                f"the buffer stores no tasks, so items of task {other_than} cannot be left out: add(x, y, task)"
            )
        order, device = torch.randperm(len(self), generator=self.generator, device="cpu"), self._stored["x"].device
        if other_than is None:
            index = order[: int(n)].to(device)
        else:
            order = order.to(device)
            index = order[self._stored["task"][order] != other_than][: int(n)]
        drawn = {name: tensor[index] for name, tensor in self._stored.items()}
        return Samples(drawn.pop("x"), drawn.pop("y"), drawn.pop("task", None), drawn)

    def items(self) -> Samples:
        """Copies of all items, in the order of their places."""
        held = {name: tensor[: len(self)].clone() for name, tensor in self._stored.items()}
        if not held:
            raise RuntimeError("the buffer is empty: add(x, y) first")
        return Samples(held.pop("x"), held.pop("y"), held.pop("task", None), held)

    def width(self, name: str) -> int | None:
        """The size of the last dimension of a stored tensor; None if there is none of that name yet."""
        tensor = self._stored.get(name)
        return None if tensor is None else tensor.shape[-1]

    def widen(self, name: str, width: int, fill: float = float("nan")) -> None:
        """Enlarge the last dimension of a stored tensor, as after a head has grown, with ``fill`` for what is new.

        Args:
            name: "x", "y" or the name of a further tensor.
            width: the new size, not below the present one.
            fill: the value of new entries; for a tensor of integers or bools one that it can hold.

        Raises:
            ValueError: an unknown name, a width below the present one, or a value that the tensor cannot hold. Nothing
                is changed.
        """
        tensor = self._stored.get(name)
        if tensor is None or tensor.ndim < 2:
            raise ValueError(f"name must be a stored tensor with at least two dimensions, got {name!r}")
        if width < tensor.shape[-1]:
            raise ValueError(f"width must be at least that of {name}, {tensor.shape[-1]}, got {width!r}")
        exact = not (tensor.is_floating_point() or tensor.is_complex())
        if exact and (not math.isfinite(fill) or torch.tensor(fill, device="cpu").to(tensor.dtype).item() != fill):
            raise ValueError(f"fill must be a value of {name}, {tensor.dtype}, got {fill!r}")
        with torch.inference_mode(False):
            wider = tensor.new_full((*tensor.shape[:-1], width), fill)
        wider[..., : tensor.shape[-1]] = tensor
        self._stored[name] = wider

    def check(self, x: Tensor, y: Tensor, task: int | Tensor | None = None, **more: Tensor) -> None:
        """Raise the errors that `add` would raise for this batch; nothing is added."""
        self._prepared(x, y, task, more)

    def _prepared(
        self, x: Tensor, y: Tensor, task: Any, more: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], NDArray[np.int64], NDArray[np.int64]]:
        """The checked tensors of a batch by name, their labels, and all labels seen so far."""
        fields = checked_batch(x, y, task, more, self._stored)
        labels = labels_of(fields, self.balance)
        # without balance all labels are 0
        classes = np.zeros(1, np.int64) if self.balance is None else np.union1d(self._labels, labels)
        if self.balance is not None and len(classes) > self.size:
            raise ValueError(
                f"size must be at least the number of {self.balance} labels: {len(classes)} were seen, size is "
                f"{self.size}"
            )
        return fields, labels, classes

    def state_dict(self) -> dict[str, Any]:
        """Items, counts and the generator; loads with ``torch.load(weights_only=True)``."""
        return {
            "version": STATE_VERSION,
            "size": self.size,
            "balance": self.balance,
            "seen": self.seen,
            "keys": torch.from_numpy(self._keys.copy()),
            "labels": torch.from_numpy(self._labels.copy()),
            "items": {name: tensor[: len(self)].clone() for name, tensor in self._stored.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`, to continue exactly; items go to this buffer's device.

        Raises:
            ValueError: of a buffer of another size or balance, or damaged. Nothing is changed.
        """
        of_other = "state_dict is of a buffer of {} {}, this one has {} {!r}"
        kinds = {
            "size": equal_to(self.size, lambda saved: of_other.format("size", saved, "size", self.size)),
            "balance": equal_to(self.balance, lambda saved: of_other.format("balance", saved, "balance", self.balance)),
            "seen": counter(),
            "keys": _numbers(torch.float64),
            "labels": _numbers(torch.int64),
            "items": _items,
            "generator": random_state(self.generator),
        }
        checked = check_saved_state(state_dict, "ReplayBuffer.state_dict()", kinds, STATE_VERSION)
        items: dict[str, Tensor] = checked["items"]
        lengths = {len(checked["keys"]), len(checked["labels"]), *map(len, items.values())}
        if len(lengths) > 1 or not 0 <= len(checked["keys"]) <= min(self.size, checked["seen"]):
            raise ValueError(f"state_dict has items, keys and labels of numbers that do not fit: {sorted(lengths)}")
        device = self.device if self.device is not None else items["x"].device if items else None
        stored = {}
        for name, value in items.items():
            stored[name] = self._places_for(value, device)
            stored[name][: len(value)] = value
        self._stored, self.device = stored, device
        self._keys, self._labels = checked["keys"].numpy().copy(), checked["labels"].numpy().copy()
        self.seen = checked["seen"]
        self.generator.set_state(checked["generator"])

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self)} of {self.size} items, {self.seen} seen, balance={self.balance!r})"


def _largest_of_each(keys: NDArray[np.float64], labels: NDArray[np.int64], places: int) -> NDArray[np.bool_]:
    """Which items have one of the ``places`` largest keys of their label."""
    order = np.lexsort((-keys, labels))
    ordered = labels[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    rank = np.arange(len(keys)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(keys)]])))
    kept = np.zeros(len(keys), dtype=bool)
    kept[order[rank < places]] = True
    return kept


def _numbers(dtype: torch.dtype) -> Any:
    def check(entry: Entry, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.ndim != 1 or value.dtype != dtype or value.is_meta:
            raise entry.wrong_value(value, f"a {dtype} tensor with one dimension")
        if value.isnan().any():
            raise entry.wrong_tensor(value, "with NaN", "numbers")
        return value.detach().cpu()

    return check


def _items(entry: Entry, value: Any) -> dict[str, Tensor]:
    """The stored tensors by name: x and y, or nothing."""
    wanted = "a dict of tensors with 'x' and 'y', samples first"
    if not isinstance(value, dict) or (value and not {"x", "y"} <= set(value)):
        raise entry.wrong_value(value, wanted)
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not tensor.ndim or tensor.is_meta:
            raise entry.wrong_value(tensor, wanted)
    return {name: tensor.detach() for name, tensor in value.items()}
