"""A checkpoint in the original layout: its model, its form, and validation before the conversion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from vrbench.checkpoints.checkpoint import ADAPTER_CONFIG
from vrbench.checkpoints.locate import CheckpointSource, locate_checkpoint
from vrbench.conversion.lora import SourceAdapter, read_adapter
from vrbench.conversion.tokenizer import ConvertedTokenizer, convert_tokenizer, has_tokenizer
from vrbench.conversion.vision_tower import VisionTower, read_tower
from vrbench.conversion.weight_files import (
    TOWER_PREFIX,
    has_model,
    model_files,
    read_tensor_info,
    target_name,
    without_peft_prefix,
)  # fmt: skip
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import Json, read_json, require_json

PROJECTOR_FILE, NON_LORA_FILE = "mm_projector.bin", "non_lora_trainables.bin"
FORMS = {"merged": "a whole model", "projector": "a projector alone", "lora": "a LoRA adapter"}
Form = Literal["merged", "projector", "lora"]
T = TypeVar("T")


@dataclass(frozen=True)
class SourceArchitecture:
    """A supported model.

    Attributes:
        text: the language model's type in transformers.
        end: the token that ends its answers.
        use_sentencepiece: whether its code uses the slow tokenizer (`use_fast=False`), which reads tokenizer.model, as
            haotian-liu/LLaVA's does; Bunny's reads tokenizer.json.
    """

    text: str
    end: str
    use_sentencepiece: bool = False


ARCHITECTURES = {
    "llava": SourceArchitecture("llama", "</s>", use_sentencepiece=True),
    "llava_llama": SourceArchitecture("llama", "</s>", use_sentencepiece=True),
    "bunny-llama": SourceArchitecture("llama", "<|end_of_text|>"),
    "bunny-phi3": SourceArchitecture("phi3", "<|endoftext|>"),
}
"""By the `model_type` of the original config.json."""

SUPPORTED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": (None, "flat"),
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_use_im_start_end": (None, False),
    "use_s2": (None, False),
    "mm_vision_tower_aux": (None,),
    "quantization_config": (None,),
}
"""Settings of the original config.json that change the model -> the values that can be converted."""

LLM_SETTINGS = (
    "hidden_act", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
)  # fmt: skip
"""Settings that change what a language model computes and that no tensor's shape shows."""

TOWER_TRAINED = ("unfreeze_mm_vision_tower", "unfreeze_vision_tower")
"""Settings of the original config.json which say that the vision tower's weights were trained too."""


@dataclass(frozen=True)
class SourceCheckpoint:
    """A valid source.

    Attributes:
        place: its name and folder.
        form: how it is stored.
        architecture: which model it is.
        settings: its config.json.
        files: its own weight files, without the adapter's.
        base: the language model, for a projector or an adapter.
        tower_folder: the tower's own folder, if its weights are read from there.
        tower: the tower's settings.
        tokenizer: converted.
        adapter: its adapter, if it is one.
    """

    place: CheckpointSource
    form: Form
    architecture: SourceArchitecture
    settings: dict[str, Any]
    files: tuple[Path, ...]
    base: CheckpointSource | None
    tower_folder: Path | None
    tower: VisionTower
    tokenizer: ConvertedTokenizer
    adapter: SourceAdapter | None


class _Errors(list[str]):
    """Error messages so far."""

    def attempt(self, step: Callable[..., T], *args: Any) -> T | None:
        """Return the step's result; if it raises, keep its messages and return None."""
        try:
            return step(*args)
        except VrbenchError as error:
            self += error_messages(error)
            return None


def read_source(source: str, base: str | None, vision_tower: str | None) -> SourceCheckpoint:
    """Validate a source; return all that is known before any weights are read.

    Raises:
        VrbenchError: every error together.
    """
    errors = _Errors()
    names = (source, base, vision_tower)
    place, llm, tower_place = (errors.attempt(find_source, name) if name else None for name in names)
    raise_errors(errors)
    assert place is not None  # or there would have been an error
    folder, base_folder = place.folder, llm.folder if llm else None
    settings, form = errors.attempt(_read_settings, folder), errors.attempt(_detect_form, folder)
    raise_errors(errors)
    assert settings is not None and form is not None
    errors += _validate_settings(folder, settings) + _validate_base(folder, form, base)
    files = _source_files(folder, form, errors)
    if base_folder and form != "merged":
        errors.attempt(model_files, base_folder)
        errors += _compare_llm_settings(folder, settings, base_folder)
    adapter = errors.attempt(read_adapter, folder) if form == "lora" else None
    given_tower = tower_place.folder if tower_place else None
    tower_folder, tower = _find_tower(folder, settings, files, given_tower, errors)
    architecture = ARCHITECTURES[settings["model_type"]]
    tokenizer = _find_tokenizer(folder, base_folder, form, architecture, errors)
    raise_errors(errors)
    assert tower and tokenizer
    return SourceCheckpoint(place, form, architecture, settings, files, llm, tower_folder, tower, tokenizer, adapter)


