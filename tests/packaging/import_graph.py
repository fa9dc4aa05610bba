"""The imports of Python packages, read from their source with `ast`: no module is executed.

Sources are given as {module name: text}; a package's own file is called "package.__init__". All imports count: at the
top of a module, under `if TYPE_CHECKING`, and inside functions.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

Sources = dict[str, str]


class Import(NamedTuple):
    """An import statement's ``names`` from module ``target``; none where the module itself is imported."""

    importer: str
    target: str
    names: tuple[str, ...]
    line: int

    def __str__(self) -> str:
        names = f" ({', '.join(self.names)})" if self.names else ""
        return f"{self.importer}:{self.line} imports {self.target}{names}"


def read_package(folder: Path) -> Sources:
    """The sources of a package, links to folders included."""
    sources = {}
    for parent, _, files in os.walk(folder, followlinks=True):
        for file in files:
            path = Path(parent, file)
            if path.suffix == ".py":
                parts = path.relative_to(folder.parent).with_suffix("").parts
                sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def module_name(source: str) -> str:
    return source.removesuffix(".__init__")


def imports(sources: Sources) -> list[Import]:
    """All imports of one module of ``sources`` by another, in the order of the sources."""
    modules = {module_name(source) for source in sources}
    found = []
    for source, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                pairs: Iterable[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                pairs = _imported_from(source, node, modules)
            else:
                continue
            by_target: dict[str, list[str]] = {}
            for target, name in pairs:
                if target in modules:
                    by_target.setdefault(target, []).extend([] if name is None else [name])
            importer = module_name(source)
            found += [Import(importer, target, tuple(names), node.lineno) for target, names in by_target.items()]
    return found


def _imported_from(source: str, node: ast.ImportFrom, modules: set[str]) -> list[tuple[str, str | None]]:
    base = node.module or ""
    if node.level:
        package = source.split(".")[: -node.level]
        base = ".".join([*package, *([node.module] if node.module else [])])
    names = [alias.name for alias in node.names]
    return [(f"{base}.{name}", None) if f"{base}.{name}" in modules else (base, name) for name in names]


def circles(found: Iterable[Import]) -> list[list[str]]:
    """The shortest circle of imports through each module that is on one, each circle once."""
    graph: dict[str, set[str]] = {}
    for each in found:
        graph.setdefault(each.importer, set()).add(each.target)
    shortest = {}
    for module in sorted(graph):
        circle = _shortest_circle(graph, module)
        if circle:
            shortest.setdefault(frozenset(circle), circle)
    return list(shortest.values())


def _shortest_circle(graph: dict[str, set[str]], start: str) -> list[str] | None:
    paths = [[start]]
    seen = set()
    for path in paths:  # breadth first: paths are appended while they are read
        for target in sorted(graph.get(path[-1], ())):
            if target == start:
                return [*path, start]
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])
    return None


def package_of(module: str) -> str:
    """The package that an arrow of the order starts or ends at: "units" of gnt.units._slot, "gnt", "benchmarks"."""
    root, _, rest = module.partition(".")
    return rest.split(".")[0] if root == "gnt" and rest else root


def against_order(found: Iterable[Import], order: Sequence[Sequence[str]]) -> list[Import]:
    """Imports of a package that is not in an earlier row of the order. Packages of the first row may be mixed."""
    row = {package: number for number, packages in enumerate(order) for package in packages}
    unknown = {package_of(module) for each in found for module in each[:2]} - set(row)
    if unknown:
        raise ValueError(f"packages that the order does not name: {', '.join(sorted(unknown))}")
    wrong = []
    for each in found:
        importer, target = package_of(each.importer), package_of(each.target)
        if importer != target and row[target] >= max(row[importer], 1):
            wrong.append(each)
    return wrong


def of_private(found: Iterable[Import]) -> list[Import]:
    """Imports of a private module or name from outside the package that it is private to."""
    wrong = []
    for each in found:
        parts = each.target.split(".")
        owners = [".".join(parts[:i]) for i, part in enumerate(parts) if part.startswith("_")]
        if any(name.startswith("_") and not name.endswith("__") for name in each.names):
            owners.append(".".join(parts[:2]))  # a package of gnt may share private names within itself
        if not all(each.importer == owner or each.importer.startswith(f"{owner}.") for owner in owners):
            wrong.append(each)
    return wrong


def hidden_modules(sources: Sources) -> list[str]:
    """Modules whose name their package's ``__init__`` gives to something else."""
    modules = {module_name(source) for source in sources}
    hidden = []
    for source, text in sources.items():
        if not source.endswith(".__init__"):
            continue
        package = module_name(source)
        for node in ast.parse(text).body:
            hidden += [
                f"{package}.{name}"
                for name, value in _bound_names(source, node, modules)
                if f"{package}.{name}" in modules and value != f"{package}.{name}"
            ]
    return hidden


def _bound_names(source: str, node: ast.stmt, modules: set[str]) -> list[tuple[str, str | None]]:
    """Names that a statement binds, each with the module it is bound to, if any."""
    if isinstance(node, ast.Import):
        return [(a.asname, a.name) for a in node.names if a.asname]
    if isinstance(node, ast.ImportFrom):
        targets = _imported_from(source, node, modules)
        return [(a.asname or a.name, t if n is None else None) for a, (t, n) in zip(node.names, targets, strict=True)]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [(node.name, None)]
    if isinstance(node, ast.Assign):
        return [(target.id, None) for target in node.targets if isinstance(target, ast.Name)]
    return []
