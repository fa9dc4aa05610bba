"""What gnt calls the arguments, classes and methods of other implementations of continual backpropagation.

Errors for unknown names add the advice of these tables and name the page of docs/ with the whole comparison. The other
implementations are the repository loss-of-plasticity, the package ccbp-pytorch and clarena's ``CBP``.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from gnt._utils.caller_instruction import imports_from

P = ParamSpec("P")
R = TypeVar("R")

_LOSS_OF_PLASTICITY: Final = "docs/from_loss_of_plasticity.md"
_CCBP_PYTORCH: Final = "docs/from_ccbp_pytorch.md"
_CLARENA: Final = "docs/from_clarena.md"

_NOT_NEEDED_DEVICE = "not needed, state is kept on the device of the parameters"
_BETAS = "betas=(beta_1, beta_2)"
_NORMS = "norms="
_NOISE = "methods=[gnt.ShrinkAndPerturb(net, shrink=1.0, noise=perturb_scale, distribution='normal')]"

_SOFT = "soft=gnt.SoftReplacement(rate=, steepness=, period=)"
_NO_CHOICE = "not available"

_ARGUMENTS_BY_PAGE: Final = {
    _LOSS_OF_PLASTICITY: {
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
        "threshold": "tau= of gnt.ReDo",
        "reset_period": "period= of gnt.ReDo",
    },
    _CCBP_PYTORCH: {
        "model": "the first argument, without a name",
        "neuron_configs": "the first argument: gnt.walk(net) or gnt.trace(model, example_inputs)",
        "exclude_module_names": "gnt.trace(model, x, exclude=[...])",
        "continuous": f"{_SOFT}; without it units are replaced",
        "continuous_rate": _SOFT,
        "steepness": _SOFT,
        "reset_interval": f"{_SOFT}; without soft= units are replaced when they are due, in any step",
        "transfer_fn": _NO_CHOICE,
        "utility_type": "utility=",
        "utility_ema_decay": "decay_rate=",
        "utility_fn": "gnt.register_utility(name, function), then utility=name",
        "maturity_steps": "maturity_threshold=",
        "init_fn": "init=",
        "reset_optimizer_state": "not needed, the state of replaced units is always reset",
        "adjust_optimizer_state_fn": "gnt.register_state_reset(optimizer_class, initial_values)",
        "first_moment_names": "gnt.register_state_reset(optimizer_class, initial_values)",
        "second_moment_names": "gnt.register_state_reset(optimizer_class, initial_values)",
        "second_moment_policy": "not available, both moments of replaced units are set to zero",
        "outgoing_eps": _NO_CHOICE,
    },
    _CLARENA: {
        "backbone": "not needed in Lightning, where include= and exclude= choose layers; elsewhere the first argument",
        "heads": "not needed, output units are never replaced",
        "utility_decay_rate": "decay_rate=",
    },
}
ARGUMENTS: Final = {name: (here, page) for page, table in _ARGUMENTS_BY_PAGE.items() for name, here in table.items()}

CLASSES: Final = {
    "ConvCBP": (
        "gnt.ContinualBackprop, which handles convolutions, or gnt.integrations.loss_of_plasticity.ConvCBP",
        _LOSS_OF_PLASTICITY,
    ),
    "ConvGnT": ("gnt.GnT, which handles convolutions", _LOSS_OF_PLASTICITY),
    "ResGnT": (
        "gnt.GnT(gnt.trace(model, x), optimizer), which finds the units of residual networks",
        _LOSS_OF_PLASTICITY,
    ),
    "GnTredo": ("gnt.ReDo", _LOSS_OF_PLASTICITY),
    "CCBP": ("gnt.GnT(net, optimizer, soft=True).attach()", _CCBP_PYTORCH),
    "NeuronConfig": ("gnt.UnitGroup", _CCBP_PYTORCH),
    "find_neuron_configs": ("gnt.trace(model, x), or gnt.walk(net)", _CCBP_PYTORCH),
    "CBP": (
        "gnt.ContinualBackprop, gnt.GnT, or gnt.integrations.lightning.ContinualBackprop in a Trainer",
        _CLARENA,
    ),
    "CBPSGD": ("gnt.optim.CBPSGD", "README.md"),
    "CBPAdam": ("gnt.optim.CBPAdam", "README.md"),
    "CBPAdamW": ("gnt.optim.CBPAdamW", "README.md"),
}
# names that gnt has as well
PUBLISHED_ENGINE: Final = {"GnT": ("gnt.GnT(net.layers, optimizer)", _LOSS_OF_PLASTICITY)}

ENGINE_ATTRIBUTES: Final = {
    name: (here, _LOSS_OF_PLASTICITY)
    for name, here in {
        "gen_and_test": "step(), after optimizer.step(); it takes the features from the forward, or as step(features)",
        "util": "groups[i].state.utility",
        "bias_corrected_util": "groups[i].state.corrected_utility",
        "ages": "groups[i].state.age",
        "mean_feature_act": "groups[i].state.mean_feature",
        "mean_feature_mag": "groups[i].state.mean_feature",
        "accumulated_num_features_to_replace": "groups[i].state.accumulated",
        "num_hidden_layers": "len(groups)",
    }.items()
}


def advice(names: Iterable[str], table: dict[str, tuple[str, str]] = ARGUMENTS) -> str:
    """A sentence that says what gnt calls these names, to be added to an error; empty if none is known."""
    known = [name for name in names if name in table]
    pages = " and ".join(dict.fromkeys(table[name][1] for name in known))
    sentences = [f"{name} of other implementations is here: {table[name][0]}" for name in known]
    return f"; {'; '.join(sentences)} (see {pages})" if known else ""


def missing_name(module: str, name: str, table: dict[str, tuple[str, str]] = CLASSES) -> Exception:
    """The error of a module's ``__getattr__``, which must call this itself: an ImportError for ``from module import``.

    Python replaces an AttributeError by an ImportError of its own there, which does not say what to write instead.
    """
    if name in table and imports_from(sys._getframe(2)):
        return ImportError(f"cannot import name {name!r} from {module!r}{advice([name], table)}", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}{advice([name], table)}")


def explains_published_positions(init: Callable[P, R]) -> Callable[P, R]:
    """Decorate the ``__init__`` of `GnT` so that the arguments of loss-of-plasticity's, in its order, get advice."""
    accepted = inspect.signature(init).parameters
    names = [name for name, each in accepted.items() if each.kind is each.POSITIONAL_OR_KEYWORD and name != "self"]
    positional = len(names)

    @functools.wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > 1 + positional:
            owner = init.__qualname__.split(".")[0]
            raise TypeError(
                f"{owner} takes {positional} arguments without a name, got {len(args) - 1}: it is "
                f"{owner}({', '.join(names)}, replacement_rate=...), and finds the activation itself "
                f"(see {_LOSS_OF_PLASTICITY})"
            )
        return init(*args, **kwargs)

    return call


