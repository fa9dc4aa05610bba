"""Which layers differ most from those of a fresh network, and what is worth trying first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gnt.diagnosis._layer_figures import LayerFigures
from gnt.diagnosis._verdict import SOME, Gaps

_MOST = 3  # layers that are named
_NONFINITE = 10.0  # score of a layer that is not finite: before all others
_SHARE = 0.1  # of the units: a larger share of dead or dormant units than in a fresh layer counts
_RANK, _GRADIENT, _WEIGHT = 0.7, 0.5, 2.0  # ratios to the fresh layer's that count


@dataclass(frozen=True)
class WorstLayer:
    """A layer that differs from a fresh one.

    Attributes:
        name: its name.
        reasons: in words, the most important first.
        signs: what they are: "nonfinite", "dead", "dormant", "rank", "weights", "gradients".
    """

    name: str
    reasons: tuple[str, ...]
    signs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Advice:
    """Something worth trying.

    Attributes:
        what: the remedy, and its name in gnt.
        why: the reason.
        where: the section of the documentation.
    """

    what: str
    why: str
    where: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why} ({self.where})"


def worst_layers(present: Sequence[LayerFigures], fresh: Sequence[LayerFigures]) -> tuple[WorstLayer, ...]:
    """At most three layers that differ from those of a fresh network, the worst first."""
    scored = [(score, layer) for old, new in zip(present, fresh, strict=True) for score, layer in [_compare(old, new)]]
    scored = [(score, layer) for score, layer in scored if layer.reasons]
    return tuple(layer for _, layer in sorted(scored, key=lambda pair: -pair[0])[:_MOST])


def _compare(old: LayerFigures, new: LayerFigures) -> tuple[float, WorstLayer]:
    signs: list[tuple[float, str, str]] = []
    wrong = [
        name
        for name, value, fresh in (
            ("weights", old.weight_magnitude, new.weight_magnitude),
            ("gradients", old.gradient_norm, new.gradient_norm),
        )
        if not math.isfinite(value) and math.isfinite(fresh)
    ]
    if wrong:
        signs.append((_NONFINITE, "nonfinite", f"{' and '.join(wrong)} that are not finite"))
    dead, dormant = (_more(old.dead_units, new.dead_units), _more(old.dormant_units, new.dormant_units))
    if dead >= _SHARE:
        signs.append((2 * dead, "dead", f"{old.dead_units:.0%} dead units (fresh {new.dead_units:.0%})"))
    elif dormant >= _SHARE:
        signs.append((dormant, "dormant", f"{old.dormant_units:.0%} dormant units (fresh {new.dormant_units:.0%})"))
    if old.effective_rank is not None and new.effective_rank and old.effective_rank < _RANK * new.effective_rank:
        share = 1.0 - old.effective_rank / new.effective_rank
        signs.append((share, "rank", f"effective rank {old.effective_rank:.1f} (fresh {new.effective_rank:.1f})"))
    if new.weight_magnitude and old.weight_magnitude >= _WEIGHT * new.weight_magnitude:
        ratio = old.weight_magnitude / new.weight_magnitude
        signs.append(
            (
                0.5 - 0.5 * _WEIGHT / ratio,
                "weights",
                f"weights {ratio:{'.1f' if ratio < 1000 else '.2g'}} times a fresh layer's",
            )
        )
    if new.gradient_norm and old.gradient_norm < _GRADIENT * new.gradient_norm:
        share = 1.0 - old.gradient_norm / new.gradient_norm
        signs.append((share, "gradients", f"gradient norm {old.gradient_norm:.2g} (fresh {new.gradient_norm:.2g})"))
    signs.sort(reverse=True)
    reasons, kinds = tuple(each[2] for each in signs), tuple(each[1] for each in signs)
    return sum(each[0] for each in signs), WorstLayer(old.name, reasons, kinds)


def _more(old: float | None, new: float | None) -> float:
    return 0.0 if old is None or new is None else old - new


def advise(verdict: str, gaps: Gaps, worst: Sequence[WorstLayer]) -> tuple[Advice, ...]:
    """What is worth trying first, the most promising first; empty without a loss."""
    if verdict not in ("some", "severe"):
        return ()
    named = ("nonfinite", "dead", "dormant", "weights")
    names = {sign: [layer.name for layer in worst if sign in layer.signs] for sign in named}
    if names["nonfinite"]:
        return (
            Advice(
                "an earlier checkpoint, and a smaller learning rate or gradient clipping",
                f"weights or gradients of {', '.join(names['nonfinite'])} are not finite: training has diverged",
                "docs/diagnosis.md",
            ),
        )
    found = []
    if gaps.lost_fresh_head.mean < max(SOME, gaps.lost.mean / 2):
        found.append(
            Advice(
                "a fresh output layer when the task changes",
                f"with one, {gaps.lost_fresh_head.mean:.0%} is lost instead of {gaps.lost.mean:.0%}",
                "docs/which_remedy.md",
            )
        )
    idle = names["dead"] or names["dormant"]
    if idle:
        found.append(
            Advice(
                "continual backpropagation, gnt.GnT(gnt.trace(model, x), optimizer).attach()",
                f"{'dead' if names['dead'] else 'dormant'} units in {', '.join(idle)} carry no gradient, and "
                "only a new start brings them back; gnt.suggest gives a rate",
                "docs/which_remedy.md",
            )
        )
    if names["weights"]:
        found.append(
            Advice(
                "weight decay with layer norm, or gnt.L2Init",
                f"the weights of {', '.join(names['weights'])} have grown, so that a step changes them less",
                "docs/remedies.md#l2-and-l2-init",
            )
        )
    if not idle and any("rank" in layer.signs or "gradients" in layer.signs for layer in worst):
        found.append(
            Advice(
                "gnt.L2Init, or torch.nn.LayerNorm before the activations",
                "ranks or gradients are small without idle units, which replacing units alone may not cure",
                "docs/which_remedy.md",
            )
        )
    if not found:
        found.append(
            Advice(
                "gnt.ShrinkAndPerturb when the data change",
                "no layer stands out, and it acts on all weights",
                "docs/remedies.md#shrink-and-perturb",
            )
        )
    return tuple(found)
