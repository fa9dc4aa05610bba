"""Graphs: the compiled steps of one learner, one for each kind of step it takes.

A step is of another kind when the shapes of x and y differ, the network is in another mode, an option of the optimizer
is switched on... The first step of a kind goes the ordinary way: it tells of faults as ever, fills the optimizer's
state, and shows which parameters have gradients. From the second on the kind is compiled.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gnt.learners._compile import guards as admission
from gnt.learners._compile.compiler import Compiled, check_compiler, compile_graph
from gnt.learners._compile.functional_optimizers import rule_of
from gnt.learners._compile.inputs import BAD_GROUP, BAD_LOSS, FINE, Plan, Shown, StalePlanError
from gnt.learners._compile.tensor_slots import plain_sites

if TYPE_CHECKING:
    from gnt.learners.backprop import Backprop, Step

MOST_KINDS = 16  # steps of further kinds go the ordinary way


class Graphs:
    """The compiled steps of one learner. A copy has none: they are found again by what its graphs say.

    Raises:
        TypeError: the optimizer's step cannot be compiled.
        RuntimeError: no compiler works here.
    """

    def __init__(self, net: nn.Module | None = None, optimizer: Optimizer | None = None) -> None:
        self._kinds: dict[Any, Shown | _Ready] = {}
        self._surroundings: _Surroundings | None = None
        if net is not None and optimizer is not None:
            rule_of(optimizer)
            check_compiler(next((p.device.type for p in net.parameters()), "cpu"))

    def learn(self, learner: Backprop, x: Tensor, y: Tensor) -> Step | None:
        """One step by the graph, or None: this one has to go the ordinary way.

        Raises:
            FloatingPointError: as the ordinary step does.
            RuntimeError, TypeError: the learner cannot be compiled. Nothing was changed.
        """
        if not _ordinary(x, y):
            return None
        around = self._around(learner)
        if around.watch is not None and around.watch.engine.waiting:
            return None  # samples of an earlier forward belong to this update, too
        kind = around.kind(learner, x, y)
        known = self._kinds.get(kind)
        if known is None:
            return self._first(learner, around, x, y)
        try:
            ready = known if isinstance(known, _Ready) else _Ready(learner, around, known, x, y)
            self._kinds[kind] = ready
            return ready.run(learner, x, y)
        except StalePlanError:
            self._surroundings = None  # look around anew, after a step of the ordinary way
            return None

    def _around(self, learner: Backprop) -> _Surroundings:
        around = self._surroundings
        if around is None or not around.hold(learner):
            self._surroundings = around = _Surroundings(learner)
            self._kinds.clear()
        return around

    def _first(self, learner: Backprop, around: _Surroundings, x: Tensor, y: Tensor) -> Step | None:
        """The first step of a kind: the ordinary one."""
        admission.check(learner, around.sites.modules, around.watch)
        buffers = [(b, b.clone()) for b in around.sites.tensors() if not isinstance(b, nn.Parameter)]
        step = learner._learn(x, y)
        kind = around.kind(learner, x, y)
        if len(self._kinds) < MOST_KINDS:
            self._kinds[kind] = Shown(
                used={id(p) for p in learner.net.parameters() if p.grad is not None},
                changed={id(b) for b, old in buffers if not torch.equal(b, old)},
            )
        elif len(self._kinds) == MOST_KINDS:
            warnings.warn(
                f"compile=True: this learner has taken steps of {MOST_KINDS} kinds (shapes of x and y, modes); further "
                "ones are not compiled. Pad batches to a few sizes",
                stacklevel=4,
            )
            self._kinds[None] = Shown(set(), set())
        return step

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return Graphs, ()


def _ordinary(x: Any, y: Any) -> bool:
    """Whether this is a step that a graph can take: a batch of samples to learn from."""
    return (
        isinstance(x, Tensor)
        and isinstance(y, Tensor)
        and x.ndim > 0
        and len(x) > 0
        and not (x.requires_grad or y.requires_grad)
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and x.layout is torch.strided
    )


class _Surroundings:
    """What stands around a step and is built into its graph: looked at before each one."""

    def __init__(self, learner: Backprop) -> None:
        self.net, self.optimizer, self.loss = learner.net, learner.opt, learner.loss
        self.rule = rule_of(self.optimizer)
        self.watch = learner._watch()
        self.sites = admission.sites_of(learner, self.watch)
        modules = self.sites.modules
        self._children = [(m._modules, dict(m._modules)) for m in modules if m._modules]
        self._plain = plain_sites(modules)
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
        self._hooks += [self.optimizer._optimizer_step_pre_hooks, self.optimizer._optimizer_step_post_hooks]
        self._params = [t for t in self.sites.tensors() if isinstance(t, nn.Parameter)]

    def hold(self, learner: Backprop) -> bool:
        """Whether these are still the modules that the learner is made of."""
        return (
            learner.net is self.net
            and learner.opt is self.optimizer
            and learner.loss is self.loss
            and all(children == before for children, before in self._children)
        )

    def kind(self, learner: Backprop, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        """What the step's graph depends on, beside the tensors' values."""
        device = x.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return (
            *(x.shape, x.stride(), x.dtype, x.device, y.shape, y.stride(), y.dtype, y.device, autocast),
            tuple([holder.get(name) for holder, name in self._plain]),
            tuple(map(len, self._hooks)),
            tuple([p.requires_grad and p._backward_hooks is None for p in self._params]),
            tuple([(len(o["params"]), self.rule.flags(o)) for o in self.optimizer.param_groups]),
            self.watch.structure if self.watch is not None else None,
        )


class _Ready:
    """One compiled kind of step."""

    def __init__(self, learner: Backprop, around: _Surroundings, shown: Shown, x: Tensor, y: Tensor) -> None:
        from gnt.learners._compile.capture import trace  # imports sympy and more, which nobody else shall wait for

        self.watch = around.watch
        admission.check(learner, around.sites.modules, self.watch)
        self._plan = Plan(around.sites, learner.opt, around.rule, self.watch, shown)
        drawn = self._draw()
        inputs = self._plan.gather(x, y, learner.opt, drawn[1])
        graph, examples = trace(learner, self._plan, inputs)
        self._compiled: Compiled = compile_graph(graph, examples)
        self._layouts = [(e.shape, e.stride(), e.dtype, e.device) for e in examples]
        self._seen: list[int] = []
        self._undraw(drawn[0])

    def run(self, learner: Backprop, x: Tensor, y: Tensor) -> Step:
        """One step."""
        from gnt.learners.backprop import Step

        watch, plan = self.watch, self._plan
        drawn = self._draw()
        inputs = plan.gather(x, y, learner.opt, drawn[1])
        self._check(inputs)
        loss, output, status, *_ = self._compiled(*inputs)
        if plan.masked and (code := int(status.item())) != FINE:
            self._undraw(drawn[0])
            raise FloatingPointError(
                learner._not_finite(loss) if code == BAD_LOSS else self._bad_group(code - BAD_GROUP)
            )
        learner.opt._opt_called = True  # type: ignore[attr-defined]  # what a scheduler looks for
        if watch is None:
            return Step(loss, output, [])
        plan.ticked()
        return Step(loss, output, watch.follow_up())

    def _check(self, inputs: list[Tensor]) -> None:
        """Tensors that lie where they lay are what they were; others are looked at."""
        seen = [t.data_ptr() for t in inputs[2:]]
        if seen != self._seen:
            for tensor, layout in zip(inputs, self._layouts, strict=True):
                if (tensor.shape, tensor.stride(), tensor.dtype, tensor.device) != layout:
                    raise StalePlanError
            self._seen = seen

    def _draw(self) -> tuple[Tensor | None, list[Tensor]]:
        """What is drawn for this step, and the generator's state from before."""
        if self.watch is None or self.watch.engine.measure.reads:
            return None, []
        state = self.watch.engine.generator.get_state()
        return state, self.watch.draw()

    def _undraw(self, state: Tensor | None) -> None:
        if state is not None and self.watch is not None:
            self.watch.engine.generator.set_state(state)

    def _bad_group(self, number: int) -> str:
        assert self.watch is not None
        return (
            f"features or weights of group {self.watch.engine.groups[number].name!r} are not finite, so its units "
            "cannot be compared; nothing was changed"
        )


def not_finite(loss: Tensor) -> str:
    """The message that refuses a loss."""
    return f"the loss is {loss.item()}; nothing was changed. Look at x, y and the step size"
