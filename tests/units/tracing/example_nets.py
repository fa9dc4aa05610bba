"""Small networks with functional activations, several consumers, gates, skip connections and concatenations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FunctionalMLP(nn.Module):
    """Activations and dropout in forward; the attribute order differs from the order of computation."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.a, self.b = nn.Linear(7, 2), nn.Linear(4, 6), nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.a(x), 0.1)
        return self.head(F.dropout(torch.tanh(self.b(x)), 0.0, self.training))


class FunctionalConvNet(nn.Module):
    """Pooling, a flatten by view, a batch norm, an activation written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.fc1, self.fc2 = nn.Linear(24, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.elu(self.norm(self.conv2(x))), 2, ceil_mode=True)
        x = self.fc1(x.view(x.size(0), -1))
        return self.fc2(x * torch.sigmoid(x))


class ActorCritic(nn.Module):
    """One trunk read by an actor and a critic."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.actor, self.critic, self.log_std = nn.Linear(6, 2), nn.Linear(6, 1), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.trunk(x)
        return self.actor(h), self.log_std.exp(), self.critic(h).squeeze(-1)


class UNet(nn.Module):
    """Skip connections by concatenation; the deepest level is upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 8, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(14, 6, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)
        self.norm, self.out = nn.BatchNorm2d(6), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.down1(x))
        two = F.relu(self.norm(self.down2(F.max_pool2d(one, 2))))
        deep = F.relu(self.middle(F.max_pool2d(two, 2)))
        deep = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        two = F.relu(self.up2(torch.cat([two, deep], 1)))
        two = F.interpolate(two, scale_factor=2.0, mode="nearest")
        return self.out(F.relu(self.up1(torch.cat([two, one], 1))))


class DenseBlock(nn.Module):
    """Every layer reads all layers before it through its own norm, so that a unit has entries in several norms."""

    def __init__(self, norms: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(4 + 3 * i, 3, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 + 3 * i) if norms else nn.Identity() for i in range(3))
        self.head = nn.Linear(13, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], dim=1)
        return self.head(F.relu(x).mean((2, 3)))


class Mixer(nn.Module):
    """MLP-Mixer: units over channels and, on transposed tensors, over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 6, 4, stride=4)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(6), nn.LayerNorm(6), nn.LayerNorm(6)
        self.token = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Dropout(0.1), nn.Linear(5, 4))
        self.channel = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Dropout(0.1), nn.Linear(9, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channel(self.norm2(x))
        return self.head(self.norm3(x).mean(1))


class FusedGate(nn.Module):
    """One layer computes gates and values, which are split by chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.both(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate) * value)


class SqueezeExcite(nn.Module):
    """Channels are scaled by gates computed from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.reduce, self.expand = nn.Linear(6, 3), nn.Linear(3, 6)
        self.project = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return self.project(x * gate[:, :, None, None])


class Shuffled(nn.Module):
    """ShuffleNet: grouped convolutions, and a channel shuffle between the groups."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.squeeze = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.expand(x))
        x = x.unflatten(1, (2, 3)).transpose(1, 2).flatten(1, 2)
        return self.head(F.relu(self.squeeze(self.norm(self.depthwise(x)))).mean((2, 3)))


class Generator(nn.Module):
    """DCGAN-like generator by resize and convolution: outputs of a linear layer become channels with pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.norm0 = nn.Linear(5, 24), nn.BatchNorm2d(6)
        self.conv1, self.norm1, self.conv2 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.start(z).view(-1, 6, 2, 2)))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, scale_factor=2.0))), 0.2)
        return torch.tanh(self.conv2(F.interpolate(x, scale_factor=2.0, mode="bilinear")))


class SharedEncoder(nn.Module):
    """An encoder with two decoders, one of which reads its features twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 6)
        self.classify, self.rebuild = nn.Linear(12, 3), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = F.gelu(self.encoder(x))
        return {"classes": self.classify(torch.cat([h, h], -1)), "input": self.rebuild(h)}


class Recurrent(nn.Module):
    """An LSTM between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Linear(3, 4), nn.LSTM(4, 5, batch_first=True)
        self.hidden, self.out = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(self.rnn(F.relu(self.embed(x)))[0])))


class Siamese(nn.Module):
    """One tower called on two inputs, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
        self.head = nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(torch.cat([self.tower(a), self.tower(b)], -1))


class AuxiliaryHead(nn.Module):
    """A second head reads the hidden units in training mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.head, self.aux = nn.Linear(5, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = F.relu(self.first(x))
        y = self.head(F.relu(self.second(h)))
        return (y, self.aux(h)) if self.training else (y,)


class TiedAutoencoder(nn.Module):
    """The decoder uses the transposed weight of the encoder; an ordinary network follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.hidden, self.out = nn.Linear(4, 6), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        code = F.relu(self.encoder(x))
        return self.out(F.relu(self.hidden(code @ self.encoder.weight)))


class Transformer(nn.Module):
    """Transformer layers of torch, which have a fused implementation for evaluation without gradients."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class Upscaler(nn.Module):
    """A transposed convolution, and a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.transposed = nn.Conv2d(2, 4, 3, padding=1), nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.second, self.third, self.out = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 4, 3), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.transposed(F.relu(self.first(x))))
        return self.out(F.relu(self.third(F.pixel_shuffle(F.relu(self.second(x)), 2))))


class TwoValues(nn.Module):
    """A consumer reads two different values of each unit, with different means."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 5), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.gelu(self.hidden(x))
        return self.out(torch.cat([h, h * h], -1))
