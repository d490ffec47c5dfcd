"""The real vLLM on a GPU, beside vrbench's own engine on the same requests: `pytest -m vllm`."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation.made import noise
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, request_image

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None or not torch.cuda.is_available(), reason="needs vLLM and a GPU"
    ),
]
NAMES = ("random/tiny", "random/tiny?removed=1", "random/tiny?adapter=2", "random/tiny-qwen3-vl")
SMALL: dict[str, Any] = {"enforce_eager": True, "num_gpu_blocks_override": 20_000}
"""Arguments of vLLM's `LLM` for models so small that the memory left over would hold millions of blocks."""
IMAGES = 16


def requests(vlm: Any) -> list[Request]:
    """Options of one token, prompts with one or two images, and texts."""
    draw = random.Random(0)
    asked: list[Request] = []
    for _ in range(20):
        context = tuple(draw.randrange(300, 900) for _ in range(draw.randrange(5, 60)))
        asked += [LogLikelihoodRequest(context, (option,)) for option in (300, 301, 302, 303)]
    shown = [request_image(noise(f"{n}"), lambda n=n: noise(f"{n}")) for n in range(IMAGES)]
    for n, image in enumerate(shown):
        asked.append(GenerationRequest(vlm.prompt("Is there a house in the picture?", 1), (image,), 1, ()))
        two = (image, shown[n - 1])
        asked.append(GenerationRequest(vlm.prompt("Which of the two is it?", 2), two, 1, ()))
        asked.append(GenerationRequest(f"What is number {n}?", (), 24, ("e",)))
    return asked


def answers(vlm: Any, folder: Path) -> list[Any]:
    with AnswerStore(folder / f"{vlm.backend}.sqlite", "c") as store:
        return InferenceEngine(vlm, store, show_progress=False).answer(requests(vlm))


@pytest.fixture(scope="module", params=NAMES)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Any], list[Any], float]:
    """Answers of our engine and of vLLM to one checkpoint, and the GPU's memory in use after vLLM ended, in GiB."""
    from vrbench.evaluation.vllm_backend import served_vlm
    from vrbench.models.load import load_vlm
    from vrbench.models.resolve import resolve_checkpoint

    folder, checkpoint = tmp_path_factory.mktemp("answers"), resolve_checkpoint(request.param)
    ours = answers(load_vlm(checkpoint, "cuda", "bfloat16"), folder)
    with served_vlm(checkpoint, "cuda", "bfloat16", gpu_memory=0.3, **SMALL) as vlm:
        theirs = answers(vlm, folder)
    free, total = torch.cuda.mem_get_info()
    return ours, theirs, (total - free) / 2**30


def share(pairs: Sequence[tuple[Any, Any]]) -> float:
    return sum(a == b for a, b in pairs) / len(pairs)


class TestAnswers:
    def test_log_likelihoods_are_equal_to_the_rounding_of_bfloat16(self, pair: Any) -> None:
        ours, theirs, _ = pair
        logs = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, tuple)]
        assert len(logs) == 80 and max(abs(a[0] - b[0]) for a, b in logs) < 0.05
        assert share([(a[1], b[1]) for a, b in logs]) > 0.95

    def test_texts_are_mostly_equal(self, pair: Any) -> None:
        ours, theirs, _ = pair
        texts = [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, str)]
        assert len(texts) == 3 * IMAGES and not any("e" in b for _, b in texts[2::3])
        for kind in range(3):  # of random weights the two likeliest tokens may be equal in bfloat16
            assert share(texts[kind::3]) >= 0.6, texts[kind::3]

    def test_memory_is_given_back(self, pair: Any) -> None:
        assert pair[2] < 6
