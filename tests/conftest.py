"""The same ground for every test: no network, one thread, and tiny models that are made once."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import supports
from tests.supports import pytest_addoption, pytest_configure, pytest_terminal_summary  # noqa: F401  # hooks

if TYPE_CHECKING:
    from vrbench.tasks.spec import TaskSpec

# Before any library reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose time to threads that wait for each other


LONGEST = ("test_execute_real.py", "test_published.py")
"""Files with one test of half a minute; they come first, so that no process is left alone with one of them."""


@pytest.hookimpl(tryfirst=True)  # before any test is deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    supports.pytest_collection_modifyitems(config, items)
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """Leave the libraries that the tests import out of every later collection of garbage: they stay anyway.

    transformers writes each config that it reads into a log that is off, which is half of the time of reading a config.
    The curves of a training are drawn once for each kind of plot.
    """
    if curves := sys.modules.get("vrbench.training.curves"):
        curves.draw_curves = _drawn_once(curves.draw_curves)  # type: ignore[attr-defined]
    if read := sys.modules.get("transformers.configuration_utils"):
        read.PreTrainedConfig.__repr__ = object.__repr__  # type: ignore[attr-defined]
    gc.collect()
    gc.freeze()


def _drawn_once(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    drawn: dict[Any, bytes] = {}

    def draw_or_repeat(curves: Mapping[str, Any], scores: Sequence[Any] = ()) -> bytes:
        kind = (*curves, bool(scores))
        if kind not in drawn:
            drawn[kind] = draw(curves, scores)
        return drawn[kind]

    return draw_or_repeat


@pytest.fixture(scope="session")
def specs() -> dict[str, TaskSpec]:
    """The shipped tasks by id."""
    from vrbench.tasks import registry

    return registry.load()


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny LLaVA with random weights: 4 decoder layers, 4 image tokens; not to be written to."""
    from tests.tiny import save_llava

    return save_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture
def whole(tiny_llava: Path, tmp_path: Path) -> Path:
    """A folder of the tiny LLaVA that a test may change."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "whole"))
