"""Conversations as a data set to train on, and an order of them in which a step's samples are of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vrbench.core.errors import VrbenchError
from vrbench.models.processors import ImagesRefused
from vrbench.training.batches import answer_tokens
from vrbench.training.conversation_encoder import Supervised
from vrbench.training.conversations import Conversation


class SupervisedSet(Dataset[dict[str, Tensor]]):
    """Conversations, encoded when they are asked for.

    Attributes:
        samples: those of which at least a token of an answer fits into the length.
        dropped: how many were left out since none does.
        refused: of each that was left out since the family's image processor refuses its image, which and why.
    """

    def __init__(self, samples: Sequence[Conversation], made: Supervised) -> None:
        """
        Raises:
            VrbenchError: no sample fits.
        """
        self.made = made
        rows = [row for sample in samples for row in made.rows(sample)]
        self.samples: list[Conversation] = []
        self.refused: list[str] = []
        for row in rows:
            try:
                self.samples += [row] if made.fits(row) else []
            except ImagesRefused as error:
                self.refused.append(f"{row.place}: {error}")
        self.dropped = len(rows) - len(self.samples) - len(self.refused)
        if not self.samples:
            refused = f" ({len(self.refused)} images are refused; {self.refused[0]})" if self.refused else ""
            raise VrbenchError(
                f"none of {len(rows)} samples has an answer in {made.length} tokens; raise data.length{refused}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """A sample's inputs and labels.

        Raises:
            VrbenchError: its picture cannot be opened any more, or the family refuses one of a later turn.
        """
        sample = self.samples[number]
        try:
            row = self.made.encode(sample)
        except ImagesRefused as error:  # of a later turn; those of the first are left out before
            raise VrbenchError(f"{sample.place}: {error}; leave it out of the set") from error
        if row is None:
            raise VrbenchError(f"{sample.place}: no token of an answer fits into {self.made.length} tokens")
        return row

    def collate(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """A batch, and as "items" how many of its tokens carry loss."""
        batch = self.made.collate(rows)
        return {**batch, "items": answer_tokens(batch)}

    def order(self, batch: int, steps: int, seed: int) -> NDArray[np.int64]:
        """Numbers of the samples of all steps, one step after the other; see `grouped`."""
        kinds = np.array([len(sample.pictures) for sample in self.samples])
        if self.made.family != "mllama":  # whose samples share a pass only if they have the same number of pictures
            kinds = np.minimum(kinds, 1)
        return grouped(kinds, np.array([sample.words for sample in self.samples]), batch, steps, seed)


def grouped(
    kinds: NDArray[np.int64], lengths: NDArray[np.int64], batch: int, steps: int, seed: int
) -> NDArray[np.int64]:
    """An order in which the samples of a step are of one kind, and sorted by length, so that its parts are alike.

    So all devices have pictures in a step or none has, and little is padded (LLaVA's group_by_modality_length). Each
    sample comes once before any comes twice; what is left of the kinds at the end makes mixed steps.

    Args:
        kinds: [samples] what may share a step.
        lengths: [samples] any measure of length.
        batch: samples a step.
        steps: how many.
        seed: of the order.

    Returns:
        [steps * batch] numbers of samples.
    """
    draw = np.random.default_rng(seed)
    waiting = {int(kind): np.array([], dtype=np.int64) for kind in np.unique(kinds)}
    made: list[NDArray[np.int64]] = []
    while len(made) < steps:
        shuffled = draw.permutation(len(kinds))
        found: list[NDArray[np.int64]] = []
        for kind, left in waiting.items():
            pool = np.concatenate([left, shuffled[kinds[shuffled] == kind]])
            whole = len(pool) // batch * batch
            found += np.split(pool[:whole], whole // batch) if whole else []
            waiting[kind] = pool[whole:]
        draw.shuffle(found)
        missing = steps - len(made) - len(found)
        rest = np.concatenate(list(waiting.values()))
        if 0 < missing <= len(rest) // batch + 1:
            fill = draw.choice(len(kinds), max(0, missing * batch - len(rest)))
            found += np.split(np.concatenate([rest, fill])[: missing * batch], missing)
        made += found[: steps - len(made)]
    return np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in made])
