"""A mock of vLLM 0.21 for tests on a CPU: its names and arguments, answered by transformers' `generate` in float32.

It is not vLLM: it shows what vrbench gives to vLLM and how it reads what comes back. tests/evaluation/test_vllm_gpu.py
asks the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

IS_MOCK = True


@dataclass
class SamplingParams:
    """Those parameters that vrbench sets; any other is an error."""

    temperature: float = 1.0
    max_tokens: int = 16
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    logprob_token_ids: list[int] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        assert self.detokenize or not self.stop, "vLLM needs texts to find a stop text"
        assert len(self.logprob_token_ids or ()) <= 128


class LLM:
    """A model in memory; `made` lists all that were made, with their arguments and what they were asked."""

    made: ClassVar[list[LLM]] = []
    refuses = ""

    def __init__(
        self, model: str, *, dtype: str, max_model_len: int, gpu_memory_utilization: float, generation_config: str,
        mm_processor_kwargs: dict[str, Any], limit_mm_per_prompt: dict[str, int], max_num_seqs: int = 256,
        enforce_eager: bool = False, load_format: str = "auto",
    ) -> None:  # fmt: skip
        self.arguments = {name: value for name, value in locals().items() if name not in ("self", "model")}
        from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText

        self.folder = model
        self.prompts: list[dict[str, Any]] = []
        self.parameters: list[SamplingParams] = []
        self.ended = False
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=self._end))
        LLM.made.append(self)
        if LLM.refuses:
            raise ValueError(LLM.refuses)
        made = AutoModelForImageTextToText
        is_dummy = load_format == "dummy"
        self._model = (
            made.from_config(AutoConfig.from_pretrained(model)) if is_dummy else made.from_pretrained(model)
        ).eval()
        self._processor = AutoImageProcessor.from_pretrained(model, backend="pil")

    def reset_prefix_cache(self) -> None:
        """Nothing is kept."""

    reset_mm_cache = reset_prefix_cache

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[Any]:
        """Answer each prompt by itself."""
        self.prompts += prompts
        self.parameters += sampling_params
        return [SimpleNamespace(outputs=[self._answer(*one)]) for one in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: dict[str, Any], parameters: SamplingParams) -> Any:
        import torch

        assert parameters.temperature == 0 and not self.ended
        config, inputs = self._model.config, {}
        ids = prompt["prompt_token_ids"]
        assert len(ids) < self.arguments["max_model_len"]
        if "multi_modal_data" in prompt:
            images = prompt["multi_modal_data"]["image"]
            assert ids.count(config.image_token_index) == len(images)
            inputs = {"pixel_values": self._processor(images=images, return_tensors="pt")["pixel_values"]}
            length = config.image_seq_length
            ids = [i for token in ids for i in [token] * (length if token == config.image_token_index else 1)]
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), **inputs, do_sample=False,
                max_new_tokens=parameters.max_tokens, eos_token_id=parameters.stop_token_ids or None, pad_token_id=0,
                output_scores=True, return_dict_in_generate=True,
            )  # fmt: skip
        scores = made.scores[0][0].log_softmax(-1)
        new = made.sequences[0, len(ids) :].tolist()
        wanted = {*(parameters.logprob_token_ids or ()), new[0]}
        logprobs = [{token: SimpleNamespace(logprob=float(scores[token])) for token in wanted}]
        return SimpleNamespace(token_ids=new, logprobs=logprobs if parameters.logprob_token_ids else None, text="")

    def _end(self) -> None:
        self.ended = True
