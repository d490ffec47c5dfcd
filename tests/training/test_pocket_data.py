"""What the frozen tower sees is made once, and never met by another tower, other images or other code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.training import packed
from tests.training.packed import CPU, TURNS
from vrbench.core import provenance
from vrbench.training import pocket_data
from vrbench.training.packing import EncodedImages
from vrbench.training.pocket_data import cached_features
from vrbench.training.pocket_images import LabelledImages

LABELS = np.zeros((len(TURNS), 0, 0), dtype=np.int8)


class Maker:
    """Draws images and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> LabelledImages:
        self.made += 1
        return LabelledImages(packed.pixels(), LABELS, TURNS)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path))
    return tmp_path / "features"


@pytest.fixture(scope="module")
def tower() -> Any:
    return tiny.llava().model.vision_tower


def made(tower: Any, maker: Maker, what: list[str | int] | None = None, digest: str = "a") -> EncodedImages:
    return cached_features(what or ["train", 3, 6], tower, digest, packed.packer(), CPU, maker)


def test_what_comes_from_the_cache_is_what_was_made(tower: Any) -> None:
    maker = Maker()
    first, again = made(tower, maker), made(tower, maker)
    assert maker.made == 1
    expected = packed.packer().rows(TURNS)
    for found in (first, again):
        assert torch.equal(found.features, packed.features(tiny.llava(), packed.pixels()))
        for row, wanted in zip(found.rows, expected, strict=True):
            assert row.kinds == wanted.kinds
            for name in pocket_data.FIELDS:
                assert np.array_equal(getattr(row, name), getattr(wanted, name)), name


def test_another_tower_or_other_pictures_are_made_anew(tower: Any) -> None:
    maker = Maker()
    made(tower, maker)
    made(tower, maker, digest="b")
    made(tower, maker, what=["train", 4, 6])
    assert maker.made == 3


def test_other_code_and_other_libraries_make_them_anew(tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker()
    made(tower, maker)
    monkeypatch.setattr(pocket_data, "file_digest", lambda path: f"changed {path.name}")
    made(tower, maker)
    monkeypatch.setattr(provenance, "package_version", lambda name: "9.9")
    made(tower, maker)
    made(tower, maker)
    assert maker.made == 3


def test_all_code_that_decides_the_rows_is_watched() -> None:
    """Every module of the package that images and packing import, but for those that decide no row."""
    root = Path(pocket_data.__file__).parents[1]
    assert all((root / name).is_file() for name in pocket_data.SOURCES)
    assert {"training/pocket_images.py", "training/tower.py", "data/images.py"} <= set(pocket_data.SOURCES)
    assert {"tokenizers", "pillow"} <= set(pocket_data.LIBRARIES)  # they make the tokens, and open easy_vqa's images
    assert {p.name for p in (root / "pocket").glob("*.py")} - {Path(n).name for n in pocket_data.SOURCES} == {
        "__init__.py", "facts.py", "grammar.py", "python_docs.py", "visual.py",
    }  # fmt: skip


def test_a_killed_write_leaves_no_file_that_counts(tower: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    maker = Maker()
    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        made(tower, maker)
    assert not list(folder.glob("[!.]*"))