def explains_unknown_settings(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that a TypeError for unknown keyword arguments lists the known ones, with advice.

    >>> @explains_unknown_settings
    ... def walk(net, *, include=None, exclude=None): ...
    >>> walk(1, exlude="fc*")
    Traceback (most recent call last):
    TypeError: unknown setting exlude: walk takes include, exclude; did you mean exclude?
    """
    parameters = inspect.signature(function).parameters
    settings = [name for name, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        unknown = [name for name in kwargs if name not in parameters]
        if unknown:
            is_init = function.__name__ == "__init__" and bool(args)
            receiver = type(args[0]).__name__ if is_init else function.__name__
            raise TypeError(unknown_settings_message(unknown, receiver, settings))
        return function(*args, **kwargs)

    return call


def unknown_settings_message(unknown: Sequence[str], receiver: str, own: Iterable[str], further: str = "") -> str:
    """The message of a TypeError for unknown settings.

    Args:
        unknown: their names.
        receiver: name of the function or class.
        own: the names of its settings.
        further: more about the allowed ones.
    """
    known = list(own)
    near = [
        match
        for name in unknown
        if name not in ARGUMENTS
        for match in difflib.get_close_matches(name, known, 1, cutoff=0.75)
    ]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return f"unknown setting {', '.join(unknown)}: {receiver} takes {', '.join(known)}{further}{hint}{advice(unknown)}"


class ExplainsOtherNames:
    """Base of a class whose unknown attributes get advice if they are names of other implementations."""

    def __getattr__(self, name: str) -> Any:
        if name in ENGINE_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}{advice([name], ENGINE_ATTRIBUTES)}")
        return object.__getattribute__(self, name)  # raises Python's own error
