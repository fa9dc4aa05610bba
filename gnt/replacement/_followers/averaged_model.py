"""Copies of the network with averaged parameters: ``torch.optim.swa_utils.AveragedModel`` (EMA and SWA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gnt.replacement.reinitialization import changed_scale_tensors
from gnt.units import Slot, UnitGroup, unwrap


class AveragedModelAdapter:
    """An averaged copy: the slices of replaced units get the new values, and biases move as those of the network.

    Args:
        target: the averaged copy.
        network: the network that it is a copy of; None: the layers are found by the names of the units' layers.
    """

    moves_bias = True

    def __init__(self, target: AveragedModel, network: nn.Module | None = None) -> None:
        self.target, self._network = target, network if network is None else unwrap(network)
        self._groups: Sequence[UnitGroup] = ()
        self._copies: dict[nn.Module, nn.Module] = {}

    def check(self, groups: Sequence[UnitGroup]) -> None:
        """Find the copies of the groups' layers, unless they are known, and compare all shapes.

        Raises:
            ValueError: a layer has no copy of its shape, or several.
        """
        copies = self._copies if groups is self._groups else self._find_copies(groups)
        for slot in _slots(groups):
            _check_copy(slot, copies[slot.module])
        self._groups, self._copies = groups, copies

    def move_bias(self, slot: Slot, change: Tensor) -> None:
        """Add the change to the averaged bias."""
        averaged = self._copies[slot.module].bias
        assert isinstance(averaged, Tensor)
        averaged.detach().add_(change.to(averaged.device, averaged.dtype))

    def reset(self, group: UnitGroup, units: Tensor) -> None:
        """Copy the units' slices of parameters and running statistics."""
        for slot, name in _changed_tensors(group):
            averaged, own = getattr(self._copies[slot.module], name), getattr(slot.module, name)
            if isinstance(averaged, Tensor):
                slot.copy_(averaged, own.detach(), units)

    def _find_copies(self, groups: Sequence[UnitGroup]) -> dict[nn.Module, nn.Module]:
        slots: dict[nn.Module, Slot] = {}
        for slot in _slots(groups):
            slots.setdefault(slot.module, slot)
        if self._network is not None:
            return self._by_network(list(slots.values()), self._network)
        modules = dict(self.target.module.named_modules(remove_duplicate=False))
        first = next(iter(slots.values())).name
        prefixes = [path.removesuffix(first) for path in modules if f".{path}".endswith(f".{first}")]
        named = [
            {module: modules[f"{prefix}{slot.name}"] for module, slot in slots.items()}
            for prefix in prefixes
            if all(f"{prefix}{slot.name}" in modules for slot in slots.values())
        ]
        fitting = [copies for copies in named if all(_fault(slot, copies[m]) is None for m, slot in slots.items())]
        if len(fitting) == 1 or len(named) == 1:
            return fitting[0] if fitting else named[0]  # whose shapes are checked next
        what = f"{len(fitting)} copies" if fitting else "no copies"
        names = ", ".join(slot.name for slot in slots.values())
        raise ValueError(
            f"AveragedModel cannot follow: it has {what} of the layers {names} of the engine's units. If it is a copy "
            "of a network in which they have other names, or in which these names occur several times, pass that "
            "network: engine.follow(averaged, network=net)"
        )

    def _by_network(self, slots: list[Slot], network: nn.Module) -> dict[nn.Module, nn.Module]:
        """The copies at the places that the layers have in the network."""
        paths = {id(module): path for path, module in network.named_modules(remove_duplicate=False)}
        modules = dict(unwrap(self.target.module).named_modules(remove_duplicate=False))
        missing = [slot.name for slot in slots if id(slot.module) not in paths]
        if missing:
            raise ValueError(
                f"network must contain the layers of the engine's units; this {type(network).__name__} does not "
                f"contain {', '.join(missing)}"
            )
        absent = [paths[id(slot.module)] for slot in slots if paths[id(slot.module)] not in modules]
        if absent:
            raise ValueError(
                f"AveragedModel cannot follow: it has no {', '.join(absent)}, so it is not a copy of this "
                f"{type(network).__name__}"
            )
        return {slot.module: modules[paths[id(slot.module)]] for slot in slots}


def _slots(groups: Sequence[UnitGroup]) -> Iterator[Slot]:
    return (slot for group in groups for slot in group.slots)


def _check_copy(slot: Slot, copied: nn.Module) -> None:
    fault = _fault(slot, copied)
    if fault is not None:
        raise ValueError(
            f"AveragedModel cannot follow: {fault}. Build a new AveragedModel of the network as it is now, and call "
            "unfollow for this one"
        )


def _fault(slot: Slot, copied: nn.Module) -> str | None:
    """How the parameters of a copied layer differ in shape from those of a layer; None if they do not."""
    for name in slot.values or ("weight", "bias"):
        own, averaged = slot.module._parameters.get(name), copied._parameters.get(name)
        shapes = [None if each is None else tuple(each.shape) for each in (own, averaged)]
        if shapes[0] != shapes[1]:
            own_shape, copied_shape = ("none" if shape is None else f"one of shape {shape}" for shape in shapes)
            return f"as {slot.name}.{name} it has {copied_shape}, the network has {own_shape}"
    return None


def _changed_tensors(group: UnitGroup) -> Iterator[tuple[Slot, str]]:
    """The tensors of which a replacement changes a part."""
    for slot in group.drawn:
        for name, parameter in slot.module._parameters.items():
            if parameter is not None and parameter.requires_grad and name in ("weight", "bias"):
                yield slot, name
    for slot in group.scales:
        if slot not in group.drawn:
            for name in changed_scale_tensors(slot):
                yield slot, name
    for slot in group.outgoing:
        yield slot, "weight"


def is_averaged_model(target: Any) -> bool:
    """True for torch's AveragedModel."""
    return isinstance(target, AveragedModel)
