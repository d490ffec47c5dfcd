"""A vision-language model of any family, with whole prompts, the family's own processor, and transformers' `generate`.

For families whose token positions, masks or image tokens are their own, so that their prompts cannot share rows as
those of a `LlavaModel` do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vrbench.checkpoints.families import PromptFormat
from vrbench.checkpoints.prompts import BuildPrompt, Turn, starts_with_bos
from vrbench.models.base_vlm import BaseVLM
from vrbench.models.decoding import (
    StopCriteria,
    decode_answer,
    is_finished,
    logits_processors,
    needs_logits_processors,
    plain_generation_config,
    refuse_nan,
)
from vrbench.models.image_prompts import FAMILIES_IN_SLOTS, ImagePrompt, Size, image_prompt, padded_inputs
from vrbench.models.processors import adds_special_tokens, allow_threads, encode_with_images
from vrbench.models.vision_kernels import full_float32

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.models.llava_model import LlavaModel


class HFModel(BaseVLM):
    """A loaded model that answers batches of whole prompts, padded on the left.

    Attributes:
        processor: of the family, from transformers; its tokenizer is its own, since some processors change theirs.
        image_token_counts: sizes of the images of a prompt -> `count_image_tokens`.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, family: str, prompt_format: PromptFormat) -> None:
        super().__init__(model, tokenizer, processor.image_processor, family, prompt_format)
        self.processor = processor
        if processor.tokenizer.pad_token is None:  # any token will do, since padding is masked
            processor.tokenizer.pad_token = tokenizer.eos_token
        for shared in (tokenizer, processor.tokenizer):
            allow_threads(shared)
        self.image_token_counts: dict[tuple[Size, ...], int] = {}
        self._other_tokens: dict[int, int] = {}

    @property
    def image_settings(self) -> dict[str, Any]:
        """As in `BaseVLM`, with the settings that the family overrides."""
        return {**super().image_settings, "family": dict(self.prompt_format.image_settings)}

    def prompt(self, text: str, n_images: int = 0) -> str:
        """Return the whole prompt of one question about some images; see `PromptFormat.prompt`."""
        return self.prompt_format.prompt(self.processor, text, n_images)

    @property
    def image_token(self) -> int:
        """Id of the placeholder in a prompt for each image."""
        return int(self.processor.image_token_id)

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a prompt without images; a beginning of text is added unless it is there."""
        return list(self.tokenizer(prompt, add_special_tokens=not starts_with_bos(self.tokenizer, prompt))["input_ids"])

    def _tokens_of_image_prompt(self, prompt: str) -> list[int]:
        special = adds_special_tokens(self.processor, self.prompt_format, prompt)
        return list(self.processor.tokenizer(prompt, add_special_tokens=special)["input_ids"])

    def length(self, prompt: str, sizes: Sequence[Size]) -> int:
        """Return the tokens of a prompt with images of some sizes, (width, height); known sizes are not computed again.

        Raises:
            UnsupportedImageError: the image processor takes no images of these sizes.
        """
        key = tuple(sizes)
        if key not in self.image_token_counts:
            self.image_token_counts[key] = self.count_image_tokens(prompt, key)
        return len(self.tokenizer(prompt)["input_ids"]) + self.image_token_counts[key]

    def count_image_tokens(self, prompt: str, sizes: Sequence[Size]) -> int:
        """Return by how many tokens images of some sizes make a prompt longer; the GPU is not used.

        Raises:
            UnsupportedImageError: the image processor takes no images of these sizes.
        """
        from PIL import Image

        by_size = self._image_tokens_by_size(sizes)
        if by_size is not None and len(sizes) in self._other_tokens:
            return by_size + self._other_tokens[len(sizes)]
        blank = [Image.new("RGB", size) for size in sizes]
        whole = encode_with_images(self.processor, self.prompt_format, [prompt], [blank], self.family)
        count = int(whole["input_ids"].shape[1]) - len(self.tokenizer(prompt)["input_ids"])
        if by_size is not None:
            self._other_tokens[len(sizes)] = count - by_size
        return count

    @property
    def counts_by_size(self) -> bool:
        """Whether tokens of images are known from their sizes, without the image processor."""
        return self.generates_in_slots and FAMILIES_IN_SLOTS[self.family].image_tokens is not None

    def _image_tokens_by_size(self, sizes: Sequence[Size]) -> int | None:
        """Return the tokens that depend on sizes; None where they are not known, or an image may be refused."""
        count = FAMILIES_IN_SLOTS[self.family].image_tokens if self.counts_by_size else None
        try:
            return count and sum(count(self.processor, size, self.prompt_format.image_settings) for size in sizes)
        except (ValueError, ArithmeticError):
            return None

    @property
    def generates_in_slots(self) -> bool:
        """Whether decoding steps need no more of a prompt with images than its keys and values."""
        return self.joins_prompts and self.family in FAMILIES_IN_SLOTS and self.shares_prefixes

    @property
    def joins_prompts(self) -> bool:
        """Whether the meaning of a model's inputs is known, so that prompts may be encoded one by one."""
        return type(self.model).__module__.startswith("transformers.")

    def image_prompt(self, prompt: str, images: Sequence[Image], question: Sequence[int]) -> ImagePrompt:
        """Return a prompt with its images, where `generates_in_slots`; the GPU is not used.

        Args:
            question: as `question` returns it.
        """
        return image_prompt(self.model, self.prompt_inputs(prompt, images), self.family, question)

    def question(self, prompt: str) -> list[int]:
        """Return the token ids behind the last image of a prompt, where `generates_in_slots`."""
        ids = self._tokens_of_image_prompt(prompt)
        placeholder = self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token)
        return ids[len(ids) - ids[::-1].index(placeholder) :] if placeholder in ids else []

    def before_question(self, prompt: str) -> str:
        """Return the text of a prompt up to its last image, where `generates_in_slots`."""
        return prompt.rpartition(str(self.processor.image_token))[0]

    def encode_with_images(self, prompts: Sequence[str], images: Sequence[Sequence[Image]]) -> dict[str, Any]:
        """Return the model's inputs for prompts with images, padded on the left: [prompts, longest] and pixels.

        Raises:
            VrbenchError: a prompt does not have a placeholder for each of its images.
        """
        return self.on_device(encode_with_images(self.processor, self.prompt_format, prompts, images, self.family))

    def prompt_inputs(self, prompt: str, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        """Return the model's inputs for one prompt with images; the GPU is not used."""
        inputs = encode_with_images(self.processor, self.prompt_format, [prompt], [images], self.family)
        return self._in_dtype(inputs)

    def join_prompts(self, prompts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
        """Return `encode_with_images` of some prompts, each from `prompt_inputs`, where `joins_prompts`."""
        return self.on_device(padded_inputs(prompts, self.processor.tokenizer.pad_token_id))

    def pad_token_ids(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Return the model's inputs for token ids of prompts without images, padded on the left: [prompts, longest]."""
        longest = max(len(tokens) for tokens in prompts)
        ids = [[self._padding] * (longest - len(tokens)) + list(tokens) for tokens in prompts]
        mask = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in prompts]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if self.prompt_format.prefix_lm:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return self.on_device(inputs)

    @torch.inference_mode()
    def generate(self, inputs: Mapping[str, Any], stops: Sequence[StopCriteria]) -> list[str]:
        """Decode greedily; return the answers without special tokens, each cut before its first stop text.

        What the generation config asks for beyond the likeliest token is applied to each answer as if it were alone;
        sampling and beams that it asks for are not.

        Args:
            inputs: from `encode_with_images` or `pad_token_ids`.
            stops: when each answer ends.
        """
        stopping = _StopPerRow(self, inputs["input_ids"].shape[1], stops)
        per_row = [_ProcessorsPerRow(self, inputs, stops, stopping)] if needs_logits_processors(self) else []
        with full_float32(), plain_generation_config(self.model):
            generated = self.model.generate(
                **inputs,
                max_new_tokens=max(stop.max_new_tokens for stop in stops),
                eos_token_id=sorted(self.stop_token_ids),
                pad_token_id=self._padding,
                logits_processor=LogitsProcessorList([*per_row, _RefuseNaN()]),
                stopping_criteria=StoppingCriteriaList([stopping]),
            )
        rows = generated[:, stopping.start :].tolist()
        return [decode_answer(self, row[:n], stop) for row, n, stop in zip(rows, stopping.lengths, stops, strict=True)]

    @torch.inference_mode()
    def loglikelihood(
        self, sequences: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would generate it.

        Args:
            sequences: token ids of context and continuation, without the continuation's last; all of one length.
            targets: token ids of each continuation.

        Returns:
            (sum of log-probabilities in nats, is greedy) of each.
        """
        inputs = {"input_ids": torch.tensor([list(sequence) for sequence in sequences])}
        if self.prompt_format.prefix_lm:  # else the context would attend to the continuation
            follows = [len(target) - 1 for target in targets]
            types = [[0] * (len(s) - n) + [1] * n for s, n in zip(sequences, follows, strict=True)]
            inputs["token_type_ids"] = torch.tensor(types)
        kept = max(len(target) for target in targets)
        logits = self.model(**self.on_device(inputs), use_cache=False, logits_to_keep=kept).logits
        found = []
        for row, target in zip(logits, targets, strict=True):
            scores = row[-len(target) :].float()
            tokens = torch.tensor(list(target), device=scores.device)
            total = scores.log_softmax(-1).gather(-1, tokens[:, None]).double().sum()
            found.append((float(total), bool((scores.argmax(-1) == tokens).all())))
        return found

    @cached_property
    def _padding(self) -> int:
        given = self.tokenizer.pad_token_id
        return self.eos_token_id if given is None else int(given)

    def on_device(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Return inputs on the model's device, floating-point ones in its dtype."""
        return {name: value.to(self.device) for name, value in self._in_dtype(inputs).items()}

    def _in_dtype(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: v.to(self.dtype) if v.is_floating_point() else v for name, v in inputs.items()}


class PaddedLlava(HFModel):
    """A LLaVA whose decoder does not allow shared prefixes; its prompts are those of a `LlavaModel`."""

    def __init__(self, llava: LlavaModel) -> None:
        from transformers import LlavaProcessor

        # LlavaProcessor computes an image's tokens from its pixels and patches; here the vision tower has counted them.
        processor = LlavaProcessor(
            llava.image_processor, llava.tokenizer, patch_size=1 << 30, vision_feature_select_strategy="full",
            num_additional_image_tokens=llava.image_tokens,
        )  # fmt: skip
        build = partial(_build_with_tokenizer, llava.prompt_format.build)
        prompt_format = replace(llava.prompt_format, build=build, add_special_tokens=True)
        super().__init__(llava.model, llava.tokenizer, processor, llava.family, prompt_format)
        self._tokens_of_an_image = llava.image_tokens

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in a prompt."""
        return self._tokens_of_an_image


def _build_with_tokenizer(build: BuildPrompt, processor: Any, turns: Sequence[Turn], answered: bool) -> str:
    """Return a `LlavaModel`'s prompt, which is built by the tokenizer alone."""
    return build(processor.tokenizer, turns, answered)


class _StopPerRow(StoppingCriteria):
    """Ends each row of `generate` by its own stop criteria.

    Attributes:
        start: tokens in front of the answers.
        lengths: tokens of each answer so far, its end included.
        finished: whether each answer is finished.
    """

    def __init__(self, vlm: HFModel, start: int, stops: Sequence[StopCriteria]) -> None:
        self.start = start
        self.lengths = [0] * len(stops)
        self.finished = [False] * len(stops)
        self._vlm = vlm
        self._stops = stops

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for i, row in enumerate(input_ids[:, self.start :].tolist()):
            if not self.finished[i]:
                self.lengths[i] = len(row)
                self.finished[i] = is_finished(self._vlm, row, self._stops[i])
        return torch.tensor(self.finished, device=input_ids.device)


class _RefuseNaN(LogitsProcessor):
    """Raises for NaN scores; the largest of them would be any token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        refuse_nan(bool(scores.isnan().any()))
        return scores


class _ProcessorsPerRow(LogitsProcessor):
    """Applies to each row's scores what `generate` would if the row were alone and had no padding."""

    def __init__(
        self, vlm: HFModel, inputs: Mapping[str, Any], stops: Sequence[StopCriteria], stopping: _StopPerRow
    ) -> None:
        self._stopping = stopping
        self._starts = inputs["attention_mask"].argmax(1).tolist()  # the padding is on the left
        prompts = [row[start:] for row, start in zip(inputs["input_ids"].tolist(), self._starts, strict=True)]
        self._processors = [
            logits_processors(vlm, prompt, stop.max_new_tokens) for prompt, stop in zip(prompts, stops, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores [rows, vocabulary] of the next tokens; those of finished rows are unchanged."""
        for i, (start, processors) in enumerate(zip(self._starts, self._processors, strict=True)):
            if not self._stopping.finished[i]:
                scores[i] = processors(input_ids[i : i + 1, start:], scores[i : i + 1])[0]
        return scores
