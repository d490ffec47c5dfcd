"""Families: what a question becomes, when its answer ends, and what the processor makes of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from tests import tiny_families
from tests.fingerprints.made import Says, parts_of, small_llava, written
from tests.tiny import scratch
from vrbench.checkpoints.families import FAMILIES
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import GenerationRequest
from vrbench.models import hf_model
from vrbench.models.processors import load_processor

SAID = "Yes.\n\nIt is red. ASSISTANT: B"


def family(name: str) -> Any:
    """Prompts, stop texts, lengths and answers of two tasks, and the inputs that the first question becomes."""
    model = small_llava() if name == "llava" else _without_weights(name)
    found = []
    for task in ("mme", "mmmu_val"):
        says: Any = Says(model, lambda _: SAID)
        outcome = evaluate_task(*parts_of(task, 4), says)
        responses = [sample.responses for sample in outcome.samples]
        found.append([[written(request) for request in says.asked], responses])
        found.append(_inputs(model, says.asked[0]))
    return found


def _without_weights(name: str) -> hf_model.HFModel:
    """A family's tokenizer and processor around a model that is never asked."""
    folder = scratch() / name

    def write(folder: Path, config: Any, words: Any, image_processor: Any, **settings: Any) -> None:
        for part in (config, words, image_processor):
            part.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps(settings))

    with patch.object(tiny_families, "write", write):
        tiny_families.MAKERS[name](folder)
    processor = load_processor(folder, name)
    prompt_format = FAMILIES[name].prompt_format
    assert prompt_format is not None
    return hf_model.HFModel(_Nobody(), processor.tokenizer, processor, name, prompt_format)


class _Nobody(torch.nn.Linear):
    """A model that knows its place and type."""

    def __init__(self) -> None:
        from transformers import GenerationConfig, LlamaConfig

        super().__init__(1, 1)
        self.config, self.generation_config = LlamaConfig(max_position_embeddings=2048), GenerationConfig()


def _inputs(model: Any, request: GenerationRequest) -> Any:
    """Token ids, and shape and mean of the pixels."""
    shown = [one.load() for one in request.images]
    if isinstance(model, hf_model.HFModel):
        inputs = model.encode_with_images([request.prompt], [shown])
        return [inputs["input_ids"].tolist(), list(inputs["pixel_values"].shape), _mean(inputs["pixel_values"])]
    seen: list[torch.Tensor] = []
    hook = model.vision_tower.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.encode_images(shown)
    hook.remove()
    return [model.encode(request.prompt, range(len(shown))), list(seen[0].shape), _mean(seen[0])]


def _mean(values: torch.Tensor) -> float:
    return round(float(values.double().mean()), 2)
