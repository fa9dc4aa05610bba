"""Random small networks for hypothesis: layers, gates, sums, concatenations and branches in any order.

A program computes a pool of values of the same rank; each step reads any of them and adds one or two. At the end, heads
read the values that no step has read. Mixers let a unit's value influence its neighbours, or an order or selection of
them, and most of these must be refused. At most one norm couples units, and it alone reads its input: with several, no
unit could be changed without its neighbours, and nothing could be checked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "silu": lambda v: v * torch.sigmoid(v),
    "leaky_relu": lambda v: F.leaky_relu(v, 0.2), "half": lambda v: v * 0.5 - 1.0,
}  # fmt: skip
MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda v: v.flip(1), "roll": lambda v: v.roll(1, 1), "tail": lambda v: v[:, 1:],
    "evens": lambda v: v[:, ::2], "pad": lambda v: F.pad(v.movedim(1, -1), (1, 0), value=1.0).movedim(-1, 1),
    "twice": lambda v: v.repeat_interleave(2, 1), "contiguous": lambda v: v.movedim(1, -1).contiguous().movedim(-1, 1),
}  # fmt: skip
MIXERS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda v: v.softmax(1), "cumsum": lambda v: v.cumsum(1), "sort": lambda v: v.sort(1).values,
    "gated by one": lambda v: v * torch.sigmoid(v[:, :1]), "chosen by one": lambda v: torch.where(v[:, :1] > 0, v, -v),
    "by the mean": lambda v: v / (1 + v.mean(1, keepdim=True).abs()), "turned": lambda v: v * torch.sigmoid(v.flip(1)),
    "distance": lambda v: (v[:, :1] - v).abs(), "by the norm": lambda v: F.normalize(v, dim=1),
    "over samples": lambda v: v - v.mean(0, keepdim=True), "greatest": lambda v: torch.maximum(v, v.roll(1, 1)),
}  # fmt: skip
PIXELS: dict[str, Callable[[Tensor], Tensor]] = {
    "pool": lambda v: F.max_pool2d(v, 3, stride=1, padding=1),
    "turn": lambda v: v.transpose(2, 3),
    "resize": lambda v: F.avg_pool2d(F.interpolate(v, scale_factor=2.0), 2),
    "centre": lambda v: v - v.mean((2, 3), keepdim=True),
}
JOINTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "gate": lambda a, b: a * torch.sigmoid(b), "product": torch.mul
}  # fmt: skip


PLAIN = {**ACTIVATIONS, **MOVES, **MIXERS, **PIXELS}
Step = tuple[str, tuple[int, ...], nn.Module | None]


class RandomNet(nn.Module):
    """Runs a program of steps (name, indices of the values read, module or None), then the heads."""

    def __init__(
        self, steps: list[tuple[str, tuple[int, ...], nn.Module | None]], read: list[int], heads: nn.ModuleList
    ):
        super().__init__()
        self.steps, self.read, self.heads = [(name, args) for name, args, _ in steps], read, heads
        self.layers = nn.ModuleDict({str(i): module for i, (_, _, module) in enumerate(steps) if module is not None})

    def forward(self, x: Tensor) -> list[Tensor]:
        pool = [x]
        for i, (name, args) in enumerate(self.steps):
            values = [pool[j] for j in args]
            if str(i) in self.layers:
                pool.append(self.layers[str(i)](*values))
            elif name == "cat":
                pool.append(torch.cat(values, 1))
            elif name == "chunk":
                pool.extend(values[0].chunk(2, dim=1))
            elif name in JOINTS:
                pool.append(JOINTS[name](*values))
            else:
                pool.append(PLAIN[name](*values))
        return [head(pool[j].flatten(1)) for head, j in zip(self.heads, self.read, strict=True)]

    def __repr__(self) -> str:
        layers = dict(self.layers)
        lines = [f"{i}: {name}{args} {layers.get(str(i), '')}" for i, (name, args) in enumerate(self.steps)]
        return "\n".join([*lines, f"heads read {self.read}"])


@st.composite
def random_nets(draw: st.DrawFn) -> tuple[RandomNet, Tensor]:
    """A network of linear layers on vectors, or of convolutions on images, and an input."""
    images = draw(st.booleans())
    widths, steps = [draw(st.integers(2, 4))], []
    shape = (3, widths[0], 3, 3) if images else (3, widths[0])
    read: set[int] = set()
    norm_inputs: set[int] = set()
    for _ in range(draw(st.integers(2, 9))):
        # the last value is read most often, so that networks become deep
        last = len(widths) - 1
        available = [j for j in range(last + 1) if j not in norm_inputs]
        source = draw(st.sampled_from([last, last, last, *available]))
        kinds = [
            "layer",
            "layer",
            "layer",
            "activation",
            "move",
            "norm",
            "cat",
            "chunk",
            "joint",
            "joint",
            "slopes",
            "mixer",
        ]
        kind = draw(st.sampled_from(kinds + ["pixels", "depthwise"] * images + ["coupling"] * (not norm_inputs)))
        width, num_values = widths[source], 1
        args: tuple[int, ...] = (source,)
        module: nn.Module | None = None
        name = kind
        if kind == "layer":
            width = draw(st.sampled_from([2, 3, 4, 6, widths[source]]))
            bias = draw(st.booleans())
            module = (
                _convolution(draw, widths[source], width, bias) if images else nn.Linear(widths[source], width, bias)
            )
        elif kind == "depthwise":
            module = nn.Conv2d(width, width, 3, padding=1, groups=width)
        elif kind == "norm":
            module = nn.BatchNorm2d(width) if images else nn.BatchNorm1d(width)
        elif kind == "slopes":
            module = nn.PReLU(width)
        elif kind == "coupling":
            if source in read or not source:
                continue
            norm_inputs.add(source)
            module = nn.GroupNorm(1, width) if images else nn.LayerNorm(width)
        elif kind == "cat":
            args = (source, draw(st.sampled_from(available)))
            width += widths[args[1]]
        elif kind == "chunk":
            if width % 2:
                continue
            width, num_values = width // 2, 2
        elif kind == "joint":
            same_width = [j for j in available if widths[j] == width]
            name, args = draw(st.sampled_from(sorted(JOINTS))), (source, draw(st.sampled_from(same_width)))
        else:
            name = draw(
                st.sampled_from(
                    sorted({"activation": ACTIVATIONS, "move": MOVES, "mixer": MIXERS, "pixels": PIXELS}[kind])
                )
            )
            width += {"tail": -1, "evens": -(width // 2), "pad": 1, "twice": width}.get(name, 0)
            if not width:
                continue
        steps.append((name, args, module))
        widths.extend([width] * num_values)
        read.update(args)
    assume(steps)
    unread = [j for j in range(1, len(widths)) if j not in read]
    heads = nn.ModuleList(nn.Linear(widths[j] * (9 if images else 1), 2) for j in unread)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    return RandomNet(steps, unread, heads), x


def _convolution(draw: st.DrawFn, inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    groups = draw(st.sampled_from([g for g in (1, 2) if inputs % g == 0 and outputs % g == 0]))
    size = draw(st.sampled_from([1, 3]))
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=bias)
