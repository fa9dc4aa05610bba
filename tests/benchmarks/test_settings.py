"""Settings and plans: whose word counts, what affects whom, and which runs come of a command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchmarks import experiments
from benchmarks.errors import CannotRun
from benchmarks.method_styles import COLOURS, LABELS
from benchmarks.run import Run
from benchmarks.run_plan import RunPlan, read_grid
from benchmarks.setting_fields import setting
from benchmarks.settings import BaseSettings, Values, settings_text
from benchmarks.slowly_changing_regression.settings import Settings as Regression
from benchmarks.value_checks import whole

OUT = Path("out")


@dataclass(frozen=True)
class Layered(BaseSettings):
    """Each setting is named by who has the last word on it."""

    help: ClassVar[str] = "for this test"
    revision: ClassVar[int] = 1
    methods: ClassVar[tuple[str, ...]] = ("backprop", "l2")
    default_methods: ClassVar[tuple[str, ...]] = ("backprop",)
    sizes: ClassVar[dict[Any, Values]] = {
        "small": {},
        "large": {"size": 2, "both": 2, "given": 2},
        ("large", "l2"): {"both": 3, "given": 3},
    }
    method_defaults: ClassVar[dict[str, Values]] = {"l2": {"method": 1, "size": 1, "both": 1, "given": 1}}

    default: int = setting(0, "", whole(0))
    method: int = setting(0, "", whole(0))
    size: int = setting(0, "", whole(0))
    both: int = setting(0, "", whole(0))
    given: int = setting(0, "", whole(0))
    decay: int = setting(0, "", whole(0), ["l2"], tuning=True)


def test_whose_word_counts() -> None:
    assert Layered.of("l2", "large", given=4) == Layered(0, 1, 2, 3, 4, 0)
    assert Layered.of("l2") == Layered(0, 1, 1, 1, 1, 0)  # the first size is the default
    assert Layered.of("backprop", "large") == Layered(0, 0, 2, 2, 2, 0)
    assert Layered.size_names() == ("small", "large")


def test_what_concerns_whom() -> None:
    settings = Layered.of("l2", decay=5)
    assert "decay" not in settings.affecting("backprop")
    assert settings.affecting("l2", tuning=True) == {"decay": 5}
    assert "decay" not in settings.affecting("l2", tuning=False)
    assert settings.non_default("l2") == {"decay": 5}
    assert settings.folder_name("e", "backprop") == Layered.of("l2").folder_name("e", "backprop")
    assert settings.folder_name("e", "l2").startswith("l2_decay=5_")
    assert settings_text({"flip_every": 5, "lr": 0.1}) == "flip every 5, lr 0.1"


def test_a_revision_is_another_folder() -> None:
    @dataclass(frozen=True)
    class Later(Layered):
        revision: ClassVar[int] = 2

    assert Later.of("l2").folder_name("e", "l2") != Layered.of("l2").folder_name("e", "l2")


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["l3"], {}, "unknown method 'l3'; did you mean l2?"),
        (["l2", "larg"], {}, "unknown size 'larg'; did you mean large?"),
        (["l2"], {"decy": 1}, "unknown setting 'decy'; did you mean decay?"),
    ],
)
def test_unknown_names(arguments, given, message) -> None:
    with pytest.raises(CannotRun) as error:
        Layered.of(*arguments, **given)
    assert message in str(error.value)


@pytest.mark.parametrize("experiment", experiments.NAMES)
def test_what_each_experiment_declares_holds_together(experiment: str) -> None:
    cls = experiments.settings_class(experiment)
    assert {*cls.default_methods, *cls.ensemble_methods} <= set(cls.methods) <= LABELS.keys() & COLOURS.keys()
    assert set(cls.method_defaults) <= set(cls.methods)
    assert set(cls.durations) <= set(cls.size_names())
    assert cls.revision >= 1
    assert cls.help
    for values in [*cls.sizes.values(), *cls.method_defaults.values()]:
        for name in values:
            cls.field(name)
    for key in cls.sizes:
        assert isinstance(key, str) or (key[0] in cls.size_names() and key[1] in cls.methods)
    for size in cls.size_names():
        for method in cls.methods:
            for name, value in cls.of(method, size).affecting(method).items():
                assert cls.field(name).metadata["check"](str(value)) == value  # the command line can say it, too
    experiments.display(experiment).about(cls.of(cls.methods[0]))


def test_a_grid_is_read_as_the_command_line_is() -> None:
    assert read_grid(Regression, ["lr=.01,.003", "--flip-every=5"]) == {"lr": [0.01, 0.003], "flip_every": [5]}
    assert read_grid(Regression, []) == {}


def plan(methods: tuple[str, ...], seeds: int = 1, given: Values | None = None, **grid: list[Any]) -> list[Any]:
    return RunPlan("slowly_changing_regression", methods, None, given or {}, grid, tuple(range(seeds))).runs(OUT)


def test_runs_are_methods_times_grid_times_seeds() -> None:
    runs = plan(("redo", "algorithm_1"), 2, lr=[0.1, 0.2])
    assert len(runs) == 8
    assert [run.seeds for run in runs] == [(0,)] * 4 + [(1,)] * 4  # so that all methods get on alike
    assert {run.settings.lr for run in runs} == {0.1, 0.2}


def test_seeds_are_trained_together_where_there_are_several() -> None:
    assert [run.seeds for run in plan(("backprop", "redo"), 3)] == [(0, 1, 2), (0,), (1,), (2,)]
    assert [run.seeds for run in plan(("backprop",))] == [(0,)]


def test_a_setting_goes_to_those_it_concerns() -> None:
    backprop, decayed = plan(("backprop", "l2"), given={"weight_decay": 0.5})
    assert backprop.settings == Regression.of("backprop")
    assert decayed.settings.weight_decay == 0.5
    tried = plan(("backprop", "l2"), weight_decay=[0.1, 0.2])
    assert [run.method for run in tried] == ["backprop", "l2", "l2"]  # backprop is one run for both


def test_a_run_is_found_when_the_defaults_have_changed_since(tmp_path: Path) -> None:
    """The readable part of a folder's name tells what differs from the defaults; the hash tells whose it is."""
    settings = experiments.settings_class("random_label_mnist").of("backprop")
    run = Run("random_label_mnist", "backprop", settings, (0,), tmp_path)
    new = run.folder
    digest = new.parent.name.rpartition("_")[2]
    old = new.parent.with_name(f"backprop_lr=0.001_{digest}")
    (old / "seed-0").mkdir(parents=True)
    assert run.folder == old / "seed-0"
    new.mkdir(parents=True)
    assert run.folder == new
