"""Arguments that are passed on have names, types and defaults of their own, the same as where they go."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_args, get_origin

import pytest
import torch

import gnt
from gnt import names
from gnt.importance.attribution import ATTRIBUTIONS
from gnt.initialization import INITS
from gnt.integrations import huggingface, lightning
from gnt.learners._loss_and_optimizer import LOSSES, OPTIMIZERS, UNIT_OPTIMIZERS
from gnt.learners._optimizer_options import OptimizerOptions
from gnt.optim import CBPSGD, AdamGnT, CBPAdam, CBPAdamW
from gnt.protection._strategies import SUMMING
from gnt.replacement import CBPLayer
from gnt.units import activation_names
from gnt.units._trace import MODES

# arguments of any name: of the user's forward or data, and options whose names and types a TypedDict has
ANY_NAME = {
    "trace.kwargs",
    "ReplayBuffer.add.more",
    "ReplayBuffer.check.more",
    "Backprop.begin_task.info",
    "Backprop.end_task.info",
    *(f"{kind}.options" for kind in ("Backprop", "ContinualBackprop", "Ensemble")),
    "LogPlasticity.settings",  # of gnt.plasticity_check
    "LogPlasticity.on_train_begin.kwargs",
    "LogPlasticity.on_step_end.kwargs",  # of transformers
    "ContinualBackprop.on_epoch_end.kwargs",
    "ContinualBackprop.on_step_end.kwargs",
    "ContinualBackprop.on_train_begin.kwargs",
    "ContinualBackpropMixin.kwargs",
    "ContinualBackpropMixin.create_optimizer.kwargs",
    "ContinualBackpropMixin.log.kwargs",
}


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, classes and methods that gnt and its packages export, by name."""
    # the optimizers for Stable-Baselines3 get their arguments as a dict of its policies; the others need not be there
    adapters = ("gnt.integrations.stable_baselines3", "gnt.integrations.avalanche", "gnt.integrations.torchrl")
    others = ("gnt.__main__", "gnt.benchmarks", *adapters)
    packages = ("gnt", "gnt.importance", "gnt.integrations")
    found = [
        each.name for name in packages for each in iter_modules(importlib.import_module(name).__path__, f"{name}.")
    ]
    seen: set[int] = set()
    for module in (gnt, *(importlib.import_module(n) for n in found if "._" not in n and n not in others)):
        for name in getattr(module, "__all__", ()):
            exported = getattr(module, name)
            is_class = inspect.isclass(exported) and get_origin(exported) is None
            if not (is_class or inspect.isfunction(exported)) or id(exported) in seen:
                continue
            if getattr(exported, "_is_protocol", False):
                continue
            seen.add(id(exported))
            yield name, exported
            for method, function in vars(exported).items() if is_class else ():
                if inspect.isfunction(function) and not method.startswith("_"):
                    yield f"{name}.{method}", function


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    if isinstance(function, type) and issubclass(function, Exception):
        return {}
    return dict(inspect.signature(function).parameters)


def test_no_public_function_takes_arguments_of_any_name_but_those_listed() -> None:
    found = {
        f"{name}.{each.name}"
        for name, function in public_functions()
        for each in parameters(function).values()
        if each.kind is inspect.Parameter.VAR_KEYWORD
    }
    assert found == ANY_NAME


ENGINE = parameters(gnt.GnT)
LEARNER = {"record", "kernels", "grad_scaler"}
PASSED_ON: dict[Any, set[str]] = {  # with the arguments of `GnT` that each does not have
    CBPSGD: {"optimizer", "record"},
    CBPAdam: {"optimizer", "record"},
    CBPAdamW: {"optimizer", "record"},
    CBPLayer: {"layers", "optimizer", "record", "follow"},
    gnt.ContinualBackprop: {"optimizer", *LEARNER},
    gnt.Ensemble: {"layers", "optimizer", "generator", "process_group", "follow", "protect", *LEARNER},
    gnt.algorithm_1: set(gnt.ALGORITHM_1),
    lightning.ContinualBackprop: {"record"},
    huggingface.ContinualBackprop: {"optimizer", "record"},
}
OTHER_MEANING = {"layers", "optimizer"}


@pytest.mark.parametrize("passing", PASSED_ON, ids=lambda each: f"{each.__module__}.{each.__name__}")
def test_settings_of_the_engine_have_the_types_and_defaults_of_gnt(passing: Any) -> None:
    own = parameters(passing)
    assert set(ENGINE) - set(own) == PASSED_ON[passing]
    for name in set(ENGINE) & set(own) - OTHER_MEANING:
        if (passing, name) == (CBPLayer, "activation"):  # which is known where a layer is put
            assert (own[name].default, own[name].annotation) == ("relu", "ActivationName")
            continue
        assert own[name].default == ENGINE[name].default, name
        assert own[name].annotation == ENGINE[name].annotation, name
        assert own[name].kind is inspect.Parameter.KEYWORD_ONLY, name


@pytest.mark.parametrize(
    ("kind", "base", "without", "other_defaults"),
    [
        (CBPSGD, torch.optim.SGD, {"params"}, set()),
        (CBPAdam, AdamGnT, {"params"}, set()),
        (CBPAdamW, AdamGnT, {"params", "decoupled_weight_decay"}, {"weight_decay"}),
        (gnt.AdaHAT, gnt.HAT, {"protection"}, {"sparsity"}),
        (gnt.FGAdaHAT, gnt.HAT, {"protection"}, {"sparsity"}),
    ],
)
def test_options_are_those_of_the_base(kind: Any, base: Any, without: set[str], other_defaults: set[str]) -> None:
    own, wanted = parameters(kind), parameters(base)
    assert set(wanted) - set(own) <= without
    for name in set(wanted) - without - other_defaults:
        assert own[name].default == wanted[name].default, name
        if base is not torch.optim.SGD:  # whose annotations are not strings
            assert own[name].annotation == wanted[name].annotation, name


