"""What `vrbench inspect` reports of a checkpoint: a record, and the same as text; no weights are loaded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import yaml
from pydantic import Field

from vrbench.checkpoints import image_settings, locate
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.diff import BaseDiff, diff_checkpoints
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.parameter_names import format_layers
from vrbench.checkpoints.random_shapes import RANDOM_WEIGHTS
from vrbench.checkpoints.resolve import Resolver
from vrbench.checkpoints.tensor_index import AdapterRanks, TensorIndex, index_tensors
from vrbench.checkpoints.validation import unused_weights
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json, read_text
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, BaseRef, Lineage, LineageStep, Record

WIDTH = 110


class CheckpointInfo(Record):
    """Facts about one checkpoint that are known without loading it."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    id: str = Field(description="The name that the user gave, or a folder's name.")
    folder: str = Field(description="Where it is stored.")
    revision: str = Field(default="", description="Hub revision, if it came from a hub.")
    digest: str = Field(description="sha256 over everything that determines its answers.")
    family: str = Field(description="Model family.")
    depth: int = Field(description="Decoder layers of the loaded model.")
    parameters: dict[str, int] = Field(description="LLM, projector, vision tower, total; adapters count as merged.")
    adapter_parameters: int = Field(default=0, description="Of all adapters that are merged when it is loaded.")
    dtypes: dict[str, int] = Field(description="How weights are stored -> number of values.")
    ranks: tuple[AdapterRanks, ...] = Field(default=(), description="Ranks of the adapters.")
    against: BaseDiff | None = Field(default=None, description="What differs from its base; none for a whole model.")
    lineage: tuple[Lineage, ...] = Field(default=(), description="Its own first, then its bases'.")
    licence: str = Field(default="", description="As the lineage or the model card states it; empty if neither does.")
    note: str = Field(default="", description="What a reader must know, such as files that are not read.")
    images: tuple[str, ...] = Field(default=(), description="What is not shown as its files say, or cropped.")
    code: dict[str, str] = Field(default={}, description="Python file of its own, run when it is loaded -> its sha256.")


def describe(name: str, base: str | None, resolver: Resolver) -> CheckpointInfo:
    """Describe a checkpoint, and its differences from its base.

    Args:
        name: "pocket/full", a folder, a hub id, or a language model's folder.
        base: what it is compared with; by default what it was made from, if that is recorded and available.
        resolver: accepts any model.

    Raises:
        VrbenchError: with every error of the checkpoint or of a base that was named.
    """
    found, named = resolver.checkpoint(name), resolver.checkpoint(base) if base else None
    own = index_tensors(found)
    has_images = found.family in FAMILIES or bool(found.root.code)
    return CheckpointInfo(
        id=found.id, folder=str(found.path), revision=found.revision, digest=found.digest, family=found.family,
        depth=found.depth, parameters=own.parameters(), dtypes=own.dtypes(), lineage=_named_lineage(found),
        adapter_parameters=own.adapter_parameters, ranks=tuple(own.ranks),
        against=_diff(found, own, named, resolver), licence=_licence(found), note=_note(found), code=found.code,
        images=tuple(image_settings.notes_with_options(found)) if has_images else (),
    )  # fmt: skip


def _named_lineage(found: Checkpoint) -> tuple[Lineage, ...]:
    """Return the lineage under the names by which its checkpoints were found; a recipe may have given others."""
    here: Checkpoint | None = found
    lines = []
    for line in found.lineage:
        lines.append(line.model_copy(update={"id": here.id}) if here else line)
        here = here.base if here else None
    return tuple(lines)


def _diff(found: Checkpoint, own: TensorIndex, named: Checkpoint | None, resolver: Resolver) -> BaseDiff | None:
    """Compare with the base that was named, else with the one below, else with the recorded one if it is available."""
    base, why = (named or found.base), ""
    recorded = found.lineage[0].base if found.lineage else None
    if base is None and recorded:
        try:
            base = replace(resolver, offline=True, trusted=False).checkpoint(recorded.id, near=found.path)
        except VrbenchError as error:
            why = f"the base is not available ({str(error).splitlines()[0]})"
        if base and recorded.digest and base.digest != recorded.digest:
            now = _with_folder(recorded.id, found.path)
            base, why = None, f"what {now} leads to now has another digest than the base had"
    if base is None:
        return _recorded_diff(found, recorded, why) if recorded else None
    try:
        return diff_checkpoints(found, own, base, index_tensors(base))
    except VrbenchError as error:
        return BaseDiff(base=base.id, digest=base.digest, known_by="weights", depth=base.depth, note=str(error))


def _recorded_diff(found: Checkpoint, base: BaseRef, note: str) -> BaseDiff:
    """Return what the lineage states, in the base's layer numbers, where the base is not available."""
    steps = found.lineage[0].steps
    depth = steps[0].depth if steps else found.depth
    rest, tuned = list(range(depth)), set()
    for step in steps:
        layers = LayerSet.parse(step.layers, step.depth)
        touched = {number for i, number in enumerate(rest) if i in layers}
        if step.kind == "pruned":
            rest = [number for number in rest if number not in touched]
        else:
            tuned |= touched
    return BaseDiff(
        base=_with_folder(base.id, found.path), digest=base.digest, known_by="lineage", depth=depth, note=note,
        tuned=format_layers(tuned, depth), removed=format_layers(set(range(depth)) - set(rest), depth),
    )  # fmt: skip


