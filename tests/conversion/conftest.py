"""A sound example of every form, and a copy of it that may be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conversion import sources as tiny


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound example of everything, not to be written to."""
    folder = tmp_path_factory.mktemp("ground")
    made = tiny.make("llava")
    tiny.save_merged(made, folder / "merged")
    tiny.save_merged(made, folder / "merged-bin", "bin")
    tiny.save_projector(made, folder / "projector")
    tiny.save_lora(made, folder / "lora")
    tiny.save_base(made, folder / "base")
    tiny.save_tower(made, folder / "tower")
    return folder


@pytest.fixture
def at(ground: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(ground, tmp_path / "at"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are not remembered in the user's own cache."""
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
