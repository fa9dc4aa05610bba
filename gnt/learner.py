"""Learners: a network, a loss, an optimizer and, for continual backpropagation, the engine, in one `learn(x, y)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.engine import GnT
from gnt.intake import Prepared
from gnt.optim import AdamGnT

Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: dict[str, Loss] = {"mse": F.mse_loss, "cross_entropy": F.cross_entropy, "nll": F.cross_entropy}
DEFAULT_STEP_SIZE = 1e-3

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
_UNIT_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": AdamGnT,
    "adamw": AdamGnT,
}


class Step(NamedTuple):
    """What one `learn` did: the loss (0-d) and the output before the update, and the units replaced after it, by
    group.
    """

    loss: Tensor
    output: Tensor
    replaced: list[Tensor]


class Backprop:
    """The baseline: backpropagation with any torch optimizer, one update for each `learn`.

    Args:
        net: a module; called as ``net(x)``, or ``net.predict(x) -> (output, features)`` where it has that method.
        loss: "mse", "cross_entropy" (on logits; "nll" is the same), or a callable (output, target) -> scalar.
        opt: "sgd", "adam", "adamw", or an optimizer that holds the parameters of ``net``.
        step_size: learning rate for an optimizer given by name; 1e-3 by default.
        options: further settings of an optimizer given by name, such as ``momentum``, ``betas``, ``weight_decay``.

    Attributes:
        net: the network.
        opt: the optimizer.

    Raises:
        ValueError: unknown loss or optimizer, or a loss that is not finite (then nothing is changed).
        TypeError: a setting that nothing would use.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> learner = gnt.Backprop(net, opt="adam", step_size=1e-3)
    >>> loss, output, replaced = learner.learn(torch.randn(8, 4), torch.randn(8, 1))
    >>> output.shape, replaced
    (torch.Size([8, 1]), [])
    """

    _optimizers = _OPTIMIZERS

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: str | Loss = "mse",
        opt: str | Optimizer = "sgd",
        step_size: float | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        self.net = net
        self.loss = _find_loss(loss)
        self.opt = self._optimizer(opt, step_size, options)

    def learn(self, x: Tensor, y: Tensor) -> Step:
        """One step of learning on a batch.

        Args:
            x: inputs, samples first.
            y: targets: of the output's shape for mse, class indices (or probabilities) for cross_entropy.

        Returns:
            `Step`: loss and output from before the update, detached, and the units replaced after it.

        Raises:
            ValueError: shapes that mse would broadcast, or a loss that is not a scalar.
            FloatingPointError: the loss is not finite. Nothing was changed.
        """
        output, features = self._forward(x)
        if len(x) == 0:
            self._no_samples()
            return Step(output.new_zeros(()), output.detach(), self._nobody())
        if self.loss is F.mse_loss and output.shape != y.shape:
            raise ValueError(
                f"mse compares output and target element by element: output {tuple(output.shape)}, y {tuple(y.shape)}"
            )
        loss = self.loss(output, y)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, got {got}")
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            self._no_samples()
            raise FloatingPointError(f"the loss is {loss.item()}; nothing was changed. Look at x, y and the step size")
        prepared = self._before_step(features)
        self.opt.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.opt.step()
        return Step(loss.detach(), output.detach(), self._after_step(prepared))

    def state_dict(self) -> dict[str, Any]:
        """State of network and optimizer (and engine), loadable with ``torch.load(weights_only=True)``."""
        return {"net": self.net.state_dict(), "opt": self.opt.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on bit by bit from what `state_dict` gave, in a learner built with the same settings."""
        missing = {"net", "opt"} - set(state_dict)
        if missing:
            raise ValueError(f"state_dict must hold 'net' and 'opt', it lacks {', '.join(sorted(missing))}")
        self.net.load_state_dict(state_dict["net"])
        self.opt.load_state_dict(state_dict["opt"])

    def _forward(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor] | None]:
        if hasattr(self.net, "predict"):
            output, features = self.net.predict(x)  # type: ignore[operator]
            return output, features
        return self.net(x), None

    def _before_step(self, features: Sequence[Tensor] | None) -> Any:
        """Refuse features that could not be used, before anything is changed."""

    def _after_step(self, prepared: Any) -> list[Tensor]:
        return []

    def _nobody(self) -> list[Tensor]:
        return []

    def _no_samples(self) -> None:
        """Forget the features of a forward that no update followed."""

    def _optimizer(self, opt: str | Optimizer, step_size: float | None, options: dict[str, Any]) -> Optimizer:
        if isinstance(opt, Optimizer):
            if step_size is not None or options:
                given = [*(["step_size"] if step_size is not None else []), *options]
                raise TypeError(
                    f"{', '.join(given)} would be ignored: the optimizer {type(opt).__name__} has its own settings"
                )
            return opt
        if opt not in self._optimizers:
            raise ValueError(
                f"opt must be one of {', '.join(self._optimizers)}, or a torch.optim.Optimizer, got {opt!r}"
            )
        make = self._optimizers[opt]
        allowed = [
            name
            for name in inspect.signature(make).parameters
            if name not in ("params", "lr", "decoupled_weight_decay")
        ]
        unknown = [name for name in options if name not in allowed]
        if unknown:
            raise TypeError(
                f"unknown setting {', '.join(unknown)}: {opt} takes {', '.join(allowed)}{self._more_settings()}"
            )
        if opt == "adamw" and make is AdamGnT:
            options = {"weight_decay": 1e-2, **options, "decoupled_weight_decay": True}
        return make(self.net.parameters(), lr=DEFAULT_STEP_SIZE if step_size is None else step_size, **options)

    def _more_settings(self) -> str:
        return ""


