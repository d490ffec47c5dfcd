"""What a folder in the original layout is: which model, in which form, and why it could not be converted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vrbench.checkpoints import locate
from vrbench.checkpoints.parameter_names import ADAPTER_CONFIG
from vrbench.conversion import names
from vrbench.conversion.lora import SourceAdapter, adapter_file, read_adapter
from vrbench.conversion.tokenizer import ConvertedTokenizer, convert_tokenizer, has_tokenizer
from vrbench.conversion.vision_tower import VisionTower, tower_of
from vrbench.conversion.weight_files import has_model, model_files, read_tensor_info
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import read_json, read_text

PROJECTOR_FILE, NON_LORA_FILE = "mm_projector.bin", "non_lora_trainables.bin"
FORMS = {"merged": "a whole model", "projector": "a projector alone", "lora": "a LoRA adapter"}
Form = Literal["merged", "projector", "lora"]


@dataclass(frozen=True)
class SourceArchitecture:
    """A model that is known.

    Attributes:
        text: the language model's type in transformers.
        end: the token that ends its answers.
        from_pieces: whether its code takes the slow tokenizer (`use_fast=False`), which is read from tokenizer.model,
            as haotian-liu/LLaVA's does; Bunny's takes tokenizer.json.
    """

    text: str
    end: str
    from_pieces: bool = False


ARCHITECTURES = {
    "llava": SourceArchitecture("llama", "</s>", from_pieces=True),
    "llava_llama": SourceArchitecture("llama", "</s>", from_pieces=True),
    "bunny-llama": SourceArchitecture("llama", "<|end_of_text|>"),
    "bunny-phi3": SourceArchitecture("phi3", "<|endoftext|>"),
}
"""By the `model_type` of the original config.json."""

EXPECTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_patch_merge_type": (None, "flat"),
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_use_im_start_end": (None, False),
    "use_s2": (None, False),
    "mm_vision_tower_aux": (None,),
    "quantization_config": (None,),
}
"""Settings of the original config.json that change the model -> the values that can be converted."""

OF_THE_LLM = ("hidden_act", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling")
"""Settings that decide what a language model computes and show in no tensor's shape."""

TOWER_TRAINED = ("unfreeze_mm_vision_tower", "unfreeze_vision_tower")
"""Settings of the original config.json that say that the vision tower's weights were trained too."""


@dataclass(frozen=True)
class SourceCheckpoint:
    """A source without faults.

    Attributes:
        id, folder: what it is called, and where it is.
        form: how it is stored.
        kind: which model it is.
        settings: its config.json.
        files: its own weight files, without the adapter's.
        base, base_id: folder and name of the language model, for a projector or an adapter.
        tower_folder: the tower's own folder, where its weights are read from there.
        tower: the tower's settings.
        words: its tokenizer.
        adapter: its adapter, if it is one.
    """

    id: str
    folder: Path
    form: Form
    kind: SourceArchitecture
    settings: dict[str, Any]
    files: tuple[Path, ...]
    base: Path | None
    base_id: str
    tower_folder: Path | None
    tower: VisionTower
    words: ConvertedTokenizer
    adapter: SourceAdapter | None


