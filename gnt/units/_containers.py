"""What a unit group remembers of its place in the model: the containers around its layers, and what was in them.

A list of layers shows the containers that it opens, `trace` those of the model. Of a plain list of layers nothing is
known but the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

LISTS = (nn.Sequential, nn.ModuleList)
HAVE_NO_FORWARD = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, eq=False)
class Container:
    """A module with the children that it had when the groups were found.

    A deep copy refers to the copy of the module if that is copied before, and otherwise to no module, as a pickled one
    does: a group may be copied without the model.

    Attributes:
        name: path of the module in the model.
        module: the module; None in a copy without the model.
        children: the children, by name.
        complete: ``children`` are all of the module's children.
        open_end: children may be added at the end.
    """

    name: str
    module: nn.Module | None
    children: tuple[tuple[str, nn.Module | None], ...]
    complete: bool = True
    open_end: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Container:
        module = memo.get(id(self.module))
        if module is None:
            return Container(self.name, None, ())
        children = tuple((name, memo.get(id(child), child)) for name, child in self.children)
        return Container(self.name, module, children, self.complete, self.open_end)

    def __reduce__(self) -> tuple[Any, ...]:
        return Container, (self.name, None, ())

    def changes(self) -> Iterator[str]:
        """Say which children were replaced, removed or added."""
        if self.module is None:
            return
        now, before = self.module._modules, dict(self.children)
        for name, child in before.items():
            if now.get(name) is not child:
                what = f"{self._path(name)} ({_kind(child)})"
                other = now.get(name)
                if other is None:
                    yield f"{what} was removed"
                elif any(other is each for each in before.values()) or any(child is each for each in now.values()):
                    yield f"{self._path(name)} is now {_kind(other)}, no longer {_kind(child)}: layers were moved"
                else:
                    yield f"{what} was replaced by another {_kind(other)}"
        for name, child in now.items() if self.complete else ():
            if name not in before and child is not None and self._may_act(child):
                yield f"{self._path(name)} ({_kind(child)}) was added"

    def _may_act(self, child: nn.Module) -> bool:
        """True if an added child may read or change units: in a Sequential, or if it has parameters."""
        if self.open_end:
            return False
        return isinstance(self.module, nn.Sequential) or any(True for _ in child.parameters())

    def _path(self, name: str) -> str:
        return repr(f"{self.name}.{name}" if self.name else name)


def all_children(name: str, module: nn.Module, *, open_end: bool = False) -> Container:
    """The container of all children that the module has now."""
    return Container(name, module, tuple(module._modules.items()), open_end=open_end)


def opened_containers(layers: Any) -> Iterator[Container]:
    """The containers that `walk` opens: a Sequential, a ModuleList, those inside them, or a model with ``.layers``.

    Layers may be added at the end of the outermost one: they read the outputs.
    """
    if isinstance(layers, LISTS):
        yield from _nested(layers, "", open_end=True)
    elif isinstance(layers, nn.Module):
        inner = layers._modules.get("layers")
        if inner is not None:
            yield Container("", layers, (("layers", inner),), complete=False)
        yield from _nested(layers.layers, "layers", open_end=True)
    else:
        yield from _nested(layers, "")


def _nested(layers: Any, path: str, *, open_end: bool = False) -> Iterator[Container]:
    if isinstance(layers, nn.Module):
        yield all_children(path, layers, open_end=open_end)
    children = layers._modules.items() if isinstance(layers, nn.Module) else enumerate(layers)
    for name, child in children:
        if isinstance(child, (*LISTS, list, tuple)):
            yield from _nested(child, f"{path}.{name}" if path else str(name))


class ModelContainers:
    """The containers of a traced model, for the groups found in it."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._paths = {id(module): path for path, module in reversed(self._modules.items())}
        self._complete: dict[str, Container] = {}

    def around(self, modules: Iterable[nn.Module]) -> tuple[Container, ...]:
        """The containers in which a change may concern units that go from one to another of these modules.

        These are all inside the innermost module that has a forward and contains them, and the path to that module.
        """
        paths = [self._paths[id(module)].split(".") for module in modules if id(module) in self._paths]
        scope = _common(paths)
        while scope and (isinstance(self._modules[".".join(scope)], HAVE_NO_FORWARD) or scope in paths):
            scope.pop()
        outer = []
        for i, key in enumerate(scope):
            path = ".".join(scope[:i])
            module = self._modules[path]
            outer.append(Container(path, module, ((key, module._modules[key]),), complete=False))
        prefix = ".".join(scope)
        inner = [path for path in self._modules if path == prefix or not prefix or path.startswith(f"{prefix}.")]
        return (*outer, *(self._of(path) for path in inner if self._modules[path]._modules))

    def _of(self, path: str) -> Container:
        if path not in self._complete:
            self._complete[path] = all_children(path, self._modules[path])
        return self._complete[path]


def _common(paths: list[list[str]]) -> list[str]:
    """The common beginning of all paths."""
    common = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return common


def _kind(module: nn.Module | None) -> str:
    return "None" if module is None else type(module).__name__
