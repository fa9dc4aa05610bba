"""The settings of an engine: names, defaults, and the checks of their values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch

from gnt._utils.validation import check_flags, check_kernels, to_float
from gnt.distributed.process_group import check_process_group
from gnt.importance import check_grad_scaler, find_measure
from gnt.initialization import BIAS_INITS, Init, check_init, init_name
from gnt.names import Accumulate, ActivationName, BiasInit, Utility
from gnt.replacement._protect_setting import checked_protect
from gnt.replacement._soft_settings import checked_soft


@dataclass(eq=False, repr=False)
class EngineSettings:
    """The settings of `GnT`, which documents them; checked when created.

    All fields but ``generator``, ``process_group`` and ``grad_scaler`` must be the same in all processes that train one
    network; those with ``repr=True`` are shown by the engine's repr.

    Raises:
        TypeError: a value of the wrong type.
        ValueError: a value outside its range, or an unknown name.
    """

    replacement_rate: float = 1e-4
    maturity_threshold: int = 100
    decay_rate: float = 0.99
    utility: Utility = "contribution"
    init: Init = "auto"
    accumulate: Accumulate = True
    bias_transfer: bool = True
    generator: torch.Generator | None = field(default=None, repr=False)
    activation: ActivationName | None = field(default=None, repr=False)
    process_group: Any = field(default=None, repr=False)
    kernels: bool | None = field(default=None, repr=False)
    bias_init: BiasInit = "zero"
    protect: Any = field(default=None, repr=False)
    grad_scaler: torch.amp.GradScaler | None = field(default=None, repr=False)
    measure_every: int = field(default=1, repr=False)
    soft: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # compared as the floats that they become: 1 - Fraction(1, 10**20) is a decay rate of 1.0
        rate, decay = to_float(self.replacement_rate), to_float(self.decay_rate)
        threshold = self.maturity_threshold
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"replacement_rate must be a number in [0, 1], got {self.replacement_rate!r}")
        if not isinstance(threshold, Integral) or isinstance(threshold, bool) or threshold < 0:
            raise ValueError(f"maturity_threshold must be an integer >= 0, in updates, got {threshold!r}")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay_rate must be a number in [0, 1), got {self.decay_rate!r}")
        if self.generator is not None and not isinstance(self.generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, got {type(self.generator).__name__}")
        if not isinstance(self.accumulate, bool) and self.accumulate != "one":
            raise TypeError(f"accumulate must be True, False or 'one', got {self.accumulate!r}")
        check_flags(bias_transfer=self.bias_transfer)
        check_kernels(self.kernels)
        check_process_group(self.process_group)
        find_measure(self.utility)
        check_init(self.init)
        if self.bias_init not in BIAS_INITS:
            raise ValueError(f"bias_init must be one of {', '.join(BIAS_INITS)}, got {self.bias_init!r}")
        check_grad_scaler(self.grad_scaler)
        self.protect = checked_protect(self.protect)
        every = self.measure_every
        if not isinstance(every, Integral) or isinstance(every, bool) or not 1 <= every <= threshold + 1:
            raise ValueError(
                "measure_every must be an integer from 1 to maturity_threshold + 1, here "
                f"{int(threshold) + 1}, so that each unit is measured before it can be replaced, got {every!r}"
            )
        self.soft = checked_soft(self.soft)
        self.replacement_rate, self.maturity_threshold, self.decay_rate = rate, int(threshold), decay
        self.measure_every = int(every)

    def describe(self) -> str:
        """The settings that the engine's repr shows, as they are written in a call."""
        names = [each.name for each in dataclasses.fields(EngineSettings) if each.repr]
        names += ["measure_every"] if self.measure_every > 1 else []
        names += ["soft"] if self.soft is not None else []
        texts = {name: repr(getattr(self, name)) for name in names if name != "init"}
        texts["init"] = init_name(self.init)  # the repr of a function is another one in each process
        return ", ".join(f"{name}={texts[name]}" for name in names)

    def plain(self) -> dict[str, Any]:
        """All settings but ``generator`` and ``process_group`` as numbers, strings, bools and None."""
        names = [name for name in ENGINE_SETTINGS if name not in ("generator", "process_group")]
        return {name: _plain(name, getattr(self, name)) for name in names}


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return init_name(value) if name == "init" else repr(value)


ENGINE_SETTINGS = tuple(each.name for each in dataclasses.fields(EngineSettings))
