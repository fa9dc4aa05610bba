"""Settings of `HAT`, checked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gnt._utils.validation import check_flags, finite_number, to_float
from gnt.names import Compensation, EmbeddingName, Form, Norms, SparsityMode, Uncovered
from gnt.protection._coverage import CoveredParameter
from gnt.protection._rates import Rates
from gnt.protection._sparsity import SPARSITY_MODES
from gnt.units import Slot, UnitGroup

EmbeddingInit = EmbeddingName | tuple[float, float]
COMPENSATIONS, FORMS, EMBEDDINGS = get_args(Compensation), get_args(Form), get_args(EmbeddingName)


@dataclass(frozen=True)
class HATSettings:
    """The settings of a `HAT`, which describes them."""

    s_max: float
    sparsity: float
    sparsity_mode: SparsityMode
    embedding: EmbeddingInit
    embedding_clamp: float
    compensation: Compensation
    gradient_clip: float
    protection: Rates
    apply: Form
    uncovered: Uncovered
    norms: Norms
    min_free: int
    idle: bool
    protect_above: int

    @classmethod
    def checked(cls, **given: Any) -> HATSettings:
        """Check all settings.

        Raises:
            TypeError, ValueError: see `HAT`.
        """
        given["s_max"] = finite_number("s_max", given["s_max"], minimum=1.0)
        for name in ("embedding_clamp", "gradient_clip"):
            given[name] = finite_number(name, given[name], exclusive=True)
        given["sparsity"] = finite_number("sparsity", given["sparsity"])
        _one_of("sparsity_mode", given["sparsity_mode"], SPARSITY_MODES)
        _one_of("compensation", given["compensation"], COMPENSATIONS)
        _one_of("apply", given["apply"], FORMS)
        _one_of("uncovered", given["uncovered"], get_args(Uncovered))
        _one_of("norms", given["norms"], get_args(Norms))
        given["embedding"] = _embedding_init(given["embedding"])
        if not isinstance(given["protection"], Rates):
            raise TypeError(
                f"protection must be Hard(), Random(), Constant(alpha) or Adaptive(alpha), got {given['protection']!r}"
            )
        check_flags(idle=given["idle"])
        for name in ("min_free", "protect_above"):
            if isinstance(given[name], bool) or not isinstance(given[name], int) or given[name] < 0:
                raise ValueError(f"{name} must be an integer >= 0, got {given[name]!r}")
        if given["protect_above"] and given["protection"].freezes:
            raise ValueError(
                f"protect_above must be 0 where weights of earlier tasks are fixed, by {given['protection']!r}, got "
                f"{given['protect_above']}: replacing their units would change the outputs of these tasks"
            )
        return cls(**given)

    def draw_embedding(self, embedding: Tensor, generator: torch.Generator | None, *, first: bool) -> None:
        """Draw the embedding of a new task, in place."""
        if self.embedding == "last" and not first:
            return
        if isinstance(self.embedding, tuple):
            embedding.uniform_(*self.embedding, generator=generator)
        else:
            embedding.normal_(generator=generator)
        embedding.clamp_(-self.embedding_clamp, self.embedding_clamp)

    def saved(self) -> dict[str, Any]:
        """What a saved state must have in common with the present settings."""
        return {"s_max": self.s_max, "protection": self.protection.settings, "norms": self.norms}


def check_quantile(quantile: Any, protect_above: Any) -> None:
    """Raise ValueError unless ``protect_quantile`` is None, or in [0, 1) without ``protect_above``."""
    if quantile is None:
        return
    if not 0.0 <= to_float(quantile) < 1.0:
        raise ValueError(f"protect_quantile must be a number in [0, 1) or None, got {quantile!r}")
    if protect_above:
        raise ValueError(f"protect_above must be 0 with protect_quantile, got {protect_above!r}")


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}{hint}")


def _embedding_init(value: Any) -> EmbeddingInit:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        low, high = (to_float(each) for each in value)
        if -float("inf") < low <= high < float("inf"):
            return low, high
    elif isinstance(value, str):
        _one_of("embedding", value, EMBEDDINGS)
        return cast(EmbeddingName, value)
    raise ValueError(
        f"embedding must be 'normal', 'last' or a pair (low, high) of a uniform distribution, got {value!r}"
    )


def check_groups(net: Any, groups: Any) -> tuple[UnitGroup, ...]:
    """The groups, which must be of the network.

    Raises:
        TypeError: not a module, or not groups.
        ValueError: no groups, a group twice, or one whose layers are not in the network.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    if isinstance(getattr(net, "members", None), int) and callable(getattr(net, "parameters_of", None)):
        raise TypeError(
            f"net must be one network, got that of an ensemble of {net.members}, each of which would need gates and "
            "masks of its own: train one learner for each seed in place of the ensemble"
        )
    found = tuple(groups) if isinstance(groups, (list, tuple)) else ()
    if not found or not all(isinstance(group, UnitGroup) for group in found):
        given = type(groups).__name__ if isinstance(groups, nn.Module) else f"{groups!r:.80}"
        raise TypeError(f"groups must be the unit groups of gnt.trace or gnt.walk, got {given}")
    modules = set(net.modules())
    for number, group in enumerate(found):
        missing = [slot.name for slot in group.slots if slot.module not in modules]
        if missing:
            raise ValueError(f"group {group.name!r} is not of this model: layer {missing[0]!r} is no module of it")
        if any(_same_units(group, other) for other in found[:number]):
            raise ValueError(f"group {group.name!r} is listed twice: its units would be gated twice")
    return found


def _same_units(a: UnitGroup, b: UnitGroup) -> bool:
    """True if both have a row of a layer in common."""
    pairs = [(mine, theirs) for mine in a.incoming for theirs in b.incoming if mine.module is theirs.module]
    return any(bool(torch.isin(_rows(mine), _rows(theirs)).any()) for mine, theirs in pairs)


def _rows(slot: Slot) -> Tensor:
    return slot.index(torch.arange(slot.num_units, device="cpu"))


def check_norms(net: nn.Module) -> None:
    """Raise ValueError for norms with cumulative running statistics."""
    for name, module in net.named_modules():
        if isinstance(module, _NormBase) and module.track_running_stats and module.momentum is None:
            raise ValueError(
                f"{name!r} ({type(module).__name__}) has momentum=None, so that its statistics are averages over all "
                "steps of all tasks: set a momentum"
            )


def check_uncovered(parameters: Sequence[CoveredParameter]) -> None:
    """Raise ValueError for parameters of layers that no group has."""
    names = [each.name for each in parameters if not each.of_groups]
    if names:
        raise ValueError(
            f"uncovered='refuse': no group has {', '.join(names)}, which would be frozen after the first task that "
            "trains them"
        )
