"""Conversations as training data: the encoded samples, their order, batches of them, and the loss on the answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from vrbench.core.cpu_count import usable_cores
from vrbench.core.errors import VrbenchError
from vrbench.models.processors import UnsupportedImageError
from vrbench.training.conversation_encoder import PER_TOKEN, ConversationEncoder
from vrbench.training.conversation_sets import ConversationSet, select_share
from vrbench.training.conversations import Conversation
from vrbench.training.packed_attention import set_lengths
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.token_loss import summed_cross_entropy, token_loss
from vrbench.training.trainable import unwrap_peft
from vrbench.training.trainer import IGNORED, TrainingData, shuffled_passes

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

_log = logging.getLogger(__name__)

WORKERS = 8
"""Processes that encode samples for a GPU."""

IMAGES_OF_SAMPLE = "aspect_ratio_ids"
"""Mllama's input with the kind of each of a sample's images, 0 for none."""

LOGIT_SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings of decoders whose logits are more than a linear of the hidden states (Gemma 2)."""

ROW_PER_SAMPLE = ("pixel_attention_mask", IMAGES_OF_SAMPLE)
"""Inputs of families whose pixels have a row for each sample (Idefics3, Mllama), not for each image."""


def conversation_data(recipe: TrainRecipe, found: ConversationSet, vlm: BaseVLM) -> TrainingData:
    """Return a recipe's share of the conversations that it names, encoded for the model's family, as training data.

    Raises:
        VrbenchError: the chat template cannot be used for training, no sample fits into the maximum of tokens, or FSDP
            is to shard an Mllama whose samples have different numbers of images, which it computes one after another.
    """
    settings, tune = recipe.data, recipe.tune
    assert not isinstance(settings, GeneratedScenes) and tune is not None
    encoder = ConversationEncoder(vlm, settings.length, settings.pad_square, settings.style, settings.label_newline)
    data = EncodedConversations(select_share(found.samples, settings, recipe.seed), encoder)
    numbers = sorted({len(sample.images) for sample in data.samples})
    if encoder.family == "mllama" and len(numbers) > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise VrbenchError(
            f"FSDP cannot shard a model of family mllama with samples of {numbers} images: its processes would wait "
            f"for each other; use DDP, or data whose samples have the same number of images"
        )
    steps = tune.steps_for(len(data))
    order = data.order(tune.batch, steps, recipe.seed, settings.grouping, tune.micro_batch)
    workers = min(WORKERS, usable_cores()) if vlm.device.type == "cuda" else 0
    workers = workers if settings.workers is None else settings.workers
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else each process warns of it
    if data.too_long:
        _log.warning("vrbench: %d samples have no answer within %d tokens", data.too_long, settings.length)
    if data.refused:
        _log.warning("vrbench: %d samples are skipped, such as %s", len(data.refused), data.refused[0])
    more = {"longer than data.length": data.too_long, "image refused": len(data.refused)}
    skipped = {**found.skipped, **{reason: number for reason, number in more.items() if number}}
    return TrainingData(
        data, data.packed if tune.packing else data.collate, answer_loss, order, settings.length,
        measure=lambda: {"samples": len(data), "of": found.total, "left_out": skipped}, workers=workers,
        has_unused_parameters=not all(sample.shows_images for sample in data.samples),
    )  # fmt: skip