def test_options_of_the_learners_are_those_of_the_optimizers_that_they_know() -> None:
    factories = [*OPTIMIZERS.values(), UNIT_OPTIMIZERS["adam"]]
    known = {name for factory in factories for name in parameters(factory)}
    assert set(OptimizerOptions.__annotations__) == known - {"params", "lr", "decoupled_weight_decay", "kernels"}


def test_given_settings_reach_the_engine() -> None:
    given: dict[str, Any] = {
        "replacement_rate": 0.5, "maturity_threshold": 7, "decay_rate": 0.5, "utility": "weight", "init": "xavier",
        "accumulate": "one", "bias_transfer": False, "bias_init": "initial", "measure_every": 3,
        "soft": gnt.SoftReplacement(), "generator": torch.Generator(), "process_group": False, "kernels": False,
        "protect": "top:0.5", "grad_scaler": torch.amp.GradScaler("cpu", enabled=False),
    }  # fmt: skip
    first, second = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), second)

    def make_net() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))

    def settings_of(*without: str) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name not in without}

    of_learner = settings_of("kernels", "grad_scaler")
    of_ensemble = settings_of("kernels", "grad_scaler", "generator", "process_group", "protect")
    engines: list[tuple[Any, dict[str, Any]]] = [
        *((kind(make_net(), **given).gnt, given) for kind in (CBPSGD, CBPAdam, CBPAdamW)),
        (gnt.CBPLinear(first, second, **settings_of("protect")).engine, settings_of("protect")),
        (gnt.ContinualBackprop(make_net(), **of_learner).gnt, of_learner),
        (gnt.Ensemble(make_net, [0], **of_ensemble).gnt, of_ensemble),
        (gnt.algorithm_1(net, **settings_of(*gnt.ALGORITHM_1, "protect")), settings_of(*gnt.ALGORITHM_1, "protect")),
    ]
    for engine, settings in engines:
        plain = gnt.GnT(make_net(), None, record=False, **settings_of("protect")).settings
        for name in settings:
            if name in plain and name != "protect":
                assert engine.settings[name] == plain[name], name
            elif name != "protect":
                assert getattr(engine, name) is settings[name], name


NAMES = {
    "UtilityName": list(gnt.importance.MEASURES),
    "InitName": ["auto", *INITS],
    "ActivationName": activation_names(),
    "TraceModes": MODES,
    "LossName": LOSSES,
    "OptimizerName": OPTIMIZERS,
    "AttributionName": ATTRIBUTIONS,
    "SummingName": SUMMING,
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_type_of_a_kind_of_names_lists_all_of_them(kind: str) -> None:
    assert sorted(get_args(getattr(names, kind))) == sorted(NAMES[kind])


USE = """
from torch import nn
import gnt
from gnt.optim import CBPAdam, CBPAdamW, CBPSGD

net = nn.Linear(1, 1)
gnt.GnT(net, replacment_rate=1e-3)
CBPSGD(net, replacment_rate=1e-3)
CBPAdam(net, replacment_rate=1e-3)
CBPAdamW(net, replacment_rate=1e-3)
gnt.CBPLinear(net, net, replacment_rate=1e-3)
gnt.CBPConv(net, net, replacment_rate=1e-3)
gnt.ContinualBackprop(net, replacment_rate=1e-3)
gnt.Backprop(net, momentun=0.9)
gnt.algorithm_1(net, replacment_rate=1e-3)
gnt.GnT(net, init="lecum")
gnt.GnT(net, replacement_rate=1e-3, init="lecun")
CBPAdamW(net, 1e-3, betas=(0.9, 0.9), replacement_rate=1e-3, utility="contribution")
gnt.Backprop(net, opt="sgd", momentum=0.9)
"""
# mypy reads these only: following imports into torch takes a minute
READ = (
    "gnt", "gnt.names", "gnt._utils.other_names", "gnt._utils.renamed_argument", "gnt.optim", "gnt.optim.cbp",
    "gnt.replacement", "gnt.replacement.engine", "gnt.replacement._cbp_layer", "gnt.replacement.layers",
    "gnt.replacement._algorithm_1", "gnt.initialization", "gnt.initialization._names", "gnt.learners",
    "gnt.learners.backprop", "gnt.learners.continual_backprop", "gnt.learners._optimizer_options",
)  # fmt: skip


def test_mypy_finds_misspelled_arguments_and_names(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(USE.lstrip())
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nfollow_imports = skip\n[mypy-use,{','.join(READ)}]\nfollow_imports = normal\n"
    )
    home = str(Path(gnt.__file__).parents[1])
    paths = {} if "site-packages" in home else {"MYPYPATH": home}
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty", "use.py"]
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, **paths}, capture_output=True, text=True)
    lines = [line for line in ran.stdout.splitlines() if line.startswith("use.py:") and "error:" in line]
    assert [int(line.split(":")[1]) for line in lines] == list(range(6, 16)), ran.stdout + ran.stderr
    assert all("Unexpected keyword argument" in line for line in lines[:-1])
    assert "Literal['lecum']" in lines[-1]
