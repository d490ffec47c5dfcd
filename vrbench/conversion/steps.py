"""One conversion from beginning to end: judge, write beside the goal, mark, and move into place."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.checkpoints.lineage import MARKER
from vrbench.conversion.shards import write_shards
from vrbench.conversion.source import FORMS, SourceCheckpoint, read_source
from vrbench.conversion.target import target_config
from vrbench.conversion.tensor_plan import TensorCopy, plan_copies
from vrbench.conversion.weight_files import model_files
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import digest_of, read_json, validate_output, write_atomically
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models import hf_folder

if TYPE_CHECKING:
    from transformers import LlavaConfig


def run(source: str, out: Path, base: str | None, vision_tower: str | None) -> Path:
    """See `vrbench.conversion.convert`."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VrbenchError(f"{out} is there already and not empty; name another folder, or remove it")
    raise_errors(validate_output(out, "checkpoint"))
    original = read_source(source, base, vision_tower)
    config = target_config(original)
    moves = plan_copies(original, config)
    out = out.resolve()  # what a link leads to can be replaced, the link cannot
    out.parent.mkdir(parents=True, exist_ok=True)
    _require_room(out.parent, moves)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.part-"))
    try:
        _fill(part, out.name, original, config, moves)
        os.chmod(part, 0o755)
        if out.exists():
            out.rmdir()  # it was empty
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _require_room(folder: Path, moves: list[TensorCopy]) -> None:
    needed, free = sum(move.size for move in moves), shutil.disk_usage(folder).free
    if needed > free:
        raise VrbenchError(f"{folder} has {free / 1e9:.1f} GB free; the converted weights take {needed / 1e9:.1f} GB")


def _fill(folder: Path, name: str, original: SourceCheckpoint, config: LlavaConfig, moves: list[TensorCopy]) -> None:
    """Weights first, the marker last."""
    weights = write_shards(moves, original.adapter, folder)
    config.save_pretrained(folder)
    _write_processor(folder, original)
    _write_generation(folder, original)
    raise_errors(hf_folder.validate(folder))  # what was written, judged by what will read it
    lineage = _lineage(name, original, config, weights)
    write_atomically(folder / MARKER, lineage.model_dump_json(indent=1) + "\n")


def _write_processor(folder: Path, original: SourceCheckpoint) -> None:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tower, tokenizer = original.tower, original.words.tokenizer
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(**tower.pictures), tokenizer=tokenizer,
        patch_size=tower.config["patch_size"], vision_feature_select_strategy=tower.strategy, image_token="<image>",
        num_additional_image_tokens=int(tower.is_clip), chat_template=tokenizer.chat_template,
    )  # fmt: skip
    processor.save_pretrained(folder)


def _write_generation(folder: Path, original: SourceCheckpoint) -> None:
    """Greedy decoding, which ends where the original's does: at its end token, and at all that its settings name."""
    tokenizer = original.words.tokenizer
    stated = read_json((original.base or original.folder) / "generation_config.json").get("eos_token_id")
    named = [token for token in (stated if isinstance(stated, list) else [stated]) if type(token) is int]
    ends = list(dict.fromkeys([tokenizer.eos_token_id, *named]))
    settings = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": ends if len(ends) > 1 else ends[0],
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
    }
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _lineage(name: str, original: SourceCheckpoint, config: LlavaConfig, weights: dict[str, str]) -> Lineage:
    depth = config.text_config.num_hidden_layers
    made_from = original.base if original.base else original.folder
    note = f"{FORMS[original.form]} in the layout of {original.settings['model_type']}"
    if original.base:
        note += f": {original.id}, put on {original.base_id}"
    note += f"; vision tower {original.settings.get('mm_vision_tower')}"
    note += ", from its own folder" if original.tower_folder else ", as the source holds it"
    steps = [LineageStep(kind="converted", layers="none", depth=depth, method=original.form, note=note)]
    if original.adapter:
        tuned = LayerSet.of(original.adapter.layers, depth)
        steps.append(
            LineageStep(kind="trained", layers=str(tuned), depth=depth, method="lora", note=f"{original.id}, merged")
        )
    digest = digest_of({file.name: file_digest(file) for file in model_files(made_from)})
    base = BaseRef(id=original.base_id or original.id, digest=digest)
    return Lineage(id=name, family="llava", depth=depth, base=base, steps=tuple(steps), weights=weights)
