"""Backprop: a network, a loss and an optimizer behind one method ``learn(x, y)``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import Unpack

from gnt._utils.known_attributes import known_attributes
from gnt._utils.validation import check_flags
from gnt.learners._compile import CompiledSteps
from gnt.learners._loss_and_optimizer import (
    OPTIMIZERS,
    Loss,
    check_needs_no_closure,
    find_loss,
    find_optimizer,
    refuse_own_engine,
)
from gnt.learners._method_groups import MethodGroups
from gnt.learners._methods import Methods
from gnt.learners._optimizer_options import OptimizerOptions
from gnt.learners._step_result import Step
from gnt.learners._training_step import TrainingStep
from gnt.names import LossName, OptimizerName

_OPTIONS = ("lr", *OptimizerOptions.__annotations__)
# where options of the optimizer are assigned
IN_OPTIMIZER = {name: f'opt.param_groups[0]["{name}"]' for name in _OPTIONS}
IN_OPTIMIZER["step_size"] = IN_OPTIMIZER["lr"]


def step_attribute(name: str, checked: Callable[[Any], Any]) -> Any:
    """A learner's property that reads and sets an attribute of its training step, a new value after a check."""
    return property(attrgetter(f"_step.{name}"), lambda learner, value: setattr(learner._step, name, checked(value)))


def _checked_network(net: Any) -> Any:
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    return net


