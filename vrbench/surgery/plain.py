"""Dev pictures asked as whole prompts, one after the other: for families whose prompts cannot be packed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture

from vrbench.errors import VrbenchError
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene


class PlainLoss:
    """`vrbench.surgery.measured.Dev`, each sample a pass of its own.

    Attributes:
        asked: (picture, whole prompt with its answer, tokens of the answer) of each sample.
    """

    def __init__(self, vlm: Any, pictures: int, per_picture: int) -> None:
        self.vlm = vlm
        self.asked: list[tuple[Picture, str, int]] = []
        for index in range(pictures):
            of = scene("dev", index)
            picture = Image.fromarray(draw(of))
            for turn in turns(of, per_picture):
                prompt = vlm.prompt(turn.prompt, 1)
                words = [len(vlm.tokenizer(text)["input_ids"]) for text in (prompt, prompt + turn.answer)]
                self.asked.append((picture, prompt + turn.answer, words[1] - words[0]))
        self.samples = len(self.asked)

    def loss(self) -> float:
        """The mean loss of the right answers, without their ends, in nats an answer.

        Raises:
            VrbenchError: the family reads a prompt both ways, and would see the answer that it is to give.
        """
        if self.vlm.manner.prefix:
            raise VrbenchError(f"a {self.vlm.family} model sees the answer with the prompt; choose layers by angular")
        return float(np.mean([self._loss(*sample) for sample in self.asked]))

    @torch.inference_mode()
    def _loss(self, picture: Picture, text: str, said: int) -> float:
        inputs = self.vlm.pictured([text], [[picture]])
        logits = self.vlm.model(**inputs, use_cache=False, logits_to_keep=said + 1).logits[0, :-1].float()
        return -float(logits.log_softmax(-1).gather(-1, inputs["input_ids"][0, -said:, None]).double().sum())

    def passes(self) -> Iterator[tuple[list[torch.Tensor], Callable[[], object]]]:
        """See `Dev`; a row is a sample."""
        for picture, text, _ in self.asked:
            inputs = self.vlm.pictured([text], [[picture]])
            tokens = inputs["input_ids"].shape[1]
            shares = torch.full([tokens], 1 / tokens, dtype=torch.float64)
            yield [shares], partial(self._pass, inputs)

    @torch.inference_mode()
    def _pass(self, inputs: dict[str, Any]) -> None:
        self.vlm.model(**inputs, use_cache=False, logits_to_keep=1)
