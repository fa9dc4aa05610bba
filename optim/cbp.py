"""CBPSGD, CBPAdam, CBPAdamW: optimizers with a continual backpropagation engine attached.

Each is constructed from the network instead of its parameters, and runs the engine (`gnt.GnT`) after every step.
Schedulers, gradient scalers, gradient clipping and trainers work unchanged. ``state_dict`` includes the engine's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from gnt._kernels import use_kernels
from gnt._utils.dynamo import not_compiled
from gnt._utils.other_names import explains_unknown_settings
from gnt.importance import WeightMeans
from gnt.initialization import Init
from gnt.names import Accumulate, ActivationName, BiasInit, TraceModes, Utility
from gnt.optim import _cbp_arguments as cbp_arguments
from gnt.optim._continual_optimizer import ContinualOptimizer
from gnt.optim._gradient_checks import GroupGradientChecks
from gnt.optim._options import (
    SGD_OPTIONS,
    ChangedOptions,
    CheckOptions,
    check_continual_adam_options,
    check_option_names,
    check_sgd_options,
)
from gnt.optim._saved_state import check_entries, check_saved_options, saved_entries
from gnt.optim._sgd_kernel import SGDKernel
from gnt.optim._step_wrapper import is_own_step, unwrap_step, wrap_step
from gnt.optim.adam_gnt import AdamGnT
from gnt.replacement import EngineSettings, Protect, SoftReplacement


class CBPSGD(ContinualOptimizer, torch.optim.SGD):
    """``torch.optim.SGD`` with continual backpropagation. Replaces the line that constructs the optimizer.

    Args:
        net: the network: a Sequential or a model with ``.layers``; any module if ``example_inputs`` or ``layers`` is
            given. Wrappers (``torch.compile``, DistributedDataParallel) are opened. With ``layers``, parameters or
            parameter groups are accepted in place of the network.
        lr: step size.
        example_inputs: inputs of one forward, from which the units of any module are found (`gnt.trace`): a tensor, a
            tuple of positional arguments or a dict of keyword arguments.
        examples: a list of such inputs, for a network whose forwards take different paths, such as one head for each
            task: ``examples=[(x, 0), (x, 1)]``.
        modes: "train" or "eval" to trace one mode only, as for `gnt.trace`.
        include, exclude: patterns such as ``"*.mlp.*"``. Of the units found, only groups whose names match ``include``
            and do not match ``exclude`` are used.
        layers: a list of layers, or unit groups, for the engine; by default ``net`` itself is walked.
        params: parameter groups; ``net.parameters()`` by default.
        momentum, dampening, weight_decay, nesterov, maximize, foreach, differentiable, fused: as for torch.optim.SGD.
            Groups may have their own, and schedules may change them.
        replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate, bias_transfer, generator,
        activation, process_group, kernels, bias_init, follow, protect, grad_scaler, measure_every, soft: as for `GnT`.
            They may be changed later, as attributes of ``optimizer.gnt``. ``kernels`` applies to the optimizer, too.

    Raises:
        TypeError: parameters in place of the network without ``layers``, or a setting that would not be used.
        ValueError: as `GnT` and `gnt.trace`.

    Source: Dohare et al., Nature 632 (2024), Algorithm 1.

    >>> import torch
    >>> from gnt.optim import CBPSGD
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPSGD(net, lr=0.01, momentum=0.9, replacement_rate=0.1, maturity_threshold=2)
    >>> for _ in range(5):
    ...     optimizer.zero_grad()
    ...     net(torch.randn(8, 4)).square().mean().backward()
    ...     optimizer.step()
    >>> optimizer.gnt.groups[0].state.replaced
    4
    """

    _base = torch.optim.SGD
    _check_options: ClassVar[CheckOptions] = staticmethod(check_sgd_options)
    _kernel: SGDKernel | None = None
    _options: ChangedOptions | None = None
    _gradients: GroupGradientChecks | None = None

    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        layers: Any = None,
        params: ParamsT | None = None,
        example_inputs: Any = None,
        examples: Sequence[Any] | None = None,
        modes: TraceModes | None = None,
        include: cbp_arguments.Patterns = None,
        exclude: cbp_arguments.Patterns = None,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        self._construct(locals())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with their own options. Options that are not set are those of the constructor.

        Raises TypeError or ValueError for an invalid option.
        """
        if isinstance(param_group, dict):
            check_option_names(param_group, SGD_OPTIONS)
            check_sgd_options({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the ``state_dict`` of a CBPSGD or torch.optim.SGD.

        Raises ValueError for the state of another optimizer, or options that are not valid, before anything is changed.
        """

        def check(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
            check_saved_options(optimizer, state_dict, ("lr", "momentum", "dampening"), check_sgd_options)
            for param, saved, _ in saved_entries(optimizer, state_dict):
                check_entries(optimizer, param, saved, ("momentum_buffer",), required=False)

        hook = self.register_load_state_dict_pre_hook(check)
        try:
            super().load_state_dict(state_dict)
        finally:
            hook.remove()

    def _step_by_kernel(self) -> bool:
        """Take a step by the kernel, after checks; False, and nothing is changed, if that is not possible."""
        if not use_kernels(self.gnt.kernels):
            return False
        if self._options is None or self._kernel is None:
            self._options, self._kernel = ChangedOptions(SGD_OPTIONS, check_sgd_options), SGDKernel()
        self._options.check(self.param_groups)
        # what an overridden step does after this one may change weights
        means = self.gnt.weight_means if is_own_step(self, CBPSGD.step) else {}
        return self._kernel.step(self.param_groups, means)

    @not_compiled
    def _check_before_step(self) -> None:
        """Raise an error for invalid options, and for a gradient that torch would broadcast or fail on in mid-step."""
        if self._options is None or self._gradients is None:
            self._options, self._gradients = ChangedOptions(SGD_OPTIONS, check_sgd_options), GroupGradientChecks()
        self._options.check(self.param_groups)
        self._gradients.check(self.param_groups)

    @wrap_step
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, then one of the engine. SGD without momentum runs as a C kernel, if there are kernels.

        Args:
            closure: reevaluates the model with gradients and returns the loss, which is then returned.

        Raises RuntimeError, with nothing changed, for a gradient of another shape or device than its parameter.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if torch.compiler.is_dynamo_compiling() or not self._step_by_kernel():
            self._check_before_step()
            _sgd_step(self)
        return loss


_sgd_step = unwrap_step(torch.optim.SGD.step)


class _ContinualAdam(ContinualOptimizer, AdamGnT):
    _base = AdamGnT
    _check_options: ClassVar[CheckOptions] = staticmethod(check_continual_adam_options)

    def _weight_means(self) -> Mapping[int, WeightMeans]:
        own = is_own_step(self, AdamGnT.step) and use_kernels(self.kernels)
        return self.gnt.weight_means if own else super()._weight_means()

    @property
    def kernels(self) -> bool | None:
        """The setting of the engine."""
        setting: bool | None = self.gnt.kernels if "gnt" in self.__dict__ else self.__dict__["kernels"]
        return setting

    @kernels.setter
    def kernels(self, kernels: bool | None) -> None:
        if "gnt" in self.__dict__:
            self.gnt.kernels = kernels
        else:
            self.__dict__["kernels"] = kernels


class CBPAdam(_ContinualAdam):
    """`AdamGnT` with continual backpropagation. Options are those of `AdamGnT`; the rest is as for `CBPSGD`.

    >>> import torch
    >>> from gnt.optim import CBPAdam
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPAdam(net, lr=1e-3, betas=(0.9, 0.99), replacement_rate=1e-4)
    """

    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        layers: Any = None,
        params: ParamsT | None = None,
        example_inputs: Any = None,
        examples: Sequence[Any] | None = None,
        modes: TraceModes | None = None,
        include: cbp_arguments.Patterns = None,
        exclude: cbp_arguments.Patterns = None,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        self._construct(locals())


class CBPAdamW(_ContinualAdam):
    """`AdamGnT` with AdamW's decoupled weight decay (0.01 by default) and continual backpropagation.

    Options are those of `AdamGnT`; the rest is as for `CBPSGD`.

    >>> import torch
    >>> from gnt.optim import CBPAdamW
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
    >>> optimizer = CBPAdamW(net, lr=1e-3, weight_decay=0.1, replacement_rate=1e-4)
    """

    _fixed: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": True}

    @explains_unknown_settings
    def __init__(
        self,
        net: nn.Module | ParamsT,
        lr: float | Tensor = 1e-3,
        *,
        layers: Any = None,
        params: ParamsT | None = None,
        example_inputs: Any = None,
        examples: Sequence[Any] | None = None,
        modes: TraceModes | None = None,
        include: cbp_arguments.Patterns = None,
        exclude: cbp_arguments.Patterns = None,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        replacement_rate: float = EngineSettings.replacement_rate,
        maturity_threshold: int = EngineSettings.maturity_threshold,
        decay_rate: float = EngineSettings.decay_rate,
        utility: Utility = EngineSettings.utility,
        init: Init = EngineSettings.init,
        accumulate: Accumulate = EngineSettings.accumulate,
        bias_transfer: bool = EngineSettings.bias_transfer,
        generator: torch.Generator | None = None,
        activation: ActivationName | None = None,
        process_group: Any = None,
        kernels: bool | None = EngineSettings.kernels,
        bias_init: BiasInit = EngineSettings.bias_init,
        follow: Sequence[Any] = (),
        protect: Protect = None,
        grad_scaler: torch.amp.GradScaler | None = None,
        measure_every: int = EngineSettings.measure_every,
        soft: SoftReplacement | bool | None = EngineSettings.soft,
    ) -> None:
        self._construct(locals())
