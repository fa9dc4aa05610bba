"""Ensemble: a learner for many seeds, one call of `learn` for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.learners._compile import Watch
from gnt.learners._resolve import Loss
from gnt.learners.backprop import Backprop, ContinualBackprop, Step
from gnt.learners.ensemble import optimizers as elementwise
from gnt.learners.ensemble import validation as checking
from gnt.learners.ensemble.engine import EnsembleGnT, named
from gnt.learners.ensemble.losses import Losses, loss_of_each, losses
from gnt.learners.ensemble.members import grow
from gnt.learners.ensemble.report import EnsembleReport
from gnt.learners.ensemble.stacked_net import StackedNet


class Ensemble(ContinualBackprop):
    """S independent networks of one shape that learn together, each as it would alone, in about the time of one.

    Member s begins as a run alone begins with these two lines, and goes on with the same draws; its numbers are the
    same up to the rounding of batched matrix products::

        torch.manual_seed(seeds[s]); net = make_net()
        learner = gnt.ContinualBackprop(net, ...)       # generator=None: seeded from torch's, as it stands here

    Each member has its own stream of data, its own gradients, its own draws and its own replacements. How many units
    are due is the same function of time for all of them; which ones is not.

    Args:
        make_net: makes a network with its initial weights: a Sequential or a module with ``.layers`` that computes just
            what it lists. Of Linear, Conv1d/2d/3d, BatchNorm, InstanceNorm, GroupNorm, LayerNorm, RMSNorm, Dropout,
            Flatten, poolings and paddings, and activations without parameters.
        seeds: an integer for each member.
        loss: "mse", "cross_entropy" (on logits; "nll" is the same), or a callable (output, target) -> scalar, which is
            called for each member.
        opt: "sgd", "adam", "adamw", or a function (parameters) -> optimizer of your own, which must work element by
            element.
        step_size: learning rate for an optimizer given by name; 1e-3 by default.
        replacement_rate: as of `GnT`. With 0 there is no engine: members learn as by `Backprop`.
        maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, activation: as of `GnT`.
            ``accumulate`` must not be False, since drawn counts would differ between members. A measure of your own
            sees the units of all members, and must judge each by itself.
        compile: as of `Backprop`: the whole step of all members as one compiled graph.
        generators: for the draws of each member's engine; None: made as above.
        options: further settings of an optimizer given by name.

    Attributes:
        seeds: the members' seeds.
        net: all members as one network, (S, batch, ...) -> (S, batch, ...); its parameters hold the members' one after
            the other along dimension 0.
        opt: the optimizer of all.
        gnt: the engine of all; None where nothing is replaced. Its groups hold S * n units, member by member.

    Raises:
        ValueError: networks of different shapes, a layer that cannot be stacked, a setting out of range.
        TypeError: an optimizer that does not work element by element; a setting that nothing would use.

    >>> import torch, gnt
    >>> def make_net():
    ...     return torch.nn.Sequential(torch.nn.Linear(20, 5), torch.nn.ReLU(), torch.nn.Linear(5, 1))
    >>> ensemble = gnt.Ensemble(make_net, range(30), opt="sgd", step_size=0.01, replacement_rate=0.01)
    >>> for _ in range(130):
    ...     loss, output, replaced = ensemble.learn(torch.randn(30, 1, 20), torch.randn(30, 1, 1))
    >>> loss.shape, output.shape, len(ensemble), ensemble.gnt.report().groups[0].replaced
    (torch.Size([30]), torch.Size([30, 1, 1]), 30, 1)
    >>> ensemble.member(29)
    Sequential(
      (0): Linear(in_features=20, out_features=5, bias=True)
      (1): ReLU()
      (2): Linear(in_features=5, out_features=1, bias=True)
    )
    """

    gnt: EnsembleGnT | None  # type: ignore[assignment]
    net: StackedNet

    def __init__(
        self,
        make_net: Callable[[], nn.Module],
        seeds: Iterable[int],
        *,
        loss: str | Loss = "mse",
        opt: str | Callable[[Any], Optimizer] = "sgd",
        step_size: float | None = None,
        replacement_rate: float = 1e-4,
        maturity_threshold: int = 100,
        decay_rate: float = 0.99,
        utility: str = "contribution",
        init: str = "kaiming",
        accumulate: bool | str = True,
        bias_transfer: bool = True,
        generators: Sequence[torch.Generator] | None = None,
        activation: str | None = None,
        compile: bool = False,
        **options: Any,
    ) -> None:
        checking.settings(
            replacement_rate,
            maturity_threshold,
            decay_rate,
            utility,
            init,
            accumulate,
            bias_transfer=bias_transfer,
            compile=compile,
        )
        members = grow(make_net, seeds, engine=replacement_rate > 0.0)
        self.seeds = [member.seed for member in members]
        net = StackedNet(members)
        if replacement_rate == 0.0:
            self._optimizers, self._engine_settings = Backprop._optimizers, ()
        groups = net.groups(activation) if replacement_rate else ()
        made = opt if isinstance(opt, str) else elementwise.made_by(opt, net)
        Backprop.__init__(self, net, loss=loss, opt=made, step_size=step_size, compile=compile, **options)
        self.gnt = None
        if groups:
            self.gnt = EnsembleGnT(
                groups,
                self.opt,
                seeds=self.seeds,
                generators=checking.generators(generators, [member.generator for member in members]),
                replacement_rate=replacement_rate,
                maturity_threshold=maturity_threshold,
                decay_rate=decay_rate,
                utility=utility,
                init=init,
                accumulate=accumulate,
                bias_transfer=bias_transfer,
            )
        self._checked = False
        self._parameters = list(net.parameters())
        self._buffers = [(module._buffers, key) for module in net.modules() for key in module._buffers]

    def learn(self, x: Tensor, y: Tensor) -> Step:
        """One step of learning of every member on its own batch.

        Args:
            x: inputs, (S, batch, ...).
            y: targets, members first: of the output's shape for mse, (S, batch) class indices (or probabilities) for
                cross_entropy.

        Returns:
            `Step`: losses (S,) and outputs (S, batch, ...) from before the update, detached, and the units replaced
            after it: for each group int64 (S, k), each row one member's, as it counts its own units.

        Raises:
            ValueError: shapes that do not fit.
            FloatingPointError: the loss of some members is not finite; the message names their seeds. Nothing was
                changed.
        """
        self._check(x, y)
        step = super().learn(x, y)
        return step if self.gnt is None else step._replace(replaced=self.gnt.by_member(step.replaced))

    def _learn(self, x: Tensor, y: Tensor) -> Step:
        """All members as the one network that they are."""
        buffers = [(buffer, buffer.clone()) for held, key in self._buffers if (buffer := held[key]) is not None]
        try:
            output, (loss, root, gradient), prepared = self._test(x, y)
        except Exception:
            self._undo(buffers)
            raise
        for parameter in self._parameters:
            parameter.grad = None
        root.backward(gradient)  # type: ignore[no-untyped-call]
        self.opt.step()
        return Step(loss, output.detach(), self._after_step(prepared))

    def _test(self, x: Tensor, y: Tensor) -> tuple[Tensor, Losses, Any]:  # type: ignore[override]
        output, features = self.net.predict(x)
        every = losses(self.loss, output, y)
        # a sum is finite where all of its terms are, but for an overflow
        on_host = every.losses.device.type == "cpu"
        if on_host and not math.isfinite(every.losses.sum()) and not every.losses.isfinite().all():
            raise FloatingPointError(self._not_finite(every.losses))
        return output, every, self._before_step(features)

    def _loss_of(self, output: Tensor, y: Tensor) -> Tensor:
        return loss_of_each(self.loss, output, y)

    def _not_finite(self, loss: Tensor) -> str:
        bad = named(self.seeds, ~loss.isfinite())
        return f"the loss of {bad} is not finite; nothing was changed. Look at x, y and the step size"

    def _before_step(self, features: Sequence[Tensor] | None) -> Any:
        return self.gnt.take_features(features) if self.gnt is not None else None

    def _watch(self) -> Watch | None:
        return Watch(self.gnt) if self.gnt is not None else None

    def _after_backward(self, prepared: Any) -> Any:
        return prepared

    def _after_step(self, prepared: Any) -> list[Tensor]:
        return self.gnt.step_with(prepared) if self.gnt is not None else []

    def _check(self, x: Tensor, y: Tensor) -> None:
        checking.batches(x, y, len(self))
        if not self._checked:
            ends = {0, len(self) - 1}  # the first and the last: a mistake in the order of members would show
            self._checked = all(
                checking.same_function(self.member(i), self.seeds[i], x[i], self._output_of(i, x)) for i in ends
            )

    def _output_of(self, number: int, x: Tensor) -> Callable[[], Tensor]:
        return lambda: self.predict(x)[number]

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Outputs in evaluation mode: (S, batch, ...) -> (S, batch, ...)."""
        modes = [(module, module.training) for module in self.net.modules()]
        self.net.eval()
        try:
            return self.net(x)  # type: ignore[no-any-return]
        finally:
            for module, training in modes:
                module.training = training

    def __len__(self) -> int:
        return len(self.seeds)

    def member(self, number: int) -> nn.Module:
        """A copy of one member's network as it is now, of the class that ``make_net`` gives.

        Raises:
            IndexError: there is no such member.
        """
        if not 0 <= number < len(self.seeds):
            raise IndexError(f"member must lie in 0..{len(self.seeds) - 1}, got {number}")
        return self.net.member(number)

    def report(self) -> EnsembleReport:
        """Per group: units, eligible, replaced so far and when the next is due, of each member, and all dead units.

        Raises:
            ValueError: nothing is replaced here (``replacement_rate=0``).
        """
        if self.gnt is None:
            raise ValueError("there is nothing to report: with replacement_rate=0 there is no engine")
        return self.gnt.report()

    def state_dict(self) -> dict[str, Any]:
        """State of all networks, optimizer, engine and generators, loadable with ``torch.load(weights_only=True)``."""
        state = ContinualBackprop.state_dict(self) if self.gnt is not None else Backprop.state_dict(self)
        return {**state, "seeds": list(self.seeds), "dropout": [each.get_state() for each in self.net.dropout]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on bit by bit from what `state_dict` gave, in an ensemble built with the same settings and seeds."""
        if not isinstance(state_dict, dict) or not {"seeds", "dropout"} <= set(state_dict):
            raise ValueError("state_dict must be what state_dict() of an Ensemble gave, with 'seeds' and 'dropout'")
        if state_dict["seeds"] != self.seeds:
            raise ValueError(f"state_dict is of seeds {state_dict['seeds']}, this ensemble's are {self.seeds}")
        if (self.gnt is None) is ("gnt" in state_dict):
            raise ValueError(
                "state_dict was saved with replacement_rate=0 and this ensemble's is not, or the other way"
            )
        if self.gnt is None:
            Backprop.load_state_dict(self, state_dict)
        else:
            ContinualBackprop.load_state_dict(self, state_dict)
        for generator, state in zip(self.net.dropout, state_dict["dropout"], strict=True):
            generator.set_state(state.cpu())

    def _no_samples(self) -> None:
        """No forward was recorded anywhere."""
