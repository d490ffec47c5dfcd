"""Prompts on their way into the slots of answers: which are read in a pass, and what the pass computes.

`PackedPrompts` are rows of tokens that share what they have in common. `WholePrompts` have images, tokens and positions
as their family makes them (`image_prompts`), and are read by the family's own forward pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch

from vrbench.models.image_prompts import ImagePrompt, batch_inputs
from vrbench.models.kv_cache import RowCache, SlotCache
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import row_start, to_device
from vrbench.models.packing import PackedSequence

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
        most_slots: slots that must be there at the least.
    """

    lengths: Mapping[int, int]
    most_slots: int

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
        self.most_slots = max(len(row.paths) for row in rows)

    @property
    def next_slots(self) -> int:
        """As in `Prompts`."""
        return len(self._waiting[0].paths) if self._waiting else 0

    def take(self, free: int, budget: MemoryBudget) -> PromptBatch:
        """As in `Prompts`."""
        rows: list[PackedSequence] = []
        prefix = own = tokens = 0
        prefixes: set[tuple[int, ...]] = set()
        while self._waiting and len(rows) != budget.rows_per_pass:
            row = self._waiting[0]
            prefix, own = max(prefix, len(row.prefix)), max(own, len(row))
            prefixes |= {row.prefix} if row.prefix else set()
            more = (len(rows) + 1) * (prefix + own) + len(prefixes) * prefix
            if len(row.paths) > free or (rows and more > budget.pass_tokens):
                break
            free, tokens = free - len(row.paths), more
            rows.append(self._waiting.popleft())
        budget.passed(len(rows), tokens)
        return _PackedBatch(self._vlm, rows, self._images)


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
        start = row_start(self._vlm, self._rows)
        paths = [(index, row, path) for index, row in enumerate(self._rows) for path in row.paths.values()]
        places = [[*range(len(row.prefix)), *(start + i for i in path)] for _, row, path in paths]
        width = max(map(len, places))
        index, last = to_device(self._vlm, [[index for index, *_ in paths], [path[-1] for *_, path in paths]])
        padded = to_device(self._vlm, [place + [0] * (width - len(place)) for place in places])
        states = self._vlm.hidden_states(
            self._rows, self._images(self._rows), partial(cache.fill, slots, index, padded)
        )
        logits: torch.Tensor = self._vlm.head(states[index, last])
        return logits


class WholePrompts:
    """Prompts with images, each read as a whole by the family's own forward pass, padded on the right."""

    most_slots = 1

    def __init__(self, vlm: HFModel, lengths: Mapping[int, int], encoded: Callable[[int], ImagePrompt]) -> None:
        """Queue prompts.

        Args:
            lengths: sequence number -> tokens, in the order in which prompts are read.
            encoded: sequence number -> prompt; called once for each, in that order.
        """
        self._vlm, self._encoded = vlm, encoded
        self.lengths = lengths
        self._waiting = deque(lengths)

    @property
    def next_slots(self) -> int:
        """As in `Prompts`."""
        return 1 if self._waiting else 0

    def take(self, free: int, budget: MemoryBudget) -> PromptBatch:
        """As in `Prompts`."""
        numbers: list[int] = []
        longest = 0
        while self._waiting and len(numbers) != min(free, budget.rows_per_pass or free):
            longer = max(longest, self.lengths[self._waiting[0]])
            if numbers and (len(numbers) + 1) * longer > budget.pass_tokens:
                break
            longest = longer
            numbers.append(self._waiting.popleft())
        budget.passed(len(numbers), len(numbers) * longest)
        return _WholeBatch(self._vlm, {number: self._encoded(number) for number in numbers})


class _WholeBatch:
    def __init__(self, vlm: HFModel, prompts: Mapping[int, ImagePrompt]) -> None:
        self._vlm, self._encoded = vlm, list(prompts.values())
        self.prompts: Mapping[int, Sequence[int]] = {number: prompt.tokens for number, prompt in prompts.items()}
        self.offsets: Sequence[int] = [prompt.offset for prompt in self._encoded]

    def logits(self, cache: SlotCache, slots: torch.Tensor) -> torch.Tensor:
        lengths = [len(prompt.tokens) for prompt in self._encoded]
        rows, last = to_device(self._vlm, [list(range(len(lengths))), [length - 1 for length in lengths]])
        places = torch.arange(max(lengths), device=self._vlm.device).expand(len(lengths), -1)
        inputs = self._vlm.on_device(batch_inputs(self._encoded))
        with torch.backends.cudnn.flags(allow_tf32=False):  # else float32 is less exact on a GPU than on a CPU
            states = self._vlm.model.model(
                **inputs, past_key_values=RowCache(sink=partial(cache.fill, slots, rows, places)), use_cache=True
            ).last_hidden_state
        logits: torch.Tensor = self._vlm.head(states[rows, last])
        return logits
