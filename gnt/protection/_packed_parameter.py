"""`PackedParameter`: which task owns each entry of one parameter, and the values that must not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm

from gnt.nn import InputNorm
from gnt.units import WEIGHT_LAYERS, is_transposed_linear

RUNNING_NORMS: Final = (_NormBase, InputNorm, _SpectralNorm)  # training forwards change their buffers


class PackedParameter:
    """A parameter, or a running statistic, with owners and held values.

    Args:
        name: its name in the network.
        tensor: the parameter or buffer.
        modules: the modules that it belongs to.
        prunable: the weight of a linear or convolution layer: each task prunes it and owns what is left. Others belong
            to the first task that runs the layer, as a whole.

    Attributes:
        owner: number of the task that owns each entry, uint8; 0: free.
        held: values at the start of the task; those of owned entries never change.
        fixed: which entries are set to ``held`` after each step; None: none.
        used: some task has run the layer.
    """

    def __init__(self, name: str, tensor: Tensor, modules: list[nn.Module], prunable: bool) -> None:
        self.name, self.tensor, self.modules, self.prunable = name, tensor, modules, prunable
        self.owner = torch.zeros(tensor.shape, dtype=torch.uint8, device=tensor.device)
        self.held = tensor.detach().clone()
        self.fixed: Tensor | None = None
        self.used = False
        self._froze = False  # PackNet has set requires_grad=False

    def follow_tensor(self) -> None:
        """Move owners and held values to the parameter's device and dtype. A buffer that ``net.to`` has replaced is
        taken from its module.
        """
        if not isinstance(self.tensor, nn.Parameter):
            now = self.modules[0]._buffers.get(self.name.rpartition(".")[2])
            self.tensor = self.tensor if now is None else now
        tensor = self.tensor
        if self.held.device != tensor.device or self.held.dtype != tensor.dtype:
            self.held = self.held.to(tensor.device, tensor.dtype)
            self.owner = self.owner.to(tensor.device)
            self.fixed = None if self.fixed is None else self.fixed.to(tensor.device)

    def has_changed(self) -> bool:
        """True if an entry differs from its value at the start of the task."""
        self.follow_tensor()
        return not torch.equal(self.tensor.detach(), self.held)

    def restore(self) -> None:
        """Set the fixed entries to their held values."""
        if self.fixed is not None:
            self.follow_tensor()
            value = self.tensor.detach()
            value.copy_(torch.where(self.fixed, self.held, value))

    def hold_owned(self, *, all_used: bool) -> None:
        """Fix what earlier tasks own; with ``all_used`` all of a parameter that some task has run."""
        if all_used:
            self.fixed = torch.ones_like(self.owner, dtype=torch.bool) if self.used else None
        else:
            owned = self.owner > 0
            self.fixed = owned if self.used and bool(owned.any()) else None
        if self.fixed is None:
            self.release()
        elif not self.prunable and self.tensor.requires_grad:
            self.tensor.requires_grad_(False)  # an engine does not move means into a frozen bias
            self.tensor.grad, self._froze = None, True

    def release(self) -> None:
        """Let all entries be trained."""
        self.fixed = None
        if self._froze:
            self.tensor.requires_grad_(True)
            self._froze = False

    def claim(self, task: int, prune: float) -> None:
        """Let a task own the free entries; of a prunable parameter the smallest by magnitude become 0 and stay free."""
        self.follow_tensor()
        free = self.owner == 0
        if not self.prunable:
            self.owner[free] = task
        else:
            value = self.tensor.detach()
            keep = free.flatten().nonzero().squeeze(1)
            drop = round(prune * len(keep)) if self.tensor.requires_grad else 0
            order = value.abs().flatten()[keep].argsort(stable=True)  # an exact count, ties included
            self.owner.view(-1)[keep[order[drop:]]] = task
            value.masked_fill_(self.owner == 0, 0.0)
        self.used = True
        self.held = self.tensor.detach().clone()
        self.fixed = self.owner != task

    def owned_positions(self, dim: int, groups: int) -> Tensor:
        """For each position along ``dim`` whether a task owns an entry there."""
        owned = self.owner > 0
        if groups > 1 and dim == 1:  # (out, in / groups, *kernel): input channels, group by group
            return owned.view(groups, -1, *owned.shape[1:]).movedim(2, 1).flatten(2).any(2).flatten()
        return owned.movedim(dim, 0).flatten(1).any(1)


def packed_parameters(net: nn.Module) -> Iterator[PackedParameter]:
    """All parameters of a network, each once, and the running statistics of its norms."""
    found: dict[int, tuple[str, Tensor, list[nn.Module], bool]] = {}
    for path, module in net.named_modules(remove_duplicate=True):
        prefix = f"{path}." if path else ""
        own = [(key, value) for key, value in module._parameters.items() if value is not None]
        if isinstance(module, RUNNING_NORMS):
            own += [(key, value) for key, value in module._buffers.items() if value is not None]
        linear = isinstance(module, WEIGHT_LAYERS) or is_transposed_linear(module)
        for key, value in own:
            name, tensor, modules, prunable = found.get(id(value), (f"{prefix}{key}", value, [], False))
            found[id(value)] = name, tensor, [*modules, module], prunable or (linear and key == "weight")
    return (PackedParameter(*each) for each in found.values())
