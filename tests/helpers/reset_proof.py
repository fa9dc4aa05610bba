"""Proof that the state of an optimizer is reset for replaced units, without the table that says how.

The expected values come from the optimizer itself: they are those that it gives to a new parameter with the new
weights, in which the first gradient of the new units is 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from gnt import GnT
from gnt.replacement._state_structure import inner_optimizers, path_name, views_like, walk_state
from tests.helpers.ownership import hidden_layers, owned
from tests.helpers.small_runs import FREQUENT_REPLACEMENT, batch, mlp

Build = Callable[[nn.Module], Optimizer]
UNITS = [[1, 4], [2]]  # replaced units of the two hidden layers


class Way(NamedTuple):
    """How an optimizer is run."""

    closure: bool = False  # step(closure)
    create_graph: bool = False  # for second derivatives
    mode: bool = False  # has train() and eval()
    matrices: bool = False  # takes only parameters with two dimensions
    attached: bool = True  # False: it takes no hooks, so engine.step() is called


PLAIN = Way()


class Run:
    """A small network with an optimizer and an attached engine."""

    def __init__(self, build: Build, way: Way, *, engine: bool = True, **settings: Any) -> None:
        self.build, self.way, self.settings = build, way, settings
        self.net = mlp()
        if way.matrices:
            self.net = nn.Sequential(*(_without_bias(module) for module in self.net))
        self.optimizer = build(self.net)
        self.engine = None
        if engine:
            generator = torch.Generator().manual_seed(5)
            self.engine = GnT(self.net, self.optimizer, generator=generator, **settings)
            if way.attached:
                self.engine.attach()
        if way.mode:
            self.optimizer.train()

    def train(self, steps: range) -> None:
        """Run optimizer steps, and the engine's with them."""
        for t in steps:
            x, y = batch(t)
            torch.manual_seed(t)  # for optimizers that draw random numbers

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                with torch.enable_grad():
                    self.optimizer.zero_grad()
                    loss = smooth_l1_loss(self.net(x), y)
                    loss.backward(create_graph=self.way.create_graph)
                return loss

            closure()
            self.optimizer.step(closure) if self.way.closure else self.optimizer.step()
            if self.engine is not None and not self.way.attached:
                self.engine.step()

    def state(self) -> dict[tuple[str, str], Tensor]:
        """Tensors of the state of the optimizer and of those inside it, by parameter and path."""
        return {(name, path): value for name, _, path, value in self._entries()}

    def _entries(self) -> Iterator[tuple[str, Tensor, str, Tensor]]:
        for number, optimizer in enumerate([self.optimizer, *inner_optimizers(self.optimizer)]):
            for name, param in self.net.named_parameters():
                for path, value in walk_state(optimizer.state.get(param)):
                    yield name, param, f"{number}:{path_name(path)}", value

    def parts(self, values: Mapping[int, Tensor] | None = None) -> dict[tuple[str, str, int], Tensor]:
        """Copies of the state that is shaped like its parameter (or a flat or stacked form of that shape).

        Args:
            values: values of tensors by their place in memory; None: those that they have.
        """
        return {
            (name, path, i): view.detach().clone()
            for name, param, path, value in self._entries()
            if value.ndim and value is not param
            for i, view in enumerate(
                views_like(value if values is None else values.get(value.data_ptr(), value), param)
            )
        }

    def others(self) -> dict[tuple[str, str], Tensor]:
        """Copies of the rest of the state."""
        return {
            (name, path): value.detach().clone()
            for name, param, path, value in self._entries()
            if not value.ndim or not views_like(value, param)
        }


