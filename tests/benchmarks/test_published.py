"""The file of published values: every name in it is checked, and entries are matched with the settings of a run."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import experiments, published
from benchmarks.display import Metric
from benchmarks.errors import CannotRun
from benchmarks.published import entries, nearest_to

ENTRY = {
    "method": "l2",
    "where": {"tasks": 50, "lr": 0.001},
    "figure": "online_accuracy",
    "values": {"mean": 0.7},
    "tag": "plot",
    "source": "a paper",
}


def file_of(tmp_path: Path, **changes: Any) -> Path:
    entry = {name: value for name, value in (copy.deepcopy(ENTRY) | changes).items() if value is not None}
    file = tmp_path / "published.json"
    file.write_text(json.dumps({"random_label_mnist": {"must_agree": [], "entries": [entry]}}))
    return file


def test_the_file_is_valid() -> None:
    found = entries()
    assert {entry.experiment for entry in found} <= set(experiments.NAMES)
    assert len(found) > 5
    for entry in found:
        display = experiments.display(entry.experiment)
        known = {figure.name: figure for figure in (display.main, *display.others)}
        assert entry.text(known[entry.figure])


ERRORS = [
    ({"method": "l2_int"}, "entry 1: unknown method 'l2_int'; did you mean l2_init?"),
    ({"figure": "online_acuracy"}, "unknown figure 'online_acuracy'; did you mean online_accuracy?"),
    ({"where": {"task": 3}}, "where task: unknown setting 'task'; did you mean tasks?"),
    ({"where": {"tasks": 0}}, "where tasks: must be an integer of at least 1"),
    ({"where": {"tasks": "3"}}, "where tasks: '3' is not a valid value; use 3"),
    ({"where": {"noise": 0.1}}, "where noise: has no effect on l2"),
    ({"tag": "plots"}, "unknown tag 'plots'; did you mean plot?"),
    ({"tags": "plot"}, "unknown key 'tags'; did you mean tag?"),
    ({"values": {"ends": 1}}, "unknown value 'ends'; did you mean end?"),
    ({"values": {"end": "high"}}, "entry 1, end: must be a number or [low, high], got 'high'"),
    ({"values": {"end": [1, 2, 3]}}, "must be a number or [low, high], got [1, 2, 3]"),
    ({"values": {"end": [None, None]}}, "must be a number or [low, high], got [None, None]"),
    ({"values": {"end": [1]}}, "must be a number or [low, high], got [1]"),
    ({"values": {"end": float("nan")}}, "must be a number or [low, high], got nan"),
    ({"values": {"end": 10**400}}, "must be a number or [low, high], got 1000"),
    ({"values": [1]}, "entry 1: values must be an object with values by name, got [1]"),
    ({"where": "tasks"}, "entry 1: where must be an object with values by name, got 'tasks'"),
    ({"where": {"tasks": [3]}}, "entry 1: where.tasks must be a finite number, got [3]"),
    ({"source": ["a paper"]}, "entry 1: source must be a text, got ['a paper']"),
    ({"source": None}, "source is missing"),
    ({"method": None}, "must have either method or other"),
    ({"other": "UPGD"}, "must have either method or other"),
]


@pytest.mark.parametrize(("changes", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_an_invalid_entry_is_reported(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CannotRun) as error:
        entries(file_of(tmp_path, **changes))
    assert message in str(error.value)
    assert "published.json: random_label_mnist, entry 1" in str(error.value)


CONTENTS = [
    ("{", "Cannot read"),
    ("[]", "must have a part for each experiment, got list"),
    (
        '{"random_labels": {"must_agree": [], "entries": []}}',
        "unknown experiment 'random_labels'; did you mean random_label_mnist?",
    ),
    ('{"random_label_mnist": {"entries": []}}', "must have exactly the keys must_agree and entries"),
    ('{"random_label_mnist": {"must_agree": ["task"], "entries": []}}', "unknown setting 'task'; did you mean tasks?"),
    ('{"random_label_mnist": {"must_agree": [], "entries": [3]}}', "got 3"),
    ('{"random_label_mnist": {"must_agree": "tasks", "entries": []}}', "must_agree must be a list, got 'tasks'"),
    ('{"random_label_mnist": {"must_agree": [], "entries": {}}}', "entries must be a list, got {}"),
    ("[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("content", "message"), CONTENTS, ids=[message for _, message in CONTENTS])
def test_an_invalid_file_is_reported(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "published.json"
    file.write_text(content)
    with pytest.raises(CannotRun) as error:
        entries(file)
    assert message in str(error.value)


def test_the_nearest_entries_have_the_fewest_differing_settings() -> None:
    of = experiments.settings_class("slowly_changing_regression").of
    own = [entry for entry in entries() if entry.experiment == "slowly_changing_regression"]

    def nearest(method: str, **settings: Any) -> list[tuple[Any, Any]]:
        given = {"size": "published", **settings}
        return [(entry.where["lr"], differing) for entry, differing in nearest_to(own, of(method, **given), method)]

    assert nearest("backprop") == [(0.01, {})]
    assert nearest("backprop", lr=0.003) == [(0.003, {})]
    assert nearest("backprop", size="quick") == [(0.01, {"steps": 1_000_000})]
    assert nearest("backprop", activation="tanh", lr=0.5) == [(0.01, {"lr": 0.01})]
    assert nearest("backprop", activation="elu") == []  # must_agree includes the activation
    assert nearest("backprop", optimizer="adam") == []
    assert nearest("continual_backprop") == []


@pytest.mark.parametrize(
    ("values", "percent", "text"),
    [
        ({"mean": 0.16}, True, "mean 16%"),
        ({"start": 0.952, "end": 0.9375}, True, "start 95.2%, end 93.75%"),
        ({"end": [0.87, 0.93]}, True, "end 87 to 93%"),
        ({"end": [1.2, 1.3]}, False, "end 1.2 to 1.3"),
        ({"peak": 4000, "end": [None, 0]}, False, "peak 4,000, end below 0"),
        ({"end": [5, None]}, False, "end above 5"),
    ],
)
def test_values_as_text(values: dict[str, Any], percent: bool, text: str) -> None:
    entry = published.Entry("", "", "", {}, "", values, "plot", "", "", ())
    assert entry.text(Metric("", "", percent=percent)) == text
