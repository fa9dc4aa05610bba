"""Tracing: one whole step, written down as a graph of torch operations that reads and writes what its plan names."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from gnt.learners._compile.decompositions import TABLE
from gnt.learners._compile.inputs import BAD_GROUP, BAD_LOSS, FINE, Parts, Plan, parts
from gnt.learners._compile.tensor_slots import attributes, restore, set_between

if TYPE_CHECKING:
    from gnt.learners.backprop import Backprop

ADVICE = "leave compile=False for this network"
_LARGE = 4096  # elements


def trace(learner: Backprop, plan: Plan, inputs: Sequence[Tensor]) -> tuple[GraphModule, list[Tensor]]:
    """The graph of one step, which returns loss, output and status, and fake tensors like its inputs.

    Raises:
        RuntimeError: the network does something that a graph would leave out, or freeze.
    """
    with FakeTensorMode() as mode:
        fakes = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in inputs]
    modules = plan.sites.modules
    before, drawn = attributes(modules), (random.getstate(), str(np.random.get_state()))
    caches_casts = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with mode, torch.compiler.set_stance("force_eager"):
            graph = make_fx(lambda *inputs: _step(learner, plan, parts(plan, inputs)), TABLE)(*fakes)
    except Exception as error:
        raise RuntimeError(_why(learner, error)) from error
    finally:
        torch.set_autocast_cache_enabled(caches_casts)
        learner._no_samples()
        changed = set_between(before, attributes(modules))
        restore(modules, before)
    if changed:
        raise RuntimeError(
            f"compile=True: the forward of {type(learner.net).__name__} sets {', '.join(changed)}, and compiled code "
            f"would not: make it a buffer that the forward changes in place, or {ADVICE}"
        )
    if drawn != (random.getstate(), str(np.random.get_state())):
        raise RuntimeError(
            f"compile=True: the forward of {type(learner.net).__name__} draws from Python's or NumPy's random numbers, "
            f"which compiled code would freeze: draw from torch's, or {ADVICE}"
        )
    return graph, fakes


def _step(learner: Backprop, plan: Plan, at: Parts) -> tuple[Tensor, ...]:
    """`Backprop.learn` on traced tensors: what it writes is written at its end, and only if the loss is finite."""
    sites, watch = plan.sites, plan.watch
    with torch.enable_grad(), sites.lent():
        here = [_leaf(own, value) for own, value in zip(sites.tensors(), at.values, strict=True)]
        for each in plan.trained:
            here[each.place] = at.values[each.place].detach().requires_grad_()
        sites.hang(here)
        if watch is not None:
            watch.hang(at.states, at.updates)
        try:
            output, features = learner._forward(at.x)
            loss = learner._loss_of(output, at.y)
            prepared = learner._before_step(features)
            total = loss if loss.ndim == 0 else loss.sum()
            grads = torch.autograd.grad(total, [here[each.place] for each in plan.trained])
            prepared = learner._after_backward(prepared)
            with torch.no_grad():
                ok = torch.isfinite(loss).all() if plan.masked else None
                writes = _buffers(plan, at.values, here)
                moves, shared = _optimize(plan, at, grads)
                writes += moves
                writes = [(to, value if ok is None else torch.where(ok, value, to)) for to, value in writes]
                moved = {id(to): value for to, value in writes}
                sites.hang([moved.get(id(value), value) for value in at.values])
                status = _status(ok, None)
                if watch is not None:
                    after, finite = watch.update(prepared, at.drawn, ok)
                    status = _status(ok, finite)
                    one_more = 1 if ok is None else (status == FINE)
                    writes += [*zip(at.states, after, strict=True), (at.updates, at.updates + one_more)]
        finally:
            if watch is not None:
                watch.unhang()
    with torch.no_grad():
        for to, value in writes:
            if value is not to:
                to.copy_(value)
    return loss.detach(), output.detach(), status, *shared


def _leaf(own: Tensor, value: Tensor) -> Tensor:
    """What the forward reads: of buffers a copy, which it may change."""
    return value.detach() if isinstance(own, torch.nn.Parameter) else value.detach().clone()


def _buffers(plan: Plan, values: Sequence[Tensor], here: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What the forward did to its copies. Batch norm does not count it as a change that it changed its statistics."""
    pairs = zip(plan.sites.tensors(), values, here, strict=True)
    others = [(id(own), value, copy) for own, value, copy in pairs if not isinstance(own, torch.nn.Parameter)]
    return [(value, copy) for own, value, copy in others if copy._version > 0 or own in plan.shown.changed]


def _optimize(plan: Plan, at: Parts, grads: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], list[Tensor]]:
    """What the optimizer writes, and what of it the compiler should compute once: what a graph returns, it does.

    Small parameters are done before a tensor more is made.
    """
    writes: list[tuple[Tensor, Tensor]] = []
    shared: list[Tensor] = []
    for each, grad, kept, starts in zip(plan.trained, grads, at.kept, at.starts, strict=True):
        param = at.values[each.place]
        moved = plan.rule.step(param, grad.detach(), kept, starts, each.flags, at.numbers[each.options])
        writes.append((param, moved.param.to(param.dtype)))
        writes += [(old, new.to(old.dtype)) for old, new in zip(kept, moved.kept, strict=True)]
        shared += moved.shared if param.numel() >= _LARGE else []
    return writes, shared


def _status(ok: Tensor | None, finite: Tensor | None) -> Tensor:
    """0-d int64: FINE, or what was not finite."""
    if ok is None:
        return torch.zeros((), dtype=torch.int64)
    good = torch.zeros_like(ok, dtype=torch.int64)
    if finite is not None:
        first = (~finite).to(torch.int64).argmax()
        good = torch.where(finite.all(), good, first + BAD_GROUP)
    return torch.where(ok, good, torch.full_like(good, BAD_LOSS))


def _why(learner: Backprop, error: Exception) -> str:
    kind, text = type(error).__name__, " ".join(str(error).split("\n")[:2])[:400]
    if "DataDependent" in kind:
        text = "it decides by the values of tensors, which are known only when it runs"
    elif "convert all Tensors to FakeTensors" in str(error):
        text = "it reads a tensor that is neither a parameter nor a buffer of the network: register it as a buffer"
    return f"compile=True: {type(learner.net).__name__} cannot be traced as one graph: {text} ({kind}); {ADVICE}"
