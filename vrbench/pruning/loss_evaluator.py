"""The loss of the right answers on dev images, for a model with all of its decoder layers or without some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vrbench.core.errors import VrbenchError
from vrbench.models.llava_model import LlavaModel
from vrbench.pruning.layer_hooks import record_outputs, resume_above, skip_layers
from vrbench.pruning.questions import DevQuestions, ImageQuestion
from vrbench.pruning.samples import IMAGES_PER_PASS, ROWS_PER_PASS, PackedQuestions, packed_batches, padded_inputs

MOST_VALUES = 600_000
"""Rows times layers times hidden size of a pass, whose states are kept: 32 rows of a pocket model, 4 of a 7B one."""


@dataclass(frozen=True)
class AnswerLosses:
    """Scores of the right answers.

    Attributes:
        losses: [samples] nats of each.
        correct: [samples] whether greedy decoding would have given it.
    """

    losses: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @classmethod
    def of_nothing(cls, count: int) -> AnswerLosses:
        """Return the scores of answers without tokens, for `AnswerBatch.add_scores`."""
        return cls(np.zeros(count), np.ones(count, dtype=bool))

    @property
    def mean(self) -> float:
        """The mean loss, in nats an answer."""
        return float(self.losses.mean())


@dataclass(frozen=True)
class AnswerBatch:
    """Answers that are scored in one forward pass.

    Attributes:
        rows: number of rows of the pass.
        row_of: [answer tokens] row of each token of the answers.
        samples: [answer tokens] number of its sample.
        tokens: [answer tokens] its id.
        logits: runs the pass and returns [answer tokens, vocabulary] in float32.
    """

    rows: int
    row_of: list[int]
    samples: list[int]
    tokens: list[int]
    logits: Callable[[], torch.Tensor]

    @torch.inference_mode()
    def log_probs(self) -> torch.Tensor:
        """Run the pass; returns [answer tokens, vocabulary] log-probabilities."""
        return self.logits().log_softmax(-1)

    def add_scores(self, log_probs: torch.Tensor, to: AnswerLosses) -> None:
        """Add the tokens' losses in nats to those of their samples, and whether each is the likeliest."""
        tokens = torch.tensor(self.tokens, device=log_probs.device)
        values = log_probs.gather(-1, tokens[:, None])[:, 0].double()
        np.subtract.at(to.losses, self.samples, values.cpu().numpy())
        np.logical_and.at(to.correct, self.samples, (log_probs.argmax(-1) == tokens).cpu().numpy())

    def row_losses(self) -> torch.Tensor:
        """Run the pass; returns [rows] the summed loss of each row's answers in nats, with gradients."""
        logits = self.logits()
        tokens, rows = (torch.tensor(values, device=logits.device) for values in (self.tokens, self.row_of))
        losses = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
        return torch.zeros(self.rows, device=losses.device).index_add(0, rows, losses)