@known_attributes(elsewhere=IN_OPTIMIZER)
class Backprop:
    """The baseline: backpropagation with any torch optimizer, one update for each call of `learn`.

    Args:
        net: a module; called as ``net(x)``, or as ``net.predict(x) -> (output, features)`` if it has that method.
        loss: "mse", "cross_entropy" (on logits; "nll" is the same), or a callable (output, target) -> scalar.
        opt: "sgd", "adam", "adamw", or an optimizer that holds the parameters of ``net``. The names stand for torch's
            classes, with ``fused=True`` for Adam and AdamW on CPU and CUDA unless ``fused``, ``foreach`` or
            ``differentiable`` is given.
        step_size: learning rate of an optimizer given by name; 1e-3 by default.
        compile: run the whole of `learn` as one compiled graph, from the second step with inputs of the same shape on
            (docs/compiling.md lists the requirements on network and optimizer). Results are the same up to rounding,
            but gradients are left in ``p.grad`` only if the optimizer's step is not part of the graph: with other
            optimizers than SGD, Adam, AdamW and AdamGnT, with hooks, or with methods that need gradients.
        methods: objects that act in each step besides, such as `gnt.L2Init` or `gnt.ReDo`: any object with one of the
            hooks ``before_batch(x, y)``, ``penalty()``, ``penalty_backward()``, ``functional_penalty()``,
            ``after_backward()``, ``after_step()``, ``begin_task(...)`` and ``end_task(...)`` (docs/remedies.md).
        options: further options of an optimizer given by name, such as ``momentum``, ``betas``, ``weight_decay``.

    Attributes:
        net: the network.
        loss: the loss function.
        opt: the optimizer.
        methods: tuple of the methods; a list may be assigned. Those that need the learner's network and optimizer can
            be added in this way: ``learner.methods = [gnt.ReDo(learner.net, learner.opt)]``.

    Raises:
        ValueError: unknown loss or optimizer, or a method that is listed twice.
        TypeError: an unused setting, an object without any hook in ``methods``, an optimizer whose step needs a closure
            (LBFGS) or, with ``compile``, a method whose penalty cannot be part of a graph.
        RuntimeError: ``compile`` without a working compiler; in `learn`, a network that cannot be compiled.
        FloatingPointError: in `learn`, a loss that is not finite (on the CPU); nothing is changed.

    >>> import torch, gnt
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> learner = gnt.Backprop(net, opt="adam", step_size=1e-3)
    >>> loss, output, replaced = learner.learn(torch.randn(8, 4), torch.randn(8, 1))
    >>> output.shape, replaced
    (torch.Size([8, 1]), [])
    """

    net: nn.Module = step_attribute("network", _checked_network)
    loss: Loss = step_attribute("loss", find_loss)

    _optimizers = OPTIMIZERS
    _engine_settings: tuple[str, ...] = ()

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: LossName | Loss = "mse",
        opt: OptimizerName | Optimizer = "sgd",
        step_size: float | None = None,
        compile: bool = False,
        methods: Sequence[Any] = (),
        **options: Unpack[OptimizerOptions],
    ) -> None:
        check_flags(compile=compile)
        checked_methods = Methods.checked(methods)
        _checked_network(net)
        loss_function = find_loss(loss)
        optimizer = find_optimizer(net, opt, step_size, dict(options), self._optimizers, self._engine_settings)
        if compile:
            checked_methods.check_compilable()
        self._step = TrainingStep(net, loss_function, optimizer)
        self._step.set_methods(checked_methods)
        checked_methods.warn_of_loss(loss_function)
        self._compiled_steps = CompiledSteps(self._step) if compile else None

    @property
    def opt(self) -> Optimizer:
        """The optimizer."""
        return self._step.optimizer

    @opt.setter
    def opt(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"opt of a learner must be a torch.optim.Optimizer, got {optimizer!r:.80}")
        check_needs_no_closure(optimizer)
        if self._step.engine is not None:
            refuse_own_engine(optimizer)
            self._step.engine.optimizer = optimizer
        self._step.optimizer = optimizer

    @property
    def methods(self) -> tuple[Any, ...]:
        """What acts in each step besides."""
        return tuple(self._step.methods)

    @methods.setter
    def methods(self, methods: Sequence[Any]) -> None:
        checked = Methods.checked(methods)
        if self._compiled_steps is not None:
            checked.check_compilable()
        self._step.set_methods(checked)
        checked.warn_of_loss(self.loss)

    def begin_task(self, **info: Any) -> None:
        """Call ``begin_task`` of all methods that have it: a task begins.

        Args:
            info: what methods need, such as ``task=1`` or ``data=loader``. A method gets what the signature of its hook
                names; ``net`` and ``optimizer``, those of this learner, are always there.

        Raises:
            TypeError: a method needs something that is not given, or no method takes it (``task`` and ``data`` may be
                given to any). Nothing is called.
        """
        self._step.methods.tell("begin_task", {"net": self.net, "optimizer": self.opt, **info})

    def end_task(self, **info: Any) -> None:
        """Call ``end_task`` of all methods that have it: a task has ended.

        Args, Raises:
            as `begin_task`.
        """
        self._step.methods.tell("end_task", {"net": self.net, **info})

    def learn(self, x: Tensor, y: Tensor) -> Step:
        """One step of learning on a batch.

        Args:
            x: inputs, samples first.
            y: targets: of the output's shape for mse, class indices (or probabilities) for cross_entropy.

        Returns:
            `Step`: loss and output from before the update, detached, and the units replaced after it.

        Raises:
            ValueError: shapes that mse would broadcast, or a loss that is not a real scalar with a gradient.
            FloatingPointError: the loss is not finite. Nothing was changed. Checked on the CPU only: elsewhere every
                step would wait for the device.

        An error in forward, loss or backward, of whatever type, changes nothing but clears ``p.grad`` if the backward
        has begun: buffers (running statistics), torch's random generators and those that modules hold as attributes
        are as before. Attributes of other kinds that a forward sets are not restored. An error in ``opt.step()``
        itself leaves parameters and optimizer state as the optimizer left them, and the rest as before. Methods keep
        what their ``before_batch`` has changed of themselves.
        """
        return self._step.learn(x, y, self._run) if self._step.methods else self._run(x, y)

    def _run(self, x: Tensor, y: Tensor) -> Step:
        step = self._compiled_steps.run(self._step, x, y) if self._compiled_steps is not None else None
        return step if step is not None else self._step.run(x, y)

    def state_dict(self) -> dict[str, Any]:
        """State of network, optimizer and methods, loadable with ``torch.load(weights_only=True)``.

        With a loss that is a module with parameters of its own also that of the loss.
        """
        state = {"net": self.net.state_dict(), "opt": self.opt.state_dict(), "kind": type(self.opt).__name__}
        if isinstance(self.loss, nn.Module) and self._loss_is_trained(self.loss):
            state["loss"] = self.loss.state_dict()
        methods = self._step.methods
        return {**state, "methods": methods.state_dict()} if any(methods.having("state_dict")) else state

    def _loss_is_trained(self, loss: nn.Module) -> bool:
        own = set(self.net.parameters())
        return any(each.requires_grad and each not in own for each in loss.parameters())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, to continue bit for bit; the learner must have been built with the same settings.

        Raises:
            ValueError: not a state of a learner, or of another network or type of optimizer. Nothing is changed.
        """
        if not isinstance(state_dict, dict) or not {"net", "opt", "kind"} <= set(state_dict):
            raise ValueError("state_dict must be the result of state_dict(), with 'net', 'opt' and 'kind'")
        if state_dict["kind"] != type(self.opt).__name__:
            raise ValueError(
                f"state_dict is of optimizer {state_dict['kind']}, this learner's is {type(self.opt).__name__}"
            )
        before = copy.deepcopy(Backprop.state_dict(self))
        parts: dict[str, Any] = {"net": self.net, "opt": self.opt}
        if "methods" in before:
            self._step.methods.check_saved(state_dict.get("methods"))
            parts["methods"] = self._step.methods
        elif "methods" in state_dict:
            raise ValueError("state_dict has 'methods', and this learner has no methods with state")
        if "loss" in before and "loss" in state_dict:  # either may have another loss, without parameters
            parts["loss"] = self.loss
        methods, loaded = self._step.methods, []
        groups = MethodGroups(self.opt, methods.having("parameter_group"))
        try:
            for loading, part in parts.items():
                loaded.append(loading)
                if part is self.opt:
                    groups.fit(state_dict["opt"])
                part.load_state_dict(state_dict[loading])
            methods.after_load(self.opt)
        except Exception as error:
            groups.restore()
            for name in loaded:
                parts[name].load_state_dict(before[name])
            if "methods" in loaded:
                methods.after_load(self.opt)
            name, kind = loaded[-1], type(parts[loaded[-1]]).__name__
            raise ValueError(f"state_dict holds {name!r} that does not fit this {kind}: {error}") from error
