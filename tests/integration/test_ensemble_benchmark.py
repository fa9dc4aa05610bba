"""Slowly-Changing Regression with several seeds trained together: each has the figures that it has alone."""

import pytest
import torch

from benchmarks.runs import Run
from benchmarks.settings import METHODS
from benchmarks.slowly_changing_regression.job import Job
from benchmarks.slowly_changing_regression.report import picture, table
from benchmarks.slowly_changing_regression.settings import Settings

SHORT = {"steps": 1100, "bin": 400, "flip_every": 300, "replacement_rate": 0.01}


def finished(job: Job) -> Job:
    while job.done < job.total:
        job.advance()
    return job


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_each_seed_is_as_it_is_alone(method: str, optimizer: str) -> None:
    together = finished(Job(Settings(**SHORT, optimizer=optimizer, seed=4, seeds=3), method))
    alone = [finished(Job(Settings(**SHORT, optimizer=optimizer, seed=seed), method)) for seed in (4, 5, 6)]
    by_seed = torch.tensor(together.figures["squared_error_by_seed"])
    expected = torch.tensor([job.figures["squared_error"] for job in alone]).T
    assert by_seed.shape == (2, 3)
    torch.testing.assert_close(by_seed, expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.tensor(together.figures["squared_error"]), by_seed.mean(1))


def test_it_goes_on_from_a_checkpoint_and_shows_what_it_did(tmp_path) -> None:
    settings = Settings(**SHORT, seeds=2)
    whole, broken = (Job(settings, METHODS[1]) for _ in range(2))
    run = Run("slowly_changing_regression", METHODS[1], settings, tmp_path)
    while whole.done < whole.total:
        whole.advance()
        broken.advance()
        run.save(broken, seconds=0.0)
        broken = Job(settings, METHODS[1])
        run.load(broken)
    assert broken.figures == whole.figures
    figures = {METHODS[1]: whole.figures}
    assert table(settings, figures).row_count == 3
    with (tmp_path / "picture.png").open("wb") as file:
        picture(settings, figures, file)
    assert (tmp_path / "picture.png").stat().st_size > 1000
