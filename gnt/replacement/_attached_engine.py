"""AttachedEngine: the part of `GnT` that steps after its optimizer, follows changes of the network, and is copied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from gnt.replacement._followed_engine import FollowedEngine
from gnt.replacement._optimizer_hooks import CopiedHooks, OptimizerHooks
from gnt.replacement._validation import Selection
from gnt.replacement.optimizer_state import OptimizerStateReset, optimizers_among
from gnt.units import Layers, UnitGroup, groups_for_engine

Engine = TypeVar("Engine", bound="AttachedEngine")


class AttachedEngine(FollowedEngine):
    """An engine that can be attached to its optimizer and bound to a changed network; see `GnT`."""

    _copied_hooks: CopiedHooks | None
    _selection: Selection

    def structure_changed(self) -> None:
        """Watch the gradient of a parameter that is trained now."""
        if self._hooks is not None:
            self._hooks.watch_backward()

    def attach(self: Engine) -> Engine:
        """Step after each step of the optimizer, by hooks of the optimizer; returns the engine.

        ``optimizer.step()`` then ends with `step`, whose result is in ``replaced``, and ``optimizer.state_dict()``
        contains the engine's state under "gnt", which ``optimizer.load_state_dict`` loads. A step that a GradScaler
        skips, and one without a forward before it, does not age or replace units.

        A group of which no consumer was run in a step is left alone in that step. After 100 steps in a row without a
        training forward there is one warning.

        Features of a forward whose gradients are abandoned (a skipped step, ``zero_grad`` without a step) are dropped
        at the next backward. Changing gradients in place between the micro-batches of one step has the same effect.

        Several engines may be attached to one optimizer, each with groups of its own; the state of the second is under
        "gnt_1", and so on.

        Raises:
            RuntimeError: the engine is attached or closed, or another engine of this optimizer has a unit of these
                groups: ``close()`` that one first, or let each follow the other. An engine of another optimizer is
                stopped, and its steps raise an error.
            ValueError: the engine has no optimizer, or does not record features.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
        >>> optimizer = torch.optim.AdamW(net.parameters())
        >>> engine = gnt.GnT(net, optimizer, replacement_rate=0.1, maturity_threshold=2).attach()
        >>> for _ in range(5):
        ...     optimizer.zero_grad()
        ...     net(torch.randn(8, 4)).square().mean().backward()
        ...     optimizer.step()
        >>> engine.groups[0].state.replaced, sorted(optimizer.state_dict())
        (4, ['gnt', 'param_groups', 'state'])
        """
        self.feature_buffer.check_recording()
        if self.optimizer is None:
            raise ValueError("attach needs the optimizer: GnT(layers, optimizer).attach()")
        if self._hooks is not None:
            raise RuntimeError("this engine is attached already: it steps after each step of its optimizer")
        self._hooks = OptimizerHooks(self, self.optimizer)
        return self

    def rebind(self: Engine, layers: Layers | Iterable[UnitGroup]) -> Engine:
        """Go on with a network that was changed on purpose, such as by a new head; returns the engine.

        Units that stay keep their ages, averages and counters; others start fresh. All units of a group stay if its
        producers are the same modules, with the same number of units. If a producer was replaced (by a wider one, for
        example), those units stay whose incoming weights it has taken over. Recorded features are dropped.

        Args:
            layers: the layers or unit groups as they are now, as for `GnT`. Groups of `trace` must be traced again.

        Raises:
            ValueError, TypeError: as at construction; among others, an optimizer that does not hold the parameters of
                new layers (``optimizer.add_param_group``), or a follower of the network before, such as an
                AveragedModel with the old head (`unfollow`). Nothing is changed.
            RuntimeError: the engine is closed, or another engine of this optimizer has a unit of these groups. Nothing
                is changed.

        >>> import torch, gnt
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> engine = gnt.GnT(net, optimizer).attach()
        >>> def train(steps):
        ...     for _ in range(steps):
        ...         optimizer.zero_grad()
        ...         net(torch.randn(8, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> train(3)
        >>> net[2] = torch.nn.Linear(16, 5)  # a head for more classes
        >>> optimizer.add_param_group({"params": net[2].parameters()})
        >>> engine.rebind(net).groups[0].state.age.unique().tolist()
        [3]
        >>> train(2)
        >>> engine.groups[0].state.age.unique().tolist()
        [5]
        """
        self.feature_buffer.check_open()
        groups = groups_for_engine(layers, self.activation)
        for group in groups:
            self.new_inits(group, self.init, self.bias_init)
        optimizer = self.optimizer
        beside = optimizers_among(self.followers)
        optimizer_state = OptimizerStateReset(optimizer, groups, beside) if optimizer is not None else None
        self._followers.check(groups)
        bind_hooks = self._hooks.prepare_rebind(groups) if self._hooks is not None else None
        self.bind(groups, optimizer_state)
        self.refused = tuple(getattr(layers, "refused", ()))
        if bind_hooks is not None:
            bind_hooks()
        return self

    def close(self) -> None:
        """Remove the hooks. The engine can be read and saved afterwards, but not stepped."""
        self.feature_buffer.close()
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
        if self._slowing is not None:
            self._slowing.remove()
            self._slowing = None

    def __getstate__(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "selected": [],
            "captured_absent": None,
            "_selection": Selection([]),
            "_processes": None,
            "_structure": None,
            "_slowing": None,
            "_hooks": None,
            "_copied_hooks": self._hooks.for_copy() if self._hooks is not None else None,
        }
        return {**self.__dict__, **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reattach()

    def reattach(self) -> None:
        """In a copy of an attached engine: attach, as soon as both the engine and its optimizer are complete.

        An engine and an optimizer that refer to each other are copied in either order.
        """
        if "optimizer_state" not in self.__dict__ or (optimizer := self.optimizer) is None:
            return
        if not hasattr(optimizer, "_optimizer_step_post_hooks"):
            return
        self.protection_changed()
        copied, self._copied_hooks = self._copied_hooks, None
        if copied is not None:
            self._hooks = OptimizerHooks(self, optimizer, copied)
