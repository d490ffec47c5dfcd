"""vLLM over the whole model of one checkpoint: started at the first prompts, ended with the run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from PIL.Image import Image

ENVIRONMENT = {
    # The engine in this process: a run ends with it, its memory is free for the next checkpoint, and the order in which
    # prompts are scheduled, and with it the answers, does not depend on another process.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output has the table
    "VLLM_NO_USAGE_STATS": "1",  # it would report to its authors
}
"""Environment variables that are set where the user has not set them."""

DECODING_THREADS = 8
"""Threads that open the images of a call."""

MAX_TOKEN_IDS = 128
"""Most tokens whose log-probabilities vLLM gives for one prompt (`SamplingParams.logprob_token_ids`)."""


@dataclass(frozen=True)
class VllmPrompt:
    """One prompt.

    Attributes:
        tokens: ids, with one placeholder for each image.
        parameters: of vLLM's `SamplingParams`; decoding is greedy.
        images: digest and loader of each image, in the order of the placeholders.
    """

    tokens: Sequence[int]
    parameters: Mapping[str, Any]
    images: Sequence[tuple[str, Callable[[], Image]]] = field(default=(), repr=False)

    def content(self) -> dict[str, Any]:
        """Return the prompt as vLLM reads it; its images are opened."""
        content: dict[str, Any] = {"prompt_token_ids": list(self.tokens)}
        if self.images:
            content["multi_modal_data"] = {"image": [load().convert("RGB") for _, load in self.images]}
            content["multi_modal_uuids"] = {"image": [digest for digest, _ in self.images]}  # else it would hash pixels
        return content


class VllmEngine:
    """vLLM's engine for one checkpoint; `close` it."""

    def __init__(self, folder: Callable[[], Path], **arguments: Any) -> None:
        """Start nothing yet.

        Args:
            folder: returns a folder of a whole model in transformers' format.
            arguments: of vLLM's `LLM`.
        """
        self._folder, self._arguments = folder, arguments
        self._llm: Any = None
        self._failure = ""

    def generate(self, prompts: Sequence[VllmPrompt]) -> list[Any]:
        """Return vLLM's output for each prompt: `token_ids`, and `logprobs` where they were asked for.

        Raises:
            VrbenchError: vLLM does not start.
        """
        llm = self.llm()
        from vllm import SamplingParams

        with ThreadPoolExecutor(DECODING_THREADS) as pool:
            contents = list(pool.map(VllmPrompt.content, prompts))
        parameters = [SamplingParams(temperature=0, **prompt.parameters) for prompt in prompts]
        return [output.outputs[0] for output in llm.generate(contents, parameters, use_tqdm=False)]

    def close(self) -> None:
        """End vLLM and free its memory, if it was started or has failed to start."""
        if self._llm is None and not self._failure:
            return
        from vllm.distributed import cleanup_dist_env_and_memory

        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
        self._llm, self._failure = None, ""
        cleanup_dist_env_and_memory()

    def llm(self) -> Any:
        """Return vLLM's `LLM`, started if it was not.

        Raises:
            VrbenchError: it does not start.
        """
        if self._failure:  # it would fail again, after a minute
            raise VrbenchError(self._failure)
        if self._llm is None:
            for name, value in ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            from vllm import LLM

            folder = self._folder()
            _free_memory()
            try:
                self._llm = LLM(model=str(folder), **self._arguments)
            except Exception as error:  # of any kind, from the model's config to the GPU's memory
                self._failure = f"vLLM does not start on {folder}: {' '.join(str(error).split())}"
                raise VrbenchError(self._failure) from error
        return self._llm


def _free_memory() -> None:
    """Give the GPU's memory back that a model had whose weights were only written to a folder."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
