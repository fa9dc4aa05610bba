"""Checks of an ensemble's settings and batches, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt.initialization import init_name
from gnt.protection import HAT, PackNet
from gnt.replacement import EngineSettings
from gnt.replay import AGEM, DER, GEM, ExperienceReplay, GenerativeReplay, LwF

_ONE_EACH = "Train one learner for each seed in place of the ensemble"
_SAMPLES_FIRST = (ExperienceReplay, DER, AGEM, GEM, GenerativeReplay, LwF)


def checked_engine_settings(checked: EngineSettings) -> EngineSettings:
    """The settings; refused if an ensemble does not take them, even where they are not used.

    Raises:
        ValueError, TypeError: ``accumulate=False``, or a function as ``init``.
    """
    if not checked.accumulate:
        raise ValueError(
            f"accumulate must be True or 'one' for an ensemble, got {checked.accumulate!r}: drawn counts would differ "
            "between members, which are selected from together"
        )
    if not isinstance(checked.init, str):
        raise TypeError(
            f"init must be a name for an ensemble, got {init_name(checked.init)}: a function would get the slot of all "
            "members together"
        )
    return checked


def refuse_protect(protect: Any) -> None:
    """Raise TypeError for anything but None."""
    if protect is not None:
        raise TypeError(
            f"protect must be None for an ensemble, got {protect!r:.80}: protected units would differ between members, "
            f"all of which replace equally many units in a step. {_ONE_EACH}"
        )


def refuse_methods(methods: Iterable[Any]) -> None:
    """Raise TypeError for methods of one network or that take the first dimension of a batch for its samples."""
    for each in methods:
        if isinstance(each, (HAT, PackNet)):
            what = "gates and masks belong to the units" if isinstance(each, HAT) else "owners belong to the weights"
            raise TypeError(
                f"methods of an ensemble must not have {type(each).__name__}: its {what} of one network, and each "
                f"member would need its own. {_ONE_EACH}"
            )
        if isinstance(each, _SAMPLES_FIRST):
            raise TypeError(
                f"methods of an ensemble must not have {type(each).__name__}: it takes the first dimension of batches "
                f"for samples, which here is that of the members, and would mix their data. {_ONE_EACH}"
            )


def engine_generators(given: Any, own: Sequence[torch.Generator | None]) -> list[torch.Generator]:
    """The generators of the members' engines: those given, or the members' own if none are.

    Raises:
        TypeError: not a list with a generator for each member.
        ValueError: a generator that is given twice.
    """
    if given is None:
        return [generator for generator in own if generator is not None]
    generators = list(given) if isinstance(given, (list, tuple)) else []
    if len(generators) != len(own) or not all(isinstance(each, torch.Generator) for each in generators):
        raise TypeError(f"generators must be a list of {len(own)} torch.Generators, one for each member, or None")
    if len({id(each) for each in generators}) != len(generators):
        raise ValueError("generators must be distinct: members that share one would not draw what they draw alone")
    return generators


def check_batches(x: Any, y: Any, members: int) -> None:
    """Refuse inputs and targets that are not a batch for each member.

    Raises:
        TypeError: not tensors.
        ValueError: another number of members, or no samples.
    """
    for name, given in (("x", x), ("y", y)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor (members, batch, ...), got {type(given).__name__}")
        if given.ndim < 2 or given.shape[0] != members:
            raise ValueError(f"{name} must be (members, batch, ...) with {members} members, got {tuple(given.shape)}")
    if x.shape[1] == 0:
        raise ValueError(f"x must hold at least one sample for each member, got {tuple(x.shape)}")


@torch.no_grad()
def check_same_function(net: nn.Module, seed: int, x: Tensor, stacked_output: Callable[[], Tensor]) -> bool:
    """Refuse a network that computes something else than its list of layers.

    Args:
        net: one member's network.
        seed: its seed.
        x: its inputs.
        stacked_output: its output as computed by the stacked network; called once ``x`` is known to fit.

    Returns:
        False if the outputs are not finite and so cannot be compared, otherwise True.

    Raises:
        ValueError: the network cannot take ``x``, or its output differs.
    """
    alone: Any = net.eval()
    try:
        expected = alone.predict(x)[0] if hasattr(alone, "predict") else alone(x)
    except Exception as error:
        raise ValueError(f"the member of seed {seed} cannot take x of shape {tuple(x.shape)}: {error}") from error
    if not expected.isfinite().all():
        return False
    # wide enough for rounding, also of matrix products in reduced precision
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-2}.get(expected.dtype, 0.1)
    output = stacked_output()
    near = output.shape == expected.shape
    if not near or not torch.allclose(output, expected, tolerance, tolerance * float(expected.abs().max())):
        raise ValueError(
            f"{type(net).__name__} computes something else than its list of layers, one after the other; an ensemble "
            "can only stack listed layers"
        )
    _check_training_mode(alone, x, expected, tolerance)
    return True


def _check_training_mode(alone: Any, x: Tensor, expected: Tensor, tolerance: float) -> None:
    """Refuse a network whose own ``forward`` does something in training mode only, such as ``F.dropout``.

    Its layers stay in evaluation mode, so that the output must be the same as with the whole network in that mode.
    """
    for module in alone.modules():
        module.training = next(module.children(), None) is not None
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        output = alone.predict(x)[0] if hasattr(alone, "predict") else alone(x)
    if not torch.allclose(output, expected, tolerance, tolerance * float(expected.abs().max())):
        raise ValueError(
            f"the forward of {type(alone).__name__} computes something else in training mode than its list of layers, "
            "one after the other; an ensemble can only stack listed layers: list an nn.Dropout in place of F.dropout, "
            "for example"
        )
