"""`PlasticityCheck`: what a check has found, as text, as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gnt._utils.tables import align_columns
from gnt.diagnosis._advice import Advice, WorstLayer
from gnt.diagnosis._layer_figures import LayerFigures
from gnt.diagnosis._verdict import COPIES, FRESH_HEAD, PRESENT, Gaps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEVERITY = {"none": 0.0, "some": 1.0, "severe": 2.0}


@dataclass(frozen=True)
class PlasticityCheck:
    """The result of `gnt.plasticity_check`; prints as a report.

    Attributes:
        verdict: "none", "some", "severe" or "unclear".
        sentence: the verdict in words, with its figures.
        measure: what the verdict is about: "error", the share of wrong classes, or "loss".
        gaps: the gaps between the copies, with their intervals: see `gnt.diagnosis.Gaps`.
        loss_gaps: the same of the loss; equal to ``gaps`` if that is the measure.
        curves: for "present", "fresh" and "fresh head" the measure at each step, before the batch is learned: float64
            (seeds, steps).
        losses: the same of the loss.
        present, fresh: figures of each layer before learning; of the fresh networks the means over seeds.
        worst: the layers that differ most from fresh ones, at most three.
        advice: what is worth trying first; empty if the verdict is "none" or "unclear".
        task: what was learned: "labels", "permutation" or "data".
        steps, seeds: number of steps, and the seeds.
        head: the layers that are new in "fresh head".
        seconds: duration.
        notes: what could not be measured, and why.
    """

    verdict: str
    sentence: str
    measure: str
    gaps: Gaps
    loss_gaps: Gaps
    curves: Mapping[str, Tensor]
    losses: Mapping[str, Tensor]
    present: tuple[LayerFigures, ...]
    fresh: tuple[LayerFigures, ...]
    worst: tuple[WorstLayer, ...]
    advice: tuple[Advice, ...]
    task: str
    steps: int
    seeds: tuple[int, ...]
    head: tuple[str, ...]
    seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self, prefix: str = "plasticity/") -> dict[str, float]:
        """Numbers by name, for a logger such as TensorBoard's.

        ``lost``, ``gap`` and ``gap_at_end`` with ``_low`` and ``_high``, the ends of their intervals;
        ``lost_fresh_head``; the mean ``present``, ``fresh`` and ``fresh_head`` of the measure; ``severity`` (0 none, 1
        some, 2 severe; left out if unclear); and "<figure>/<layer>" of the present network.
        """
        gaps = self.gaps
        values: dict[str, float] = {}
        for name in ("lost", "gap", "gap_at_end"):
            interval = getattr(gaps, name)
            values.update({name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high})
        values.update(lost_fresh_head=gaps.lost_fresh_head.mean)
        values.update(present=gaps.present, fresh=gaps.fresh, fresh_head=gaps.fresh_head)
        if self.verdict in _SEVERITY:
            values["severity"] = _SEVERITY[self.verdict]
        for layer in self.present:
            for name in ("dead_units", "dormant_units", "effective_rank", "weight_magnitude", "gradient_norm"):
                if (value := getattr(layer, name)) is not None:
                    values[f"{name}/{layer.name}"] = value
        return {f"{prefix}{name}": float(value) for name, value in values.items()}

    def plot(self) -> Figure:
        """Draw learning curves and the figures of the layers with matplotlib, and return the figure.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        from gnt.diagnosis._picture import draw_check

        return draw_check(self)

    def draw(self, path: str | Path) -> None:
        """Save the picture of `plot` as a file, in the format of its ending.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        self.plot().savefig(path, dpi=150)

    def __str__(self) -> str:
        gaps, seeds = self.gaps, len(self.seeds)
        learned = {"labels": "labels in a random order", "permutation": "permuted inputs", "data": "the data as given"}
        lines = [
            self.sentence,
            "",
            f"learned: {learned[self.task]}, {self.steps} steps, {seeds} seeds, {self.seconds:.0f} s; "
            f"{self.measure} before each step, at the start {gaps.start:.3g}",
        ]
        quarter = slice(-max(1, self.steps // 4), None)
        rows: list[tuple[str, ...]] = [("copy", f"mean {self.measure}", "in the last quarter", "progress lost")]
        shares = {PRESENT: gaps.lost, FRESH_HEAD: gaps.lost_fresh_head}
        for name in COPIES:
            curve, share = self.curves[name], shares.get(name)
            lost = "" if share is None else f"{share.mean:.0%} [{share.low:.0%}, {share.high:.0%}]"
            rows.append((name, f"{float(curve.mean()):.3f}", f"{float(curve[:, quarter].mean()):.3f}", lost))
        lines += align_columns(rows)
        lines += [f"gap of the present network: {gaps.gap} over all steps, {gaps.gap_at_end} in the last quarter"]
        lines += ["", "layers before learning, present / fresh", *align_columns(self._layer_rows())]
        if self.worst:
            lines += ["", "layers that differ most from fresh ones", *(f"  {each}" for each in self.worst)]
        if self.advice:
            lines += ["", "worth trying first", *(f"  {i}. {each}" for i, each in enumerate(self.advice, 1))]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _layer_rows(self) -> list[tuple[str, ...]]:
        columns = {
            "dead": ("dead_units", ".0%"),
            "dormant": ("dormant_units", ".0%"),
            "effective rank": ("effective_rank", ".1f"),
            "mean |w|": ("weight_magnitude", ".3g"),
            "gradient": ("gradient_norm", ".2g"),
        }
        rows: list[tuple[str, ...]] = [("layer", "units", *columns)]
        for old, new in zip(self.present, self.fresh, strict=True):
            cells = []
            for name, form in columns.values():
                pair = getattr(old, name), getattr(new, name)
                cells.append("-" if None in pair else " / ".join(format(value, form) for value in pair))
            rows.append((old.name, "-" if old.units is None else str(old.units), *cells))
        return rows

    def __repr__(self) -> str:
        lost = f"{self.gaps.lost.mean:.2f}"
        return f"PlasticityCheck({self.verdict!r}, lost={lost}, steps={self.steps}, seeds={len(self.seeds)})"
