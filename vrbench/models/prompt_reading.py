"""Prompts on their way into the slots of answers: which are read in a pass, and what the pass computes.

`PackedPrompts` are rows of tokens that share what they have in common. `WholePrompts` have images, tokens and positions
as their family makes them (`image_prompts`), and are read by the family's own forward pass; further questions on the
same images are read behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch

from vrbench.models.image_prompts import ImagePrompt, batch_inputs
from vrbench.models.kv_cache import PromptSlots, RowCache, Sink, SlotCache
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import copies_no_prefix, prefix_numbers, row_start, to_device
from vrbench.models.packing import PackedSequence
from vrbench.models.vision_kernels import full_float32

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.hf_model import HFModel

Images = Mapping[int, torch.Tensor]
"""Slot of an image -> its projected features, [tokens, hidden]."""


class PromptBatch(Protocol):
    """Prompts that are read in one pass.

    Attributes:
        prompts: sequence number -> token ids.
        offsets: of each prompt, as `SlotCache` has them.
    """

    prompts: Mapping[int, Sequence[int]]
    offsets: Sequence[int]

    def logits(self, cache: SlotCache, slots: torch.Tensor, /) -> torch.Tensor:
        """Read the prompts, keys and values into slots [prompts]; return scores of the next tokens [prompts, ids]."""


class Prompts(Protocol):
    """Prompts in the order in which they are read.

    Attributes:
        lengths: sequence number -> tokens.
        min_slots: slots that its largest row needs.
    """

    lengths: Mapping[int, int]
    min_slots: int

    @property
    def next_slots(self) -> int:
        """Slots that must be free for the next batch; 0 when all were taken."""

    def take(self, free: int, budget: MemoryBudget, /) -> PromptBatch:
        """Return the next prompts, as many as go into so many slots and into a pass."""


class PackedPrompts:
    """Packed rows, each with prompts that share tokens."""

    def __init__(
        self,
        vlm: BaseVLM,
        rows: Sequence[PackedSequence],
        images: Callable[[Sequence[PackedSequence]], Images] = lambda rows: {},
    ) -> None:
        """Queue rows.

        Args:
            images: returns the features of the images in some rows.
        """
        self._vlm, self._images = vlm, images
        self._waiting = deque(rows)
        self.lengths: Mapping[int, int] = {
            n: len(row.prefix) + len(path) for row in rows for n, path in row.paths.items()
        }
        self.min_slots = max(len(row.paths) for row in rows)

    @property
    def next_slots(self) -> int:
        """As in `Prompts`."""
        return len(self._waiting[0].paths) if self._waiting else 0

    def take(self, free: int, budget: MemoryBudget) -> PromptBatch:
        """As in `Prompts`."""
        count = budget.take_rows(self._waiting, copies_no_prefix(self._vlm), free)
        return _PackedBatch(self._vlm, [self._waiting.popleft() for _ in range(count)], self._images)


class _PackedBatch:
    def __init__(
        self, vlm: BaseVLM, rows: Sequence[PackedSequence], images: Callable[[Sequence[PackedSequence]], Images]
    ) -> None:
        self._vlm, self._rows, self._images = vlm, rows, images
        self.prompts: Mapping[int, Sequence[int]] = {
            n: [*row.prefix, *(row.tokens[i] for i in path)] for row in rows for n, path in row.paths.items()
        }
        self.offsets: Sequence[int] = [0] * len(self.prompts)

    def logits(self, cache: SlotCache, slots: torch.Tensor) -> torch.Tensor:
        paths = [(index, len(row.prefix), path) for index, row in enumerate(self._rows) for path in row.paths.values()]
        fill, (rows, last) = _into_slots(self._vlm, cache, slots, paths, prefix_numbers(self._rows))
        states = self._vlm.hidden_states(self._rows, self._images(self._rows), fill)
        logits: torch.Tensor = self._vlm.head(states[rows, last])
        return logits


class WholePrompts:
    """Prompts with images, of which the family's own forward pass reads the first on the same images as a whole.

    The others use its keys and values up to the end of the images, so that only the text behind them is read.
    """

    def __init__(
        self,
        vlm: HFModel,
        groups: Sequence[Mapping[int, Sequence[int]]],
        lengths: Mapping[int, int],
        encoded: Callable[[int], ImagePrompt],
    ) -> None:
        """Queue prompts.

        Args:
            groups: sequence number -> token ids behind the images, of prompts that are equal up to there.
            lengths: sequence number -> tokens.
            encoded: sequence number -> prompt; called for the first of each group, in their order.
        """
        self._vlm, self._encoded = vlm, encoded
        self.lengths: Mapping[int, int] = {number: lengths[number] for group in groups for number in group}
        self._waiting = deque(groups)
        self.min_slots = max(map(len, groups))

    @property
    def next_slots(self) -> int:
        """As in `Prompts`."""
        return len(self._waiting[0]) if self._waiting else 0

    def take(self, free: int, budget: MemoryBudget) -> PromptBatch:
        """As in `Prompts`."""
        groups: list[Mapping[int, Sequence[int]]] = []
        count = longest = question = tokens = 0
        while self._waiting:
            first, *others = self._waiting[0]
            longest = max(longest, self.lengths[first])
            question = max(question, *(len(self._waiting[0][number]) for number in others), 0)
            rows = count + 1 + len(others)
            more = (len(groups) + 1) * longest + (rows - len(groups) - 1) * question
            fits = rows <= (budget.rows_per_pass or rows) and more <= budget.pass_tokens
            if rows > free or (groups and not fits):
                break
            count, tokens = rows, more
            groups.append(self._waiting.popleft())
        budget.passed(count, tokens)
        whole: dict[int, ImagePrompt] = {}
        questions: dict[int, tuple[int, Sequence[int]]] = {}
        for group in groups:
            first, *others = group
            whole[first] = self._encoded(first)
            for number in others:
                if whole[first].shared:
                    questions[number] = first, group[number]
                else:
                    whole[number] = self._encoded(number)
        return _WholeBatch(self._vlm, whole, questions)


class _WholeBatch:
    """Whole prompts, and questions on the images of some of them."""

    def __init__(
        self, vlm: HFModel, whole: Mapping[int, ImagePrompt], questions: Mapping[int, tuple[int, Sequence[int]]]
    ) -> None:
        self._vlm, self._whole = vlm, list(whole.values())
        places = {number: place for place, number in enumerate(whole)}
        self._firsts = [places[first] for first, _ in questions.values()]
        self._rows = []
        for number, (first, tokens) in questions.items():
            prompt = whole[first]
            self._rows.append(PackedSequence(tuple(prompt.tokens[: prompt.shared]), offset=prompt.offset))
            self._rows[-1].add(number, tokens, ())
        self.prompts: Mapping[int, Sequence[int]] = {
            **{number: prompt.tokens for number, prompt in whole.items()},
            **{number: [*row.prefix, *row.tokens] for number, row in zip(questions, self._rows, strict=True)},
        }
        self.offsets: Sequence[int] = [p.offset for p in self._whole] + [row.offset for row in self._rows]

    def logits(self, cache: SlotCache, slots: torch.Tensor) -> torch.Tensor:
        count = len(self._whole)
        states = [self._read_whole(cache, slots[:count])]
        if self._rows:
            states.append(self._read_questions(cache, slots, slots[count:]))
        logits: torch.Tensor = self._vlm.head(torch.cat(states))
        return logits

    def _read_whole(self, cache: SlotCache, slots: torch.Tensor) -> torch.Tensor:
        """Return the last states [prompts, hidden] of whole prompts."""
        lengths = [len(prompt.tokens) for prompt in self._whole]
        rows, last = to_device(self._vlm, [list(range(len(lengths))), [length - 1 for length in lengths]])
        tokens = torch.arange(max(lengths), device=self._vlm.device).expand(len(lengths), -1)
        sink = partial(cache.fill, PromptSlots(slots, rows, tokens, tokens))
        inputs = self._vlm.on_device(batch_inputs(self._whole))
        with full_float32():
            states: torch.Tensor = self._vlm.model.model(
                **inputs, past_key_values=RowCache(sink=sink), use_cache=True
            ).last_hidden_state
        return states[rows, last]

    def _read_questions(self, cache: SlotCache, whole: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Return the last states [questions, hidden], given the slots of whole prompts and those of questions."""
        paths = [(index, len(row.prefix), range(len(row))) for index, row in enumerate(self._rows)]
        fill, (rows, last) = _into_slots(self._vlm, cache, slots, paths, range(len(paths)))
        (first,) = to_device(self._vlm, [self._firsts])
        kept = cache.prefixes(whole[first], row_start(self._vlm, self._rows))
        return self._vlm.hidden_states(self._rows, {}, fill, kept)[rows, last]


def _into_slots(
    vlm: BaseVLM, cache: SlotCache, slots: torch.Tensor, paths: Sequence[tuple[int, int, Sequence[int]]],
    prefixes: Sequence[int],
) -> tuple[Sink, tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """Return what fills slots [prompts], and where the last states of the prompts are: rows and columns.

    Args:
        paths: of each prompt, its row, tokens of its prefix, and where its own tokens are in the row.
        prefixes: of each row, its prefix's number.
    """
    width, end = max(len(path) for *_, path in paths), cache.length - 1
    rows, numbers, last = to_device(
        vlm, [[row for row, *_ in paths], [prefixes[row] for row, *_ in paths], [path[-1] for *_, path in paths]]
    )
    tokens, places = to_device(vlm, [
        [[*path, *[0] * (width - len(path))] for *_, path in paths],
        [[*range(start, start + len(path)), *[end] * (width - len(path))] for _, start, path in paths],
    ])  # fmt: skip
    return partial(cache.fill, PromptSlots(slots, rows, tokens, places, numbers)), (rows, last)