class _Created(TorchDispatchMode):
    """Records the value that each new tensor is created with, by its place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[int, Tensor] = {}
        self._empty: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else (result,)
        for tensor, returned in zip(made, func._schema.returns, strict=False):
            if isinstance(tensor, Tensor):
                place = tensor.data_ptr()
                if returned.alias_info is None:
                    self._empty.add(place) if "empty" in func.__name__ else self._empty.discard(place)
                    self.values[place] = tensor.detach().clone()
                elif returned.alias_info.is_write and place in self._empty:  # the first values of an empty tensor
                    self._empty.discard(place)
                    self.values[place] = tensor.detach().clone()
        return result


def fresh_values(run: Run, masks: Mapping[str, Tensor]) -> list[dict[tuple[str, str, int], Tensor]]:
    """The state of new parameters with the run's weights: when created, and after a step.

    In that step the elements of the masks have gradients of 0; all have, if second derivatives are needed.
    """
    new = Run(run.build, run.way, engine=False)
    new.net.load_state_dict(run.net.state_dict())
    new.optimizer = run.build(new.net)
    if run.way.mode:
        new.optimizer.train()
    created = _Created()

    def closure() -> Tensor:
        with torch.enable_grad():
            loss = smooth_l1_loss(new.net(batch(0)[0]), batch(0)[1])
            (0 * loss if run.way.create_graph else loss).backward(create_graph=run.way.create_graph)
        for name, param in new.net.named_parameters():
            if name in masks and not run.way.create_graph:
                param.grad.masked_fill_(masks[name], 0.0)
        return loss

    closure()
    with created:
        new.optimizer.step(closure) if run.way.closure else new.optimizer.step()
    return [new.parts(created.values), new.parts()]


def prove_reset(build: Build, way: Way = PLAIN) -> list[str]:
    """Prove the reset of an optimizer's state.

    Returns:
        the paths of the state that was reset.

    Raises:
        AssertionError: the reset is wrong.
        TypeError: the engine refuses the optimizer.
    """
    run = Run(build, way, replacement_rate=0.0)
    run.train(range(5))
    before, others = run.parts(), run.others()
    weights = {name: param.detach().clone() for name, param in run.net.named_parameters()}
    run.engine.replace([torch.tensor(units) for units in UNITS])
    masks = owned(hidden_layers(run.net), [torch.tensor(units) for units in UNITS])
    after, expected = run.parts(), fresh_values(run, masks)
    params = dict(run.net.named_parameters())
    for key, value in after.items():
        name = key[0]
        mask = masks.get(name, torch.zeros_like(value, dtype=torch.bool))
        fresh = [values[key][mask] for values in expected if key in values]
        if not fresh:  # made later than in the first step: gradients, or sums of them
            fresh = [torch.zeros_like(value[mask])]
        assert any(torch.allclose(value[mask], f, rtol=1e-5, atol=0) for f in fresh), (
            f"{key}: {value[mask]} is not {fresh}"
        )
        if key not in before:
            continue
        change = params[name].detach() - weights[name]  # of a consumer's bias, by bias transfer
        kept, moved = before[key][~mask], (before[key] + change)[~mask]
        assert torch.equal(value[~mask], kept) or torch.equal(value[~mask], moved), f"{key}: other units changed"
    for key, value in run.others().items():
        assert torch.equal(value, others[key]) or key not in others, f"{key}: state of the whole parameter changed"
    assert not before or any(not torch.equal(before[k], after[k]) for k in before), "no state had to be reset"
    _check_training_goes_on(run, masks)
    return sorted({path for _, path, _ in after})


def _check_training_goes_on(run: Run, masks: dict[str, Tensor]) -> None:
    incoming, outgoing = "0.weight", "2.weight"
    params = dict(run.net.named_parameters())
    units = torch.tensor(UNITS[0])
    old = {name: params[name].detach().clone() for name in (incoming, outgoing)}
    run.train(range(5, 6))
    cosine = torch.cosine_similarity(old[incoming][units].flatten(), params[incoming].detach()[units].flatten(), dim=0)
    assert cosine > 0.5, f"the new weights did not survive the next step: cosine {cosine}"
    run.train(range(6, 12))  # some warm up, or leave out parameters at random
    assert all(param.isfinite().all() for param in params.values()), "weights are not finite"
    assert not torch.equal(params[outgoing][:, units], old[outgoing][:, units]), "outgoing weights are not trained"


def resumes(build: Build, way: Way = PLAIN, *, engine: bool = True, own_load: bool = True) -> bool:
    """True if a run that was saved and loaded, with replacements before and after, goes on bit for bit.

    Args:
        build, way: the optimizer.
        engine: False: without replacements.
        own_load: False: the engine's state is loaded by hand.
    """
    settings = FREQUENT_REPLACEMENT if engine else {}
    run = Run(build, way, engine=engine, **settings)
    run.train(range(8))
    other = Run(build, way, engine=engine, **settings)
    other.net.load_state_dict(run.net.state_dict())
    try:
        other.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    except Exception:  # any: not all of them load what they save
        return False
    if engine and (not own_load or not way.attached):
        other.engine.load_state_dict(run.engine.state_dict())
    for each in (run, other):
        each.train(range(8, 12))
    pairs = zip(run.net.parameters(), other.net.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _without_bias(module: nn.Module) -> nn.Module:
    return nn.Linear(module.in_features, module.out_features, bias=False) if isinstance(module, nn.Linear) else module
