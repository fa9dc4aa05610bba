"""`ContinualOptimizer`: the base of the optimizers with a continual backpropagation engine attached."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch.optim import Optimizer

from gnt._utils.known_attributes import known_attributes
from gnt.optim import _cbp_arguments as cbp_arguments
from gnt.optim._options import ADAM_OPTIONS, SGD_OPTIONS, CheckOptions
from gnt.replacement import ENGINE_SETTINGS, GnT
from gnt.units import WalkError

_ELSEWHERE = {
    **{name: f'param_groups[0]["{name}"]' for name in (*SGD_OPTIONS, *ADAM_OPTIONS)},
    **{name: f"gnt.{name}" for name in ENGINE_SETTINGS if name != "grad_scaler"},  # GradScaler sets grad_scale
}


@known_attributes(elsewhere=_ELSEWHERE, others_allowed=True)
class ContinualOptimizer(Optimizer):
    """Base class: separates the settings of optimizer and engine, and attaches the engine, also in copies.

    The ``__init__`` of a subclass has all arguments by name, and passes them on as ``self._construct(locals())``, so
    that each is written once.

    Attributes:
        gnt: the engine. ``gnt.replaced`` holds the units that the latest step replaced; ``gnt.report()`` summarizes.
    """

    gnt: GnT
    _base: ClassVar[type[Optimizer]]
    _check_options: ClassVar[CheckOptions]
    _fixed: ClassVar[dict[str, Any]] = {}

    def _construct(self, arguments: Mapping[str, Any]) -> None:
        """Construct optimizer and engine from the arguments of ``__init__``, by name."""
        given = dict(arguments)
        net, layers = given["net"], given["layers"]
        parameters = cbp_arguments.parameters(net, given["params"], layers, type(self).__name__)
        engine = {name: given[name] for name in (*ENGINE_SETTINGS, "follow")}
        defaults = self._base_defaults()
        options = {**defaults, **{name: given[name] for name in defaults if name in given}, **self._fixed}
        self._check_options(options)
        trace_options = {name: given[name] for name in ("include", "exclude", "modes")}
        example_inputs, examples = given["example_inputs"], given["examples"]
        is_traced = example_inputs is not None or examples is not None
        if is_traced:
            trace_options["activation"] = engine.pop("activation")
        units = cbp_arguments.units(net, layers, example_inputs, examples, trace_options)
        super().__init__(parameters, **options)
        try:
            self.gnt = GnT(units, self, **engine).attach()
        except WalkError as error:
            if layers is not None or is_traced:
                raise
            raise WalkError(f"{error}. {cbp_arguments.WALK_ADVICE}") from None

    @classmethod
    def _base_defaults(cls) -> dict[str, Any]:
        """The defaults of the optimizer's options."""
        parameters = inspect.signature(cls._base).parameters
        return {name: each.default for name, each in parameters.items() if name != "params"}

    def __repr__(self) -> str:
        engine = self.__dict__.get("gnt")
        return super().__repr__() if engine is None else f"{super().__repr__()}\n{engine!r}"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "gnt": self.gnt}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # as torch.optim.AdamW does with a state of Adam
            group.update(self._fixed)
        if "gnt" in state:  # called for a copy, not by load_state_dict
            self.gnt.reattach()
