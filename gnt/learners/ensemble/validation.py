"""What an ensemble refuses of settings and batches, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gnt._utils.validation import check_flags
from gnt.replacement import EngineSettings


def settings(
    replacement_rate: Any,
    maturity_threshold: Any,
    decay_rate: Any,
    utility: Any,
    init: Any,
    accumulate: Any,
    **flags: Any,
) -> None:
    """Refuse settings out of range; also where no engine is built that would."""
    EngineSettings(replacement_rate, maturity_threshold, decay_rate, utility, init, accumulate)
    check_flags(**flags)
    if not accumulate:
        raise ValueError(
            f"accumulate must be True or 'one' for an ensemble, got {accumulate!r}: drawn counts differ between "
            "members, whose selection is one"
        )


def generators(given: Any, own: Sequence[torch.Generator | None]) -> list[torch.Generator]:
    """The engine's generators: given ones, one for each member, or the members' own."""
    if given is None:
        return [generator for generator in own if generator is not None]
    several = list(given) if isinstance(given, (list, tuple)) else []
    if len(several) != len(own) or not all(isinstance(each, torch.Generator) for each in several):
        raise TypeError(f"generators must be a list of {len(own)} torch.Generators, one for each member, or None")
    if len({id(each) for each in several}) != len(several):
        raise ValueError("generators must be different ones: a shared one would give each member the others' draws")
    return several


def batches(x: Any, y: Any, members: int) -> None:
    """Refuse what is not a batch for each member."""
    for name, given in (("x", x), ("y", y)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} must be a tensor (members, batch, ...), got {type(given).__name__}")
        if given.ndim < 2 or given.shape[0] != members:
            raise ValueError(f"{name} must be (members, batch, ...) with {members} members, got {tuple(given.shape)}")
    if x.shape[1] == 0:
        raise ValueError(f"x must hold at least one sample for each member, got {tuple(x.shape)}")


@torch.no_grad()
def same_function(net: nn.Module, seed: int, x: Tensor, output: Callable[[], Tensor]) -> bool:
    """Refuse a network that computes something else from ``x`` than its layers do, whose ``output()`` that is; False
    where numbers do not tell.
    """
    alone: Any = net.eval()
    try:
        expected = alone.predict(x)[0] if hasattr(alone, "predict") else alone(x)
    except Exception as error:
        raise ValueError(f"the member of seed {seed} cannot take x of shape {tuple(x.shape)}: {error}") from error
    if not expected.isfinite().all():
        return False
    # rounding, and on some devices that of shortened products
    tolerance = {torch.float64: 1e-7, torch.float32: 1e-2}.get(expected.dtype, 0.1)
    got = output()  # which is not asked for before x is known to fit
    near = got.shape == expected.shape
    if not near or not torch.allclose(got, expected, tolerance, tolerance * float(expected.abs().max())):
        raise ValueError(
            f"{type(net).__name__} computes something else than its list of layers does, one after the other; an "
            "ensemble can only stack what is listed"
        )
    return True
