"""A model with inputs on which groups are checked, and functions that run it with changed weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class ModelUnderTest:
    """A model with example inputs, in double precision, with randomized parameters and without dropout."""

    def __init__(self, model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.model = model.double()
        self.args = tuple(_double(value) for value in args)
        self.kwargs = {name: _double(value) for name, value in (kwargs or {}).items()}
        randomize(model, 0)
        for module in model.modules():
            if isinstance(module, DROPOUT):
                module.p = 0.0

    def run(self, training: bool = False) -> list[Tensor]:
        """All tensors that the model returns; restores running statistics and the random generator of torch."""
        with self.unchanged(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.model.train(training)
            torch.manual_seed(0)
            outputs = [value.clone() for value in _tensors(self.model(*self.args, **self.kwargs))]
        assert outputs
        assert all(value.isfinite().all() for value in outputs if value.is_floating_point())
        return outputs

    @contextmanager
    def fixed_outputs(self, modules: Sequence[nn.Module], training: bool = False) -> Iterator[None]:
        """Context in which some modules return their present outputs whatever they read."""
        returned: list[Tensor] = []
        call = itertools.count()
        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(lambda _m, _a, output: returned.append(output)).remove)
            self.run(training)
        with ExitStack() as stack:
            for module in modules:
                hook = module.register_forward_hook(lambda _m, _a, _o: returned[next(call) % len(returned)].clone())
                stack.callback(hook.remove)
            yield

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Context that restores the model's tensors and modes on exit."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        saved = [tensor.detach().clone() for tensor in tensors]
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(tensors, saved, strict=True):
                    tensor.copy_(value)
            for module, mode in modes:
                module.training = mode


def randomize(model: nn.Module, seed: int) -> None:
    """Random parameters and running statistics, scaled so that signals pass through deep networks."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
            if parameter.ndim > 1:
                parameter.copy_(1.5 * noise / max(1, parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(0.3 * noise + (parameter.mean() > 0.5).to(noise))  # norms' weights about 1
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.3 * torch.randn(value.shape, generator=draw))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=draw))


def is_weight_layer(module: nn.Module) -> bool:
    """True for a linear layer, a convolution, or the transposed linear layer (Conv1D) of transformers."""
    return isinstance(module, (nn.Linear, *CONVOLUTIONS)) or type(module).__name__ == "Conv1D"


def is_depthwise(module: nn.Module) -> bool:
    """True for a depthwise convolution."""
    return isinstance(module, CONVOLUTIONS) and module.groups > 1 and module.weight.shape[1] == 1


def nan_readers(
    subject: ModelUnderTest,
    sources: Sequence[tuple[nn.Module, Tensor]],
    passed: Sequence[nn.Module] = (),
    channels: Sequence[int] = (),
) -> dict[str, list[int]]:
    """Input positions of weight layers that become nan if outputs of some layers are nan, by the layers' names.

    Every weight layer except those ``passed`` replaces nan in its input by 0, so nan spreads only to the first weight
    layers. If nan also reaches the output of the model, the name "" is included.

    Args:
        subject: the model, run in evaluation mode.
        sources: layers or norms, with the outputs that become nan.
        passed: depthwise convolutions that pass nan on.
        channels: channels of the first input that become nan as well.
    """
    read: dict[str, list[int]] = {}

    def recording(name: str) -> Callable[..., Any]:
        def record_and_clear(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nan = args[0].isnan()
            if nan.any():
                dim = args[0].ndim - (module.weight.ndim - 1 if isinstance(module, CONVOLUTIONS) else 1)
                others = [d for d in range(nan.ndim) if d != dim]
                read[name] = nan.any(others).nonzero().flatten().tolist()
            return (args[0].masked_fill(nan, 0.0), *args[1:])

        return record_and_clear

    inputs = list(subject.args)
    if channels:
        inputs[0] = inputs[0].index_fill(1, torch.tensor(channels), torch.nan)
    with subject.unchanged(), torch.no_grad(), ExitStack() as stack:
        subject.model.eval()
        for name, module in subject.model.named_modules():
            if is_weight_layer(module) and not any(module is other for other in passed):
                stack.callback(module.register_forward_pre_hook(recording(name)).remove)
        for module, rows in sources:
            weight, *bias = module.parameters(recurse=False)
            is_entry = weight.numel() == max(weight.shape)  # one number for each unit, such as (1, 1, 1, 8)
            dim = list(weight.shape).index(weight.numel()) if is_entry else int(type(module).__name__ == "Conv1D")
            weight.index_fill_(dim, rows, torch.nan)
            for each in bias:
                each.index_fill_(dim if each.ndim > 1 else 0, rows, torch.nan)
        with (
            torch.enable_grad()
        ):  # without gradients torch's transformer layers use a fused implementation that skips the hooks
            outputs = subject.model(*inputs, **subject.kwargs)
        if any(value.isnan().any() for value in _tensors(outputs)):
            read[""] = []
    return dict(sorted(read.items()))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for name in value:
            yield from _tensors(value[name])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
