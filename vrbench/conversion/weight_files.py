"""Published weight files, safetensors or pickled: their tensors, and the tensors' names in the converted model.

A `.bin` file is unpickled by torch's restricted reader (`weights_only=True`), which makes tensors and nothing else, and
is memory-mapped, so that a tensor's bytes are read only when they are used.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.safetensors_index import TensorInfo, read_header, read_weight_map
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    import torch

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Dtypes that weights may have: safetensors' name -> torch's."""

MODEL_FILES = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""The files of a whole model in each format: a single file, or the index of its shards."""

EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
TOWER_PREFIX = "vision_tower."

TARGET_NAMES = (
    (r"(model\.(?:embed_tokens|layers|norm)\..+)", r"language_model.\1"),
    (r"lm_head\.weight", HEAD),
    (r"(?:model\.)?mm_projector\.0\.(weight|bias)", r"multi_modal_projector.linear_1.\1"),
    (r"(?:model\.)?mm_projector\.2\.(weight|bias)", r"multi_modal_projector.linear_2.\1"),
    (r"model\.vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(.+)", r"vision_tower.vision_model.\1"),
)
"""Pattern of a name in LLaVA's and Bunny's own files -> its name in files of `LlavaForConditionalGeneration`."""

TOWER_TARGET_NAMES = (
    (r"(?:vision_model\.)?((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..+)", r"vision_tower.vision_model.\1"),
)
"""The same for a CLIP or SigLIP folder, with or without its text half."""

UNUSED = (
    r".*\.rotary_emb\.inv_freq",  # a buffer of old files, computed from the config
    r".*\bembeddings\.position_ids",  # 0, 1, 2, ...
    r".*\bvision_model\.head\..+",  # SigLIP's pooling head; the features are a hidden state before it
)
"""Patterns of tensors that do not change any answer and are left out."""

UNUSED_IN_TOWER = (r"text_model\..+", r"logit_scale", r"logit_bias", r"text_projection\.weight",
                   r"visual_projection\.weight", r"head\..+")  # fmt: skip
"""The halves of CLIP and SigLIP that read text or compare it with images."""


def is_unused(name: str, *, tower: bool = False) -> bool:
    """Return whether a tensor is known not to change any answer."""
    patterns = UNUSED + UNUSED_IN_TOWER if tower else UNUSED
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def target_name(name: str, *, tower: bool = False) -> str | None:
    """Return a tensor's name in the converted model; None for an unknown name.

    Args:
        name: without PEFT's prefixes.
        tower: whether the file is a published tower's.
    """
    for pattern, to in TOWER_TARGET_NAMES if tower else TARGET_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, to, name)
    return None


def without_peft_prefix(names: Iterable[str]) -> dict[str, str]:
    """Return name as stored -> the same without the prefixes that PEFT leaves in `non_lora_trainables.bin`."""
    short = {name: name.removeprefix("base_model.") for name in names}
    if any(value.startswith("model.model.") for value in short.values()):
        short = {name: value.removeprefix("model.") for name, value in short.items()}
    return short


def model_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder with a whole model, none missing.

    Raises:
        VrbenchError: none, both formats, an index that cannot be read, or a missing shard.
    """
    found = [names for names in MODEL_FILES if any((folder / name).is_file() for name in names)]
    if not found:
        raise VrbenchError(f"{folder} has no weights: none of {', '.join(sum(MODEL_FILES, ()))}")
    if len(found) > 1:
        raise VrbenchError(f"{folder} has its weights twice, as safetensors and as .bin; remove one of them")
    single, index = found[0]
    names = [single] if (folder / single).is_file() else sorted(set(read_weight_map(folder / index).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise VrbenchError(f"{folder} lacks {', '.join(missing)}, which {index} names")
    return [folder / name for name in names]


def has_model(folder: Path) -> bool:
    """Return whether a folder has a whole model's weights, or at least their index."""
    return any((folder / name).is_file() for names in MODEL_FILES for name in names)


def read_tensor_info(file: Path) -> dict[str, TensorInfo]:
    """Return name -> dtype and shape of all tensors of a weight file; no weight is read.

    Raises:
        VrbenchError: it is missing, broken, or holds anything but tensors.
    """
    if not file.is_file():
        raise VrbenchError(f"{file} is missing")
    if file.suffix == ".safetensors":
        return read_header(file)
    names = {f"torch.{torch_name}": name for name, torch_name in DTYPES.items()}
    return {
        key: TensorInfo(names.get(str(value.dtype), str(value.dtype).removeprefix("torch.")), tuple(value.shape))
        for key, value in _unpickle(file).items()
    }


def validate_dtypes(file: Path, tensors: dict[str, TensorInfo]) -> list[str]:
    """Return one message that names all tensors which are not plain weights (quantised, float8, integers), if any."""
    unsupported = [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    return [f"{file} has tensors other than {', '.join(DTYPES)}: {', '.join(unsupported)}"] if unsupported else []


@contextmanager
def open_tensors(file: Path) -> Iterator[Callable[[str], torch.Tensor]]:
    """Open a file; yields a function that returns a tensor by name, valid until the file is closed."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="pt") as reader:
            yield reader.get_tensor
    else:
        yield _unpickle(file).__getitem__


def _unpickle(file: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise VrbenchError(f"{file} is refused: it holds more than tensors, and reading it could run code") from error
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        os_errors.reraise_os_error(error)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VrbenchError(f"{file} cannot be read as weights saved by PyTorch 1.6 or later: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise VrbenchError(f"{file} is not a table of tensors by name")
    return {str(name): value.detach() for name, value in found.items()}
