"""FG-AdaHAT's importance of a unit by an attribution, which runs the network on batches that were observed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gnt._utils.stack_level import user_level
from gnt._utils.state_dicts import Entry, random_state
from gnt.distributed.process_group import Processes, resolve_process_group
from gnt.importance import BackwardWatch, attribute
from gnt.names import AttributionName
from gnt.protection._measured_step import Measured
from gnt.units import ModelInputs, UnitGroup


class AttributionSource:
    """An attribution of the network's output, or of the loss, for the batches that were observed.

    Args:
        model: the network.
        groups: the units.
        method: name of the attribution.
        of: "target" or "loss".
        process_group: the processes over whose samples means are taken.
        settings: ``n_steps``, ``baselines`` and ``chunk`` of `gnt.importance.attribute`.
    """

    reads: frozenset[str] = frozenset()

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[UnitGroup],
        method: str,
        of: str,
        process_group: Any,
        settings: dict[str, Any],
    ) -> None:
        self._model, self._groups, self._method, self._of = (model,), tuple(groups), method, of
        self._process_group, self._settings = process_group, settings
        self._generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        self._observed: list[tuple[ModelInputs, Any]] = []
        self._backwards: int | None = None  # those whose gradients the coming step gets; None: none was seen
        self._at_backward = 0  # number of batches that had been observed at the last of these
        self._watch: BackwardWatch | None = None
        self._warned = False
        self._finite: Tensor | None = None  # 0-d bool; None: nothing was measured

    def watch(self, parameter: Tensor) -> None:
        """Count the backward passes by the gradient of a parameter that all of them reach."""
        self._watch = BackwardWatch(self, parameter)

    def after_backward(self, *, restarted: bool) -> None:
        """Count a backward pass; ``restarted``: the gradients of earlier ones were cleared, and no step takes them."""
        if restarted:
            self._observed = self._observed[self._at_backward :]
        self._at_backward = len(self._observed)
        self._backwards = 1 if restarted or self._backwards is None else self._backwards + 1

    def observe(self, x: Any, y: Any) -> None:
        """Keep a batch until the step."""
        self._observed.append((x, y))

    def check_ready(self) -> None:
        """Raise RuntimeError without a batch."""
        if not self._observed:
            raise RuntimeError(
                f"importance {self._method!r} needs inputs and targets of this step: call hat.observe(x, y) before it "
                "(or in its closure), or use a learner with methods=[hat], which does so"
            )

    def measure(self, gates: Callable[[], contextlib.AbstractContextManager[None]]) -> Measured | None:
        """The mean of the batches of this step, weighted by their samples; None if these have none."""
        observed = self._observed[-self._backwards :] if self._backwards else self._observed
        if len(observed) < len(self._observed) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(self._observed)} batches were observed for a step with {self._backwards} backward passes: only "
                f"the last {len(observed)} are measured, as if the others were of skipped steps. If one loss has "
                "several batches, join them and observe them as one",
                stacklevel=user_level(),
            )
        self.skip()
        sizes = [len(y) for _, y in observed]
        with gates():
            found = [torch.cat(self._attribute(x, y)) for x, y in observed]
        total, group = sum(sizes), resolve_process_group(self._process_group)
        if not total and group is None:
            return None
        mean = torch.stack([values * (size / max(total, 1)) for values, size in zip(found, sizes, strict=True)]).sum(0)
        if group is not None:
            flat = torch.cat([mean * total, mean.new_tensor([float(total)])])
            Processes(group).all_reduce(flat)
            mean = flat[:-1] / flat[-1].clamp(min=1)
        finite = torch.isfinite(mean)
        self._finite = finite.all() if self._finite is None else self._finite & finite.all()
        if mean.device.type == "cpu" and not bool(self._finite):
            parts = torch.split(finite, [group.num_units for group in self._groups])
            names = [repr(group.name) for group, part in zip(self._groups, parts, strict=True) if not bool(part.all())]
            raise FloatingPointError(f"importance {self._method!r} of group {', '.join(names)} is not finite")
        return Measured(mean, frozenset())

    def check_finite(self) -> None:
        """Raise FloatingPointError if some values of the task were not finite."""
        if self._finite is not None and not bool(self._finite):
            raise FloatingPointError(f"importance {self._method!r} was not finite in a step of the task")

    def _attribute(self, x: Any, y: Any) -> list[Tensor]:
        target = y if self._of == "target" else partial(_loss, y)
        settings = {**self._settings, "generator": self._generator}
        return attribute(
            self._model[0], self._groups, x, target, method=cast(AttributionName, self._method), **settings
        )

    def skip(self) -> None:
        """Drop the batches of the step."""
        self._observed, self._backwards, self._at_backward = [], None, 0

    def begin_task(self) -> None:
        """Drop earlier batches."""
        self.skip()
        self._finite = None

    def restart_units(self, number: int, units: Tensor) -> None:
        """Nothing is kept of units."""

    def state_dict(self) -> dict[str, Any]:
        """The state of the generator."""
        return {"generator": self._generator.get_state()}

    def checked_state(self, state: Any) -> Any:
        """Check a saved state."""
        if not isinstance(state, dict) or state.keys() != {"generator"}:
            raise ValueError(f"state_dict of an importance by {self._method!r} must contain 'generator' only")
        return random_state(self._generator)(Entry("generator"), state["generator"])

    def load_checked(self, checked: Any) -> None:
        """Load a checked state."""
        self._generator.set_state(checked)
        self.begin_task()

    def close(self) -> None:
        """Remove the hook of the watched parameter."""
        if self._watch is not None:
            self._watch.remove()


def _loss(y: Tensor, output: Tensor) -> Tensor:
    """The cross-entropy of each sample."""
    return F.cross_entropy(output, y, reduction="none")