class ContinualBackprop(Backprop):
    """Continual backpropagation: backpropagation, then generate and test, one update for each `learn`.

    Args:
        net: a Sequential or a module with ``.layers`` (or any module, with ``layers`` given). With a method
            ``predict(x) -> (output, features)`` the features are taken from it, else they are recorded.
        loss: as for `Backprop`.
        opt: as for `Backprop`; "adam" and "adamw" are `AdamGnT`, whose step counts restart with each unit.
        step_size: as for `Backprop`.
        layers: what the engine walks, where that is not ``net`` itself: a list of layers or unit groups.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
            activation: see `GnT`.
        options: further settings of an optimizer given by name.

    Attributes:
        net: the network.
        opt: the optimizer.
        gnt: the engine.

    Source: Dohare et al., Nature 632 (2024), Algorithm 1.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> learner = gnt.ContinualBackprop(net, opt="adam", step_size=1e-3, replacement_rate=1e-3)
    >>> for _ in range(10):
    ...     step = learner.learn(torch.randn(8, 4), torch.randn(8, 1))
    >>> [len(units) for units in step.replaced]
    [0]
    """

    _optimizers = _UNIT_OPTIMIZERS

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: str | Loss = "mse",
        opt: str | Optimizer = "sgd",
        step_size: float | None = None,
        layers: Any = None,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        decay_rate: float = 0.99,
        utility: str = "contribution",
        init: str = "kaiming",
        accumulate: bool = True,
        bias_transfer: bool = True,
        generator: torch.Generator | None = None,
        activation: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(net, loss=loss, opt=opt, step_size=step_size, **options)
        self.gnt = GnT(
            net if layers is None else layers,
            self.opt,
            replacement_rate=replacement_rate,
            maturity_threshold=maturity_threshold,
            decay_rate=decay_rate,
            utility=utility,
            init=init,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            generator=generator,
            activation=activation,
            record=not hasattr(net, "predict"),
        )

    def state_dict(self) -> dict[str, Any]:
        """State of network, optimizer and engine, loadable with ``torch.load(weights_only=True)``."""
        return {**super().state_dict(), "gnt": self.gnt.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on bit by bit from what `state_dict` gave, in a learner built with the same settings."""
        if "gnt" not in state_dict:
            raise ValueError("state_dict must hold 'gnt', the engine's state: was it saved by Backprop?")
        self.gnt.load_state_dict(state_dict["gnt"])
        super().load_state_dict(state_dict)

    def _before_step(self, features: Sequence[Tensor] | None) -> Prepared:
        return self.gnt.prepare(features)

    def _after_step(self, prepared: Prepared) -> list[Tensor]:
        return self.gnt.step(prepared)

    def _nobody(self) -> list[Tensor]:
        return [group.state.nobody for group in self.gnt.groups]

    def _no_samples(self) -> None:
        self.gnt.discard()

    def _more_settings(self) -> str:
        engine = [name for name in inspect.signature(GnT).parameters if name not in ("layers", "optimizer", "record")]
        return f"; the engine takes {', '.join(engine)}"


def _find_loss(loss: str | Loss) -> Loss:
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise ValueError(
            f"loss must be one of {', '.join(LOSSES)}, or a callable (output, target) -> scalar, got {loss!r}"
        )
    return LOSSES[loss]
