"""The mapping from tensors of source files to tensors of the converted model, complete before any is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.parameter_names import Shape, canonical_name
from vrbench.checkpoints.safetensors_index import DTYPE_BITS
from vrbench.conversion.lora import LoraPair, validate_shapes
from vrbench.conversion.source import SourceCheckpoint
from vrbench.conversion.weight_files import (
    EMBEDDING,
    HEAD,
    is_unused,
    model_files,
    read_tensor_info,
    target_name,
    validate_dtypes,
    without_peft_prefix,
)  # fmt: skip
from vrbench.core.errors import raise_errors
from vrbench.models.hf_folder import empty_model, expected_shapes

if TYPE_CHECKING:
    from transformers import LlavaConfig

VOCABULARY_MULTIPLE = 64
"""A vocabulary that has to grow does so to a multiple of this, as that of LLaVA on the hub did, for fast kernels."""


@dataclass(frozen=True)
class TensorCopy:
    """One tensor to be copied.

    Attributes:
        target: its name in the converted model.
        file, name: where it is now.
        dtype: as safetensors names it; kept.
        shape: in the converted model.
        pair: LoRA matrices that are merged into it.
        copied_row: the row that rows beyond the source's are copies of; None where there are no more rows.
    """

    target: str
    file: Path
    name: str
    dtype: str
    shape: Shape
    pair: LoraPair | None = None
    copied_row: int | None = None

    @property
    def size(self) -> int:
        """Bytes in the converted model."""
        return DTYPE_BITS[self.dtype] // 8 * math.prod(self.shape)


def plan_copies(source: SourceCheckpoint, config: LlavaConfig) -> list[TensorCopy]:
    """Return a copy for every tensor of the converted model, in the order of the files that they are read from.

    The language model's tensors are in the base, the tower's in its own folder; those that the source itself holds
    replace them. The vocabulary in `config` is enlarged for the image token.

    Raises:
        VrbenchError: all tensors that are unknown, missing or of another shape, by name.
    """
    tied = bool(config.tie_word_embeddings)
    copies: dict[str, TensorCopy] = {}
    errors: list[str] = []
    base = model_files(source.base.folder) if source.base and source.form != "merged" else []
    tower = model_files(source.tower_folder) if source.tower_folder else []
    for files, is_tower in ((base, False), (tower, True), (list(source.files), False)):
        found, part_errors = _plan_file_copies(files, is_tower, tied)
        errors += part_errors
        copies |= found
    shapes = {copy.target: copy.shape for copy in copies.values()}
    errors += _validate_shapes(source, shapes, config)
    if source.adapter:
        errors += validate_shapes(source.adapter, shapes)
    raise_errors(errors)
    pairs = source.adapter.pairs if source.adapter else {}
    merged = [replace(copy, pair=pairs.get(copy.target)) for copy in copies.values()]
    return _add_image_token_row(merged, source, config)


def _plan_file_copies(files: list[Path], is_tower: bool, tied: bool) -> tuple[dict[str, TensorCopy], list[str]]:
    """Return target name -> copy, for the files of one part; and which of their tensors cannot be used."""
    found: dict[str, TensorCopy] = {}
    errors: list[str] = []
    for file in files:
        tensors = read_tensor_info(file)
        errors += validate_dtypes(file, {n: t for n, t in tensors.items() if not is_unused(n, tower=is_tower)})
        unknown, repeated = [], []
        for name, plain in without_peft_prefix(tensors).items():
            target = target_name(plain, tower=is_tower)
            if is_unused(plain, tower=is_tower) or (tied and target == HEAD):
                continue
            if target is None:
                unknown.append(name)
            elif target in found:
                repeated.append(name)
            else:
                found[target] = TensorCopy(target, file, name, tensors[name].dtype, tensors[name].shape)
        if unknown:
            errors.append(f"{file} has tensors that are not part of this model: {', '.join(unknown)}")
        if repeated:
            errors.append(f"{file} has tensors that another file already has: {', '.join(repeated)}")
    return found, errors


def _validate_shapes(source: SourceCheckpoint, shapes: Mapping[str, Shape], config: LlavaConfig) -> list[str]:
    """Return an error for each tensor that is missing, unexpected, or of another shape in the converted model."""
    expected = expected_shapes(empty_model(config))
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {canonical_name(name): shape for name, shape in shapes.items()}
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [name for name in found if name in expected and found[name] != expected[name]]
    errors = []
    if missing:
        errors.append(f"{source.place.folder} and its base and vision tower lack {', '.join(missing)}")
    if unexpected:
        errors.append(f"{source.place.folder / 'config.json'} describes a model that has no {', '.join(unexpected)}")
    if other:
        details = "; ".join(f"{name} is {list(found[name])} where {list(expected[name])} is needed" for name in other)
        errors.append(f"shapes do not match {source.place.folder / 'config.json'}: {details}")
    return errors


def _add_image_token_row(copies: list[TensorCopy], source: SourceCheckpoint, config: LlavaConfig) -> list[TensorCopy]:
    """Return the copies with a row for the image token in the embedding, and a head of the same length.

    New rows are copies of the unknown token's row, which is never an answer, or else of the last: the new tokens are as
    unlikely as it is, and the likelihoods of other answers do not change.
    """
    rows, image_id = config.text_config.vocab_size, source.tokenizer.image_id
    if image_id < rows:
        return copies
    needed = math.ceil((image_id + 1) / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    unknown = source.tokenizer.unknown_id
    row = unknown if unknown is not None and unknown < rows else rows - 1
    config.text_config.vocab_size = needed
    return [
        replace(copy, shape=(needed, *copy.shape[1:]), copied_row=row) if copy.target in (EMBEDDING, HEAD) else copy
        for copy in copies
    ]
