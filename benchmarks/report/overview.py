"""The table at the top of the page: what each experiment asked, and what came out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from .. import experiments
from ..comparison_table import interval_text
from ..display import Display
from ..method_names import MAIN_METHODS
from ..method_styles import LABELS
from ..settings import settings_text
from ..summary import Estimate
from .markdown import table
from .paired_tests import LOSES, TIES, WINS, Tested, against_others, signed_text
from .section_summary import OTHER_SETTINGS, MethodSummary, PartSummary, ProblemSummary, Summaries, shown_at_the_top

BACKPROP, CBP = MAIN_METHODS
HEADINGS: Final = (
    *("experiment", "what was asked", "best", "CBP (backprop)"),
    *("CBP against backprop", "CBP against the best other", "published", "plasticity check"),
)
NOTES: Final = f"""\
Means over the last part of each run (20%) and over seeds, ± half of the 95% interval (Student's t), for each method
with the best of the settings tried. CBP is continual backpropagation. *{WINS}*, *{TIES}* and *{LOSES}* come from the
differences of runs with the same seed, in the same part: a paired t-test at 5%. CBP against backprop is one planned
comparison; the others are corrected (Holm) for the number of methods that CBP, or the best method, is compared with
in the row; of these two the larger p-value counts. Nothing is corrected for the number of rows, and each interval is
that of one comparison. *{TIES}* means that no difference was shown, not that there is none. *not tested*: the values of
the seeds are not known any more. Where several settings of a method were tried, the best was chosen on the seeds that
are shown, which favours methods with more settings; the sections have all of them.
The plasticity check trains with the optimizer and the learning rate of the row.
{OTHER_SETTINGS}: published with other settings than those of the row, or on other data."""


def overview(summaries: Summaries) -> list[str]:
    """A row for each problem, or family of problems, with both backprop and continual backprop."""
    rows = []
    for name in experiments.NAMES:
        for number, part in enumerate(shown_at_the_top(summaries.get(name, []))):
            cells = _row(name, part, experiments.display(name).asked if number == 0 else "")
            rows.append([cell.replace(" ± ", "\u00a0±\u00a0") for cell in cells])
    return table(HEADINGS, rows, words=range(len(HEADINGS)))


def _row(experiment: str, part: PartSummary, asked: str) -> list[str]:
    display = experiments.display(experiment)
    problem = part.problems[0]
    competing = {name: each for name, each in problem.complete.items() if name not in display.references}
    others = [name for name in competing if name not in MAIN_METHODS]
    best, best_other = _best(list(competing), problem, display), _best(others, problem, display)
    tests, tests_of_best = _tests(CBP, competing, planned=BACKPROP), _tests(best, competing) if best else {}
    if best in others and CBP in tests_of_best:  # one verdict for the pair, whichever cell it is in
        p = max(tests[best].p, tests_of_best[CBP].p)
        tests[best], tests_of_best[CBP] = replace(tests[best], p=p), replace(tests_of_best[CBP], p=p)
    against = _against(best_other, competing, tests, display) if best_other else ""
    return [
        f"[{experiment}](#{experiment}): {_title(part)}",
        asked,
        _winner(best, competing, tests_of_best, display) if best else "",
        _cbp_and_backprop(competing, display),
        _against(BACKPROP, competing, tests, display) + _family(part, display),
        f"{_label(best_other, display)}: {against}" if best_other and against else "",
        _both({name: competing[name].published for name in MAIN_METHODS if name in competing}),
        _both({name: competing[name].plasticity for name in MAIN_METHODS if name in competing}),
    ]


def _title(part: PartSummary) -> str:
    problem = part.problems[0]
    own = {name: value for name, value in problem.differing.items() if name != part.by}
    return ", ".join(filter(None, [problem.size, settings_text(own), problem.value]))


def _tests(method: str, competing: dict[str, MethodSummary], planned: str = "") -> dict[str, Tested]:
    return against_others(method, {name: each.by_seed for name, each in competing.items()}, planned)


def _best(names: list[str], problem: ProblemSummary, display: Display) -> str | None:
    sign = 1.0 if display.higher_is_better else -1.0
    return max(names, key=lambda name: sign * (problem.complete[name].mean or 0.0), default=None)


def _winner(best: str, competing: dict[str, MethodSummary], tests: dict[str, Tested], display: Display) -> str:
    """The best method, with the number of others that the tests cannot tell it from."""
    text = f"{_label(best, display)} {_interval(competing[best], display)}"
    verdicts = [each.verdict(higher_is_better=display.higher_is_better) for each in tests.values()]
    if TIES in verdicts:
        return text + f"; ties with {verdicts.count(TIES)} of {len(verdicts)}"
    return text + (f"; better than the other {len(verdicts) if len(verdicts) > 1 else 'one'}" if verdicts else "")


def _cbp_and_backprop(competing: dict[str, MethodSummary], display: Display) -> str:
    """Continual backprop's value, and backprop's in brackets."""
    values = [_interval(competing[name], display) if name in competing else "" for name in (CBP, BACKPROP)]
    return f"{values[0]} ({values[1]})" if all(values) else values[0]


def _against(other: str, competing: dict[str, MethodSummary], tests: dict[str, Tested], display: Display) -> str:
    """Verdict and difference of continual backprop against another method."""
    if other in tests:
        tested = tests[other]
        verdict = tested.verdict(higher_is_better=display.higher_is_better)
        return f"**{verdict}** {signed_text(tested.difference.estimate, display.main)}"
    if CBP not in competing or other not in competing:
        return ""
    mean = (competing[CBP].mean or 0.0) - (competing[other].mean or 0.0)
    return f"{signed_text(Estimate(mean, None), display.main)}, not tested"


def _family(part: PartSummary, display: Display) -> str:
    """In how many problems of a family continual backprop wins, ties and loses against backprop."""
    verdicts = [
        tests[BACKPROP].verdict(higher_is_better=display.higher_is_better)
        for problem in part.problems
        if BACKPROP in (tests := _tests(CBP, problem.complete, planned=BACKPROP))
    ]
    if len(verdicts) < 2:
        return ""
    counts = ", ".join(f"{word} {verdicts.count(word)}" for word in (WINS, TIES, LOSES) if word in verdicts)
    return f"; each {part.by.replace('_', ' ')}: {counts}"


def _interval(summary: MethodSummary, display: Display) -> str:
    return interval_text(summary.end or Estimate(0.0, None), display.main)


def _label(method: str, display: Display) -> str:
    return _short(method) + (" (told the task)" if method in display.told_the_task else "")


def _short(method: str) -> str:
    return "CBP" if method == CBP else LABELS[method]


def _both(texts: dict[str, str]) -> str:
    """The texts of the methods that have one, with their names.

    >>> _both({"backprop": "none; lost 1%", "continual_backprop": "none"}), _both({"backprop": ""})
    ('backprop: none, lost 1%; CBP: none', '')
    """
    return "; ".join(f"{_short(name)}: {text.replace('; ', ', ')}" for name, text in texts.items() if text)
