"""The table and the picture of random-label MNIST."""

from __future__ import annotations

from typing import IO, Any

from rich.table import Table

from benchmarks.palette import COLOURS, LABELS
from benchmarks.plots import canvas, end_label, label_ends, save, whole_ticks
from benchmarks.random_label_mnist.settings import Settings

CHANCE = 0.1


def table(settings: Settings, figures: dict[str, Any]) -> Table:
    """Each task's online accuracy, and the dead units at its start."""
    shown = Table(title="Online accuracy in each task, and dead units (hidden layers 1, 2) at its start")
    shown.add_column("task", justify="right")
    for method in figures:
        for heading in (LABELS[method], "dead 1", "dead 2"):
            shown.add_column(heading, justify="right", style=COLOURS[method])
    for task in range(settings.tasks):
        cells = [str(task + 1)]
        for of_method in figures.values():
            cells.append(f"{of_method['online_accuracy'][task]:.3f}")
            cells += [f"{share:.0%}" for share in of_method["dead_units"][task]]
        shown.add_row(*cells, end_section=task == settings.tasks - 1)
    means = (f"{mean(of_method['online_accuracy']):.3f}" for of_method in figures.values())
    shown.add_row("mean", *(cell for value in means for cell in (value, "", "")))
    return shown


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def headline(settings: Settings, figures: dict[str, Any]) -> str:
    """What happened, in one sentence made from the figures."""
    last = {method: of_method["online_accuracy"][-1] for method, of_method in figures.items()}
    if len(last) == 1:
        ((method, accuracy),) = last.items()
        return f"In task {settings.tasks}, {LABELS[method]} learns {accuracy:.0%}"
    first = {method: of_method["online_accuracy"][0] for method, of_method in figures.items()}
    backprop, continual = last["backprop"], last["continual_backprop"]
    if backprop < 0.5 * first["backprop"] and continual > 0.8 * first["continual_backprop"]:
        return "Backprop stops learning. Continual backprop goes on."
    return f"In task {settings.tasks}, backprop learns {backprop:.0%}, continual backprop {continual:.0%}"


def picture(settings: Settings, figures: dict[str, Any], file: IO[bytes]) -> None:
    """Online accuracy in each task beside the share of dead units, as PNG."""
    figure, (left, right) = canvas(
        headline(settings, figures),
        "The same 1,200 MNIST digits, with fresh random labels to memorise in every task "
        f"({settings.epochs} passes each, Adam, seed {settings.seed})",
        panels=2,
    )
    tasks = list(range(1, settings.tasks + 1))
    accuracy_ends, dead_ends = {}, {}
    for method, of_method in figures.items():
        accuracy = [100 * value for value in of_method["online_accuracy"]]
        dead = [100 * mean(layers) for layers in of_method["dead_units"]]  # both layers have 100 units
        for axes, values in ((left, accuracy), (right, dead)):
            axes.plot(
                tasks,
                values,
                color=COLOURS[method],
                marker="o",
                markersize=4.5 if settings.tasks <= 20 else 0,
            )
        accuracy_ends[method] = (accuracy[-1], f"{end_label(method)} {accuracy[-1]:.0f}%")
        dead_ends[method] = (dead[-1], f"{end_label(method)} {dead[-1]:.0f}%")
    left.axhline(100 * CHANCE, color="#888888", linestyle=(0, (2, 3)), linewidth=1.2)
    left.annotate("guessing 10%", (1, 100 * CHANCE), (0, -4), textcoords="offset points", va="top", color="#666666")
    for axes, ends, title in (
        (left, accuracy_ends, "Correct labels while learning the task"),
        (right, dead_ends, "Hidden units dead when the task starts"),
    ):
        axes.set(title=title, xlabel="task", ylim=(-2, 102))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
        whole_ticks(axes, settings.tasks)
        label_ends(axes, settings.tasks, ends)
    save(figure, file)
