"""A layered checkpoint written out as one full model, then loaded again and compared before it gets its name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.checkpoint import ADAPTER, Checkpoint
from vrbench.checkpoints.lineage import LINEAGE_FILE
from vrbench.checkpoints.new_folder import write_lineage
from vrbench.checkpoints.parameter_names import first_of
from vrbench.checkpoints.safetensors_index import read_header
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Lineage
from vrbench.models import components
from vrbench.models.load import first_folder, load_model
from vrbench.models.resolve import resolve_checkpoint
from vrbench.models.whole_folder import save_whole

NEW_TOKENS = 16
HALF_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' name of a dtype -> torch's, of those that float32 would only make larger."""

Fingerprint = tuple[dict[str, str], list[int]]
"""sha256 of each parameter, and the tokens that the model generates."""


def export_full(made: Checkpoint, folder: Path, lineage: Lineage, base: Checkpoint) -> None:
    """Turn a folder with a layered checkpoint's lineage into one with its full model.

    It is saved, loaded again from disk, and compared: layers, every weight, and one generation with the cache. The
    lineage, with those of all bases, is written last.

    Args:
        made: the layered checkpoint.
        folder: its folder, not yet under its final name.
        lineage: as it was written for the layered one.
        base: of the layered one.

    Raises:
        VrbenchError: what was loaded again differs from what was written.
    """
    dtype = exact_dtype(made)
    model = load_model(made, dtype)
    (folder / LINEAGE_FILE).unlink()
    save_whole(model, first_folder(made), folder, made.template)
    expected = _fingerprint(model)
    del model  # so that two of them are never in memory
    compare_saved(expected, folder, made.depth, dtype)
    write_lineage(folder, lineage.model_copy(update={"history": base.lineage}))


def exact_dtype(made: Checkpoint) -> torch.dtype:
    """Return the dtype that holds a checkpoint's weights without loss: that of its files, or float32 after merging."""
    dtypes: set[str] = set()
    below: Checkpoint | None = made
    while below:
        if below.has(ADAPTER):
            return torch.float32
        dtypes |= {t.dtype for file in below.path.glob("*.safetensors") for t in read_header(file).values()}
        dtypes |= {"F32" for change in below.edits if change.backbone}  # whose files may have another dtype
        below = below.base
    return HALF_DTYPES.get(dtypes.pop(), torch.float32) if len(dtypes) == 1 else torch.float32


def compare_saved(expected: Fingerprint, folder: Path, depth: int, dtype: torch.dtype) -> None:
    """Load a saved folder again and compare it with what was in memory.

    Raises:
        VrbenchError: the folder is invalid, or has other layers, other weights or another generation.
    """
    saved = resolve_checkpoint(str(folder))
    model = load_model(saved, dtype)
    layers = len(components.decoder_layers(model))
    if not layers == saved.depth == depth:
        raise VrbenchError(f"the saved model has {layers} decoder layers, its config says {saved.depth}, not {depth}")
    weights, generated = _fingerprint(model)
    other = sorted(name for name, digest in expected[0].items() if weights.get(name) != digest)
    if other:
        raise VrbenchError(f"the saved model differs from the one in memory in {first_of(other)}")
    if generated != expected[1]:
        raise VrbenchError("the saved model, loaded again, does not generate what the one in memory generates")


def _fingerprint(model: Any) -> Fingerprint:
    bits = {name: p.detach().contiguous().view(torch.uint8) for name, p in model.named_parameters()}
    return {name: hashlib.sha256(value.numpy()).hexdigest() for name, value in bits.items()}, _generated(model)


@torch.inference_mode()
def _generated(model: Any) -> list[int]:
    """Return what a model generates greedily, with its cache, after a few tokens.

    Its weights are copied first: tensors in a memory-mapped file are aligned differently than tensors in memory, which
    changes the last bits of a product.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    vocabulary = components.decoder(model).get_input_embeddings().weight.shape[0]
    prompt = torch.arange(1, 9)[None] * (vocabulary // 16) % vocabulary
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "use_cache": True}
    return [int(token) for token in model.generate(input_ids=prompt, attention_mask=prompt * 0 + 1, **settings)[0]]
