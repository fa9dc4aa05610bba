"""The training of a generative model, step by step, with a random generator of its own."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from gnt._utils.generators import new_generator
from gnt._utils.optimizer_attachment import require_parameters
from gnt._utils.own_gradients import own_gradients
from gnt._utils.state_dicts import Kind, random_state
from gnt.replay._frozen_copy import FrozenCopy
from gnt.replay._reference_gradients import unlearned


class _Step(NamedTuple):
    """A step that has not been made yet: its gradients, the number of samples, and what undoes its draws."""

    gradients: list[Tensor | None]
    samples: int
    generator: Tensor
    buffers: list[tuple[Tensor, Tensor]]


class ModelTraining:
    """A generative model, its optimizer, and the generator of all draws. A step is computed first and made later.

    Args:
        net: the network that is trained beside.
        model: a module with ``loss(x)`` and ``sample(n)``.
        optimizer: trains the model; None: Adam with its default learning rate.
        generator: on the CPU; None creates one.

    Raises:
        TypeError, ValueError: as `GenerativeReplay`.
    """

    def __init__(self, net: Any, model: Any, optimizer: Any, generator: Any) -> None:
        self.model = _checked_model(net, model)
        if generator is not None and (not isinstance(generator, torch.Generator) or generator.device.type != "cpu"):
            raise TypeError(f"generator must be a torch.Generator on the CPU or None, got {generator!r}")
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if optimizer is None:
            optimizer = Adam(named.values())
        elif not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        require_parameters(optimizer, list(named.values()), list(named), "GenerativeReplay's model")
        self.optimizer: Optimizer = optimizer
        self.generator = new_generator(torch.device("cpu")) if generator is None else generator
        self._next: _Step | None = None
        self._kept: _Step | None = None  # of earlier batches of the same step

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    def sample(self, frozen: FrozenCopy, n: int) -> Tensor:
        """Draw n inputs from the model with the weights of a frozen copy.

        Raises:
            ValueError: the model returns something else.
        """
        with unlearned(self.model, self.device), torch.autocast(self.device.type, enabled=False):
            self._seed()
            x = frozen.run(self.model, self.model.sample, n)  # type: ignore[arg-type]
        if not isinstance(x, Tensor) or not x.ndim or len(x) != n or not x.is_floating_point():
            got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"sample({n}) of {type(self.model).__name__} must return {n} inputs, got {got}")
        return x.detach()

    def begin(self) -> None:
        """Begin a step: keep what `discard` restores."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        self._next = _Step([], 0, self.generator.get_state(), buffers)

    def compute(self, x: Tensor, samples: Tensor | None, share: float) -> None:
        """Compute the gradients of ``share * loss(x) + (1 - share) * loss(samples)``, or of ``loss(x)``.

        Raises:
            ValueError: the loss is not a scalar with a gradient.
            FloatingPointError: it is not finite (checked on the CPU).
        """
        assert self._next is not None
        device, model = self.device, self.model
        dtype = next(model.parameters()).dtype
        forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
        with forked, torch.enable_grad(), torch.autocast(device.type, enabled=False):
            self._seed()
            loss: Any = model.loss(x.detach().to(device, dtype))  # type: ignore[operator]
            if samples is not None:
                loss = share * loss + (1 - share) * model.loss(samples.to(device, dtype))  # type: ignore[operator]
            if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
                got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f"loss of {type(model).__name__} must return a scalar with a gradient, got {got}")
            if device.type == "cpu" and not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the loss of {type(model).__name__} is {loss.item()}; nothing was changed. Look at x and the "
                    "model's learning rate"
                )
            gradients = torch.autograd.grad(loss, _trained(model), allow_unused=True)
        self._next = self._next._replace(gradients=list(gradients), samples=len(x))

    def keep(self) -> None:
        """Keep the step that was computed: it becomes one with the next one, with the mean over all samples."""
        self._next, self._kept = None, self._joined()

    def _joined(self) -> _Step | None:
        if self._next is None or self._kept is None:
            return self._kept if self._next is None else self._next
        samples = self._kept.samples + self._next.samples
        share = self._next.samples / samples
        pairs = zip(self._kept.gradients, self._next.gradients, strict=True)
        means = [_weighted(old, 1 - share, new, share) for old, new in pairs]
        return self._kept._replace(gradients=means, samples=samples)

    def step(self) -> bool:
        """Make the step that was computed; False if there is none."""
        step, self._next, self._kept = self._joined(), None, None
        if step is None:
            return False
        for parameter, gradient in zip(_trained(self.model), own_gradients(step.gradients), strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        return True

    @torch.no_grad()
    def discard(self) -> None:
        """Undo what a step that is not made has drawn."""
        step, self._next, self._kept = self._kept or self._next, None, None
        if step is not None:
            self.generator.set_state(step.generator)
            for buffer, value in step.buffers:
                buffer.copy_(value)

    def _seed(self) -> None:
        """Seed torch's global generators, which the caller restores, from the own one."""
        seed = int(torch.randint(2**63 - 1, (), generator=self.generator, device="cpu"))
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Model, optimizer and generator."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.get_state(),
        }

    def kinds(self) -> dict[str, Kind]:
        """The kinds of the entries of `state_dict`."""
        return {
            "model": lambda _, saved: saved,
            "optimizer": lambda _, saved: saved,
            "generator": random_state(self.generator),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Load checked entries.

        Raises:
            ValueError: a model or an optimizer that does not fit. Nothing is changed.
        """
        before = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        except Exception as error:
            self.model.load_state_dict(before[0])
            self.optimizer.load_state_dict(before[1])
            raise ValueError(f"state_dict holds a model or an optimizer that does not fit: {error}") from error
        self.generator.set_state(state["generator"])
        self._next = self._kept = None


def _checked_model(net: Any, model: Any) -> nn.Module:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if not isinstance(model, nn.Module) or not all(callable(getattr(model, name, None)) for name in ("loss", "sample")):
        raise TypeError(f"model must be a torch.nn.Module with loss(x) and sample(n), got {type(model).__name__}")
    if not _trained(model):
        raise ValueError(
            f"model must have parameters that require a gradient, and this {type(model).__name__} has none"
        )
    own = set(map(id, net.parameters()))
    shared = [name for name, parameter in model.named_parameters() if id(parameter) in own]
    if shared:
        raise ValueError(f"model must have parameters of its own; {shared[0]} is one of net")
    return model


def _weighted(first: Tensor | None, share: float, second: Tensor | None, other_share: float) -> Tensor | None:
    """``share * first + other_share * second``, where None is 0."""
    if first is None or second is None:
        present, factor = (second, other_share) if first is None else (first, share)
        return None if present is None else present * factor
    return share * first + other_share * second


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
