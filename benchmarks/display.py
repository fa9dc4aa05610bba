"""Declares what an experiment's table and picture show. `benchmarks.comparison_table` and
`benchmarks.comparison_picture` read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of the rows.

    Attributes:
        name: key in the rows; if the keys are "name/layer", the mean over layers is shown.
        title: title of its panel.
        percent: whether it is a fraction, shown as a percentage.
    """

    name: str
    title: str
    percent: bool = False

    def text(self, value: float) -> str:
        """A value as text."""
        if self.percent:
            return f"{value:.1%}"
        if abs(value) >= 1e6:  # a network that is diverging
            return f"{value:.1e}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
"""Display names of the values of the setting ``optimizer``."""

DEAD = Metric("dead_units", "Dead hidden units", percent=True)
DEAD_AT_START = Metric("dead_units", "Hidden units dead when the task starts", percent=True)
DORMANT = Metric("dormant_units", "Dormant hidden units", percent=True)
RANK = Metric("nature_rank", "Rank of the features (Nature's)")
WEIGHTS = Metric("weight_magnitude", "Mean size of a weight")


@dataclass(frozen=True)
class FurtherPicture:
    """A picture beside that of the metrics over time.

    Attributes:
        name: the end of its file's name.
        title: what it shows.
        draw: (results, the display) -> a figure.
    """

    name: str
    title: str
    draw: Callable[[list[Any], Display], Any]


@dataclass(frozen=True)
class Display:
    """What is shown of an experiment.

    Attributes:
        main: the main metric.
        about: settings -> one sentence that explains the picture.
        x: key of the rows for the horizontal axis ("task", "step").
        higher_is_better: whether larger values of the main metric are better.
        others: further metrics, a panel each; those missing in the rows are left out.
        chance: value of the main metric that guessing reaches, if there is one.
        first, last: fractions of the rows that "first" and "last" in tables average over.
        smooth: window, in rows, of the moving average of the bold lines, for noisy rows.
        further: pictures beside that of the metrics over time.
        pairs: methods whose differences from another method the report shows, over the same seeds.
        compared: names of the metrics of which it shows these.
        axes: metrics by which the report names the methods that no other one beats.
        asked: what the experiment asks, in a short sentence for the table at the top of the report.
        references: methods that are shown for reference and do not compete, because they are given more.
        told_the_task: methods that know the task of what they are tested on, where others do not.
        families: whether the report shows similar problems together, with fewer metrics of each.
        notes: sentences about the results, which the report shows in the experiment's section.
        seconds: whether tables show the core time of a seed.
        plasticity: whether the main metric shows a loss of plasticity, which the headline of the picture then names.
    """

    main: Metric
    about: Callable[[Any], str]
    x: str = "task"
    higher_is_better: bool = True
    others: tuple[Metric, ...] = (DEAD, RANK, WEIGHTS)
    chance: float | None = None
    first: float = 0.1
    last: float = 0.2
    smooth: int = 1
    notes: tuple[str, ...] = ()
    seconds: bool = False
    plasticity: bool = True
    further: tuple[FurtherPicture, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    compared: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    asked: str = ""
    references: tuple[str, ...] = ()
    told_the_task: tuple[str, ...] = ()
    families: bool = True

    def rows_text(self, rows: list[dict[str, float]]) -> str:
        """Rows as one line for a log; mean over seeds."""
        last = rows[-1][self.x]
        values = [row[self.main.name] for row in rows if row[self.x] == last]
        return f"{self.x} {last:,.0f}: {self.main.name.replace('_', ' ')} {sum(values) / len(values):.3f}"
