"""What families and tasks share: requests, images, context, weights put together, both ways of answering, metrics."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import torch

from benchmarks import scorers
from tests import tiny
from tests.evaluation import made
from tests.fingerprints.made import Says, parts_of, small_llava, written
from tests.fingerprints.odd_images import ODD
from tests.fingerprints.scorers import drawn
from tests.task_data import load_task
from tests.tiny import scratch
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.schemas import Sample
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.built_task import select_items
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, request_image
from vrbench.models import hf_model, llava_model, load
from vrbench.models.resolve import resolve_checkpoint
from vrbench.statistics import bootstrap
from vrbench.tasks import registry


def requests() -> Any:
    """The requests of items of several tasks, without a family's prompt around them."""
    found = []
    for task in ("mme", "mmmu_val", "textvqa_ocr", "seedbench"):
        says: Any = Says(scorers.Prompts(), lambda _: "A")
        evaluate_task(*parts_of(task, 4), says)
        found.append([written(request)[:2] for request in says.asked[:8]])  # when an answer ends, its family says
    for task in ("arc_easy", "gsm8k", "lambada", "pocket_docs"):
        says = Says(small_llava(), drawn)
        spec, parts = parts_of(task)
        evaluate_task(spec, parts[:1], says)
        found.append([written(request) for request in says.asked[:8]])
    return found


def images() -> Any:
    """Pixels that an image processor gets of images of many modes, one of them turned by its EXIF data."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec, file = registry.load()["mme"], scratch() / "images/lmms-lab-encoder/MME/default/test.parquet"
    row = {"question": "Is it?", "answer": "Yes", "category": "count"}
    rows = [{**row, "question_id": name, "image": {"bytes": make(), "path": None}} for name, make in ODD.items()]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([r | a for r in rows for a in ({}, {"answer": "No"})]), file)
    model, says = small_llava(), Says(small_llava(), lambda _: "Yes")
    evaluate_task(spec, select_items(spec, load_task(spec, scratch() / "images"), None, 0), says)  # type: ignore[arg-type]
    seen: list[Any] = []
    pixels = torch.zeros(1, 3, tiny.SIDE, tiny.SIDE)
    with patch.object(model, "image_processor", lambda images, **_: seen.extend(images) or {"pixel_values": pixels}):
        for request in says.asked[::2]:
            model.encode_images([one.load() for one in request.images])
    return [[name, one.mode, list(one.size), list(one.tobytes())] for name, one in zip(ODD, seen, strict=True)]


@cache
def _packed() -> llava_model.LlavaModel:
    """A tiny LLaVA whose weights hang on no library's random numbers, and which is sure of what it says."""
    model, draw = tiny.llava(), random.Random(0)
    for name, parameter in model.named_parameters():
        drawn = torch.tensor([round(draw.gauss(0, 0.2), 4) for _ in range(parameter.numel())])
        parameter.data.copy_(drawn.reshape(parameter.shape) + ("norm" in name and name.endswith("weight")))
    return llava_model.LlavaModel(model, tiny.tokenizer(), small_llava().image_processor)


@cache
def _plainly() -> hf_model.HFModel:
    """The same weights, asked the plain way."""
    from transformers import LlavaProcessor

    of, prompt_format = _packed(), FAMILIES["llava_next"].prompt_format
    assert prompt_format is not None
    processor = LlavaProcessor(of.image_processor, of.tokenizer, chat_template=of.tokenizer.chat_template)
    return hf_model.HFModel(of.model, of.tokenizer, processor, "llava", prompt_format)


def _answers(asked: Callable[[Any], Sequence[Request]]) -> list[Any]:
    found = []
    for model in (_packed(), _plainly()):
        with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "c") as store:
            found += InferenceEngine(model, store, show_progress=False).answer(asked(model))
    return found