class EncodedConversations(Dataset[dict[str, Tensor]]):
    """Conversations, encoded when they are requested.

    Attributes:
        samples: those with a token of an answer within the maximum.
        too_long: how many were left out since none is.
        refused: messages for those that were left out since the family's image processor refuses an image.
    """

    def __init__(self, samples: Sequence[Conversation], encoder: ConversationEncoder) -> None:
        """Find the samples that fit; raises `VrbenchError` if none does."""
        self.encoder = encoder
        candidates = [part for sample in samples for part in encoder.split(sample)]
        self.samples: list[Conversation] = []
        self.refused: list[str] = []
        for sample in candidates:
            try:
                self.samples += [sample] if encoder.fits(sample) else []
            except UnsupportedImageError as error:
                self.refused.append(f"{sample.location}: {error}")
        self.too_long = len(candidates) - len(self.samples) - len(self.refused)
        if not self.samples:
            refused = f" ({len(self.refused)} images are refused; {self.refused[0]})" if self.refused else ""
            raise VrbenchError(
                f"none of {len(candidates)} samples has an answer within {encoder.max_tokens} tokens; raise "
                f"data.length{refused}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Return inputs and labels; raises `VrbenchError` if an image cannot be opened any more, or is refused."""
        sample = self.samples[number]
        try:
            inputs = self.encoder.encode(sample)
        except UnsupportedImageError as error:  # of a later turn; those of the first were checked
            raise VrbenchError(f"{sample.location}: {error}; remove it from the data set") from error
        if inputs is None:
            raise VrbenchError(f"{sample.location}: no token of an answer is within {self.encoder.max_tokens} tokens")
        return inputs

    @staticmethod
    def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return a batch; "items" is how many tokens of each sample have a label, "tokens" how many there are."""
        batch = collate(samples)
        return {**batch, "items": count_answer_tokens(batch), "tokens": int(batch["attention_mask"].sum())}

    @staticmethod
    def packed(samples: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        """Return the same as `collate`, with the samples behind each other in one row, without padding."""
        items = [sum(count_answer_tokens(sample)) for sample in samples]
        lengths = [sample["input_ids"].shape[1] for sample in samples]
        return {**pack(samples), "items": items, "tokens": sum(lengths), "lengths": lengths}

    def order(
        self, batch: int, steps: int, seed: int, grouping: str = "modality", micro_batch: int | None = None
    ) -> NDArray[np.int64]:
        """Return the indices of all steps' samples: shuffled passes (grouping "none"), or those of `grouped_order`."""
        if grouping == "none":
            return shuffled_passes(steps * batch, len(self), (seed,))
        kinds = np.array([len(sample.images) for sample in self.samples])
        if self.encoder.family != "mllama":  # which needs the same number of images in all samples of a pass
            kinds = np.minimum(kinds, 1)
        lengths = np.array([sample.words for sample in self.samples])
        return grouped_order(kinds, lengths, batch, steps, seed, micro_batch)


def grouped_order(
    kinds: NDArray[np.int64],
    lengths: NDArray[np.int64],
    batch: int,
    steps: int,
    seed: int,
    micro_batch: int | None = None,
) -> NDArray[np.int64]:
    """Return an order in which the samples of a step are of one kind, sorted by length.

    So all devices have images in a step or none has, and there is little padding. Each sample comes once before any
    comes twice; the rests of the kinds make mixed steps at the end. With micro-batches it is LLaVA's
    group_by_modality_length (haotian-liu/LLaVA, llava/train/llava_trainer.py), but for the place of the mixed steps:
    micro-batches of a step have about the same length in total.

    Args:
        kinds: [samples]; samples of one kind may share a step.
        lengths: [samples] in any unit.
        micro_batch: samples of a micro-batch, if the loss is averaged over these.

    Returns:
        [steps * batch] indices of samples.
    """
    rng = np.random.default_rng(seed)
    waiting = {int(kind): np.array([], dtype=np.int64) for kind in np.unique(kinds)}
    made: list[NDArray[np.int64]] = []
    while len(made) < steps:
        shuffled = rng.permutation(len(kinds))
        found: list[NDArray[np.int64]] = []
        for kind, rest in waiting.items():
            pool = np.concatenate([rest, shuffled[kinds[shuffled] == kind]])
            whole = len(pool) // batch * batch
            found += np.split(pool[:whole], whole // batch) if whole else []
            waiting[kind] = pool[whole:]
        rng.shuffle(found)
        missing = steps - len(made) - len(found)
        rests = np.concatenate(list(waiting.values()))
        if 0 < missing <= len(rests) // batch + 1:
            fill = rng.choice(len(kinds), max(0, missing * batch - len(rests)))
            found += np.split(np.concatenate([rests, fill])[: missing * batch], missing)
        made += found[: steps - len(made)]
    longest_first = [part[np.argsort(-lengths[part], kind="stable")] for part in made]
    return np.concatenate([_balanced(part, lengths, micro_batch) if micro_batch else part for part in longest_first])


def _balanced(longest_first: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return samples in micro-batches: one after the other goes to that of the smallest total that is not full."""
    parts: list[list[int]] = [[] for _ in range(len(longest_first) // size)]
    totals = np.zeros(len(parts))
    for index in longest_first:
        smallest = int(totals.argmin())
        parts[smallest].append(index)
        totals[smallest] = np.inf if len(parts[smallest]) == size else totals[smallest] + lengths[index]
    return np.concatenate(parts)


def collate(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return one batch of encoded samples; those with and without images may be mixed.

    What belongs to tokens is padded on the right, labels with IGNORED. Pixels of several sizes are padded to the
    largest and concatenated; where they have a row for each sample, a sample without images gets an empty one.
    """
    batch = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        like = next(sample[name] for sample in samples if name in sample)
        empty = like.new_zeros(1, *like.shape[1:])
        all_samples = name in PER_TOKEN or any(kind in sample for sample in samples for kind in ROW_PER_SAMPLE)
        tensors = [sample.get(name, empty) for sample in samples if all_samples or name in sample]
        sizes = [max(sides) for sides in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
        if name in PER_TOKEN:
            sizes[0] = max(sample["input_ids"].shape[1] for sample in samples)
        batch[name] = torch.cat([_padded(tensor, sizes, IGNORED if name == "labels" else 0) for tensor in tensors])
    return batch


def pack(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return one row of encoded samples, [1, all tokens], which compute what each would alone.

    Positions begin at 0 in each sample, and there is no attention mask: where positions begin anew, transformers
    lets no token attend to what is before (by a mask with SDPA, unless `use_packed_attention` was called; by lengths
    with FlashAttention).

    Returns:
        the model's inputs and labels, and "sample" [1, all tokens], the number of each token's sample.
    """
    lengths = [sample["input_ids"].shape[1] for sample in samples]
    batch = collate([{name: value for name, value in sample.items() if name not in PER_TOKEN} for sample in samples])
    for name in dict.fromkeys(name for sample in samples for name in sample if name in PER_TOKEN):
        absent = [torch.zeros_like(sample["input_ids"]) for sample in samples]
        batch[name] = torch.cat([sample.get(name, zero) for sample, zero in zip(samples, absent, strict=True)], dim=1)
    del batch["attention_mask"]
    batch["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    batch["sample"] = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    batch["labels"] = batch["labels"].masked_fill(batch["position_ids"] == 0, IGNORED)  # nothing before them
    return batch


def _padded(tensor: Tensor, sizes: Sequence[int], fill: int) -> Tensor:
    missing = [size - side for size, side in zip(sizes, tensor.shape[1:], strict=True)]
    return nn.functional.pad(tensor, [end for side in reversed(missing) for end in (0, side)], value=fill)


def answer_loss(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Return the cross-entropy of the answers' tokens, in nats, summed, with the weights [samples] of a batch if any.

    Logits are computed only for these tokens, see `token_loss`: with a vocabulary of 128,000, the logits of all tokens
    would be most of a step's memory.
    """
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    set_lengths(batch.get("lengths", ()))
    return torch.stack([_loss(model, part) for part in split_batch(tensors)]).sum()


def _loss(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "weights", "sample")}
    targets = batch["labels"][:, 1:]
    positions = (targets != IGNORED).any(0).nonzero()[:, 0]
    targets = targets[:, positions]
    labelled = targets != IGNORED
    weights = None
    if "weights" in batch:
        of_sample = batch["sample"][:, 1:][:, positions] if "sample" in batch else _row_numbers(targets)
        weights = batch["weights"][of_sample[labelled]]
    inner = unwrap_peft(model)
    if any(getattr(inner.config.get_text_config(), name, None) not in (None, 1) for name in LOGIT_SCALES):
        logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
        return summed_cross_entropy(logits[labelled], targets[labelled], weights)
    head = inner.get_output_embeddings()
    with _states_for_logits(head):
        states = model(**inputs, use_cache=False, logits_to_keep=positions).logits
    return token_loss(states[labelled], targets[labelled], head, weights)


def _row_numbers(tokens: Tensor) -> Tensor:
    """Return the number of each token's row, [rows, tokens]."""
    return torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)


@contextmanager
def _states_for_logits(head: Any) -> Iterator[None]:
    """Let a model's LM head return its input: the last hidden states in place of the logits."""
    head.forward = lambda states: states
    try:
        yield
    finally:
        del head.forward


def split_batch(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return the parts of a batch that can share a pass: Mllama's samples with the same number of images; else all.

    In transformers' Mllama, tokens that belong to no image attend to all images alike, padding included, so that a
    sample's result would depend on its batch.
    """
    if IMAGES_OF_SAMPLE not in batch:
        return [dict(batch)]
    counts = (batch[IMAGES_OF_SAMPLE] > 0).sum(1)
    parts = []
    for number in counts.unique().tolist():
        part = {name: tensor[counts == number] for name, tensor in batch.items()}
        for name in ("pixel_values", IMAGES_OF_SAMPLE, "aspect_ratio_mask"):
            part[name] = part[name][:, :number]
        part["cross_attention_mask"] = part["cross_attention_mask"][:, :, :number]
        of_images = ("pixel_values", IMAGES_OF_SAMPLE, "aspect_ratio_mask", "cross_attention_mask")
        parts.append(part if number else {name: part[name] for name in part if name not in of_images})
    return parts


def count_answer_tokens(batch: Mapping[str, Tensor]) -> list[int]:
    """Return the number of tokens of each sample of a batch that have a label."""
    return [int(count) for count in (batch["labels"][:, 1:] != IGNORED).sum(1)]
