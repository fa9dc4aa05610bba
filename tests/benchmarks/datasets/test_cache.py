"""The data cache: data are made once, verified, and made again if the file is damaged."""

import os
import time
from pathlib import Path

import pytest
import torch

from benchmarks.datasets import cache
from benchmarks.datasets.cache import cached_tensors
from benchmarks.errors import CannotRun
from tests.helpers.fork_server import fork_server


class Maker:
    """Counts how often the data are made."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"x": torch.arange(5)}


def test_data_are_made_once(own_cache):
    make = Maker()
    first = cached_tensors("some", ["file", 3], make)
    again = cached_tensors("some", ["file", 3], make)
    assert make.calls == 1
    assert torch.equal(first["x"], again["x"])
    (data,) = own_cache.glob("some-*.pt")
    (checksum,) = own_cache.glob("some-*.pt.sha256")
    assert checksum.read_text().split()[1] == data.name  # the format of sha256sum --check


def test_data_of_another_source_are_made_separately():
    make = Maker()
    for source in (["file", 3], ["file", 4], ["file", 3]):
        cached_tensors("some", source, make)
    assert make.calls == 2


def test_changed_raw_files_have_another_stamp(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(b"1")
    before = cache.file_stamps([raw])
    assert cache.file_stamps([raw]) == before
    raw.write_bytes(b"12")
    assert cache.file_stamps([raw]) != before


@pytest.mark.parametrize("damaged", [".pt", ".sha256"])
def test_corrupted_data_are_made_again_with_a_warning(damaged, own_cache):
    make = Maker()
    cached_tensors("some", 1, make)
    (file,) = (file for file in own_cache.iterdir() if file.name.endswith(damaged))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"do not match their checksum; preparing them again"):
        again = cached_tensors("some", 1, make)
    assert torch.equal(again["x"], torch.arange(5))
    cached_tensors("some", 1, make)  # no warning
    assert make.calls == 2


def test_data_without_a_checksum_file_are_made_again(own_cache):
    make = Maker()
    cached_tensors("some", 1, make)
    (checksum,) = own_cache.glob("*.sha256")
    checksum.unlink()
    cached_tensors("some", 1, make)
    assert make.calls == 2


def test_a_failure_leaves_no_files(own_cache):
    def fail():
        raise CannotRun("no raw files")

    with pytest.raises(CannotRun, match="no raw files"):
        cached_tensors("some", 1, fail)
    assert not list(own_cache.glob("*.pt*"))


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GNT_DATA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(CannotRun, match=r"Cannot write prepared data to .*GNT_DATA_CACHE to another"):
        cached_tensors("some", 1, Maker())


def test_the_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("GNT_DATA_CACHE", "/some/where")
    assert cache.folder() == Path("/some/where")
    monkeypatch.delenv("GNT_DATA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.folder() == Path("/caches/gnt")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path.home() / ".cache" / "gnt"


def read_shared(folder: Path, log: Path) -> None:
    def make() -> dict[str, torch.Tensor]:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        return {"x": torch.ones(100_000)}

    os.environ["GNT_DATA_CACHE"] = str(folder)
    assert cached_tensors("shared", 1, make)["x"].sum() == 100_000


def test_concurrent_processes_make_the_data_once(own_cache, tmp_path):
    running = [fork_server().Process(target=read_shared, args=(own_cache, tmp_path / "log")) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
