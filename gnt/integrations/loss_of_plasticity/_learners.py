"""The learners with the arguments, defaults and return values of the loss-of-plasticity repository."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

import gnt
from gnt._utils.validation import finite_number
from gnt.names import InitName, LossName, OptimizerName, Utility
from gnt.replacement import GnT

_LOSSES = ("nll", "mse")


def _options(opt: str, momentum: float, betas: tuple[float, float], weight_decay: float) -> dict[str, Any]:
    """The options of the optimizer: SGD reads the momentum, Adam and AdamW the betas."""
    return {"weight_decay": weight_decay, **({"momentum": momentum} if opt == "sgd" else {"betas": betas})}


def _check(loss: str, opt: str, optimizers: tuple[str, ...], device: str | torch.device, net: nn.Module) -> None:
    for name, value, allowed in (("loss", loss, _LOSSES), ("opt", opt, optimizers)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    expected = torch.device(device).type
    found = {param.device.type for param in net.parameters()}
    if found != {expected}:
        raise ValueError(f"device is {expected!r}, but the network's parameters are on {', '.join(sorted(found))}")


class _Learner:
    """What the learners have in common: ``net``, ``opt`` and ``learn(x, target)``."""

    def __init__(self, learner: gnt.Backprop, loss: LossName) -> None:
        self.learner, self.loss = learner, loss

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self.learner.net

    @property
    def opt(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.learner.opt

    def learn(self, x: Tensor, target: Tensor) -> Any:
        """Learn from one batch.

        Returns:
            As the published code does: the loss, or, with ``loss="nll"``, the loss and the network's output.
        """
        step = self.learner.learn(x, target)
        return (step.loss, step.output) if self.loss == "nll" else step.loss


class Backprop(_Learner):
    """`gnt.Backprop` with the arguments of ``lop.algos.bp.Backprop``.

    Args:
        net: a network with ``predict(x) -> (output, features)``.
        step_size: learning rate.
        loss: "mse" or "nll" (cross entropy of logits).
        opt: "sgd", "adam" or "adamW".
        beta_1, beta_2: decay rates of Adam's moments.
        weight_decay: of the optimizer.
        to_perturb: after each step, add normal noise to all parameters (`gnt.ShrinkAndPerturb` with shrink 1).
        perturb_scale: standard deviation of that noise.
        device: where the network is; move it there yourself.
        momentum: of SGD.

    Attributes:
        learner: the `gnt.Backprop`, for ``state_dict()`` and ``methods``.

    Raises:
        ValueError: an unknown loss or optimizer, or a network on another device.

    >>> import torch
    >>> from gnt.integrations.loss_of_plasticity import Backprop
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    >>> Backprop(net, step_size=0.01).learn(x=torch.randn(1, 4), target=torch.randn(1, 1)).shape
    torch.Size([])
    """

    def __init__(
        self,
        net: nn.Module,
        step_size: float = 0.001,
        loss: LossName = "mse",
        opt: Literal["sgd", "adam", "adamW"] = "sgd",
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        weight_decay: float = 0.0,
        to_perturb: bool = False,
        perturb_scale: float = 0.1,
        device: str | torch.device = "cpu",
        momentum: float = 0,
    ) -> None:
        _check(loss, opt, ("sgd", "adam", "adamW"), device, net)
        finite_number("perturb_scale", perturb_scale)
        methods = []
        if to_perturb:
            methods.append(gnt.ShrinkAndPerturb(net, shrink=1.0, noise=perturb_scale, distribution="normal"))
        options = _options(opt, momentum, (beta_1, beta_2), weight_decay)
        super().__init__(
            gnt.Backprop(
                net, loss=loss, opt=cast(OptimizerName, opt.lower()), step_size=step_size, methods=methods, **options
            ),
            loss,
        )


class ContinualBackprop(_Learner):
    """`gnt.ContinualBackprop` with the arguments and defaults of ``lop.algos.cbp.ContinualBackprop``.

    Args:
        net: a network with ``layers``, ``act_type`` and ``predict(x) -> (output, features)``.
        step_size: learning rate.
        loss: "mse" or "nll" (cross entropy of logits).
        opt: "sgd" or "adam" (`gnt.AdamGnT`).
        beta, beta_2: decay rates of Adam's moments.
        replacement_rate, decay_rate, maturity_threshold, init, accumulate: as for `gnt.GnT`; the defaults are the
            published ones, not those of gnt.
        device: where the network is; move it there yourself.
        util_type: the measure of utility, ``utility`` of `gnt.GnT`.
        momentum: of SGD.
        outgoing_random: only False, as in the published code, which does not read it.
        weight_decay: of the optimizer.
        bias_transfer: as for `gnt.GnT`. The published code transfers nothing, because of an error.

    Attributes:
        learner: the `gnt.ContinualBackprop`, for ``state_dict()`` and ``methods``.
        gnt: its engine.

    Raises:
        ValueError: an unknown loss or optimizer, a network on another device, or a setting out of range.

    >>> import torch
    >>> from gnt.integrations.loss_of_plasticity import ContinualBackprop
    >>> class Net(torch.nn.Module):
    ...     act_type = "relu"
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)])
    ...     def predict(self, x):
    ...         features = self.layers[1](self.layers[0](x))
    ...         return self.layers[2](features), [features]
    >>> learner = ContinualBackprop(Net(), loss="nll", util_type="adaptable_contribution", accumulate=True)
    >>> loss, output = learner.learn(x=torch.randn(2, 4), target=torch.tensor([0, 2]))
    >>> output.shape
    torch.Size([2, 3])
    """

    learner: gnt.ContinualBackprop

    def __init__(
        self,
        net: nn.Module,
        step_size: float = 0.001,
        loss: LossName = "mse",
        opt: OptimizerName = "sgd",
        beta: float = 0.9,
        beta_2: float = 0.999,
        replacement_rate: float = 0.001,
        decay_rate: float = 0.9,
        device: str | torch.device = "cpu",
        maturity_threshold: int = 100,
        util_type: Utility = "contribution",
        init: InitName = "kaiming",
        accumulate: bool = False,
        momentum: float = 0,
        outgoing_random: bool = False,
        weight_decay: float = 0,
        bias_transfer: bool = False,
    ) -> None:
        _check(loss, opt, ("sgd", "adam"), device, net)
        if outgoing_random:
            raise ValueError("outgoing_random must be False: the outgoing weights of new units are zero")
        activation = getattr(net, "act_type", None)
        learner = gnt.ContinualBackprop(
            net,
            loss=loss,
            opt=opt,
            step_size=step_size,
            replacement_rate=replacement_rate,
            decay_rate=decay_rate,
            maturity_threshold=maturity_threshold,
            utility=util_type,
            init="lecun" if activation == "selu" else init,
            activation=activation,
            accumulate=accumulate,
            bias_transfer=bias_transfer,
            **_options(opt, momentum, (beta, beta_2), weight_decay),
        )
        super().__init__(learner, loss)

    @property
    def gnt(self) -> GnT:
        """The engine."""
        return self.learner.gnt


class ConvCBP(ContinualBackprop):
    """`gnt.ContinualBackprop` with the arguments and defaults of ``lop.algos.convCBP.ConvCBP``: see ContinualBackprop.

    Fractions of a unit that are due are carried over (``accumulate=True``), and ``learn`` returns loss and output for
    every loss.

    >>> import torch
    >>> from gnt.integrations.loss_of_plasticity import ConvCBP
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 2))
    >>> loss, output = ConvCBP(net, loss="nll").learn(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    """

    def __init__(
        self,
        net: nn.Module,
        step_size: float = 0.001,
        loss: LossName = "mse",
        opt: OptimizerName = "sgd",
        beta: float = 0.9,
        beta_2: float = 0.999,
        replacement_rate: float = 0.0001,
        decay_rate: float = 0.9,
        init: InitName = "kaiming",
        util_type: Utility = "contribution",
        maturity_threshold: int = 100,
        device: str | torch.device = "cpu",
        momentum: float = 0,
        weight_decay: float = 0,
        bias_transfer: bool = False,
    ) -> None:
        super().__init__(
            net,
            step_size=step_size,
            loss=loss,
            opt=opt,
            beta=beta,
            beta_2=beta_2,
            replacement_rate=replacement_rate,
            decay_rate=decay_rate,
            device=device,
            maturity_threshold=maturity_threshold,
            util_type=util_type,
            init=init,
            accumulate=True,
            momentum=momentum,
            weight_decay=weight_decay,
            bias_transfer=bias_transfer,
        )

    def learn(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Learn from one batch; returns the loss and the network's output."""
        step = self.learner.learn(x, target)
        return step.loss, step.output
