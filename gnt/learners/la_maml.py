"""La-MAML: online meta-learning with learned rates against forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt._utils.settings import checked_settings, flag, optional, positive
from gnt._utils.validation import check_flags, check_positive, finite_number
from gnt.learners._evaluated import BackwardStart, Evaluated
from gnt.learners._learned_rates import LearnedRates
from gnt.learners._look_ahead import look_ahead_loss
from gnt.learners._loss_and_optimizer import Loss, find_loss
from gnt.learners._methods import Methods
from gnt.learners._step_result import Step
from gnt.learners._training_step import TrainingStep
from gnt.learners.backprop import Backprop
from gnt.names import LossName
from gnt.replay import ReplayBuffer
from gnt.units import unwrap


@checked_settings(inner_steps=optional(positive), batch_size=optional(positive), first_order=flag, after_each=flag)
class LaMAML(Backprop):
    """Look-ahead MAML: a meta-learner that learns online, with a learned rate for each weight.

    For a batch (x, y), split into k parts, and items (x', y') drawn from a buffer before the batch is added::

        theta_0 = theta;   theta_i = theta_{i-1} - rate * d loss(theta_{i-1}, part i) / d theta_{i-1},   i = 1..k
        outer loss = loss(theta_k, the batch joined with (x', y'))
        rate  <- rate - rate_step * d outer loss / d rate
        theta <- theta - max(rate, 0) * d outer loss / d theta

    The gradient of the outer loss passes through the k steps, second derivatives included. A rate grows where the
    gradients of current samples agree with those of all samples, and falls where they interfere, so that weights which
    stored samples depend on change less.

    Each call of `learn` is one such step. A loop of your own needs the outer loss only, and can make several steps on a
    batch ("glances") before it is added to the buffer::

        meta = gnt.LaMAML(net, gnt.ReplayBuffer(200), loss="cross_entropy")                                     # 1
        meta.opt.zero_grad(); meta.outer_loss(x, y).backward(); meta.opt.step(); meta.buffer.add(x, y)          # 2

    Args:
        net: the network, called as ``net(x)``.
        buffer: the `ReplayBuffer` from which items are drawn, and to which `learn` adds each batch.
        loss: as for `Backprop`, a mean over samples.
        step_size: the initial rate of each weight, > 0.
        rate_step: step size of the rates, >= 0.
        inner_steps: k, or fewer in a batch of fewer samples; None: a step for each sample, as in the paper.
        batch_size: number of drawn items; None: as many as the batch has.
        first_order: treat the gradients of the k steps as constants, without second derivatives. The gradient of the
            outer loss for theta is then its gradient at theta_k; rates still learn.
        after_each: the outer loss is the mean of those at theta_1, ..., theta_k, as in the authors' code, in place of
            that at theta_k.
        max_norm: the largest norm of the gradient of all weights together, and of that of all rates; None: no limit.
        methods: as for `Backprop`; penalties are added to the outer loss.

    Attributes:
        net, loss, methods: as for `Backprop`.
        opt: the optimizer of weights and rates; it cannot be replaced by another one. Parameters that are added to the
            network later are given to it by ``opt.add_param_group``.
        buffer: the buffer.

    Raises:
        TypeError: not a module or a buffer, a wrapper such as DistributedDataParallel, or as `Backprop`.
        ValueError: a number out of range, no parameter that requires a gradient, or as `Backprop`.
        FloatingPointError: in `learn`, a loss that is not finite (on the CPU); nothing is changed.

    The result of `learn` is that of the network before the step. The k steps and the outer loss run the network
    with other weights than its own; they draw from random generators as any forward, and leave running statistics as
    they are. Engines attached to ``opt`` replace units in `learn`, as beside any optimizer (not in a loop with
    `outer_loss`, in which no forward is theirs); a new unit has the initial rates.
    Features at other weights are not those of the network: engines measure units in the forward that gives the result,
    at the cost of one backward pass more. A step costs a forward pass of the batch, a forward and
    backward pass of each of the k parts and of the joined batch, and, unless ``first_order``, a backward pass through
    those of the parts.

    Source: Gupta, Yadav & Paull, NeurIPS 2020 (arXiv 2007.13904), Algorithm 1.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> learner = gnt.LaMAML(net, gnt.ReplayBuffer(100), loss="cross_entropy", step_size=0.1, inner_steps=2)
    >>> engine = gnt.GnT(net, learner.opt).attach()  # optional
    >>> for _ in range(3):
    ...     step = learner.learn(torch.randn(8, 4), torch.randint(3, (8,)))
    >>> step.output.shape, learner.rate(net[0].weight).shape, len(learner.buffer)
    (torch.Size([8, 3]), torch.Size([16, 4]), 24)
    """

    _step: _LookAheadStep

    def __init__(
        self,
        net: nn.Module,
        buffer: ReplayBuffer,
        *,
        loss: LossName | Loss = "mse",
        step_size: float = 0.1,
        rate_step: float = 0.1,
        inner_steps: int | None = None,
        batch_size: int | None = None,
        first_order: bool = False,
        after_each: bool = False,
        max_norm: float | None = None,
        methods: Sequence[Any] = (),
    ) -> None:
        check_flags(first_order=first_order, after_each=after_each)
        checked_methods = Methods.checked(methods)
        if not isinstance(net, nn.Module):
            raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
        if unwrap(net) is not net:
            raise TypeError(
                f"net must be the network itself, got a {type(net).__name__}: the steps run with weights that a "
                "wrapper does not know, and gradients are not averaged over processes"
            )
        if not isinstance(buffer, ReplayBuffer):
            raise TypeError(f"buffer must be a gnt.ReplayBuffer, got {type(buffer).__name__}")
        for name, number in (("inner_steps", inner_steps), ("batch_size", batch_size)):
            if number is not None:
                check_positive(**{name: number})
        lr, rates = finite_number("step_size", step_size, exclusive=True), finite_number("rate_step", rate_step)
        norm = None if max_norm is None else finite_number("max_norm", max_norm, exclusive=True)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError("net has no parameter that requires a gradient")
        optimizer = LearnedRates(trained, lr, rates, norm)
        self.inner_steps, self.batch_size = inner_steps, batch_size
        self.first_order, self.after_each = first_order, after_each
        self._step = _LookAheadStep(net, find_loss(loss), optimizer, self)
        self._step.set_methods(checked_methods)
        self._compiled_steps = None
        self.buffer = buffer

    @property
    def opt(self) -> LearnedRates:
        """The optimizer of weights and rates."""
        optimizer = self._step.optimizer
        assert isinstance(optimizer, LearnedRates)
        return optimizer

    @opt.setter
    def opt(self, optimizer: Optimizer) -> None:
        raise TypeError("opt of LaMAML cannot be replaced: it holds the rates")

    def rate(self, parameter: Tensor) -> Tensor:
        """The rates of a parameter, a tensor of its shape."""
        return self.opt.rate(parameter)

    def outer_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Draw items and return the outer loss of a batch, differentiable with respect to weights and rates.

        ``.backward()`` writes the gradients of weights, and of rates, which ``opt.step()`` takes.

        Args:
            x, y: the batch, samples first.

        Raises:
            ValueError: an empty batch.
        """
        if not len(x):
            raise ValueError("the batch has no samples")
        batch = (x, y)
        if len(self.buffer):
            drawn = self.buffer.sample(len(x) if self.batch_size is None else self.batch_size)
            batch = torch.cat([x, drawn.x.to(x.device)]), torch.cat([y, drawn.y.to(y.device)])
        count = len(x) if self.inner_steps is None else min(self.inner_steps, len(x))
        parts = list(zip(x.tensor_split(count), y.tensor_split(count), strict=True))
        held = {id(parameter) for group in self.opt.param_groups for parameter in group["params"]}
        named = self.net.named_parameters()
        rates = {name: self.rate(p) for name, p in named if id(p) in held and p.requires_grad}
        return look_ahead_loss(
            self.net, self.loss, rates, parts, batch, first_order=self.first_order, after_each=self.after_each
        )

    def state_dict(self) -> dict[str, Any]:
        """State of network, rates, buffer and methods, loadable with ``torch.load(weights_only=True)``."""
        return {**super().state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, to continue bit for bit; the learner must have been built with the same settings.

        Raises:
            ValueError: as `Backprop.load_state_dict`, or a buffer that does not fit. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or "buffer" not in state_dict:
            raise ValueError("state_dict must be the result of LaMAML.state_dict(), with 'buffer'")
        buffer = self.buffer
        trial = ReplayBuffer(buffer.size, balance=buffer.balance, generator=torch.Generator(), device=buffer.device)
        trial.load_state_dict(state_dict["buffer"])
        super().load_state_dict(state_dict)
        buffer.load_state_dict(state_dict["buffer"])


class _LookAheadStep(TrainingStep):
    """A training step with the gradient of the outer loss."""

    def __init__(self, network: nn.Module, loss: Loss, optimizer: Optimizer, learner: LaMAML) -> None:
        super().__init__(network, loss, optimizer)
        self.learner = learner

    def run(self, x: Tensor, y: Tensor) -> Step:
        """One step; the batch is added to the buffer afterwards. An error leaves the buffer and its draws as before."""
        buffer = self.learner.buffer
        buffer.check(x, y)
        drawn = buffer.generator.get_state()
        try:
            step = super().run(x, y)
        except BaseException:
            buffer.generator.set_state(drawn)
            raise
        if len(x):
            buffer.add(x, y)
        return step

    def _evaluate(self, x: Tensor, y: Tensor) -> Evaluated:
        """Output and loss of the network as it is, and the outer loss as the start of the backward pass."""
        evaluated = super()._evaluate(x, y)
        if not len(x):
            return evaluated
        if self.other_engines() or any(hasattr(each, "groups") for each in self.methods):
            # features count once the gradient of the loss has reached them
            trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
            torch.autograd.grad(evaluated.start.tensor, trained, retain_graph=True, allow_unused=True)
        outer = self.learner.outer_loss(x, y)
        if outer.device.type == "cpu" and not torch.isfinite(outer):
            raise FloatingPointError(self.nonfinite_loss_message(outer))
        return evaluated._replace(start=BackwardStart(outer))
