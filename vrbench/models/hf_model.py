"""A vision-language model of any family, asked the plain way: whole prompts, its own processor, `generate`.

For families whose token positions, masks or image tokens are their own, so that their prompts cannot be packed into
shared rows as `VLM` does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vrbench.models.base_vlm import BaseVLM
from vrbench.models.decoding import StopCriteria, decode_answer, is_finished
from vrbench.models.inputs import encode_with_images, starts_with_bos
from vrbench.models.logits_processing import (
    logits_processors,
    needs_logits_processors,
    plain_generation_config,
    refuse_nan,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedTokenizerBase

    from vrbench.models.manner import PromptFormat


class HFModel(BaseVLM):
    """A loaded model that is asked one whole prompt after the other, several of them in a batch padded on the left.

    Attributes:
        processor: of the family, from transformers; its tokenizer is its own, since some processors change theirs.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, processor: Any, family: str, manner: PromptFormat
    ) -> None:
        super().__init__(model, tokenizer, processor.image_processor, family, manner)
        self.processor = processor
        if processor.tokenizer.pad_token is None:  # what it pads with is masked
            processor.tokenizer.pad_token = tokenizer.eos_token
        self._for_pictures: dict[tuple[tuple[int, int], ...], int] = {}

    @property
    def image_settings(self) -> dict[str, Any]:
        """As in `BaseVLM`, with what the family sets in place of the folder's settings."""
        return {**super().image_settings, "family": dict(self.manner.pictures)}

    def prompt(self, text: str, n_images: int = 0) -> str:
        """The whole prompt of one question about some pictures.

        Raises:
            VrbenchError: the text has more or fewer image marks than there are pictures.
        """
        return self.manner.prompt(self.processor, text, n_images)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt without pictures; what the tokenizer puts in front is put there once."""
        return list(self.tokenizer(prompt, add_special_tokens=not starts_with_bos(self.tokenizer, prompt))["input_ids"])

    def length(self, prompt: str, pictures: Sequence[Image]) -> int:
        """Tokens of a prompt with its pictures; what pictures add depends on their sizes, which are remembered."""
        words = len(self.tokenizer(prompt)["input_ids"])
        sizes = tuple(picture.size for picture in pictures)
        if sizes not in self._for_pictures:
            whole = self.pictured([prompt], [pictures])["input_ids"].shape[1]
            self._for_pictures[sizes] = whole - words
        return words + self._for_pictures[sizes]

    def pictured(self, prompts: Sequence[str], pictures: Sequence[Sequence[Image]]) -> dict[str, Any]:
        """The model's inputs for prompts that each have pictures, padded on the left: [prompts, longest] and pixels.

        Raises:
            VrbenchError: a prompt does not have a mark for each of its pictures.
        """
        return self._placed(encode_with_images(self.processor, self.manner, prompts, pictures, self.family))

    def worded(self, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The model's inputs for prompts without pictures, as token ids, padded on the left: [prompts, longest]."""
        longest = max(len(tokens) for tokens in prompts)
        ids = [[self._padding] * (longest - len(tokens)) + list(tokens) for tokens in prompts]
        mask = [[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in prompts]
        inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if self.manner.prefix:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        return self._placed(inputs)

    @torch.inference_mode()
    def answers(self, inputs: Mapping[str, Any], limits: Sequence[StopCriteria]) -> list[str]:
        """Answers of greedy decoding, without special tokens, each cut before its first stop text.

        What the generation config asks for beyond the likeliest token is done to each answer as to it alone; sampling
        and beams that it asks for are not.

        Args:
            inputs: as `encode_with_images` or `worded` give them.
            limits: when each answer ends.
        """
        stop = _Stop(self, inputs["input_ids"].shape[1], limits)
        steered: list[LogitsProcessor] = [_Steered(self, inputs, limits, stop)] if needs_logits_processors(self) else []
        # TF32 would make float32 mean less on a GPU than on a CPU.
        with torch.backends.cudnn.flags(allow_tf32=False), plain_generation_config(self.model):
            said = self.model.generate(
                **inputs,
                max_new_tokens=max(limit.max_new_tokens for limit in limits),
                eos_token_id=sorted(self.ends),
                pad_token_id=self._padding,
                logits_processor=LogitsProcessorList([*steered, _Numbers()]),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
        rows = said[:, stop.start :].tolist()
        return [decode_answer(self, row[:n], limit) for row, n, limit in zip(rows, stop.lengths, limits, strict=True)]

    @torch.inference_mode()
    def loglikelihood(
        self, sequences: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of what follows a text, and whether greedy decoding would have said it.

        Args:
            sequences: token ids of context and continuation, without the continuation's last; all of one length.
            targets: token ids of each continuation.

        Returns:
            (sum of log-probabilities in nats, is greedy) of each.
        """
        inputs = {"input_ids": torch.tensor([list(sequence) for sequence in sequences])}
        if self.manner.prefix:  # else what follows would be seen before it is asked for
            follows = [len(target) - 1 for target in targets]
            types = [[0] * (len(s) - n) + [1] * n for s, n in zip(sequences, follows, strict=True)]
            inputs["token_type_ids"] = torch.tensor(types)
        kept = max(len(target) for target in targets)
        logits = self.model(**self._placed(inputs), use_cache=False, logits_to_keep=kept).logits
        found = []
        for row, target in zip(logits, targets, strict=True):
            asked = row[-len(target) :].float()
            tokens = torch.tensor(list(target), device=asked.device)
            logs = asked.log_softmax(-1).gather(-1, tokens[:, None]).double().sum()
            found.append((float(logs), bool((asked.argmax(-1) == tokens).all())))
        return found

    @cached_property
    def _padding(self) -> int:
        """Id of a token to pad with; which one is of no account, since it is masked."""
        given = self.tokenizer.pad_token_id
        return self.end_of_text if given is None else int(given)

    def _placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs on the model's device, numbers with a fraction in its type."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }


class _Stop(StoppingCriteria):
    """Ends each row of `generate` at its own limit.

    Attributes:
        start: tokens in front of the answers.
        lengths: tokens of each answer so far, its end included.
        over: whether each answer is over.
    """

    def __init__(self, vlm: HFModel, start: int, limits: Sequence[StopCriteria]) -> None:
        self.start = start
        self.lengths = [0] * len(limits)
        self._vlm = vlm
        self._limits = limits
        self.over = [False] * len(limits)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Which rows are over, after one more token in each."""
        for i, row in enumerate(input_ids[:, self.start :].tolist()):
            if not self.over[i]:
                self.lengths[i] = len(row)
                self.over[i] = is_finished(self._vlm, row, self._limits[i])
        return torch.tensor(self.over, device=input_ids.device)


class _Numbers(LogitsProcessor):
    """Refuses scores that are no numbers; the largest of them would be any token."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores as they are."""
        refuse_nan(bool(scores.isnan().any()))
        return scores


class _Steered(LogitsProcessor):
    """Does to each row's scores what `generate` would do to them if the row were alone and had no padding."""

    def __init__(self, vlm: HFModel, inputs: Mapping[str, Any], limits: Sequence[StopCriteria], stop: _Stop) -> None:
        self._stop = stop
        self._starts = inputs["attention_mask"].argmax(1).tolist()  # the padding is on the left
        prompts = [row[start:] for row, start in zip(inputs["input_ids"].tolist(), self._starts, strict=True)]
        self._steps = [
            logits_processors(vlm, prompt, one.max_new_tokens) for prompt, one in zip(prompts, limits, strict=True)
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary] of the next tokens; those of rows that are over stay as they are."""
        for i, (start, steps) in enumerate(zip(self._starts, self._steps, strict=True)):
            if not self._stop.over[i]:
                scores[i] = steps(input_ids[i : i + 1, start:], scores[i : i + 1])[0]
        return scores