def decoding() -> Any:
    """Texts with several ends, in both ways of answering."""
    shown = request_image(made.noise("a"), lambda: made.noise("a"))

    def asked(model: Any) -> list[Request]:
        text = "The cat and the dog"
        ends: list[tuple[int, tuple[str, ...]]] = [(12, ()), (3, ()), (12, ("ErS", "E1")), (12, ("4", "\n"))]
        found: list[Request] = [GenerationRequest(text, (), n, until) for n, until in ends]
        if isinstance(model, llava_model.LlavaModel):
            found += [GenerationRequest(model.prompt("What color is it?", 1), (shown,), n, until) for n, until in ends]
        return found

    return _answers(asked)


def loglikelihood() -> Any:
    """Log-likelihoods to 0.1 nats, and whether they are greedy, in both ways of answering."""

    def asked(model: Any) -> list[Request]:
        encode = partial(model.tokenizer.encode, add_special_tokens=False)
        pairs = [("The capital of France is", " Paris"), ("The dog", " was big."), ("One, two,", " three")]
        return [LogLikelihoodRequest(tuple(encode(a)), tuple(encode(b))) for a, b in pairs]

    return [[round(log, 1), greedy] for log, greedy in _answers(asked)]


def context() -> Any:
    """What is asked of prompts that are longer than the context, with and without an image."""
    model, shown = small_llava(), request_image(made.noise("a"), lambda: made.noise("a"))
    long = "abc " * 600
    asked: list[Request] = [
        LogLikelihoodRequest(tuple(model.encode(long)), (1, 2, 3)),
        GenerationRequest(long, (), 4, ()),
        GenerationRequest(model.prompt(long, 1), (shown,), 1, ()),
    ]
    seen: list[Any] = []

    def answers(backend: Any, _: Any) -> Iterator[dict[str, Any]]:
        seen.extend(crc32(repr(list(tokens)).encode()) for _, tokens in backend._left.values())
        yield dict.fromkeys(backend._left, (0.0, True))

    with (
        tempfile.TemporaryDirectory() as folder,
        AnswerStore(Path(folder) / "a.sqlite", "c") as store,
        patch("vrbench.evaluation.packed_backend.PackedBackend.answers", answers),
    ):
        said = InferenceEngine(model, store, show_progress=False).answer(asked)
    return [seen, [str(answer) for answer in said]]


def layering() -> Any:
    """Weights of a pruned adapter's checkpoint, made of round numbers."""
    from vrbench.core.schemas import LineageStep

    base = scratch() / "round"
    tiny.save_llava(base)
    _made_round(base / "model.safetensors")
    lora = tiny.save_adapter(scratch() / "lora", base)
    _made_round(lora / "adapter_model.safetensors")
    of = resolve_checkpoint(str(lora))
    pruned = tiny.mark(
        scratch() / "pruned", str(lora), of.digest, [LineageStep(kind="pruned", layers="2", depth=4)], depth=3
    )
    model = load.load_model(resolve_checkpoint(str(pruned)), torch.float32)
    return {name: _weighed(value) for name, value in sorted(model.state_dict().items())}


def _made_round(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(file)
    for value in found.values():
        value.copy_((torch.arange(value.numel()) % 7 - 3).div(8).reshape(value.shape))
    save_file(found, file, {"format": "pt"})


def _weighed(value: torch.Tensor) -> float:
    flat = value.double().flatten()
    return round(float((flat * (torch.arange(len(flat)) % 5 + 1)).sum()), 3)


HELD_METRICS = ("mean", "macro", "mme", "circular", "vanilla", "perplexity")
"""Metrics of shipped tasks; every metric is held to the examples in its own entry besides."""


def figures() -> Any:
    """Every metric over made-up marks; intervals are drawn, and may differ with the library that draws."""
    draw = random.Random(0)
    made_up = [
        Sample(id=str(i), cluster=f"c{i // 4}", group=f"g{i // 8}", unit=f"u{i // 4} {i // 2}", weight=float(1 + i % 3),
               score=float(draw.random() < 0.6), unscored="so" if i == 7 else "")
        for i in range(32)
    ]  # fmt: skip
    return {name: [round(value, 6) for value in _figure(name, made_up)] for name in HELD_METRICS}


def _figure(name: str, samples: Sequence[Sample]) -> list[float]:
    score = bootstrap.score(name, samples, 0)
    return [score.value, score.n, score.clusters]
