"""Learners: a network, a loss, an optimizer and, for continual backpropagation, the engine, in one `learn(x, y)`."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.validation import check_flags
from gnt.importance._intake import Prepared
from gnt.learners._compile import Graphs, Watch, not_finite
from gnt.learners._resolve import OPTIMIZERS, UNIT_OPTIMIZERS, Loss, find_loss, find_optimizer
from gnt.replacement.engine import ENGINE_SETTINGS, GnT
from gnt.replacement.layers import CBPLayer


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
        compile: run the whole of `learn` as one compiled graph, from the second step with inputs of a shape on
            (`gnt.one_graph`; docs/compiling.md says what that asks of network and optimizer). The same numbers up to
            rounding, but gradients are not left in ``p.grad``.
        options: further settings of an optimizer given by name, such as ``momentum``, ``betas``, ``weight_decay``.

    Attributes:
        net: the network.
        opt: the optimizer.

    Raises:
        ValueError: unknown loss or optimizer, or a loss that is not finite (then nothing is changed).
        TypeError: a setting that nothing would use, or, with ``compile``, an optimizer that cannot be compiled.
        RuntimeError: ``compile`` without a compiler that works; in `learn`, a network that cannot be compiled.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> learner = gnt.Backprop(net, opt="adam", step_size=1e-3)
    >>> loss, output, replaced = learner.learn(torch.randn(8, 4), torch.randn(8, 1))
    >>> output.shape, replaced
    (torch.Size([8, 1]), [])
    """

    _optimizers = OPTIMIZERS
    _engine_settings: tuple[str, ...] = ()

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: str | Loss = "mse",
        opt: str | Optimizer = "sgd",
        step_size: float | None = None,
        compile: bool = False,
        **options: Any,
    ) -> None:
        check_flags(compile=compile)
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        self.net = net
        self.loss = find_loss(loss)
        self.opt = find_optimizer(net, opt, step_size, options, self._optimizers, self._engine_settings)
        self._graphs = Graphs(net, self.opt) if compile else None

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
        step = self._graphs.learn(self, x, y) if self._graphs is not None else None
        return step if step is not None else self._learn(x, y)

    def _learn(self, x: Tensor, y: Tensor) -> Step:
        """`learn`, operation by operation."""
        held = (module._buffers for module in self.net.modules() if module._buffers)  # .buffers() makes names, too
        buffers = [(b, b.clone()) for named in held for b in named.values() if b is not None]
        try:
            output, loss, prepared = self._test(x, y)
        except Exception:
            self._undo(buffers)
            raise
        if len(x) == 0:
            self._undo(buffers)
            return Step(output.new_zeros(()), output.detach(), self._nobody())
        self.opt.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        try:
            prepared = self._after_backward(prepared)
        except Exception:
            self._undo(buffers)
            raise
        self.opt.step()
        return Step(loss.detach(), output.detach(), self._after_step(prepared))

    def _undo(self, buffers: list[tuple[Tensor, Tensor]]) -> None:
        """Nothing is learned from this forward: forget what it left in the engine and in running statistics."""
        self._no_samples()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)

    def _test(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Forward and loss, and all that could be refused of them."""
        output, features = self._forward(x)
        if len(x) == 0:
            return output, output, None
        loss = self._loss_of(output, y)
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise FloatingPointError(self._not_finite(loss))
        return output, loss, self._before_step(features)

    def _loss_of(self, output: Tensor, y: Tensor) -> Tensor:
        """The loss, of which only its value may still be refused."""
        if self.loss is F.mse_loss and output.shape != y.shape:
            raise ValueError(
                f"mse compares output and target element by element: output {tuple(output.shape)}, y {tuple(y.shape)}"
            )
        loss = self.loss(output, y)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"loss must return a scalar tensor, got {got}")
        if not loss.requires_grad:
            raise ValueError("loss must depend on the output: it has no grad_fn, so there is nothing to learn from")
        return loss

    def state_dict(self) -> dict[str, Any]:
        """State of network and optimizer (and engine), loadable with ``torch.load(weights_only=True)``."""
        return {"net": self.net.state_dict(), "opt": self.opt.state_dict(), "kind": type(self.opt).__name__}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on bit by bit from what `state_dict` gave, in a learner built with the same settings."""
        if not isinstance(state_dict, dict) or not {"net", "opt", "kind"} <= set(state_dict):
            raise ValueError("state_dict must be what state_dict() gave, with 'net', 'opt' and 'kind'")
        if state_dict["kind"] != type(self.opt).__name__:
            raise ValueError(
                f"state_dict is of optimizer {state_dict['kind']}, this learner's is {type(self.opt).__name__}"
            )
        before = copy.deepcopy(Backprop.state_dict(self))
        try:
            self.net.load_state_dict(state_dict["net"])
            self.opt.load_state_dict(state_dict["opt"])
        except Exception:
            self.net.load_state_dict(before["net"])
            self.opt.load_state_dict(before["opt"])
            raise

    def _forward(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor] | None]:
        if hasattr(self.net, "predict"):
            result = self.net.predict(x)  # type: ignore[operator]
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(
                    f"predict of {type(self.net).__name__} must return (output, features), got {type(result).__name__}"
                )
            return result
        return self.net(x), None

    def _before_step(self, features: Sequence[Tensor] | None) -> Any:
        """Refuse features that could not be used, before anything is changed."""

    def _after_backward(self, prepared: Any) -> Any:
        return prepared

    def _after_step(self, prepared: Any) -> list[Tensor]:
        return []

    def _nobody(self) -> list[Tensor]:
        return []

    def _not_finite(self, loss: Tensor) -> str:
        return not_finite(loss)

    def _watch(self) -> Watch | None:
        """The engine's update as a part of the compiled graph; None where there is no engine."""
        return None

    def _no_samples(self) -> None:
        """Forget the features of a forward that no update followed."""
        for module in self.net.modules():
            if isinstance(module, CBPLayer):
                module.discard()
        if isinstance(getattr(self.opt, "gnt", None), GnT):
            self.opt.gnt.discard()  # type: ignore[attr-defined]


