"""Dev pictures asked as whole prompts, one after the other: for families whose prompts cannot be packed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture

from vrbench.core.errors import VrbenchError
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning.layer_hooks import left_out
from vrbench.pruning.loss_evaluator import Answers, answers_without, divergence


class PlainLoss:
    """`vrbench.pruning.loss_evaluator.Dev`, each sample a pass of its own.

    Attributes:
        asked: (picture, whole prompt with its answer, tokens of the answer) of each sample.
    """

    def __init__(self, vlm: Any, pictures: int, per_picture: int, first: int = 0) -> None:
        self.vlm = vlm
        self.asked: list[tuple[Picture, str, int]] = []
        pictures_of: list[int] = []
        for index in range(first, first + pictures):
            of = scene("dev", index)
            picture = Image.fromarray(draw(of))
            for turn in turns(of, per_picture):
                prompt = vlm.prompt(turn.prompt, 1)
                words = [len(vlm.tokenizer(text)["input_ids"]) for text in (prompt, prompt + turn.answer)]
                self.asked.append((picture, prompt + turn.answer, words[1] - words[0]))
                pictures_of.append(index)
        self.samples = len(self.asked)
        self.picture_of = np.array(pictures_of)

    def loss(self) -> float:
        """The mean loss of the right answers, without their ends, in nats an answer; raises as `answers`."""
        return self.answers().loss

    def answers(self) -> Answers:
        """See `Dev`; an answer's end counts neither for its loss nor for whether it is right.

        Raises:
            VrbenchError: the family reads a prompt both ways, and would see the answer that it is to give.
        """
        self._refuse_reading_both_ways()
        losses, right = [], []
        for sample in self.asked:
            with torch.inference_mode():
                logs, said = self._logs(*sample)
            losses.append(-float(logs.gather(-1, said[:, None]).double().sum()))
            right.append(bool((logs.argmax(-1) == said).all()))
        return Answers(np.array(losses), np.array(right))

    def without_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, Answers]:
        """See `Dev`; each is computed whole, since families add things between layers."""
        return {layer: answers_without(self, [*removed, layer]) for layer in layers}

    @torch.inference_mode()
    def divergence_each(self, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
        """See `Dev`. Raises as `answers`."""
        self._refuse_reading_both_ways()
        sums = dict.fromkeys(layers, 0.0)
        for sample in self.asked:
            whole, _ = self._logs(*sample)
            for layer in sums:
                with left_out(self.vlm.model, [*removed, layer]):
                    sums[layer] += divergence(whole, self._logs(*sample)[0])
        return {layer: total / self.samples for layer, total in sums.items()}

    def differentiable(self) -> Iterator[Callable[[], torch.Tensor]]:
        """See `Dev`; a row is a sample. Raises as `answers`."""
        self._refuse_reading_both_ways()

        def loss(sample: tuple[Picture, str, int]) -> torch.Tensor:
            logs, said = self._logs(*sample)
            return -logs.gather(-1, said[:, None]).sum()[None]

        return (partial(loss, sample) for sample in self.asked)

    def _logs(self, picture: Picture, text: str, said: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[answer tokens, vocabulary] log-probabilities, and [answer tokens] the answer's ids."""
        inputs = self.vlm.encode_with_images([text], [[picture]])
        logits = self.vlm.model(**inputs, use_cache=False, logits_to_keep=said + 1).logits[0, :-1].float()
        return logits.log_softmax(-1), inputs["input_ids"][0, -said:]

    def _refuse_reading_both_ways(self) -> None:
        if self.vlm.prompt_format.prefix_lm:
            raise VrbenchError(f"a {self.vlm.family} model sees the answer with the prompt; choose layers by angular")
