"""What the engine's tests share: a tiny model in memory and the small data's root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from vrbench.models.llava_model import LlavaModel


@pytest.fixture(scope="session")
def vlm() -> LlavaModel:
    """A tiny LLaVA with random weights."""
    from transformers import SiglipImageProcessorPil

    from tests.tiny import SIDE, llava, tokenizer
    from vrbench.models.llava_model import LlavaModel

    return LlavaModel(llava(), tokenizer(), SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with small piqa, arc_easy and mme in the hub's layout."""
    from tests.evaluation.made import hub

    return hub(tmp_path_factory.mktemp("hub"))
