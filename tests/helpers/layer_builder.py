"""Random layers with matching shapes, for the networks of `tests.helpers.strategies`."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

# PReLU is listed twice to be drawn more often: it has a parameter for each unit
ACTIVATIONS = (
    nn.ReLU, nn.PReLU, nn.PReLU, nn.LeakyReLU, nn.Tanh, nn.Sigmoid, nn.ELU, nn.SiLU, nn.GELU, nn.SELU, nn.Identity,
)  # fmt: skip
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class LayerBuilder:
    """Appends random layers to ``modules`` and tracks the shape of the output.

    ``shape`` is the shape of one input sample; ``channels``, ``time`` and ``space`` describe the last layer's output.
    """

    def __init__(self, draw: st.DrawFn, norms: tuple[str, ...], dropout: bool, padding: bool, bias: bool) -> None:
        self.draw, self.norms, self.dropout, self.padding, self.bias = draw, norms, dropout, padding, bias
        self.modules: list[nn.Module] = []

    def maybe(self) -> bool:
        return self.draw(st.booleans())

    def start_conv(self, dims: int) -> None:
        self.channels = self.draw(st.integers(1, 3))
        self.space = [self.draw(st.integers(3, 5)) for _ in range(dims)]
        self.time: list[int] = []
        self.shape: tuple[int, ...] = (self.channels, *self.space)

    def start_linear(self) -> None:
        self.channels, self.space = self.draw(st.integers(1, 4)), []
        self.time = self.draw(st.sampled_from([[], [2]]))
        self.shape = (*self.time, self.channels)

    def linear(self) -> None:
        units = self.draw(st.integers(1, 6))
        self.modules.append(nn.Linear(self.channels, units, bias=self.bias or self.maybe()))
        self.channels = units

    def convolution(self) -> None:
        dims = len(self.space)
        groups = self.draw(st.sampled_from([g for g in range(1, self.channels + 1) if self.channels % g == 0]))
        units = groups * self.draw(st.integers(1, max(1, 6 // groups)))
        kernel = [self.draw(st.integers(1, min(3, size))) for size in self.space]
        fits_dilated = all(2 * (k - 1) < size for k, size in zip(kernel, self.space, strict=True))
        stride, dilation = self.draw(st.integers(1, 2)), self.draw(st.integers(1, 2)) if fits_dilated else 1
        padding = self.draw(st.integers(0, 1)) if self.padding else 0
        self.space = [
            (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
            for size, k in zip(self.space, kernel, strict=True)
        ]
        self.modules.append(
            CONVS[dims - 1](
                self.channels, units, kernel, stride, padding, dilation, groups, bias=self.bias or self.maybe()
            )
        )
        self.channels = units

    def flatten(self) -> None:
        self.modules.append(nn.Flatten())
        for size in self.space:
            self.channels *= size
        self.space = []
        if "flat" in self.norms and self.maybe():
            norm = nn.LayerNorm if self.maybe() else nn.BatchNorm1d
            self.modules.append(norm(self.channels))

    def norm_and_activation(self) -> None:
        """Add an activation, and possibly a norm, pooling and dropout."""
        norm = self.norm()
        before = self.maybe()
        if norm is not None and before:
            self.modules.append(norm)
        self.activation()
        if norm is not None and not before:
            self.modules.append(norm)
        if self.space and self.maybe():
            self.pool()
        if self.dropout and self.maybe():
            self.modules.append(nn.Dropout(0.3))

    def norm(self) -> nn.Module | None:
        usable = [kind for kind in self.norms if kind == "layer" or (kind in ("batch", "group") and not self.time)]
        kind = self.draw(st.sampled_from([None, *usable]))
        affine = self.draw(st.sampled_from([True, True, False]))
        if kind == "batch":
            return BATCH_NORMS[max(len(self.space), 1) - 1](
                self.channels, affine=affine, track_running_stats=affine or self.maybe()
            )
        if kind == "group":
            groups = [g for g in range(1, self.channels + 1) if self.channels % g == 0]
            return nn.GroupNorm(self.draw(st.sampled_from(groups)), self.channels, affine=affine)
        if kind == "layer":
            full_shape = [self.channels, *self.space] if self.space else [*self.time, self.channels]
            last_dims = self.space or [self.channels]
            shape = full_shape if self.maybe() else last_dims
            return nn.LayerNorm(shape, elementwise_affine=affine, bias=self.maybe())
        return None

    def activation(self) -> None:
        kind = self.draw(st.sampled_from(ACTIVATIONS))
        per_unit = kind is nn.PReLU and not self.time  # PReLU applies its weights along the second dimension
        self.modules.append(nn.PReLU(self.channels if per_unit else 1) if kind is nn.PReLU else kind())

    def pool(self) -> None:
        dims = len(self.space)
        if min(self.space) < 2:
            return
        kinds = MAX_POOLS if self.maybe() else AVERAGE_POOLS
        padding = int(self.padding and self.maybe())
        self.modules.append(kinds[dims - 1](2, padding=padding))
        self.space = [(size + 2 * padding - 2) // 2 + 1 for size in self.space]
