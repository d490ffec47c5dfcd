"""Greedy answers to many prompts: each takes a slot, which is refilled when the answer ends.

A prompt is read in one forward pass (`prompt_reading`), and its keys and values go into a slot. Then each step computes
the next token of every slot. On a GPU a step is captured as a CUDA graph, and the next step is started before the
tokens of the last one are looked at, so that the GPU does not wait for the processor; an answer that has ended then
takes part in one step more, whose token is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from vrbench.models.attention import prepared_shapes
from vrbench.models.decoding import (
    RepetitionPenalty,
    StopCriteria,
    TokenChoice,
    argmax_or_nan,
    decode_answer,
    is_finished,
    refuse_nan,
)
from vrbench.models.fixed_shapes import PROBE_TOKENS, key_count, slot_count
from vrbench.models.kv_cache import PromptSlots, SlotCache
from vrbench.models.memory_budget import MemoryBudget, token_bytes
from vrbench.models.packed_inference import FromDevice, to_device
from vrbench.models.packing import PackedSequence
from vrbench.models.placement import is_dispatched, processes
from vrbench.models.prompt_reading import Prompts

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

KEY_STEP = 128
"""On a GPU a step reads keys and values up to a multiple of so many positions, so that shapes repeat."""


class AnswerGenerator:
    """Generates the answers to prompts; iterating yields sequence number -> answer as answers end."""

    def __init__(self, vlm: BaseVLM, prompts: Prompts, stops: Mapping[int, StopCriteria], budget: MemoryBudget) -> None:
        """Plan the answers.

        Args:
            prompts: read in their order.
            stops: sequence number -> when its answer ends.
            budget: how many answers are in progress at the same time, at least as many as a row has prompts; and how
                many tokens, padding and prefixes included, are read in one pass. With fixed shapes a row is one prompt,
                and `fixed_shapes.key_count` is the same for all.
        """
        self._vlm, self._prompts, self._stops, self._budget = vlm, prompts, stops, budget
        self._generated: dict[int, list[int]] = {}
        self._choice = TokenChoice(vlm)
        self._on_gpu = vlm.device.type == "cuda"
        longest = max(length + stops[n].max_new_tokens for n, length in prompts.lengths.items())
        if budget.fixed_shapes:
            self._make_fixed_slots(longest)
        else:
            self._most = max(min(budget.slots(longest), len(prompts.lengths)), prompts.min_slots, 1)
            self._make_slots(self._most, -(-(longest + 1) // 8) * 8)
        self._ends: dict[int, int] = {}
        self._pending: deque[tuple[FromDevice, list[int]]] = deque()

    def _make_slots(self, count: int, length: int) -> None:
        self._owners: list[int | None] = [None] * count
        self._cache = SlotCache(count, length, self._vlm.device)
        self._budget.keep(count * length)
        self._tokens = torch.zeros(count, dtype=torch.long, device=self._vlm.device)
        self._penalty = None if self._choice.penalty is None else RepetitionPenalty(self._choice.penalty, count)
        self._step = _Step(self._vlm, self._cache, self._tokens, self._penalty)

    def _make_fixed_slots(self, longest: int) -> None:
        """Make slots whose number and length depend on the longest answer's class alone, if they are interchangeable.

        Some kernels compute the last rows of a matrix product otherwise than the first; there is one slot then.
        """
        keys = key_count(longest)
        for count in (slot_count(self._vlm, keys, token_bytes(self._vlm)), 1):
            self._make_slots(count, keys)
            if self._slots_agree():
                break
        self._most = count if self._budget.rows is None else min(count, self._budget.rows)

    @torch.inference_mode()
    def _slots_agree(self) -> bool:
        """Return whether a step gives the same bits in every slot: all of them are given one and the same prompt.

        On a GPU this is also the run before a step is captured, so that all answers are computed by the graph.
        """
        count, length = len(self._owners), min(PROBE_TOKENS, self._cache.length - 1)
        probe = PackedSequence()
        probe.add(0, [token % self._vlm.head.weight.shape[0] for token in range(length)], ())
        slots, first = to_device(self._vlm, [list(range(count)), [0] * count])
        places = to_device(self._vlm, [list(range(length))] * count)
        self._vlm.hidden_states([probe], {}, partial(self._cache.fill, PromptSlots(slots, first, places, places)))
        self._cache.positions.fill_(length)
        logits = self._step(count, self._cache.length)
        return bool((logits == logits[:1]).all())

    @torch.inference_mode()
    def __iter__(self) -> Iterator[dict[int, str]]:
        looks_ahead = self._on_gpu and not self._choice.needs_processors
        while self._prompts.next_slots or self._ends or self._pending:
            while self._has_room():
                self._read_prompts()
            done = {} if looks_ahead else self._collect(0)
            if self._ends:
                self._compact()
                self._start_step()
            done |= self._collect(1 if looks_ahead and self._ends else 0)
            if done:
                yield done

    def _has_room(self) -> bool:
        """Whether the next row is read now: prompts are read many at a time, unless there is nothing else to do."""
        if not self._prompts.next_slots:
            return False
        free = self._most - len(self._ends)
        return free >= max(self._prompts.next_slots, self._most // 8) or not self._ends

    def _read_prompts(self) -> None:
        """Read the next prompts, as many as fit, and choose the first token of each of their answers."""
        batch = self._prompts.take(self._most - len(self._ends), self._budget)
        free = iter([slot for slot, owner in enumerate(self._owners) if owner is None])
        numbers, taken = list(batch.prompts), []
        for number, prompt in batch.prompts.items():
            taken.append(next(free))
            self._owners[taken[-1]] = number
            self._ends[number] = len(prompt)
            self._choice.add(number, prompt, self._stops[number])
        slots, ends, offsets = to_device(
            self._vlm, [taken, [self._ends[number] for number in numbers], list(batch.offsets)]
        )
        logits = batch.logits(self._cache, slots)
        self._cache.positions[slots], self._cache.offsets[slots] = ends, offsets
        if self._penalty is not None:
            written = [[self._vlm.image_token if i < 0 else i for i in batch.prompts[number]] for number in numbers]
            self._penalty.start(slots, written, logits.shape[1])
            logits = self._penalty(logits, slots)
        self._choose(logits, slots, numbers)

    def _start_step(self) -> None:
        """Compute the next token of every answer."""
        used = self._used()
        logits = self._step(used, self._key_width(max(self._ends.values()) + 1))
        numbers = {number: slot for slot, number in enumerate(self._owners[:used]) if number is not None}
        for number in numbers:
            self._ends[number] += 1
        if self._choice.needs_processors:
            slots = to_device(self._vlm, list(numbers.values()))
            self._choose(logits[slots], slots, list(numbers))
        else:
            owners = [-1 if number is None else number for number in self._owners[:used]]
            self._pending.append((FromDevice(self._tokens[:used]), owners))

    def _choose(self, logits: torch.Tensor, slots: torch.Tensor, numbers: list[int]) -> None:
        chosen = self._choice(logits, numbers, self._generated)
        self._tokens[slots] = chosen
        self._pending.append((FromDevice(chosen), numbers))

    def _collect(self, keep: int) -> dict[int, str]:
        """Add pending tokens but the last few to the answers; return those answers that ended."""
        done: dict[int, str] = {}
        while len(self._pending) > keep:
            tokens, numbers = self._pending.popleft()
            for number, token in zip(numbers, tokens.read(), strict=True):
                if number not in self._ends:
                    continue
                refuse_nan(token < 0)
                answer = self._generated.setdefault(number, [])
                answer.append(token)
                if is_finished(self._vlm, answer, self._stops[number]):
                    done[number] = decode_answer(self._vlm, self._generated.pop(number), self._stops[number])
                    del self._ends[number]
                    self._owners[self._owners.index(number)] = None
        return done

    def _compact(self) -> None:
        """Move the answers to the first slots, where that saves enough: on a GPU once no prompt is left to read."""
        if self._budget.fixed_shapes:
            return
        taken = [slot for slot, owner in enumerate(self._owners) if owner is not None]
        used = self._used()
        if (self._on_gpu and (self._prompts.next_slots or 2 * len(taken) > used)) or len(taken) == used:
            return
        slots = to_device(self._vlm, taken)
        self._cache.move(slots)
        self._tokens[: len(taken)] = self._tokens[slots]
        if self._penalty is not None:
            self._penalty.move(slots)
        owners = [self._owners[slot] for slot in taken]
        self._owners = owners + [None] * (len(self._owners) - len(owners))

    def _used(self) -> int:
        """Number of slots that a step computes, from the first on."""
        if self._budget.fixed_shapes:
            return len(self._owners)
        last = max(slot for slot, owner in enumerate(self._owners) if owner is not None) + 1
        if not self._on_gpu:
            return last
        size = 8
        while size < last:
            size *= 2
        return min(size, len(self._owners))

    def _key_width(self, length: int) -> int:
        """Number of positions that a step reads for so many tokens."""
        if self._budget.fixed_shapes:
            return self._cache.length
        if not self._on_gpu:
            return length
        step = max(KEY_STEP, 1 << max(0, length.bit_length() - 3))
        return min(-(-length // step) * step, self._cache.length)


class _Step:
    """One decoding step over the first slots, captured as a CUDA graph when a shape comes for the second time."""

    def __init__(self, vlm: BaseVLM, cache: SlotCache, tokens: torch.Tensor, penalty: RepetitionPenalty | None) -> None:
        self._vlm, self._cache, self._tokens, self._penalty = vlm, cache, tokens, penalty
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor] | None] = {}
        self._pool: Any = None

    def __call__(self, used: int, width: int) -> torch.Tensor:
        """Write each slot's next token, -1 where its scores are no numbers; return the logits [used, vocabulary]."""
        if self._vlm.device.type != "cuda" or is_dispatched(self._vlm.model):  # a graph is of one GPU
            return self._run(used, width)
        shape = (used, width)
        if shape not in self._graphs:  # run once without a graph, as capturing needs it
            self._graphs[shape] = None
            return self._run(used, width)
        captured = self._graphs[shape]
        if captured is None:
            graph = torch.cuda.CUDAGraph()
            # NCCL's own thread looks at its events meanwhile, which is no part of the graph.
            mode = "thread_local" if processes(self._vlm.model) > 1 else "global"
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                logits = self._run(used, width)
            self._pool = graph.pool()
            captured = self._graphs[shape] = graph, logits
        captured[0].replay()
        return captured[1]

    def _run(self, used: int, width: int) -> torch.Tensor:
        vlm, cache = self._vlm, self._cache
        positions = cache.view(used, width)
        seen = torch.arange(width, device=vlm.device) <= positions[:, None]
        mask = torch.zeros(seen.shape, dtype=vlm.dtype, device=vlm.device)
        mask = mask.masked_fill_(~seen, torch.finfo(vlm.dtype).min)[:, None, None]
        with prepared_shapes():
            states = vlm.language_model(
                inputs_embeds=vlm.model.get_input_embeddings()(self._tokens[:used].clamp_min(0))[:, None],
                attention_mask=mask, position_ids=(positions + cache.offsets[:used])[:, None],
                past_key_values=cache, use_cache=True,
            ).last_hidden_state[:, -1]  # fmt: skip
        logits: torch.Tensor = vlm.head(states)
        if self._penalty is not None:
            self._penalty.add(self._tokens[:used].clamp_min(0))
            logits = self._penalty(logits, slice(used))
        self._tokens[:used] = argmax_or_nan(logits)
        positions.add_(1).clamp_max_(cache.length - 1)  # empty slots count on
        return logits
