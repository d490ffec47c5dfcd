"""Packed rows of tokens -> hidden states and log-likelihoods, with the decoder of any model that allows it.

A batch of rows takes one forward pass, and one before it over the prefixes that the rows share.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from vrbench.models.kv_cache import Pair, Prefixes, RowCache, Sink
from vrbench.models.packing import PackedSequence
from vrbench.models.prefix_attention import USES_SEGMENTS, SegmentCache, Segments

PREFIX_SHARING_DECODERS = (
    "cohere", "gemma", "glm", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen2_5_vl_text",
    "qwen3", "qwen3_vl_text", "stablelm",
)  # fmt: skip
"""Model types of decoders whose tokens attend to exactly what a mask says, at the positions that they are given."""

NO_MASK = torch.zeros(1, 1, 1, 1)
"""Given where attention needs none, so that transformers makes none either."""

LOGIT_BYTES = 2**28
"""Float32 logits that are in memory together."""


class PackedModel(Protocol):
    """What is needed of a loaded model; a `BaseVLM` has it.

    Attributes:
        model: from transformers, for its input embeddings.
        device, dtype: of the weights.
    """

    model: Any
    device: torch.device
    dtype: torch.dtype

    @property
    def language_model(self) -> Any:
        """The decoder without its head."""

    @property
    def head(self) -> Any:
        """The linear from hidden states to logits."""

    def hidden_states(self, rows: Sequence[PackedSequence], images: Mapping[int, torch.Tensor], /) -> torch.Tensor:
        """Return `hidden_states` without gradients."""


def allows_prefix_sharing(text_config: Any, context: int) -> bool:
    """Return whether a decoder computes for a prompt in a packed row what it computes for the prompt alone.

    A packed row has its own dense mask and positions. A sliding window, chunked attention or recurrent states would
    ignore them, and rotary frequencies that depend on the longest prompt of a batch (LongRoPE, dynamic NTK) would be
    those of another prompt.

    Args:
        text_config: transformers' config of the decoder.
        context: most tokens of a prompt; a wider window changes nothing.
    """
    kinds = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    rope = getattr(text_config, "rope_parameters", None) or {}
    return (
        text_config.model_type in PREFIX_SHARING_DECODERS
        and kinds == {"full_attention"}
        and (window is None or window >= context)
        and rope.get("rope_type", "default") not in ("longrope", "dynamic")
    )


def hidden_states(
    vlm: PackedModel,
    rows: Sequence[PackedSequence],
    images: Mapping[int, torch.Tensor],
    sink: Sink | None = None,
    kept: Prefixes | None = None,
) -> torch.Tensor:
    """Return the decoder's last hidden states, [rows, longest row, hidden]; rows are padded on the right.

    Args:
        rows: packed sequences; a negative token -1 - (s * image_tokens + j) is token j of the image in slot s.
        images: slot -> projected features, [image_tokens, hidden], of every image in the rows.
        sink: gets keys and values of each layer.
        kept: keys and values of each row's prefix, of `row_start` tokens, where they were computed before.
    """
    longest, start = _padded(vlm, max(map(len, rows))), row_start(vlm, rows)
    cache: RowCache | None = None
    segments: Segments | None = None
    if kept is not None:
        cache = RowCache(kept, sink=sink)
    elif start:
        prefixes = _read_prefixes(vlm, rows, images, start)
        segments = Segments.of(rows, longest, start) if copies_no_prefix(vlm) else None
        if segments is None:
            cache = RowCache(prefixes, to_device(vlm, prefix_numbers(rows)), sink)
        else:
            cache = SegmentCache(
                prefixes, segments, [to_device(vlm, ends, torch.int32) for ends in segments.ends], sink
            )
    elif sink is not None:
        cache = RowCache(sink=sink)
    settings: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
    if start or not all(row.is_causal for row in rows):
        positions = [
            [row.offset + len(row.prefix) + depth for depth in row.depths] + [0] * (longest - len(row)) for row in rows
        ]
        mask = _mask(vlm, rows, longest, start) if segments is None else NO_MASK
        settings |= {"attention_mask": mask, "position_ids": to_device(vlm, positions)}
    states: torch.Tensor = vlm.language_model(
        inputs_embeds=_embeddings(vlm, [row.tokens for row in rows], longest, images), **settings
    ).last_hidden_state
    return states


def row_start(vlm: PackedModel, rows: Sequence[PackedSequence]) -> int:
    """Return the padded length of the prefixes of some rows."""
    return _padded(vlm, max(len(row.prefix) for row in rows))


def copies_no_prefix(vlm: PackedModel) -> bool:
    """Return whether rows of chains behind a prefix take no memory for its keys and values."""
    return getattr(vlm.language_model, USES_SEGMENTS, False) and not torch.is_grad_enabled()


def prefix_numbers(rows: Sequence[PackedSequence]) -> list[int]:
    """Return each row's place among the distinct prefixes of some rows; 0 where it has none."""
    numbers = {prefix: i for i, prefix in enumerate(dict.fromkeys(row.prefix for row in rows if row.prefix))}
    return [numbers.get(row.prefix, 0) for row in rows]