class LossEvaluator:
    """The right answers to questions on dev images, as a model scores them.

    A LLaVA reads packed rows, which hold what questions share once, and its answers include their end tokens; other
    families read one prompt with its answer at a time, without the end token.

    Attributes:
        vlm: the model.
        batches: the answers, in forward passes.
        image_of: [samples] number of each answer's image.
    """

    def __init__(self, vlm: Any, questions: DevQuestions) -> None:
        self.vlm = vlm
        self._is_packed = isinstance(vlm, LlavaModel)
        if not self._is_packed and vlm.prompt_format.prefix_lm:
            raise VrbenchError(f"a {vlm.family} model sees the answer with the prompt; choose layers by angular")
        groups = list(questions)
        self.image_of = np.repeat(questions.first + np.arange(len(groups)), [len(group) for group in groups])
        flat = chain.from_iterable(groups)
        self.batches = list(_packed_batches(vlm, groups) if self._is_packed else _unpacked_batches(vlm, flat))

    def answers(self, removed: Sequence[int] = ()) -> AnswerLosses:
        """Score the answers without some layers."""
        found = AnswerLosses.of_nothing(len(self.image_of))
        with skip_layers(self.vlm.model, removed):
            for batch in self.batches:
                batch.add_scores(batch.log_probs(), found)
        return found

    def without_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, AnswerLosses]:
        """Return layer -> the scores without the removed layers and without this one."""
        found = {layer: AnswerLosses.of_nothing(len(self.image_of)) for layer in layers}
        for batch in self.batches:
            for layer, log_probs in self._log_probs_without(batch, removed, found):
                batch.add_scores(log_probs, found[layer])
        return found

    def divergence_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        """Return layer -> divergence of the answers without it and the removed layers from the full model's, in nats.

        The sum over an answer's tokens of the Kullback-Leibler divergence KL(whole || without), mean over the answers.
        """
        sums = dict.fromkeys(layers, 0.0)
        for batch in self.batches:
            whole = batch.log_probs()
            for layer, log_probs in self._log_probs_without(batch, removed, sums):
                kl = torch.nn.functional.kl_div(log_probs, whole, reduction="sum", log_target=True)
                sums[layer] += float(kl)
        return {layer: total / len(self.image_of) for layer, total in sums.items()}

    def _log_probs_without(
        self, batch: AnswerBatch, removed: Sequence[int], layers: Iterable[int]
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield each layer with the log-probabilities without it and the removed ones.

        In packed rows everything below a layer is computed once for all of them, which halves the work; other families
        may add something between layers.
        """
        model = self.vlm.model
        if self._is_packed:
            with record_outputs(model) as outputs, skip_layers(model, removed):
                batch.log_probs()
        for layer in layers:
            resumed = self._is_packed and resume_above(model, removed, layer, outputs)
            with resumed or skip_layers(model, [*removed, layer]):
                log_probs = batch.log_probs()
            yield layer, log_probs


def _packed_batches(vlm: LlavaModel, questions: Iterable[list[ImageQuestion]]) -> Iterator[AnswerBatch]:
    # A GPU waits for small passes to be launched.
    limit = ROWS_PER_PASS if vlm.device.type == "cpu" else IMAGES_PER_PASS
    size = max(1, min(limit, MOST_VALUES // (vlm.depth * vlm.text_config.hidden_size)))
    for batch in packed_batches(vlm, questions):
        for part in batch.split(size):
            placed = [
                (row, position, sample, token)
                for row, packed in enumerate(part.rows)
                for sample, path in packed.paths.items()
                for position, token in zip(path[-len(part.answers[sample]) :], part.answers[sample], strict=True)
            ]
            rows, positions, samples, tokens = (list(column) for column in zip(*placed, strict=True))
            logits = partial(_packed_logits, vlm, part, torch.tensor([rows, positions]))
            yield AnswerBatch(len(part.rows), rows, samples, tokens, logits)


def _packed_logits(vlm: LlavaModel, part: PackedQuestions, places: torch.Tensor) -> torch.Tensor:
    rows, positions = places.to(vlm.device)
    return vlm.model.lm_head(vlm.hidden_states_with_grad(part.rows, part.features)[rows, positions]).float()


def _unpacked_batches(vlm: Any, questions: Iterable[ImageQuestion]) -> Iterator[AnswerBatch]:
    for sample, question in enumerate(questions):
        inputs, (length,) = padded_inputs(vlm, [question])
        tokens = inputs["input_ids"][0, -length:].tolist()
        yield AnswerBatch(1, [0] * length, [sample] * length, tokens, partial(_unpacked_logits, vlm, question, length))


def _unpacked_logits(vlm: Any, question: ImageQuestion, length: int) -> torch.Tensor:
    inputs, _ = padded_inputs(vlm, [question])  # made again, since the pixels of all would not fit into memory
    return vlm.model(**inputs, use_cache=False, logits_to_keep=length + 1).logits[0, :-1].float()
