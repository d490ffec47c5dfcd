"""Converting a checkpoint: from the source's validation to the written folder, its config, and the marker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.new_folder import create_folder, require_free, write_lineage
from vrbench.conversion.shards import write_shards
from vrbench.conversion.source import FORMS, SourceCheckpoint, read_source
from vrbench.conversion.tensor_plan import TensorCopy, plan_copies
from vrbench.conversion.weight_files import model_files
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import digest_of, read_json
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models import hf_folder

if TYPE_CHECKING:
    from transformers import LlavaConfig

OLD_KEYS = ("rope_theta", "rope_scaling", "partial_rotary_factor", "head_dim")
"""Keys of older config.json files that transformers still reads."""


def convert(source: str, out: Path, base: str | None = None, vision_tower: str | None = None) -> Path:
    """Write a LLaVA-1.5 or Bunny checkpoint in transformers' `LlavaForConditionalGeneration` layout.

    Args:
        source: folder in the original layout: a merged model, a projector (`mm_projector.bin`) or a LoRA folder.
        out: the folder to make; it must not exist, or be empty. A conversion that fails leaves none.
        base: the language model's folder or hub id, for a projector or a LoRA folder.
        vision_tower: the tower's folder or hub id; needed where the source does not hold the tower's weights.

    Returns:
        The folder, with `vrbench.json` written last.

    Raises:
        VrbenchError: every error that names, shapes and settings show, before a weight is read.
    """
    require_free(out)
    found = read_source(source, base, vision_tower)
    config = target_config(found)
    copies = plan_copies(found, config)
    _require_space(out.absolute().parent, copies)
    with create_folder(out) as folder:
        write_shards(copies, found.adapter, folder)
        config.save_pretrained(folder)
        _write_processor(folder, found)
        _write_generation_config(folder, found)
        raise_errors(hf_folder.validate(folder))
        write_lineage(folder, _lineage(out.resolve().name, found, config))
    return out.resolve()


def _require_space(folder: Path, copies: list[TensorCopy]) -> None:
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(copy.size for copy in copies), shutil.disk_usage(folder).free
    if needed > free:
        raise VrbenchError(f"{folder} has {free / 1e9:.1f} GB free; the converted weights need {needed / 1e9:.1f} GB")


def target_config(source: SourceCheckpoint) -> LlavaConfig:
    """Return the config of the converted model, with the vocabulary as long as the source's.

    Raises:
        VrbenchError: the source's config.json is not one of its language model.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, SiglipVisionConfig

    tower = source.tower
    shape = {key: value for key, value in tower.config.items() if key not in ("model_type", "vision_use_head")}
    vision = CLIPVisionConfig(**shape) if tower.is_clip else SiglipVisionConfig(**shape, vision_use_head=False)
    text = _text_config(source)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=source.tokenizer.image_id,
        projector_hidden_act="gelu", vision_feature_layer=tower.layer, vision_feature_select_strategy=tower.strategy,
        image_seq_length=tower.tokens, tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = source.settings.get("torch_dtype") or source.settings.get("dtype") or "float16"
    return config


def _text_config(source: SourceCheckpoint) -> Any:
    from transformers import LlamaConfig, Phi3Config

    config_class = LlamaConfig if source.architecture.text == "llama" else Phi3Config
    defaults = config_class(**({"pad_token_id": None} if config_class is Phi3Config else {}))
    known = set(defaults.to_dict()) | set(OLD_KEYS)
    left_out = {"architectures", "model_type", "dtype", "transformers_version", "rope_parameters"}
    left_out -= {"rope_parameters"} if source.settings.get("rope_parameters") else set()
    stated = {key: value for key, value in source.settings.items() if key in known - left_out}
    try:
        config = config_class(**stated | _special_ids(source))
    except Exception as error:  # transformers' strict configs raise classes of their own
        reason = " ".join(str(error).split())
        path = source.place.folder / "config.json"
        raise VrbenchError(f"{path} describes no {source.architecture.text} language model: {reason}") from error
    if getattr(config, "sliding_window", None):
        # Phi 3 attends this far back. Bunny gives it 2,048 tokens at most, and so the window is the longest text of the
        # converted model: within it, attention is full.
        config.max_position_embeddings = min(config.max_position_embeddings, config.sliding_window)
    return config


def _special_ids(source: SourceCheckpoint) -> dict[str, Any]:
    tokenizer = source.tokenizer.tokenizer
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def _write_processor(folder: Path, source: SourceCheckpoint) -> None:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    tower, tokenizer = source.tower, source.tokenizer.tokenizer
    processor = LlavaProcessor(
        image_processor=LlavaImageProcessorPil(**tower.image_settings), tokenizer=tokenizer,
        patch_size=tower.config["patch_size"], vision_feature_select_strategy=tower.strategy, image_token="<image>",
        num_additional_image_tokens=int(tower.is_clip), chat_template=tokenizer.chat_template,
    )  # fmt: skip
    processor.save_pretrained(folder)


def _write_generation_config(folder: Path, source: SourceCheckpoint) -> None:
    """Write settings for greedy decoding that stops at the same tokens as the original."""
    ids = _special_ids(source)
    stated = read_json((source.base or source.place).folder / "generation_config.json").get("eos_token_id")
    named = [token for token in (stated if isinstance(stated, list) else [stated]) if type(token) is int]
    ends = list(dict.fromkeys([ids["eos_token_id"], *named]))
    settings = {**ids, "eos_token_id": ends if len(ends) > 1 else ends[0], "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _lineage(name: str, source: SourceCheckpoint, config: LlavaConfig) -> Lineage:
    depth = config.text_config.num_hidden_layers
    note = f"{FORMS[source.form]} in the layout of {source.settings['model_type']}"
    if source.base:
        note += f": {source.place.id}, combined with {source.base.id}"
    note += f"; vision tower {source.settings.get('mm_vision_tower')}"
    note += ", from its own folder" if source.tower_folder else ", as the source holds it"
    steps = [LineageStep(kind="converted", layers="none", depth=depth, method=source.form, note=note)]
    if source.adapter:
        tuned = LayerSet.of(source.adapter.layers, depth)
        merged = f"{source.place.id}, merged"
        steps.append(LineageStep(kind="trained", layers=str(tuned), depth=depth, method="lora", note=merged))
    llm = source.base or source.place
    base = BaseRef(id=llm.id, digest=digest_of({file.name: file_digest(file) for file in model_files(llm.folder)}))
    return Lineage(id=name, family="llava", depth=depth, base=base, steps=tuple(steps))
