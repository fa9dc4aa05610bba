"""What gnt calls the arguments, classes and methods of other implementations of continual backpropagation.

Errors for unknown names add the advice of these tables; docs/migration.md has the whole comparison. The other
implementations are the repository loss-of-plasticity, the package ccbp-pytorch and clarena's ``CBP``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PAGE: Final = "docs/migration.md"

_NOT_NEEDED_DEVICE = "not needed, state is kept on the device of the parameters"
_BETAS = "betas=(beta_1, beta_2)"
_NORMS = "norms="
_NOISE = "methods=[gnt.ShrinkAndPerturb(net, shrink=1.0, noise=perturb_scale, distribution='normal')]"

ARGUMENTS: Final = {
    # loss-of-plasticity
    "util_type": "utility=",
    "act_type": "activation=",
    "hidden_activation": "activation=",
    "ln_layer": _NORMS,
    "bn_layer": _NORMS,
    "num_last_filter_outputs": "not needed, it is found from the shapes of the layers",
    "device": _NOT_NEEDED_DEVICE,
    "beta": _BETAS,
    "beta_1": _BETAS,
    "beta_2": _BETAS,
    "outgoing_random": "not available, the outgoing weights of new units are zero",
    "to_perturb": _NOISE,
    "perturb_scale": _NOISE,
    "loss_func": "not needed by the engine; loss= of the learners",
    "mt": "maturity_threshold=",
    # ccbp-pytorch
    "model": "the first argument, without a name",
    "neuron_configs": "the first argument: gnt.walk(net) or gnt.trace(model, example_inputs)",
    "exclude_module_names": "gnt.trace(model, x, exclude=[...])",
    "utility_type": "utility=",
    "utility_ema_decay": "decay_rate=",
    "maturity_steps": "maturity_threshold=",
    "init_fn": "init=",
    "reset_optimizer_state": "not needed, the state of replaced units is always reset",
    # clarena
    "backbone": "the first argument, without a name",
    "utility_decay_rate": "decay_rate=",
}

CLASSES: Final = {
    "ConvCBP": "gnt.ContinualBackprop, which handles convolutions, or gnt.integrations.loss_of_plasticity.ConvCBP",
    "ConvGnT": "gnt.GnT, which handles convolutions",
    "ResGnT": "gnt.GnT(gnt.trace(model, x), optimizer), which finds the units of residual networks",
    "GnTredo": "gnt.ReDo",
    "CCBP": "gnt.GnT(...).attach(), or gnt.optim.CBPAdam",
    "CBP": "gnt.ContinualBackprop, gnt.GnT, or gnt.integrations.lightning.ContinualBackprop in a Trainer",
    "CBPSGD": "gnt.optim.CBPSGD",
    "CBPAdam": "gnt.optim.CBPAdam",
    "CBPAdamW": "gnt.optim.CBPAdamW",
}

ENGINE_ATTRIBUTES: Final = {
    "gen_and_test": "step(), after optimizer.step(); it takes the features from the forward, or as step(features)",
    "util": "groups[i].state.utility",
    "bias_corrected_util": "groups[i].state.utility",
    "ages": "groups[i].state.age",
    "mean_feature_act": "groups[i].state.mean_feature",
    "mean_feature_mag": "groups[i].state.mean_feature",
    "num_hidden_layers": "len(groups)",
}


def advice(names: Iterable[str], table: dict[str, str] = ARGUMENTS) -> str:
    """A sentence that says what gnt calls these names, to be added to an error; empty if none is known."""
    known = [f"{name} of other implementations is here: {table[name]}" for name in names if name in table]
    return f"; {'; '.join(known)} (see {_PAGE})" if known else ""


def explains_other_names(init: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that unknown keyword arguments of other implementations get a TypeError with advice."""
    accepted = inspect.signature(init).parameters

    @functools.wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = [name for name in kwargs if name in ARGUMENTS and name not in accepted]
        if unknown:
            owner = init.__qualname__.split(".")[0]
            raise TypeError(f"{owner} has no argument {', '.join(unknown)}{advice(unknown)}")
        return init(*args, **kwargs)

    return call


class ExplainsOtherNames:
    """Base of a class whose unknown attributes get advice if they are names of other implementations."""

    def __getattr__(self, name: str) -> Any:
        if name in ENGINE_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}{advice([name], ENGINE_ATTRIBUTES)}")
        return object.__getattribute__(self, name)  # raises Python's own error
