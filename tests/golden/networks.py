"""The networks, losses and optimizers of the golden traces."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from tests.golden.reference_adam import ReferenceAdam
from tests.golden.traces import Trace

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "swish": nn.SiLU,
    "selu": nn.SELU,
}
LOSSES = {"mse": nn.functional.mse_loss, "nll": nn.functional.cross_entropy}


def build(trace: Trace, dtype: torch.dtype) -> nn.Sequential:
    """The network of a trace before step 0."""
    net = nn.Sequential(*_modules(trace)).to(dtype)
    with torch.no_grad():
        for name, value in parameters(net).items():
            value.copy_(torch.from_numpy(trace[f"init/{name}"]))
    return net


def _modules(trace: Trace) -> list[nn.Module]:
    act = ACTIVATIONS[trace.act]
    if "ops" not in trace.meta:
        widths = [trace.in_shape[0], *[trace.width] * trace.n_hidden, trace.n_out]
        return [module for n, m in pairwise(widths) for module in (nn.Linear(n, m), act())][:-1]
    modules: list[nn.Module] = []
    for kind, *args in trace.ops:
        if kind == "lin":
            modules.append(nn.Linear(*args[1:]))
        elif kind == "conv":
            modules.append(nn.Conv2d(*args[1:]))
        elif kind == "act":
            modules.append(act())
        elif kind == "pool":
            modules.append(nn.MaxPool2d(args[0]))
        elif kind == "flatten":
            modules.append(nn.Flatten())
        else:
            assert kind == "feat", f"unknown op {kind!r}"
    return modules


def weight_layers(net: nn.Sequential) -> list[nn.Module]:
    """The modules with weights, in order."""
    return [module for module in net if isinstance(module, (nn.Linear, nn.Conv2d))]


def parameters(net: nn.Sequential) -> dict[str, nn.Parameter]:
    """Parameters by their names in the traces: W0, b0, W1, ..."""
    named: dict[str, nn.Parameter] = {}
    for i, layer in enumerate(weight_layers(net)):
        named |= {f"W{i}": layer.weight, f"b{i}": layer.bias}
    return named


def optimizer(trace: Trace, net: nn.Sequential) -> torch.optim.Optimizer:
    """The optimizer of a trace: torch's SGD, or the reference's formula for "adam"."""
    if trace.opt == "sgd":
        return torch.optim.SGD(net.parameters(), trace.lr, momentum=trace.momentum, weight_decay=trace.wd)
    keep = trace.kind == "conv"
    return ReferenceAdam(net.parameters(), trace.lr, tuple(trace.betas), trace.wd, keep_incoming_moment=keep)


def learn(net: nn.Sequential, opt: torch.optim.Optimizer, trace: Trace, t: int) -> tuple[Tensor, Tensor]:
    """Run forward, backward and optimizer step on the data of step t. Returns loss and output before the step."""
    x, y = trace.batch(t, next(net.parameters()).dtype)
    output = net(x)
    loss = LOSSES[trace.loss](output, y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss.detach(), output.detach()