class _Faults:
    """Sentences found so far; a step that raises leaves its sentences here, and nothing else."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def attempt(self, step: Any, *given: Any) -> Any:
        try:
            return step(*given)
        except VrbenchError as error:
            self.found += error_messages(error)
            return None


def read_source(source: str, base: str | None, vision_tower: str | None) -> SourceCheckpoint:
    """The source with all that can be told before a weight is read.

    Raises:
        VrbenchError: every fault at once.
    """
    faults = _Faults()
    places = {name: faults.attempt(find, name) for name in (source, base, vision_tower) if name}
    raise_errors(faults.found)
    folder = places[source].folder
    settings, form = faults.attempt(_settings, folder), faults.attempt(_form, folder)
    raise_errors(faults.found)
    faults.found += _setting_faults(folder, settings) + _base_faults(folder, form, base)
    base_folder = places[base].folder if base else None
    files = _own_files(folder, form, faults)
    if base_folder and form != "merged":
        faults.attempt(model_files, base_folder)
        faults.found += _other_base_faults(folder, settings, base_folder)
    adapter = faults.attempt(read_adapter, folder) if form == "lora" else None
    given_tower = places[vision_tower].folder if vision_tower else None
    tower_folder, tower = _tower(folder, settings, files, given_tower, faults)
    kind = ARCHITECTURES[settings["model_type"]]
    words = _words(folder, base_folder, form, kind, faults)
    raise_errors(faults.found)
    assert tower and words  # or there would have been a fault
    return SourceCheckpoint(
        id=places[source].id, folder=folder, form=form, kind=kind, settings=settings, files=files, base=base_folder,
        base_id=places[base].id if base else "", tower_folder=tower_folder, tower=tower,
        words=words, adapter=adapter,
    )  # fmt: skip


def find(name: str, near: Path | None = None) -> locate.Source:
    """As `vrbench.checkpoints.locate.find`, with a hub's pickled files where weights may lie in these alone.

    Raises:
        VrbenchError: there is no such folder.
    """
    found = locate.find(name, near=near)
    whole = any(found.folder.glob("*.safetensors")) and not (found.folder / ADAPTER_CONFIG).is_file()
    if whole or not found.revision:
        return found
    return locate.find(name, near=near, pickles=True)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(read_text(path))
        kind = settings["model_type"]
    except FileNotFoundError as error:
        raise VrbenchError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise VrbenchError(f"{path} cannot be read: it is not JSON with a model_type") from error
    if "text_config" in settings:
        raise VrbenchError(f"{folder} is in transformers' layout already; it needs no conversion")
    if kind not in ARCHITECTURES:
        raise VrbenchError(
            f"{path} is of model_type {kind!r}; those that can be converted are {', '.join(ARCHITECTURES)}"
        )
    return dict(settings)


def _form(folder: Path) -> Form:
    """How a source is stored; it has to be one form and no other."""
    found: list[Form] = []
    if has_model(folder):
        found.append("merged")
    if (folder / ADAPTER_CONFIG).is_file():
        found.append("lora")
    if (folder / PROJECTOR_FILE).is_file():
        found.append("projector")
    if len(found) > 1:
        raise VrbenchError(f"{folder} holds {' and '.join(FORMS[f] for f in found)}; which of them is meant?")
    if not found:
        raise VrbenchError(
            f"{folder} holds no weights: neither a model (model.safetensors, pytorch_model.bin or shards with their "
            f"index) nor {PROJECTOR_FILE} nor {ADAPTER_CONFIG}"
        )
    return found[0]


def _setting_faults(folder: Path, settings: dict[str, Any]) -> list[str]:
    return [
        f"{folder / 'config.json'} has {key} {settings.get(key)!r}; what can be converted is "
        f"{' or '.join('none' if value is None else repr(value) for value in allowed)}"
        for key, allowed in EXPECTED.items()
        if settings.get(key) not in allowed
    ]


def _base_faults(folder: Path, form: Form, base: str | None) -> list[str]:
    if form == "merged" and base:
        return [f"{folder} holds a whole model; --base is for a projector or an adapter"]
    if form != "merged" and not base:
        return [f"{folder} holds {FORMS[form]}; name its language model by --base"]
    return []


def _other_base_faults(folder: Path, settings: dict[str, Any], base: Path) -> list[str]:
    """Whether a base computes otherwise than the model that the source was trained on; its config.json says so."""
    theirs = read_json(base / "config.json")
    return [
        f"{base} is another base than {folder} was trained on: its config.json has {key} {theirs[key]!r}, that of "
        f"{folder} {settings[key]!r}"
        for key in OF_THE_LLM
        if key in settings and key in theirs and settings[key] != theirs[key]
    ]


def _own_files(folder: Path, form: Form, faults: _Faults) -> tuple[Path, ...]:
    if form == "merged":
        return tuple(faults.attempt(model_files, folder) or ())
    if form == "projector":
        return (folder / PROJECTOR_FILE,)
    faults.attempt(adapter_file, folder)
    if not (folder / NON_LORA_FILE).is_file():
        faults.found.append(f"{folder} lacks {NON_LORA_FILE}, which holds the projector of a LoRA training")
        return ()
    return (folder / NON_LORA_FILE,)


def _tower(
    folder: Path, settings: dict[str, Any], files: tuple[Path, ...], given: Path | None, faults: _Faults
) -> tuple[Path | None, VisionTower | None]:
    """Where the tower's weights are read from, none for the source itself, and the tower's settings."""
    stored = [name for file in files for name in faults.attempt(read_tensor_info, file) or ()]
    if any((names.target_of(name) or "").startswith(names.TOWER) for name in names.plain(stored).values()):
        return None, faults.attempt(tower_of, settings, given)
    trained = next((key for key in TOWER_TRAINED if settings.get(key)), None)
    if trained:
        faults.found.append(
            f"{folder / 'config.json'} has {trained} {settings[trained]!r}, and {folder} holds no weights of its "
            f"vision tower; those that it was trained to are needed"
        )
        return None, None
    place = given or _named_tower(folder, str(settings.get("mm_vision_tower")), faults)
    if place is None:
        return None, None
    faults.attempt(model_files, place)
    return place, faults.attempt(tower_of, settings, place)


def _named_tower(folder: Path, name: str, faults: _Faults) -> Path | None:
    """The tower that the source's config.json names: a folder, or a hub id."""
    try:
        return find(name, near=folder).folder
    except VrbenchError as error:
        faults.found.append(
            f"{folder} holds no weights of its vision tower {name!r}, which is not to be had by this name "
            f"({'; '.join(error_messages(error))}); name its folder by --vision-tower"
        )
        return None


def _words(
    folder: Path, base: Path | None, form: Form, kind: SourceArchitecture, faults: _Faults
) -> ConvertedTokenizer | None:
    """The base's tokenizer, as the original code takes it; a whole model's own."""
    places = [place for place in (base, folder) if place]
    for place in places:
        if has_tokenizer(place):
            words: ConvertedTokenizer | None = faults.attempt(convert_tokenizer, place, kind.end, kind.from_pieces)
            return words
    if base or form == "merged":  # else the base is missing, which has been told
        where = " nor ".join(str(place) for place in places)
        faults.found.append(f"there is no tokenizer (tokenizer.json or tokenizer.model) in {where}")
    return None