class ContinualBackprop(Backprop):
    """Continual backpropagation: backpropagation, then generate and test, one update for each `learn`.

    Args:
        net: a Sequential or a module with ``.layers`` (or any module, with ``layers`` given). With a method
            ``predict(x) -> (output, features)`` the features are taken from it, else they are recorded.
        loss: as for `Backprop`.
        opt: as for `Backprop`; "adam" and "adamw" are `AdamGnT`, whose step counts restart with each unit.
        step_size: as for `Backprop`.
        compile: as for `Backprop`; the engine's update is part of the graph.
        layers: what the engine walks, where that is not ``net`` itself: a list of layers or unit groups.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
            activation, process_group: see `GnT`.
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

    _optimizers = UNIT_OPTIMIZERS
    _engine_settings = tuple(name for name in ENGINE_SETTINGS if name != "kernels")

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
        accumulate: bool | str = True,
        bias_transfer: bool = True,
        generator: torch.Generator | None = None,
        activation: str | None = None,
        process_group: Any = None,
        compile: bool = False,
        **options: Any,
    ) -> None:
        if hasattr(opt, "gnt"):
            raise ValueError(f"{type(opt).__name__} brings an engine of its own: give it to Backprop")
        super().__init__(net, loss=loss, opt=opt, step_size=step_size, compile=compile, **options)
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
            process_group=process_group,
            record=not hasattr(net, "predict"),
        )

    def state_dict(self) -> dict[str, Any]:
        """State of network, optimizer and engine, loadable with ``torch.load(weights_only=True)``."""
        return {**super().state_dict(), "gnt": self.gnt.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on bit by bit from what `state_dict` gave, in a learner built with the same settings."""
        if not isinstance(state_dict, dict) or "gnt" not in state_dict:
            raise ValueError("state_dict must hold 'gnt', the engine's state: was it saved by Backprop?")
        before = self.gnt.state_dict()
        self.gnt.load_state_dict(state_dict["gnt"])
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.gnt.load_state_dict(before)
            raise

    def _before_step(self, features: Sequence[Tensor] | None) -> Prepared | None:
        if features is None and not self.gnt.feature_buffer.complete:
            return None  # a checkpoint with use_reentrant=True shows its features in the backward
        return self.gnt.take_features(features)

    def _after_backward(self, prepared: Prepared | None) -> Prepared:
        if prepared is None:
            return self.gnt.take_features()
        self.gnt.discard()  # taken before the backward, so that a checkpoint's second forward was recorded as a first
        return prepared

    def _after_step(self, prepared: Prepared) -> list[Tensor]:
        return self.gnt.step_with(prepared)

    def _nobody(self) -> list[Tensor]:
        return [group.state.nobody for group in self.gnt.groups]

    def _watch(self) -> Watch | None:
        return Watch(self.gnt)

    def _no_samples(self) -> None:
        super()._no_samples()
        self.gnt.discard()
