"""Settings and plans: precedence of values, which settings affect which methods, and the runs of a command."""

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
class Example(BaseSettings):
    """Each setting is named after the source that determines its value."""

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


def test_precedence_of_values() -> None:
    assert Example.of("l2", "large", given=4) == Example(0, 1, 2, 3, 4, 0)
    assert Example.of("l2") == Example(0, 1, 1, 1, 1, 0)  # the first size is the default
    assert Example.of("backprop", "large") == Example(0, 0, 2, 2, 2, 0)
    assert Example.size_names() == ("small", "large")


def test_settings_affect_only_their_methods() -> None:
    settings = Example.of("l2", decay=5)
    assert "decay" not in settings.affecting("backprop")
    assert settings.affecting("l2", tuning=True) == {"decay": 5}
    assert "decay" not in settings.affecting("l2", tuning=False)
    assert settings.non_default("l2") == {"decay": 5}
    assert settings.folder_name("e", "backprop") == Example.of("l2").folder_name("e", "backprop")
    assert settings.folder_name("e", "l2").startswith("l2_decay=5_")
    assert settings_text({"flip_every": 5, "lr": 0.1}) == "flip every 5, lr 0.1"


def test_another_revision_has_another_folder() -> None:
    @dataclass(frozen=True)
    class Later(Example):
        revision: ClassVar[int] = 2

    assert Later.of("l2").folder_name("e", "l2") != Example.of("l2").folder_name("e", "l2")


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["l3"], {}, "unknown method 'l3'; did you mean l2?"),
        (["l2", "larg"], {}, "unknown size 'larg'; did you mean large?"),
        (["l2"], {"decy": 1}, "unknown setting 'decy'; did you mean decay?"),
    ],
)
def test_unknown_names_are_reported(arguments, given, message) -> None:
    with pytest.raises(CannotRun) as error:
        Example.of(*arguments, **given)
    assert message in str(error.value)


@pytest.mark.parametrize("experiment", experiments.NAMES)
def test_the_declarations_of_each_experiment_are_consistent(experiment: str) -> None:
    cls = experiments.settings_class(experiment)
    assert {*cls.default_methods, *cls.ensemble_methods} <= set(cls.methods) <= LABELS.keys() & COLOURS.keys()
    assert len({COLOURS[method] for method in cls.methods}) == len(cls.methods)  # told apart in a picture
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
                assert cls.field(name).metadata["check"](str(value)) == value  # can be given on the command line
    experiments.display(experiment).about(cls.of(cls.methods[0]))


def test_grid_values_are_parsed_like_options() -> None:
    assert read_grid(Regression, ["lr=.01,.003", "--flip-every=5"]) == {"lr": [0.01, 0.003], "flip_every": [5]}
    assert read_grid(Regression, []) == {}


def plan(methods: tuple[str, ...], seeds: int = 1, given: Values | None = None, **grid: list[Any]) -> list[Any]:
    return RunPlan("slowly_changing_regression", methods, None, given or {}, grid, tuple(range(seeds))).runs(OUT)


def test_runs_are_methods_times_grid_times_seeds() -> None:
    runs = plan(("redo", "algorithm_1"), 2, lr=[0.1, 0.2])
    assert len(runs) == 8
    assert [run.seeds for run in runs] == [(0,)] * 4 + [
        (1,)
    ] * 4  # seed by seed, so that all methods progress at the same rate
    assert {run.settings.lr for run in runs} == {0.1, 0.2}


def test_seeds_are_trained_together_where_there_are_several() -> None:
    assert [run.seeds for run in plan(("backprop", "redo"), 3)] == [(0, 1, 2), (0,), (1,), (2,)]
    assert [run.seeds for run in plan(("backprop",))] == [(0,)]


def test_given_settings_apply_to_the_methods_they_affect() -> None:
    backprop, decayed = plan(("backprop", "l2"), given={"weight_decay": 0.5})
    assert backprop.settings == Regression.of("backprop")
    assert decayed.settings.weight_decay == 0.5
    tried = plan(("backprop", "l2"), weight_decay=[0.1, 0.2])
    assert [run.method for run in tried] == ["backprop", "l2", "l2"]  # one run of backprop for both values


def test_a_run_is_found_after_the_defaults_have_changed(tmp_path: Path) -> None:
    """The readable part of a folder's name depends on the defaults; the hash identifies the run."""
    settings = experiments.settings_class("random_label_mnist").of("backprop")
    run = Run("random_label_mnist", "backprop", settings, (0,), tmp_path)
    new = run.folder
    digest = new.parent.name.rpartition("_")[2]
    old = new.parent.with_name(f"backprop_lr=0.001_{digest}")
    (old / "seed-0").mkdir(parents=True)
    assert run.folder == old / "seed-0"
    new.mkdir(parents=True)
    assert run.folder == new
