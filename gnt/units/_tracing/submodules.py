"""The parts of a model that can be traced if the whole of it cannot: advice for the error, found by trying."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from gnt._utils.recording_switch import pause_recording
from gnt.units._layer_types import is_weight_layer
from gnt.units._tracing.examples import Example
from gnt.units._tracing.quiet import quiet
from gnt.units._tracing.shared_memory import SharedMemory

MOST_TRIES = 12
CountGroups = Callable[[nn.Module, Example], int]


def submodule_advice(model: nn.Module, example: Example, count_groups: CountGroups, *, training: bool) -> str:
    """Which submodules can be traced with the inputs that they receive in one forward; starts with a new line.

    The largest ones are named: a submodule inside one that can be traced is left out. At most `MOST_TRIES` are tried.

    Args:
        model: a model that runs with the example but cannot be traced; a copy of it is used.
        example: its inputs.
        count_groups: the number of groups in a submodule for an example of its inputs; 0 if it cannot be traced.
        training: the mode of the forward.
    """
    try:
        model, (args, kwargs) = copy.deepcopy((model, example))
        calls = _Calls(model)
        with torch.no_grad(), pause_recording(), torch.random.fork_rng(devices=[]), quiet(), calls:
            model.train(training)(*args, **kwargs)
        trial = _Trial(model, calls, count_groups)
        found = list(trial.search())
    except Exception:  # the copy, or a hook of the model, fails: there is no advice, and the error stands
        return ""
    if not found:
        return "\nNone of the submodules that were tried can be traced either." if trial.tries else ""
    lines = "".join(
        f"\n  {path!r}: {count} group{'s' if count > 1 else ''}, example inputs {_describe(calls.inputs[path])}"
        for path, count in found
    )
    lines += f"\n  (at most {MOST_TRIES} submodules are tried)" if trial.tries == MOST_TRIES else ""
    return f"\nThese submodules can be traced, each with the inputs that it receives in this forward:{lines}"


class _Calls:
    """Context manager that notes the inputs of each submodule that is called once, as a whole, in a forward.

    Attributes:
        inputs: by path, the inputs of these submodules, if they hold two weight layers or more.
    """

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, Example] = {}
        self._paths = {module: path for path, module in model.named_modules()}
        self._candidates = {
            path
            for module, path in self._paths.items()
            if path and not is_weight_layer(module) and sum(map(is_weight_layer, module.modules())) > 1
        }
        self._running: list[str] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        for module in self._paths:
            self._hooks.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        path = self._paths[module]
        outer = path.rpartition(".")[0]
        while outer:  # a part of a module is called while the module is not: others read what it computes
            if outer not in self._running:
                self._drop(outer)
            outer = outer.rpartition(".")[0]
        if path in self.inputs:
            self._drop(path)
        elif path in self._candidates:
            self.inputs[path] = Example(*tree_map(lambda value: value, (args, kwargs)))  # new containers
        self._running.append(path)

    def _leave(self, *_: object) -> None:
        self._running.pop()

    def _drop(self, path: str) -> None:
        self._candidates.discard(path)
        self.inputs.pop(path, None)


class _Trial:
    """Search for submodules that can be traced, from the outside to the inside."""

    def __init__(self, model: nn.Module, calls: _Calls, count_groups: CountGroups) -> None:
        self._model, self._calls, self._count_groups = model, calls, count_groups
        self._memory = SharedMemory(model)
        self._failed: set[str] = set()  # printed modules that could not be traced, since blocks are often alike
        self.tries = 0

    def search(self) -> Iterator[tuple[str, int]]:
        """Yield path and number of groups of the submodules that can be traced, without those inside others."""
        waiting = deque([(self._model, "")])
        while waiting:
            module, path = waiting.popleft()
            count = self._try(module, path) if path else 0
            if count:
                yield path, count
            else:
                waiting.extend((child, f"{path}.{name}".lstrip(".")) for name, child in module.named_children())

    def _try(self, module: nn.Module, path: str) -> int:
        kind = repr(module)
        if path not in self._calls.inputs or kind in self._failed:
            return 0
        if self.tries == MOST_TRIES or any(self._memory.is_shared_outside(each, path) for each in module.modules()):
            return 0
        self.tries += 1
        count = self._count_groups(module, self._calls.inputs[path])
        if not count:
            self._failed.add(kind)
        return count


def _describe(example: Example) -> str:
    """The shapes of the tensors in the inputs of a submodule."""
    shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves(tuple(example)) if isinstance(leaf, torch.Tensor)]
    return f"of shape {' and '.join(shapes)}" if shapes else "without tensors"
