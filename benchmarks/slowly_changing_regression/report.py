"""The table and the picture of Slowly-Changing Regression."""

from __future__ import annotations

from typing import IO, Any

from rich.table import Table

from benchmarks.palette import COLOURS, LABELS
from benchmarks.plots import canvas, end_label, label_ends, save
from benchmarks.slowly_changing_regression.settings import Settings

ROWS = 20


def bin_ends(settings: Settings, count: int) -> list[int]:
    """The last step of each bin."""
    return [min((i + 1) * settings.bin, settings.steps) for i in range(count)]


def table(settings: Settings, figures: dict[str, Any]) -> Table:
    """The squared error in each bin; of many bins, the first and then every few."""
    shown = Table(title=f"Mean squared error over {settings.bin:,} steps")
    shown.add_column("to step", justify="right")
    for method in figures:
        shown.add_column(LABELS[method], justify="right", style=COLOURS[method])
    errors = [of_method["squared_error"] for of_method in figures.values()]
    ends = bin_ends(settings, len(errors[0]))
    stride = -(-len(ends) // ROWS)
    for i in range(len(ends)):
        if i == 0 or (i + 1) % stride == 0:
            shown.add_row(f"{ends[i]:,}", *(f"{of_method[i]:.3f}" for of_method in errors))
    shown.add_section()
    shown.add_row("last third", *(f"{_mean(of_method, -1):.3f}" for of_method in errors))
    return shown


def headline(figures: dict[str, Any]) -> str:
    """What happened, in one sentence made from the figures: means of the first and of the last third of the bins."""
    thirds = {method: (_mean(errors, 0), _mean(errors, -1)) for method, errors in _errors(figures).items()}
    if len(thirds) == 1:
        ((method, (early, late)),) = thirds.items()
        return f"The error of {LABELS[method]}: {early:.2f} at first, {late:.2f} in the end"
    (early, late), (continual_early, continual_late) = thirds["backprop"], thirds["continual_backprop"]
    if late > 1.2 * early and continual_late < 1.05 * continual_early:
        return "Backprop's error grows. Continual backprop's does not."
    return f"In the end, backprop errs by {late:.2f}, continual backprop by {continual_late:.2f}"


def _seeds(settings: Settings) -> str:
    last = settings.seed + settings.seeds - 1
    return f"seed {settings.seed}" if settings.seeds == 1 else f"mean of seeds {settings.seed} to {last}"


def _errors(figures: dict[str, Any]) -> dict[str, list[float]]:
    return {method: of_method["squared_error"] for method, of_method in figures.items()}


def _mean(errors: list[float], end: int) -> float:
    """The mean of the first (0) or of the last (-1) third."""
    third = max(1, len(errors) // 3)
    part = errors[:third] if end == 0 else errors[-third:]
    return sum(part) / third


def smooth(errors: list[float]) -> list[float]:
    """Each bin's mean with up to two bins on either side."""
    windows = (errors[max(0, i - 2) : i + 3] for i in range(len(errors)))
    return [sum(window) / len(window) for window in windows]


def picture(settings: Settings, figures: dict[str, Any], file: IO[bytes]) -> None:
    """The squared error over time, as PNG."""
    change = "are redrawn" if settings.variant == "redraw" else "change, one bit at a time,"
    explanation = (
        f"Following a target of 100 threshold units with 5 hidden units; 15 of 20 input bits {change} every "
        f"{settings.flip_every:,} steps ({settings.optimizer.upper()}, {_seeds(settings)})"
    )
    figure, (axes,) = canvas(headline(figures), explanation, panels=1)
    labels = {}
    for method, errors in _errors(figures).items():
        ends = bin_ends(settings, len(errors))
        # How hard the current slow bits are moves both methods alike, so the bins alone hide what lasts.
        axes.plot(ends, errors, color=COLOURS[method], alpha=0.28, linewidth=1.4, marker="o" if len(errors) < 3 else "")
        lasting = smooth(errors)
        axes.plot(ends, lasting, color=COLOURS[method])
        labels[method] = (lasting[-1], end_label(method))
    axes.set(
        title=f"Squared error over {settings.bin:,} steps (thin) and over {5 * settings.bin:,} (bold)", xlabel="step"
    )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    label_ends(axes, ends[-1], labels)
    save(figure, file)
