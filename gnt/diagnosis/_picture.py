"""The picture of a check: learning curves with bands, and the figures of each layer beside those of a fresh one."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gnt.diagnosis._statistics import t_quantile
from gnt.diagnosis._verdict import COPIES, FRESH, FRESH_HEAD, PRESENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as FigureType

_COLORS = {PRESENT: "#c44e52", FRESH: "#4c72b0", FRESH_HEAD: "#dd8452"}
_STYLES = {PRESENT: "-", FRESH: "-", FRESH_HEAD: "--"}
_BARS = (
    ("dead_units", "dead units", True),
    ("dormant_units", "dormant units", True),
    ("effective_rank", "effective rank", False),
    ("weight_magnitude", "mean |w|", False),
    ("gradient_norm", "gradient norm", False),
)
_MOST_LAYERS = 24


def draw_check(check: Any) -> FigureType:
    """Draw a check into a new figure."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('the picture needs matplotlib: pip install "torch-gnt[benchmarks]"') from error
    layers = min(len(check.present), _MOST_LAYERS)
    figure = Figure(figsize=(11.0, 4.6 + 0.34 * layers + 0.6), layout="constrained")
    rows = figure.add_gridspec(2, len(_BARS), height_ratios=[3.4, 0.34 * layers + 1.0])
    _draw_curves(figure.add_subplot(rows[0, :]), check)
    names = [_short(layer.name) for layer in check.present[:_MOST_LAYERS]]
    for column, (name, title, share) in enumerate(_BARS):
        ax = figure.add_subplot(rows[1, column])
        _draw_bars(ax, check, name, share)
        ax.set_title(title, fontsize=10)
        ax.set_yticks(range(layers), names if column == 0 else [""] * layers, fontsize=9)
    figure.suptitle(textwrap.fill(check.sentence, 100), fontsize=11.5, x=0.01, ha="left")
    return figure


def _draw_curves(ax: Axes, check: Any) -> None:
    window = max(1, check.steps // 20)
    for name in COPIES:
        curve = check.curves[name]
        curves = _smooth(torch.where(curve.isfinite(), curve, check.gaps.start), window)  # as in the verdict
        mean, half = curves.mean(0), curves.std(0) / len(curves) ** 0.5 * t_quantile(len(curves) - 1)
        steps = range(1, check.steps + 1)
        label = {PRESENT: "present network", FRESH: "fresh network", FRESH_HEAD: "present, fresh head"}[name]
        ax.plot(steps, mean.tolist(), color=_COLORS[name], linestyle=_STYLES[name], label=label, linewidth=1.8)
        low, high = (mean - half).tolist(), (mean + half).tolist()
        ax.fill_between(steps, low, high, color=_COLORS[name], alpha=0.15, linewidth=0)
    ax.axhline(check.gaps.start, color="0.6", linewidth=0.8, linestyle=":")
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": "0.5", "fontsize": 8.5}
    ax.annotate("before learning", (check.steps, check.gaps.start), (4, 0), annotation_clip=False, **beside)
    ax.set_xlim(0, check.steps)
    if check.measure == "error":
        present = check.curves[PRESENT].nan_to_num(0.0)
        ax.set_ylim(0.0, min(1.02, max(1.12 * check.gaps.start, float(present.mean(0).max())) or 1.0))
    ax.set_xlabel("step")
    averaged = f", mean of {window} steps" if window > 1 else ""
    ax.set_ylabel(f"{check.measure}{averaged}")
    legend = ax.legend(
        frameon=False, title="mean, 95% interval", fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.45)
    )
    legend.get_title().set_fontsize(9)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_bars(ax: Axes, check: Any, name: str, share: bool) -> None:
    values: dict[str, list[Any]] = {
        PRESENT: [getattr(layer, name) for layer in check.present[:_MOST_LAYERS]],
        FRESH: [getattr(layer, name) for layer in check.fresh[:_MOST_LAYERS]],
    }
    largest = max((v for own in values.values() for v in own if v is not None and math.isfinite(v)), default=0.0)
    for offset, (copy, own) in zip((-0.2, 0.2), values.items(), strict=True):
        lengths = [v if v is not None and math.isfinite(v) else 0.0 for v in own]
        ax.barh([i + offset for i in range(len(own))], lengths, 0.36, color=_COLORS[copy])
        for i, value in enumerate(own):
            text = (
                "" if value is None else f"{value:.0%}" if share else f"{value:.2g}" if value < 10 else f"{value:.0f}"
            )
            ax.annotate(
                text,
                (lengths[i], i + offset),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color="0.3",
            )
    ax.invert_yaxis()
    ax.set_xlim(0, 1.0 if share else 1.3 * largest or 1.0)
    ax.set_xticks([])
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _smooth(curves: Tensor, window: int) -> Tensor:
    """Means over the last ``window`` steps, over fewer at the start: (seeds, steps)."""
    sums = torch.nn.functional.pad(curves.cumsum(1), (window, 0))
    counts = torch.arange(1, curves.shape[1] + 1, device="cpu").clamp(max=window)
    return (sums[:, window:] - sums[:, :-window]) / counts


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"...{name[-21:]}"
