"""Encoded samples as one batch, and the loss on their answers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100
"""Label of a token that the model has not to say."""

PICTURES_OF_SAMPLE = "aspect_ratio_ids"
"""Mllama's: what kind each of a sample's pictures is, 0 for none."""

ROW_A_SAMPLE = ("pixel_attention_mask", PICTURES_OF_SAMPLE)
"""Inputs that tell that pixels have a row for each sample (Idefics3, Mllama), and not for each picture."""


def joined(rows: Sequence[Mapping[str, Tensor]], by_token: Collection[str]) -> dict[str, Tensor]:
    """One batch of single samples' inputs.

    What belongs to tokens is padded on the right, labels with IGNORED. Pixels are padded to the largest where they have
    several sizes, and put one behind the other; where they have a row for each sample, a sample without pictures gets
    an empty one.

    Args:
        rows: inputs of one sample each, with a first dimension of 1 or of its pictures.
        by_token: names of the inputs whose second dimension is the tokens.
    """
    batch = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        like = next(row[name] for row in rows if name in row)
        empty = like.new_zeros(1, *like.shape[1:])
        every = name in by_token or any(kind in row for row in rows for kind in ROW_A_SAMPLE)
        tensors = [row[name] if name in row else empty for row in rows if every or name in row]
        sizes = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        if name in by_token:
            sizes[0] = max(row["input_ids"].shape[1] for row in rows)
        batch[name] = torch.cat([_filled(t, sizes, IGNORED if name == "labels" else 0) for t in tensors])
    return batch


def _filled(tensor: Tensor, sizes: Sequence[int], fill: int) -> Tensor:
    """A tensor with every dimension but the first brought to a size."""
    if list(tensor.shape[1:]) == list(sizes):
        return tensor
    whole = tensor.new_full((len(tensor), *sizes), fill)
    whole[tuple(slice(0, side) for side in tensor.shape)] = tensor
    return whole


def answer_loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the answers' tokens, in nats: `model(**batch).loss`, for Mllama of each part of `alike`."""
    return answer_sum(model, batch) / max(1, answer_tokens(batch))


def answer_sum(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of the answers' tokens, in nats, summed.

    Logits are computed where a sample of the batch has an answer and nowhere else: at a vocabulary of 128,000, those of
    all tokens are most of the memory of a step.

    Args:
        model: takes `logits_to_keep`, as transformers' models do.
        batch: of `Supervised.collate`, on the model's device; what is no tensor is left alone.
    """
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    return torch.stack([_sum(model, part) for part in alike(tensors)]).sum()


def _sum(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    targets = batch["labels"][:, 1:]
    places = (targets != IGNORED).any(0).nonzero()[:, 0]
    logits = model(**inputs, use_cache=False, logits_to_keep=places).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets[:, places].flatten(), reduction="sum")


def alike(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parts of a batch that can share a pass: Mllama's samples with the same number of pictures; else all.

    transformers lets Mllama's tokens that belong to no picture look at all pictures alike, at those of padding too, so
    that a sample would not be what it is alone.
    """
    if PICTURES_OF_SAMPLE not in batch:
        return [dict(batch)]
    shown = (batch[PICTURES_OF_SAMPLE] > 0).sum(1)
    parts = []
    for number in shown.unique().tolist():
        part = {name: tensor[shown == number] for name, tensor in batch.items()}
        for name in ("pixel_values", PICTURES_OF_SAMPLE, "aspect_ratio_mask"):
            part[name] = part[name][:, :number]
        part["cross_attention_mask"] = part["cross_attention_mask"][:, :, :number]
        words = ("input_ids", "attention_mask", "labels")
        parts.append(part if number else {name: part[name] for name in words})
    return parts


def answer_tokens(batch: Mapping[str, Tensor]) -> int:
    """Tokens that carry loss in a batch."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())
