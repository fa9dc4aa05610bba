"""Subjects of proofs: a model with inputs, and questions that are put to it by running it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class Subject:
    """A model with example inputs, in double precision, every parameter away from its value at birth, no dropout."""

    def __init__(self, model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> None:
        self.model = model.double()
        self.args = tuple(_double(value) for value in args)
        self.kwargs = {name: _double(value) for name, value in (kwargs or {}).items()}
        randomise(model, 0)
        for module in model.modules():
            if isinstance(module, DROPOUT):
                module.p = 0.0

    def run(self, training: bool = False) -> list[Tensor]:
        """All tensors that the model returns; running statistics and torch's generator stay as they are."""
        with self.unchanged(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.model.train(training)
            torch.manual_seed(0)
            outputs = [value.clone() for value in _tensors(self.model(*self.args, **self.kwargs))]
        assert outputs
        assert all(value.isfinite().all() for value in outputs if value.is_floating_point())
        return outputs

    @contextmanager
    def frozen(self, modules: Sequence[nn.Module], training: bool = False) -> Iterator[None]:
        """Inside, some modules return what they return now, whatever they read."""
        returned: list[Tensor] = []
        turn = itertools.count()
        with ExitStack() as stack:
            for module in modules:
                stack.callback(module.register_forward_hook(lambda _m, _a, output: returned.append(output)).remove)
            self.run(training)
        with ExitStack() as stack:
            for module in modules:
                hook = module.register_forward_hook(lambda _m, _a, _o: returned[next(turn) % len(returned)].clone())
                stack.callback(hook.remove)
            yield

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What happens to the model's tensors and modes inside is undone."""
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


def randomise(model: nn.Module, seed: int) -> None:
    """Random parameters and running statistics, of a size at which signals live through deep networks."""
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


def reads_units(module: nn.Module) -> bool:
    """Whether a module is a weight layer: linear, convolution, or the transposed linear layer of transformers."""
    return isinstance(module, (nn.Linear, *CONVOLUTIONS)) or type(module).__name__ == "Conv1D"


def where_read(
    subject: Subject,
    sources: Sequence[tuple[nn.Module, Tensor]],
    passed: Sequence[nn.Module] = (),
    channels: Sequence[int] = (),
) -> dict[str, list[int]]:
    """Names of weight layers with the input positions that turn nan when outputs of some layers do.

    Every weight layer, other than those ``passed``, washes nan out of its input, so the trail ends there; if it reaches
    the output by another way, the name "" is among the readers.

    Args:
        subject: the model, run in evaluation.
        sources: layers or norms, with the outputs that turn nan.
        passed: depthwise convolutions on the way.
        channels: of the first input, that turn nan as well.
    """
    read: dict[str, list[int]] = {}

    def washing(name: str) -> Callable[..., Any]:
        def wash(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            nan = args[0].isnan()
            if nan.any():
                dim = args[0].ndim - (module.weight.ndim - 1 if isinstance(module, CONVOLUTIONS) else 1)
                others = [d for d in range(nan.ndim) if d != dim]
                read[name] = nan.any(others).nonzero().flatten().tolist()
            return (args[0].masked_fill(nan, 0.0), *args[1:])

        return wash

    inputs = list(subject.args)
    if channels:
        inputs[0] = inputs[0].index_fill(1, torch.tensor(channels), torch.nan)
    with subject.unchanged(), torch.no_grad(), ExitStack() as stack:
        subject.model.eval()
        for name, module in subject.model.named_modules():
            if reads_units(module) and not any(module is other for other in passed):
                stack.callback(module.register_forward_pre_hook(washing(name)).remove)
        for module, rows in sources:
            dim = 1 if type(module).__name__ == "Conv1D" else 0
            module.weight.index_fill_(dim if module.weight.ndim > 1 else 0, rows, torch.nan)
            if getattr(module, "bias", None) is not None:
                module.bias[rows] = torch.nan
        with torch.enable_grad():  # without, torch's transformer layers take a way of their own, past the hooks
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
