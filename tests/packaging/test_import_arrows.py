"""The order of packages: imports go one way, without circles, and not into other packages' private modules.

Checked is the imported gnt (in ./check the installed wheel), which includes optim/ and benchmarks/. CONTRIBUTING.md
explains the layout.
"""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

import pytest

import gnt
from tests.packaging.import_graph import (
    Import,
    against_order,
    circles,
    hidden_modules,
    imports,
    of_private,
    read_package,
)

# A package may import packages of earlier rows and its own modules. Packages of the first row may import each other.
ORDER = (
    ("_version", "_utils", "_kernels", "_triton", "distributed", "names", "nn"),
    ("units",),
    ("initialization",),
    ("importance",),
    ("replacement",),
    ("protection", "regularization", "replay"),
    ("optim",),
    ("learners",),
    ("metrics",),
    ("diagnosis",),
    ("gnt",),  # gnt/__init__.py
    ("integrations", "benchmarks"),
    ("_command",),
    ("__main__",),
)
LINKED = ("benchmarks", "optim")  # folders of the checkout that are packages of gnt
CHECKOUT = Path(os.environ.get("GNT_CHECKOUT") or Path(__file__).parents[2])


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return read_package(Path(gnt.__file__).parent)


@pytest.fixture(scope="module")
def found(sources: dict[str, str]) -> list[Import]:
    return imports(sources)


def fail_if_any(problems: list[Import] | list[str]) -> None:
    if problems:
        pytest.fail(f"{len(problems)} found:\n" + "\n".join(map(str, problems)), pytrace=False)


def test_no_circles(found: list[Import]) -> None:
    fail_if_any([" -> ".join(circle) for circle in circles(found)])


def test_packages_import_only_packages_below_them(found: list[Import]) -> None:
    fail_if_any(against_order(found, ORDER))


def test_private_modules_are_imported_only_inside_their_package(found: list[Import]) -> None:
    fail_if_any(of_private(found))


def test_no_package_hides_one_of_its_modules(sources: dict[str, str]) -> None:
    fail_if_any(hidden_modules(sources))


def test_benchmarks_import_each_other_by_relative_imports(sources: dict[str, str]) -> None:
    # an installed gnt has no top-level package benchmarks
    lines = [
        f"{name}:{number}: {line.strip()}"
        for name, text in sources.items()
        if name.startswith("gnt.benchmarks.")
        for number, line in enumerate(text.splitlines(), 1)
        if re.match(r" *(from|import) (gnt\.)?benchmarks\b", line)
    ]
    fail_if_any(lines)


def test_every_folder_with_files_is_a_package_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    declared = set(config["options"]["packages"].split())
    folders = {
        ".".join(path.parent.relative_to(CHECKOUT).parts)
        for name in ("gnt", *LINKED)
        for path in (CHECKOUT / name).rglob("*.py")
    }
    packages = {f"gnt.{folder}" if folder.split(".")[0] in LINKED else folder for folder in folders}
    assert packages == declared


# The checker itself, on small sources.


def test_a_circle_is_named_even_through_type_hints_and_functions() -> None:
    sources = {
        "gnt.units.a": "from gnt.units.b import f",
        "gnt.units.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gnt.units import c",
        "gnt.units.c": "def late():\n    from .a import g",
        "gnt.units.d": "import gnt.units.a",
    }
    names = ["gnt.units.a", "gnt.units.b", "gnt.units.c"]
    assert circles(imports(sources)) == [[*names, names[0]]]


def test_a_module_that_imports_its_own_package_is_a_circle() -> None:
    sources = {"gnt.units.__init__": "from gnt.units._a import f", "gnt.units._a": "from . import g"}
    assert circles(imports(sources)) == [["gnt.units", "gnt.units._a", "gnt.units"]]


def test_relative_imports_are_resolved() -> None:
    sources = {
        "gnt.units.__init__": "from ._walk import walk",
        "gnt.units._walk": "from ..importance import Signals\nfrom .ops import norms",
        "gnt.units.ops.__init__": "",
        "gnt.units.ops.norms": "from .. import _walk",
        "gnt.importance.__init__": "",
    }
    assert [each[:3] for each in imports(sources)] == [
        ("gnt.units", "gnt.units._walk", ("walk",)),
        ("gnt.units._walk", "gnt.importance", ("Signals",)),
        ("gnt.units._walk", "gnt.units.ops.norms", ()),
        ("gnt.units.ops.norms", "gnt.units._walk", ()),
    ]


def test_an_upward_or_sideways_import_is_found() -> None:
    sources = {
        "gnt.__init__": "from gnt.optim import AdamGnT",
        "gnt.distributed": "from gnt._utils import check",
        "gnt._utils": "",
        "gnt.units": "import gnt.optim",
        "gnt.optim": "from gnt.units import Slot",
        "gnt.replacement": "from gnt.units import Slot",
        "gnt.replay": "",
        "gnt.regularization": "if True:\n    from gnt.replay import DER",
        "benchmarks.cli": "import gnt",
    }
    wrong = against_order(imports(sources), ORDER)
    assert [str(each) for each in wrong] == [
        "gnt.units:1 imports gnt.optim",
        "gnt.regularization:2 imports gnt.replay (DER)",
    ]


def test_a_package_that_the_order_does_not_name_is_reported() -> None:
    with pytest.raises(ValueError, match="does not name: novelty"):
        against_order(imports({"gnt.novelty": "from gnt.units import Slot", "gnt.units": ""}), ORDER)


def test_imports_of_private_modules_and_names_are_found() -> None:
    sources = {
        "gnt.units.__init__": "from gnt.units._slot import Slot",
        "gnt.units._slot": "from gnt._utils.validation import check",
        "gnt.units._tracing.ops": "from gnt.units._slot import Slot, _private",
        "gnt._utils.validation": "",
        "gnt.importance.state": "from gnt.units import Slot, _private\nfrom gnt.units._slot import Slot",
        "benchmarks.cli": "from gnt._utils.validation import check",
    }
    assert [str(each) for each in of_private(imports(sources))] == [
        "gnt.importance.state:1 imports gnt.units (Slot, _private)",
        "gnt.importance.state:2 imports gnt.units._slot (Slot)",
        "benchmarks.cli:1 imports gnt._utils.validation (check)",
    ]


def test_a_name_that_hides_a_module_is_found() -> None:
    sources = {
        "gnt.units.__init__": "from gnt.units.trace import trace\nfrom gnt.units import ops\ndef walk(): ...",
        "gnt.units.trace": "",
        "gnt.units.ops": "",
        "gnt.units.walk": "",
    }
    assert hidden_modules(sources) == ["gnt.units.trace", "gnt.units.walk"]