class LogLikelihoods:
    """Log-likelihoods of continuations in some rows, on their way from the GPU."""

    @torch.inference_mode()
    def __init__(self, vlm: PackedModel, rows: Sequence[PackedSequence], targets: Mapping[int, Sequence[int]]) -> None:
        """Start the forward pass.

        Args:
            rows: packed sequences: context and continuation, without the continuation's last token.
            targets: sequence number -> token ids of its continuation.
        """
        self._wanted = [
            (row, position, number, token)
            for row, packed in enumerate(rows)
            for number, path in packed.paths.items()
            for position, token in zip(path[-len(targets[number]) :], targets[number], strict=True)
        ]
        self._wanted.sort(key=lambda wanted: wanted[:2])
        places: dict[tuple[int, int], int] = {}
        lines = [places.setdefault((row, position), len(places)) for row, position, _, _ in self._wanted]
        row, position = to_device(vlm, list(zip(*places, strict=True)))
        states = vlm.hidden_states(rows, {})[row, position]
        logs, greedy = _log_probabilities(vlm, states, lines, [token for *_, token in self._wanted])
        self._logs, self._greedy = FromDevice(logs), FromDevice(greedy)

    def result(self) -> dict[int, tuple[float, bool]]:
        """Return sequence number -> (sum of log-probabilities in nats, whether greedy decoding would generate it)."""
        found: dict[int, tuple[float, bool]] = {}
        for (_, _, number, token), log, best in zip(self._wanted, self._logs.read(), self._greedy.read(), strict=True):
            total, is_greedy = found.get(number, (0.0, True))
            found[number] = (total + log, is_greedy and best == token)
        return found


def _log_probabilities(
    vlm: PackedModel, states: torch.Tensor, lines: Sequence[int], tokens: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each token's log-probability after its line of states [positions, hidden], and the best token there.

    Args:
        lines: ascending.
    """
    logs, greedy = [], []
    size = max(1, LOGIT_BYTES // (4 * vlm.head.weight.shape[0]))
    for start in range(0, len(states), size):
        logits = vlm.head(states[start : start + size]).float()
        first, last = bisect_left(lines, start), bisect_left(lines, start + size)
        line, token = to_device(vlm, [[n - start for n in lines[first:last]], tokens[first:last]])
        # log_softmax, since lm-eval takes it: on a CPU it is 1e-5 nats a token off what logsumexp gives (nearer
        # the truth), which adds up to 1e-3 over a long answer.
        logs.append(logits.log_softmax(-1)[line, token].double())
        greedy.append(logits.argmax(-1)[line])
    return torch.cat(logs), torch.cat(greedy)


def to_device(vlm: PackedModel, values: Any, dtype: torch.dtype = torch.long) -> torch.Tensor:
    """Return integers on the model's device, without waiting for what the GPU computes meanwhile."""
    tensor = torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(vlm.device, non_blocking=True) if vlm.device.type == "cuda" else tensor


class FromDevice:
    """Values on their way from the GPU; `read` waits for what computed them and for nothing that came after."""

    def __init__(self, values: torch.Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[Any]:
        """Return the values."""
        if self._event is not None:
            self._event.synchronize()
        found: list[Any] = self._values.tolist()
        return found


def _read_prefixes(
    vlm: PackedModel, rows: Sequence[PackedSequence], images: Mapping[int, torch.Tensor], longest: int
) -> Prefixes:
    """Read each prefix once, padded on the right: causal attention does not look at what follows a token."""
    prefixes = list(dict.fromkeys(row.prefix for row in rows if row.prefix))
    kept: list[Pair] = []
    cache = RowCache(sink=lambda layer, before, own: kept.append(own))
    vlm.language_model(inputs_embeds=_embeddings(vlm, prefixes, longest, images), past_key_values=cache, use_cache=True)
    return kept.__getitem__


def _embeddings(
    vlm: PackedModel, sequences: Sequence[Sequence[int]], longest: int, images: Mapping[int, torch.Tensor]
) -> torch.Tensor:
    """Return decoder inputs [sequences, longest, hidden] of tokens and images."""
    ids = np.zeros((len(sequences), longest), dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    embeddings: torch.Tensor = vlm.model.get_input_embeddings()(to_device(vlm, ids.clip(0)))
    if images:
        order = np.zeros(max(images) + 1, dtype=np.int64)
        order[list(images)] = range(len(images))
        patches = torch.cat(list(images.values())).to(embeddings.dtype)
        count = len(patches) // len(images)
        rows, columns = (ids < 0).nonzero()
        place = -1 - ids[rows, columns]
        where, column, patch = to_device(vlm, np.stack([rows, columns, order[place // count] * count + place % count]))
        embeddings[where, column] = patches[patch]
    return embeddings


def _mask(vlm: PackedModel, rows: Sequence[PackedSequence], longest: int, start: int) -> torch.Tensor:
    """Return the additive mask [rows, 1, longest, start + longest]: 0 on prefix and own path, else the minimum.

    Padding attends to itself, since attention to nothing is no number.
    """
    index = torch.arange(longest, device=vlm.device)
    padding = range(longest + 1)
    ends = to_device(vlm, [row.ends + list(padding[len(row) + 1 :]) for row in rows])
    seen = (index[None, None] <= index[None, :, None]) & (index[None, :, None] < ends[:, None])
    if start:
        lengths = to_device(vlm, [len(row.prefix) for row in rows])
        prefix = torch.arange(start, device=vlm.device) < lengths[:, None]
        seen = torch.cat([prefix[:, None].expand(-1, longest, -1), seen], dim=2)
    hidden = torch.zeros(seen.shape, dtype=vlm.dtype, device=vlm.device)
    return hidden.masked_fill_(~seen, torch.finfo(vlm.dtype).min)[:, None]


def _padded(vlm: PackedModel, length: int) -> int:
    """Return a length that attention kernels take: on a GPU a multiple of 8."""
    return length if vlm.device.type == "cpu" else -(-length // 8) * 8
