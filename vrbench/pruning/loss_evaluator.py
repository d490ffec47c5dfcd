"""Dev pictures as a model reads them, and what it makes of the right answers without some of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vrbench.models.llava_model import LlavaModel
from vrbench.models.packing import PackedSequence, pack
from vrbench.pocket.turns import TrainingTurn, turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning.layer_hooks import left_out, resumed, watched

PICTURES_AT_ONCE = 32
ROWS_AT_ONCE = 8
"""On a CPU; a card, which waits for small passes to be launched, gets `PICTURES_AT_ONCE`."""

ROOM = 600_000
"""Rows times layers times hidden size of a pass, whose states are kept: 32 rows of a pocket model, 4 of a 7B one."""


@dataclass(frozen=True)
class Answers:
    """What a model makes of the right answers.

    Attributes:
        losses: [samples] nats of each.
        right: [samples] whether greedy decoding would have said it.
    """

    losses: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def loss(self) -> float:
        """The mean loss, in nats an answer."""
        return float(self.losses.mean())


class Dev(Protocol):
    """Dev pictures with questions and their right answers, as a model reads them.

    Attributes:
        vlm: the model.
        samples: how many answers there are.
        picture_of: [samples] number of each answer's picture.
    """

    vlm: Any
    samples: int
    picture_of: NDArray[np.int64]

    def loss(self) -> float:
        """The mean loss of the right answers, in nats an answer."""

    def answers(self) -> Answers:
        """What the model makes of each of the right answers."""

    def without_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, Answers]:
        """Layer -> the answers without the removed layers and without this one."""

    def divergence_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        """Layer -> how far answers without the removed layers and this one lie from the whole model's, nats an answer.

        The sum over an answer's tokens of the Kullback-Leibler divergence KL(whole || without), mean over the answers.
        """

    def differentiable(self) -> Iterator[Callable[[], torch.Tensor]]:
        """Passes that give the summed loss of the right answers, in nats, of each of their rows: [rows]."""


def dev_of(vlm: Any, pictures: int, per_picture: int, first: int = 0) -> Dev:
    """Dev pictures for a model: rows that share what is alike where its family's prompts can be packed.

    Args:
        vlm: the model.
        pictures: how many of the dev split.
        per_picture: questions on each.
        first: number of the first picture.
    """
    if isinstance(vlm, LlavaModel):
        return DevLoss(vlm, pictures, per_picture, first)
    from vrbench.pruning.plain import PlainLoss

    return PlainLoss(vlm, pictures, per_picture, first)


Judged = dict[int, tuple[float, bool]]
"""Sample -> (loss of its right answer in nats, whether greedy decoding would have said it)."""


class Packed(NamedTuple):
    """Some rows, with what `VLM.loglikelihood` needs of them.

    Attributes:
        rows: packed sequences, numbered as the samples are.
        targets: sample -> token ids of its answer.
        pictures: slot -> the picture's projected features, [tokens, hidden].
    """

    rows: list[PackedSequence]
    targets: dict[int, list[int]]
    pictures: dict[int, torch.Tensor]

    @property
    def places(self) -> list[tuple[int, int, int, int]]:
        """(row, position, sample, token that follows) of each token of the answers."""
        return [
            (row, position, sample, token)
            for row, packed in enumerate(self.rows)
            for sample, path in packed.paths.items()
            for position, token in zip(path[-len(self.targets[sample]) :], self.targets[sample], strict=True)
        ]

    def judged(self, logs: torch.Tensor) -> Judged:
        """The answers by log-probabilities [answer tokens, vocabulary], in the order of `places`."""
        found = dict.fromkeys(self.targets, (0.0, True))
        tokens = torch.tensor([token for *_, token in self.places], device=logs.device)
        said = logs.gather(-1, tokens[:, None])[:, 0].double().tolist()
        best = (logs.argmax(-1) == tokens).tolist()
        for (*_, sample, _), log, is_best in zip(self.places, said, best, strict=True):
            loss, right = found[sample]
            found[sample] = (loss - log, right and is_best)
        return found

    def parts(self, size: int) -> Iterator[Packed]:
        """Some rows at a time."""
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            yield Packed(rows, {number: self.targets[number] for row in rows for number in row.paths}, self.pictures)


class DevLoss:
    """`Dev` in packed rows.

    Attributes:
        batches: of some pictures each.
    """

    def __init__(self, vlm: LlavaModel, pictures: int, per_picture: int, first: int = 0) -> None:
        self.vlm = vlm
        self.batches: list[Packed] = []
        self.samples = 0
        pictures_of: list[int] = []
        for start in range(first, first + pictures, PICTURES_AT_ONCE):
            numbers = range(start, min(first + pictures, start + PICTURES_AT_ONCE))
            asked = [turns(scene("dev", i), per_picture) for i in numbers]
            self.batches.append(self._packed(numbers, asked))
            pictures_of += [i for i, some in zip(numbers, asked, strict=True) for _ in some]
            self.samples = len(pictures_of)
        self.picture_of = np.array(pictures_of)

    def _packed(self, numbers: Sequence[int], asked: Sequence[Sequence[TrainingTurn]]) -> Packed:
        images = [Image.fromarray(draw(scene("dev", i))) for i in numbers]
        projected = self.vlm.project(self.vlm.encode_images(images)).clone()  # outside of inference mode
        sequences: list[list[int]] = []
        targets: dict[int, list[int]] = {}
        for slot, some in enumerate(asked):
            for turn in some:
                prompt = self.vlm.encode(self.vlm.prompt(turn.prompt, 1), [slot])
                said = self.vlm.tokenizer(turn.answer, add_special_tokens=False)["input_ids"] + [self.vlm.eos_token_id]
                targets[self.samples + len(sequences)] = said
                sequences.append([*prompt, *said[:-1]])
        rows = pack(sequences)
        for row in rows:
            row.paths = {self.samples + number: path for number, path in row.paths.items()}
        return Packed(rows, targets, dict(enumerate(projected)))

    def loss(self) -> float:
        """The mean loss of the right answers, their ends included, in nats an answer."""
        return self.answers().loss

    def answers(self) -> Answers:
        """See `Dev`."""
        return gathered(part.judged(self._logs(part)) for part in self._parts())

    def without_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, Answers]:
        """See `Dev`; what lies below the layer that is tried is computed once for all of them: half of the work."""
        found: dict[int, list[Judged]] = {layer: [] for layer in layers}
        for part in self._parts():
            for layer, logs in self._each(part, removed, found):
                found[layer].append(part.judged(logs))
        return {layer: gathered(judged) for layer, judged in found.items()}

    def divergence_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        """See `Dev`; work is shared as in `without_each`."""
        sums = dict.fromkeys(layers, 0.0)
        for part in self._parts():
            whole = self._logs(part)
            for layer, logs in self._each(part, removed, sums):
                sums[layer] += divergence(whole, logs)
        return {layer: total / self.samples for layer, total in sums.items()}

    def _each(self, part: Packed, removed: Sequence[int], layers: Iterable[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """(layer, log-probabilities without it and the removed ones) for each of some layers."""
        model = self.vlm.model
        with watched(model) as outputs, left_out(model, removed):
            self.vlm.hidden_states(part.rows, part.pictures)
        for layer in layers:
            with resumed(model, removed, layer, outputs):
                logs = self._logs(part)
            yield layer, logs

    @torch.inference_mode()
    def _logs(self, part: Packed) -> torch.Tensor:
        """[answer tokens, vocabulary] log-probabilities."""
        return self._logits(part).log_softmax(-1)

    def _logits(self, part: Packed) -> torch.Tensor:
        places = torch.tensor(part.places, device=self.vlm.device)
        states = self.vlm.hidden_states_with_grad(part.rows, part.pictures)[places[:, 0], places[:, 1]]
        return self.vlm.model.lm_head(states).float()

    def differentiable(self) -> Iterator[Callable[[], torch.Tensor]]:
        """See `Dev`; a row has the questions on one picture, as a rule all of them."""
        for part in self._parts():
            yield partial(self._losses, part)

    def _losses(self, part: Packed) -> torch.Tensor:
        rows, _, _, tokens = torch.tensor(part.places, device=self.vlm.device).T
        losses = torch.nn.functional.cross_entropy(self._logits(part), tokens, reduction="none")
        return torch.zeros(len(part.rows), device=losses.device).index_add(0, rows, losses)

    def _parts(self) -> Iterator[Packed]:
        limit = ROWS_AT_ONCE if self.vlm.device.type == "cpu" else PICTURES_AT_ONCE
        fitting = ROOM // (self.vlm.depth * self.vlm.text_config.hidden_size)
        return (part for batch in self.batches for part in batch.parts(max(1, min(limit, fitting))))


def gathered(parts: Iterable[Judged]) -> Answers:
    """The answers of some passes, in the order of the samples."""
    found = {sample: one for part in parts for sample, one in part.items()}
    inorder = [found[sample] for sample in sorted(found)]
    return Answers(np.array([loss for loss, _ in inorder]), np.array([right for _, right in inorder], dtype=bool))


def divergence(whole: torch.Tensor, without: torch.Tensor) -> float:
    """The sum over tokens of KL(whole || without), in nats, of log-probabilities [tokens, vocabulary]."""
    return float(torch.nn.functional.kl_div(without, whole, reduction="sum", log_target=True))


def answers_without(dev: Dev, removed: Sequence[int]) -> Answers:
    """The right answers with these layers left out."""
    with left_out(dev.vlm.model, removed):
        return dev.answers()


def loss_without(dev: Dev, removed: Sequence[int]) -> float:
    """The loss of the right answers with these layers left out, in nats an answer."""
    return answers_without(dev, removed).loss
