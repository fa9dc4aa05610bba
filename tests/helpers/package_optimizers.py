"""The optimizers of packages, each with how it is built and run, for the proof of the resets of their state."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from tests.helpers.reset_proof import Build, Way

# module with the public optimizers -> what "pip install" calls it
PACKAGES = {
    "torch.optim": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "timm.optim": "timm",
    "torch_optimizer": "torch_optimizer",
    "bitsandbytes.optim": "bitsandbytes",
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "dadaptation": "dadaptation",
    "lion_pytorch": "lion-pytorch",
    "adabelief_pytorch": "adabelief-pytorch",
    "adan_pytorch": "adan-pytorch",
    "muon": "muon-optimizer",
}


class PackageOptimizer(NamedTuple):
    """An optimizer of a package."""

    package: str
    name: str
    build: Build
    way: Way

    def __str__(self) -> str:
        return f"{self.package}.{self.name}"


_WITH_MOMENTUM = {"lr": 1e-3, "momentum": 0.9}
_OPTIONS: dict[str, dict[str, Any]] = {
    "pytorch_optimizer.AdaShift": {"keep_num": 2},
    "pytorch_optimizer.Amos": {"momentum": 0.9},
    "pytorch_optimizer.BSAM": {"num_data": 8},
    "pytorch_optimizer.DAdaptSGD": {"momentum": 0.9},
    "pytorch_optimizer.EmoLynx": {"use_shadow": True},
    "pytorch_optimizer.EmoNavi": {"use_shadow": True},
    "pytorch_optimizer.PID": {"momentum": 0.9},
    "pytorch_optimizer.Ranger21": {"num_iterations": 30},
    "pytorch_optimizer.SGDW": {"momentum": 0.9},
    **{f"torch.{name}": _WITH_MOMENTUM for name in ("SGD", "RMSprop")},
    **{f"timm.{name}": _WITH_MOMENTUM for name in ("Lars", "SGDP", "SGDW", "RMSpropTF")},
    **{f"torch_optimizer.{name}": _WITH_MOMENTUM for name in ("LARS", "PID", "SGDP", "SGDW")},
    **{f"bitsandbytes.{name}{bits}": _WITH_MOMENTUM for name in ("SGD", "LARS") for bits in ("", "32bit", "8bit")},
    "bitsandbytes.PytorchLARS": _WITH_MOMENTUM,
    "dadaptation.DAdaptSGD": {"momentum": 0.9},
    "schedulefree.SGDScheduleFree": {"lr": 0.05},
}
_WITH_BASE_OPTIMIZER = ("FriendlySAM", "LookSAM", "SAM", "WSAM")  # takes a class
_OF_AN_OPTIMIZER = ("Lookahead", "Magma", "OrthoGrad", "ScheduleFreeWrapper", "TRAC", "PCGrad")  # takes an optimizer
_OF_A_MODEL = ("AdaLOMO", "AdamMini", "LOMO", "WSAM")
_WITH_MUON_GROUPS = (
    "AdaGO",
    "AdaMuon",
    "DistributedMuon",
    "Muon",
    "MuonClip",
    "NorMuon",
    "MuonWithAuxAdam",
    "SingleDeviceMuonWithAuxAdam",
)
_CLOSURE = ("AliG", "BSAM", "FriendlySAM", "LBFGS", "LookSAM", "SAM", "WSAM")
_CREATE_GRAPH = ("AdaHessian", "Adahessian", "SophiaH")
_MATRICES = ("SpectralSphere", "SingleDeviceMuon", "muon.Muon", "torch.Muon")


def package_optimizers(module: str) -> Iterator[PackageOptimizer]:
    """The public optimizers of a module, by name."""
    package = module.partition(".")[0]
    for name, kind in sorted(vars(importlib.import_module(module)).items()):
        own = isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
        if own and (package == "torch" or not kind.__module__.startswith("torch.")):
            yield PackageOptimizer(
                package, name, lambda net, kind=kind: _build(package, kind, net), _way(package, name)
            )


def _way(package: str, name: str) -> Way:
    in_closure = package == "schedulefree" and name.endswith("Closure")
    return Way(
        closure=name in _CLOSURE or in_closure,
        create_graph=name in _CREATE_GRAPH,
        mode=package == "schedulefree" and not in_closure,
        matrices=name in _MATRICES or f"{package}.{name}" in _MATRICES,
        attached=name not in _OF_AN_OPTIMIZER,
    )


def _build(package: str, kind: type[Optimizer], net: nn.Module) -> Optimizer:
    name, parameters = kind.__name__, list(net.parameters())
    matrices = [p for p in parameters if p.ndim == 2]
    if name in _OF_AN_OPTIMIZER:
        return kind(Adam(parameters, lr=1e-3))
    if name in _WITH_BASE_OPTIMIZER:
        options = {"base_optimizer": torch.optim.SGD, "lr": 0.05, "momentum": 0.9}
        return kind(net, parameters, **options) if name in _OF_A_MODEL else kind(parameters, **options)
    if name in _OF_A_MODEL:
        return kind(net)
    if name in _WITH_MUON_GROUPS and f"{package}.{name}" not in _MATRICES and package in ("pytorch_optimizer", "muon"):
        others = [p for p in parameters if p.ndim != 2]
        return kind([{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}])
    options = _OPTIONS.get(f"{package}.{name}")
    try:
        return kind(parameters, **(options or {}))
    except TypeError:
        return kind(parameters, **{"lr": 1e-3, **(options or {})})
