"""Measure vLLM by itself and as vrbench's backend, on the work of benchmarks/speed.py, which calls this with --vllm.

    python -m benchmarks.speed_vllm --model random/bunny-llama-3-8b --measure text,mmlu
    python -m benchmarks.speed_vllm --model random/llava-1.5-7b --measure mme

One model in a process, since vLLM takes the GPU's memory. Weights are vLLM's own random ones (load_format="dummy"), so
that nothing is written. Its start, about 80 s, is not counted; caches of prefixes and images are emptied before each
time that is. One JSON line for each way, on standard output.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import QUICK, Line, Sizes, image_prompts, options, texts
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request
from vrbench.evaluation.vllm_backend import engine_arguments
from vrbench.models.load import load_without_weights
from vrbench.models.resolve import resolve_checkpoint
from vrbench.models.vllm_engine import VllmEngine

LOGPROBS = 20
"""Log-probabilities that vLLM by itself is asked for: the most that it gives by default."""


class Served:
    """A model that vLLM has in memory."""

    def __init__(self, name: str, device: str, dtype: str, gpu_memory: float) -> None:
        checkpoint = resolve_checkpoint(name)
        self.vlm: Any = load_without_weights(checkpoint, device, dtype)
        vars(self.vlm)["stop_token_ids"] = frozenset()  # so that every answer has its maximum length
        arguments = engine_arguments(self.vlm, dtype, gpu_memory)
        self.vlm.vllm = VllmEngine(lambda: checkpoint.path, **arguments, load_format="dummy")
        self.llm: Any = self.vlm.vllm.llm()

    def lines(self, work: str, requests: Sequence[Request], amount: int, unit: str) -> Iterator[Line]:
        """Time both ways, after a part of the work that is not counted."""
        self.as_backend(requests[: max(4, len(requests) // 16)])
        for way, do in (("vLLM", self.by_itself), ("vrbench --backend vllm", self.as_backend)):
            seconds = self.timed(do, requests)
            yield Line(work, way, amount, unit, seconds, "dummy weights, start not counted")

    def timed(self, do: Callable[[Sequence[Request]], None], requests: Sequence[Request]) -> float:
        """Wall time, with empty caches."""
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        start = time.perf_counter()
        do(requests)
        return time.perf_counter() - start

    def as_backend(self, requests: Sequence[Request]) -> None:
        """As `vrbench run` does, from requests to stored responses."""
        with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "a.sqlite", "speed") as store:
            InferenceEngine(self.vlm, store, show_progress=False).answer(requests)

    def by_itself(self, requests: Sequence[Request]) -> None:
        """vLLM called directly: texts and images, or one token with log-probabilities for each question."""
        from vllm import SamplingParams

        prompts: list[dict[str, Any]] = []
        parameters = []
        contexts = dict.fromkeys(r.context for r in requests if isinstance(r, LogLikelihoodRequest))
        for context in contexts:
            prompts.append({"prompt_token_ids": list(context)})
            parameters.append(SamplingParams(temperature=0, max_tokens=1, logprobs=LOGPROBS))
        for request in requests:
            if isinstance(request, GenerationRequest):
                prompt: dict[str, Any] = {"prompt_token_ids": self.vlm.tokenizer(request.prompt)["input_ids"]}
                if request.images:
                    prompt["multi_modal_data"] = {"image": [image.load() for image in request.images]}
                prompts.append(prompt)
                parameters.append(SamplingParams(temperature=0, max_tokens=request.max_new_tokens, ignore_eos=True))
        self.llm.generate(prompts, parameters, use_tqdm=False)


def lines_of(served: Served, work: Sequence[str], sizes: Sizes) -> Iterator[Line]:
    """All work that vLLM can do here; the sizes are those of benchmarks/speed.py."""
    rng = random.Random(0)
    if "text" in work:
        prompts = texts(rng, served.vlm.tokenizer, sizes.prompts, sizes.prompt, [sizes.answer] * sizes.prompts)
        yield from served.lines("text", prompts, sizes.prompts * sizes.answer, "tokens")
    if "mmlu" in work:
        asked = options(rng, sizes.subjects, sizes.each, sizes.header, sizes.own, 1)
        yield from served.lines("mmlu", asked, len(asked) // 4, "items")
    if "mme" in work:
        shown = image_prompts(served.vlm, sizes.images, 2, 16)
        yield from served.lines("mme", shown, len(shown), "items")


def main() -> None:
    """Measure one model and print its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--measure", default="text,mmlu,mme")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--gpu-memory", type=float, default=0.85)
    parser.add_argument("--quick", action="store_true", help="little work")
    given = parser.parse_args()
    served = Served(given.model, given.device, given.dtype, given.gpu_memory)
    for line in lines_of(served, given.measure.split(","), QUICK if given.quick else Sizes()):
        print(json.dumps(vars(line)), flush=True)
    served.vlm.vllm.close()


if __name__ == "__main__":
    main()