def find_source(name: str, near: Path | None = None) -> CheckpointSource:
    """Locate a source checkpoint; pickled files are downloaded if the hub may have weights only in these.

    Raises:
        VrbenchError: there is no such folder.
    """
    found = locate_checkpoint(name, near=near)
    is_whole = any(found.folder.glob("*.safetensors")) and not (found.folder / ADAPTER_CONFIG).is_file()
    if is_whole or not found.revision:
        return found
    return locate_checkpoint(name, near=near, pickles=True)


def _read_settings(folder: Path) -> Json:
    path = folder / "config.json"
    settings = require_json(path)
    if "text_config" in settings:
        raise VrbenchError(f"{folder} is in transformers' layout already; it needs no conversion")
    model_type = settings.get("model_type")
    if model_type not in list(ARCHITECTURES):
        raise VrbenchError(f"{path} is of model_type {model_type!r}; supported are {', '.join(ARCHITECTURES)}")
    return settings


def _detect_form(folder: Path) -> Form:
    present: dict[Form, bool] = {
        "merged": has_model(folder),
        "lora": (folder / ADAPTER_CONFIG).is_file(),
        "projector": (folder / PROJECTOR_FILE).is_file(),
    }
    found = [form for form, is_present in present.items() if is_present]
    if len(found) > 1:
        raise VrbenchError(f"{folder} has {' and '.join(FORMS[f] for f in found)}; which of them is meant?")
    if not found:
        raise VrbenchError(
            f"{folder} has no weights: neither a model (model.safetensors, pytorch_model.bin or shards with their "
            f"index) nor {PROJECTOR_FILE} nor {ADAPTER_CONFIG}"
        )
    return found[0]


def _validate_settings(folder: Path, settings: dict[str, Any]) -> list[str]:
    return [
        f"{folder / 'config.json'} has {key} {settings.get(key)!r}; supported is "
        f"{' or '.join('none' if value is None else repr(value) for value in allowed)}"
        for key, allowed in SUPPORTED_SETTINGS.items()
        if settings.get(key) not in allowed
    ]


def _validate_base(folder: Path, form: Form, base: str | None) -> list[str]:
    if form == "merged" and base:
        return [f"{folder} has a whole model; --base is for a projector or an adapter"]
    if form != "merged" and not base:
        return [f"{folder} has {FORMS[form]}; name its language model by --base"]
    return []


def _compare_llm_settings(folder: Path, settings: dict[str, Any], base: Path) -> list[str]:
    given = read_json(base / "config.json")
    return [
        f"{base} is another base than {folder} was trained on: its config.json has {key} {given[key]!r}, that of "
        f"{folder} {settings[key]!r}"
        for key in LLM_SETTINGS
        if key in settings and key in given and settings[key] != given[key]
    ]


def _source_files(folder: Path, form: Form, errors: _Errors) -> tuple[Path, ...]:
    if form == "merged":
        return tuple(errors.attempt(model_files, folder) or ())
    file = folder / (PROJECTOR_FILE if form == "projector" else NON_LORA_FILE)
    if file.is_file():
        return (file,)
    errors.append(f"{folder} lacks {NON_LORA_FILE}, which holds the projector of a LoRA training")
    return ()


def _find_tower(
    folder: Path, settings: dict[str, Any], files: tuple[Path, ...], given: Path | None, errors: _Errors
) -> tuple[Path | None, VisionTower | None]:
    """Return the folder of the tower's weights (None for the source itself), and the tower's settings."""
    stored = [name for file in files for name in errors.attempt(read_tensor_info, file) or ()]
    if any((target_name(name) or "").startswith(TOWER_PREFIX) for name in without_peft_prefix(stored).values()):
        return None, errors.attempt(read_tower, settings, given)
    trained = next((key for key in TOWER_TRAINED if settings.get(key)), None)
    if trained:
        errors.append(
            f"{folder / 'config.json'} has {trained} {settings[trained]!r}, and {folder} has no weights of its "
            "vision tower; the trained ones are needed"
        )
        return None, None
    name = str(settings.get("mm_vision_tower"))
    try:
        place = given or find_source(name, near=folder).folder
    except VrbenchError as error:
        errors.append(
            f"{folder} has no weights of its vision tower {name!r}, which cannot be found by this name "
            f"({'; '.join(error_messages(error))}); name its folder by --vision-tower"
        )
        return None, None
    errors.attempt(model_files, place)
    return place, errors.attempt(read_tower, settings, place)


def _find_tokenizer(
    folder: Path, base: Path | None, form: Form, architecture: SourceArchitecture, errors: _Errors
) -> ConvertedTokenizer | None:
    """Return the base's tokenizer, as in the original code; a whole model's own."""
    places = [place for place in (base, folder) if place]
    for place in places:
        if has_tokenizer(place):
            return errors.attempt(convert_tokenizer, place, architecture.end, architecture.use_sentencepiece)
    if base or form == "merged":  # else the base is missing, which has been reported
        where = " nor ".join(str(place) for place in places)
        errors.append(f"there is no tokenizer (tokenizer.json or tokenizer.model) in {where}")
    return None