def _licence(found: Checkpoint) -> str:
    """Return the licence that the lineage states, else the YAML at the beginning of the model card."""
    stated = next((line.licence for line in found.lineage if line.licence), "")
    if stated:
        return stated
    try:
        text = read_text(found.root.path / "README.md")
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, yaml.YAMLError, IndexError):
        return ""
    return str(head.get("license") or head.get("license_name") or "") if isinstance(head, dict) else ""


def _note(found: Checkpoint) -> str:
    if found.root.has(RANDOM_WEIGHTS):
        return str(read_json(found.root.path / RANDOM_WEIGHTS).get("note", ""))
    unused = unused_weights(found.path) if found.base is None else []
    return f"the safetensors files are read, and not {', '.join(unused)}" if unused else ""


def format_info(info: CheckpointInfo) -> str:
    """Return the record as text."""
    lines = [
        textwrap.fill(f"{name + ': ':26}{text}", WIDTH, subsequent_indent=" " * 26, break_on_hyphens=False)
        for name, text in _fields(info) if text
    ]  # fmt: skip
    return "\n".join([*lines, "", "lineage:", *_history(info)])


def _fields(info: CheckpointInfo) -> Iterator[tuple[str, str]]:
    yield "checkpoint", info.id
    yield "folder", info.folder
    yield "revision", info.revision
    yield "family", info.family
    yield "decoder layers", str(info.depth)
    counts = [f"{part} {number:,}" for part, number in info.parameters.items() if number and part != "total"]
    yield "parameters", f"{info.parameters['total']:,} ({', '.join(counts)})"
    total = max(1, sum(info.dtypes.values()))
    yield "stored as", ", ".join(f"{dtype} {100 * number / total:.3g} %" for dtype, number in info.dtypes.items())
    for ranks in info.ranks:
        yield f"adapter of {ranks.of}", f"rank {ranks.rank} on layers {ranks.layers}: {', '.join(ranks.modules)}"
    if info.adapter_parameters:
        yield "adapters' parameters", f"{info.adapter_parameters:,}, merged when it is loaded"
    if diff := info.against:
        how = "weights compared" if diff.known_by == "weights" else "as the lineage says"
        yield "against", f"{diff.base}, {diff.depth} layers ({how})"
        yield "  tuned layers", diff.tuned
        yield "  removed layers", diff.removed
        yield "  also changed", ", ".join(diff.others)
        yield "  not in the base", ", ".join(diff.added)
        yield "  not compared", diff.note
    yield "licence", info.licence or "not stated"
    yield "digest", info.digest
    yield "code of its own", ", ".join(f"{file} ({digest[:12]})" for file, digest in info.code.items())
    yield "images", "; ".join(info.images)
    yield "note", info.note


def _history(info: CheckpointInfo) -> Iterator[str]:
    """Yield one line per step, the oldest first; relative paths of bases are followed from folder to folder."""
    number = 0
    folders: list[Path | None] = [Path(info.folder)]
    for line in info.lineage:
        folders.append(_folder(line.base.id, folders[-1]) if line.base else None)
    for line, folder in reversed(list(zip(info.lineage, folders, strict=False))):
        if line.base:
            digest = f", digest {line.base.digest[:12]}" if line.base.digest else ""
            yield f"  {line.id}: made from {_with_folder(line.base.id, folder)}{digest}"
        else:
            yield f"  {line.id}: a complete model"
        for step in line.steps:
            number += 1
            yield f"    {number}. {_step(step, folder)}"
    if not info.lineage:
        yield "  none is recorded"


def _folder(name: str, near: Path | None) -> Path | None:
    """Return the folder that a lineage in `near` names, as `locate_checkpoint` finds it; None if there is none."""
    if near is None or name in locate.published_names() or name in locate.BACKBONES:
        return None
    return locate.find_folder(name, near)


def _with_folder(name: str, near: Path | None) -> str:
    """Return a checkpoint that a lineage in `near` names: for a path the folder's name, and where it leads to."""
    folder = _folder(name, near)
    if folder is not None:
        return f"{folder.name} ({folder})"
    is_path = name.startswith(("/", "./", "../"))
    return f"{Path(name).name} ({name}, which does not exist)" if is_path else name


def _step(step: LineageStep, near: Path | None) -> str:
    about = [step.method, f"stage {step.stage}" if step.stage else "", f"recipe {step.recipe}" if step.recipe else ""]
    how = ", ".join(part for part in about if part)
    of = step.backbone
    source = f" from {_with_folder(of.id, near)}, digest {of.digest[:12]}" if of else ""
    return f"{step.kind}: layers {step.layers} of {step.depth}{source}{f' ({how})' if how else ''}"
