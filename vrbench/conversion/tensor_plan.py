"""What becomes of each tensor: every one of the source is used or known to be harmless, and the target is filled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.parameter_names import Shape, canonical
from vrbench.checkpoints.safetensors_index import DTYPE_BITS
from vrbench.conversion import names
from vrbench.conversion.lora import LoraPair, shape_faults
from vrbench.conversion.source import SourceCheckpoint
from vrbench.conversion.target import rows_needed
from vrbench.conversion.weight_files import model_files, read_tensor_info, validate_dtypes
from vrbench.core.errors import raise_errors
from vrbench.models.hf_folder import expected_shapes

if TYPE_CHECKING:
    from transformers import LlavaConfig


@dataclass(frozen=True)
class TensorCopy:
    """One tensor on its way.

    Attributes:
        target: its name in the target.
        file, name: where it is now.
        dtype: as safetensors names it; kept.
        shape: in the target.
        pair: LoRA matrices that are merged into it.
        copied_row: the row that rows beyond the source's are copies of; none where it has no more rows.
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
        """Bytes in the target."""
        count = DTYPE_BITS[self.dtype] // 8
        for length in self.shape:
            count *= length
        return count


def plan_copies(original: SourceCheckpoint, config: LlavaConfig) -> list[TensorCopy]:
    """Every tensor of the target, in the order of the files that they are read from.

    The language model's come from the base, the tower's from its own folder; what the source itself holds of either
    takes their place. `config` is given room for the image token.

    Raises:
        VrbenchError: all tensors that are foreign, missing or of another shape, by name.
    """
    tied = bool(config.tie_word_embeddings)
    chosen: dict[str, TensorCopy] = {}
    faults: list[str] = []
    base = model_files(original.base) if original.base and original.form != "merged" else []
    tower = model_files(original.tower_folder) if original.tower_folder else []
    for files, is_tower in ((base, False), (tower, True), (list(original.files), False)):
        found, part_faults = _moves(files, is_tower, tied)
        faults += part_faults
        chosen |= found
    shapes = {move.target: move.shape for move in chosen.values()}
    faults += _difference(original, shapes, config)
    if original.adapter:
        faults += shape_faults(original.adapter, shapes)
    raise_errors(faults)
    pairs = original.adapter.pairs if original.adapter else {}
    moves = [replace(move, pair=pairs.get(move.target)) for move in chosen.values()]
    return _with_image_row(moves, original, config)


def _moves(files: list[Path], is_tower: bool, tied: bool) -> tuple[dict[str, TensorCopy], list[str]]:
    """Target name -> move, for the files of one part; and why not all of their tensors can be used."""
    found: dict[str, TensorCopy] = {}
    faults: list[str] = []
    for file in files:
        tensors = read_tensor_info(file)
        faults += validate_dtypes(file, {n: t for n, t in tensors.items() if not names.is_harmless(n, tower=is_tower)})
        foreign, twice = [], []
        for name, plain in names.plain(tensors).items():
            target = names.target_of(plain, tower=is_tower)
            if names.is_harmless(plain, tower=is_tower) or (tied and target == names.HEAD):
                continue
            if target is None:
                foreign.append(name)
            elif target in found:
                twice.append(name)
            else:
                found[target] = TensorCopy(target, file, name, tensors[name].dtype, tensors[name].shape)
        if foreign:
            faults.append(f"{file} holds what no part of this model is: {', '.join(foreign)}")
        if twice:
            faults.append(f"{file} holds again what was there already: {', '.join(twice)}")
    return found, faults


def _difference(original: SourceCheckpoint, shapes: Mapping[str, Shape], config: LlavaConfig) -> list[str]:
    """All that is missing, too much, or of another shape in the target."""
    expected = expected_shapes(config)
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    found = {canonical(name): shape for name, shape in shapes.items()}
    missing = [name for name in expected if name not in found]
    foreign = [name for name in found if name not in expected]
    other = [name for name in found if name in expected and found[name] != expected[name]]
    faults = []
    if missing:
        faults.append(f"{original.folder} and what it is put on leave the model without {', '.join(missing)}")
    if foreign:
        faults.append(f"{original.folder / 'config.json'} describes a model that has no {', '.join(foreign)}")
    if other:
        told = "; ".join(f"{name} is {list(found[name])} where {list(expected[name])} is needed" for name in other)
        faults.append(f"shapes do not fit {original.folder / 'config.json'}: {told}")
    return faults


def _with_image_row(moves: list[TensorCopy], original: SourceCheckpoint, config: LlavaConfig) -> list[TensorCopy]:
    """The moves, with an embedding that has a row for the image token, and a head of the same length.

    The new rows are copies of the row of the unknown token, which is never an answer, or else of the last: then the
    new tokens are as unlikely as it is, and the other answers' likelihoods stay what they were.
    """
    rows = config.text_config.vocab_size
    needed = rows_needed(rows, original.words.image_id)
    if needed == rows:
        return moves
    unknown = original.words.unknown_id
    row = unknown if unknown is not None and unknown < rows else rows - 1
    config.text_config.vocab_size = needed
    return [
        replace(move, shape=(needed, *move.shape[1:]), copied_row=row)
        if move.target in (names.EMBEDDING, names.HEAD)
        else move
        for move in moves
    ]
