"""`GatedNetwork`: masks of units for each task, and which of them is in force in a network."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from gnt._utils.dynamo import watch_hooks
from gnt._utils.recording_switch import is_paused
from gnt.protection._gate_function import annealed_scale, gate
from gnt.protection._gate_kernel import GateKernel
from gnt.protection._gate_places import gate_places
from gnt.protection._gates import Gates
from gnt.protection._hat_settings import HATSettings
from gnt.protection._saved_state import is_task_id
from gnt.protection._task_buffers import TaskBuffers
from gnt.protection._unit_layout import UnitLayout
from gnt.units import UnitGroup, is_weight_layer


def _weight_layers(model: nn.Module) -> frozenset[str]:
    """The names of the linear and convolution layers of a network."""
    return frozenset(name for name, module in model.named_modules() if is_weight_layer(module))


@dataclass
class Progress:
    """Where the open task is. Not attributes of the module itself, which takes microseconds to set one.

    Attributes:
        step: number of optimizer steps that were made.
        steps_per_epoch: steps in which s grows.
        penalty_seen: the penalty was used.
    """

    step: int = 0
    steps_per_epoch: int = 0
    penalty_seen: bool = False


class GatedNetwork(nn.Module):
    """Base class of `HAT`: gates on the units of a network, masks of tasks that have ended, and running statistics.

    Args:
        model: the network.
        groups: its units.
        settings: the settings of `HAT`.

    Attributes:
        embedding: e of each unit.
        masks_by_task: the masks of tasks that have ended, bool (tasks, units).
        tasks: ids of the tasks that have ended.
        task: id of the task that is trained; None between tasks.
        settings, groups: the arguments.
        layout: the units of all groups one after the other.
    """

    masks_by_task: Tensor
    keeps_own_parameters = True  # in networks with fresh weights: e belongs to a task

    def __init__(self, model: nn.Module, groups: tuple[UnitGroup, ...], settings: HATSettings) -> None:
        super().__init__()
        self.settings, self.groups, self.layout = settings, groups, UnitLayout(groups)
        self._model = (model,)  # in a tuple, so that it is not a submodule
        self._places = gate_places(self.layout)
        self._layer_names = _weight_layers(model)
        weight = groups[0].incoming[0].weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        self.embedding = nn.Parameter(torch.zeros(self.layout.total, dtype=dtype, device=weight.device))
        no_masks = torch.zeros(0, self.layout.total, dtype=torch.bool, device=weight.device)
        self.register_buffer("masks_by_task", no_masks, persistent=False)
        self.tasks: list[Any] = []
        self.task: Any = None
        self._open = self._closed = False
        self._progress = Progress()
        self._selected: int | None = None  # the task in force, by its number; None: no gates
        self._in_force = "nothing"  # what this means for forwards, and the mask of an ended task
        self._mask: Tensor | None = None
        self._binary: tuple[int | None, list[Tensor]] | None = None
        self._gate_kernel: GateKernel | None = None
        self._task_buffers = TaskBuffers(model, self)

    @property
    def net(self) -> nn.Module:
        """The network."""
        return self._model[0]

    @property
    def model(self) -> nn.Module:
        """`net`, by its earlier name."""
        return self._model[0]

    @property
    def masks(self) -> dict[Any, dict[str, Tensor]]:
        """For each task that has ended its mask of each group, by name: bool, (num_units,)."""
        return {
            task: {name: part.clone() for name, part in self.layout.by_group(mask).items()}
            for task, mask in zip(self.tasks, self.masks_by_task, strict=True)
        }

    @property
    def scale(self) -> float:
        """The scale s of the present step."""
        if not self._open:
            return self.settings.s_max
        batches = self._progress.steps_per_epoch
        return annealed_scale(self._progress.step % batches + 1, batches, self.settings.s_max)

    def check_layers(self) -> None:
        """Raise ValueError if the network has other layers than at construction, so that gates would be missing."""
        modules = set(self.net.modules())
        for group in self.groups:
            for slot in group.slots:
                if slot.module not in modules:
                    raise ValueError(f"{slot.name!r} of group {group.name!r} is not a module of the network any more")
        for name in _weight_layers(self.net) - self._layer_names:
            raise ValueError(
                f"layer {name!r} was added after {type(self).__name__} was built, and no gates act on what it reads: "
                "add all layers before, and find the units with gnt.trace(net, examples=[...]), one for each head"
            )

    @property
    def gates(self) -> Tensor:
        """The gates a of the present step, for all units one after the other; differentiable.

        Raises:
            RuntimeError: no task is open.
        """
        self._require_open("gates")
        return self._gates.values

    def use(self, task: Any) -> contextlib.AbstractContextManager[None]:
        """Let the mask and running statistics of a task be in force; None: no gates.

        In evaluation mode masks are those that were kept, and 1(e > 0) of the task that is open. In training mode only
        the open task can be used. As a context manager it ends with what was in force before.

        Args:
            task: the id of a task that has ended or is open, or None.

        Raises:
            ValueError: another id.
        """
        self._require_not_closed()
        before = self._selected
        self._select(None if task is None else self._number(task))
        return _Until(lambda: self._select(before))

    def _hang(self) -> None:
        """Register the hooks on the network."""
        self._gates = Gates(self._places, self.layout, self._gates_in_force)
        self._set_in_force()
        watch_hooks()

    def _refresh_gates(self, *, clamp: bool = False) -> None:
        """Compute the gates of the present step.

        Args:
            clamp: e is clamped before.
        """
        if (
            torch.is_inference_mode_enabled() or not torch.is_grad_enabled()
        ):  # entering a context takes longer than this
            with torch.inference_mode(False), torch.enable_grad():
                self._refresh_gates(clamp=clamp)
            return
        settings, embedding, kernel = self.settings, self.embedding, self._gate_kernel
        bound = settings.embedding_clamp
        if kernel is not None and kernel.fits(embedding):
            if clamp:
                increment_version(embedding)
            self._gates.set_all(*kernel(embedding, self.scale, bound if clamp else math.inf))
            return
        if clamp:
            embedding.detach().clamp_(-bound, bound)
        compensation, clip = settings.compensation, settings.gradient_clip
        self._gates.set_values(gate(embedding, self.scale, settings.s_max, compensation, clip, bound))

    def _gates_in_force(self) -> Sequence[Tensor] | None:
        """The gates of each place in this forward, or None.

        Compiled code calls it, too: a number that differs between tasks would be compiled as a constant.

        Raises:
            RuntimeError: a forward in training mode with the mask of a task that has ended, or without an optimizer.
        """
        in_force = self._in_force
        if in_force == "nothing":
            return None
        if in_force == "open task" and self._model[0].training and not is_paused():
            return self._gates.parts
        if torch.compiler.is_compiling() and is_paused() and not torch.compiler.is_dynamo_compiling():
            return None  # gnt.trace, which looks for the units that gates act on
        if self.model.training and not (is_paused() and in_force == "ended task"):
            if in_force == "open task":
                return self._gates.parts
            raise RuntimeError(self._no_training_message())
        return self._binary_gates(self._mask)

    def _set_in_force(self) -> None:
        """Note what the selected task means for forwards; called when tasks, masks or optimizers have changed."""
        self._binary, self._mask = None, None
        if self._selected is None:
            self._in_force = "nothing"
        elif self._open and self._selected == len(self.tasks):
            self._in_force = "open task" if self._can_train() else "loaded task"
        else:
            self._in_force, self._mask = "ended task", self.masks_by_task[self._selected]

    def _no_training_message(self) -> str:
        if self._in_force == "loaded task":
            return f"the state of task {self.task!r} was loaded: call resume(optimizer) before it is trained"
        assert self._selected is not None
        return (
            f"task {self.tasks[self._selected]!r} has ended and cannot be trained: begin() another one, evaluate it "
            "after eval(), or train without gates after use(None)"
        )

    def _binary_gates(self, mask: Tensor | None) -> list[Tensor]:
        """The gates of the mask of an ended task, or (None) those of the open one at s = infinity."""
        dtype = self.embedding.dtype
        if torch.compiler.is_dynamo_compiling():  # a version to compare would be compiled as a constant
            return self._gates.split((self.embedding.detach() > 0 if mask is None else mask).to(dtype))
        version = self.embedding._version if mask is None else None
        if self._binary is None or self._binary[0] != version:
            with torch.inference_mode(False), torch.no_grad():
                mask = self.embedding > 0 if mask is None else mask
                self._binary = version, self._gates.split(mask.to(dtype))
        return self._binary[1]

    def _select(self, number: int | None) -> None:
        ended = number is not None and number < len(self.tasks)
        if self.settings.norms == "per_task":
            self._task_buffers.use(number if ended else None)
        self._selected = number
        self._set_in_force()

    def _number(self, task: Any) -> int:
        known = [*self.tasks, *([self.task] if self._open else [])]
        if not is_task_id(task) or task not in known:
            raise ValueError(f"task must be one that has begun ({known}) or None, got {task!r}")
        return known.index(task)

    def _is_training(self) -> bool:
        return self._open and self.model.training and self._selected == len(self.tasks)

    def _require_open(self, name: str) -> None:
        self._require_not_closed()
        if not self._open:
            raise RuntimeError(f"{name}: no task is open, call begin() first")

    def _require_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this HAT is closed")

    def _can_train(self) -> bool:
        """True if the open task has an optimizer."""
        raise NotImplementedError


class _Until(contextlib.AbstractContextManager[None]):
    """A context manager whose end calls a function; its beginning does nothing."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def __exit__(self, *details: Any) -> None:
        self._function()
