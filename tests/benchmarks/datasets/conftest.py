import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """An empty cache for each test."""
    monkeypatch.setenv("GNT_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
