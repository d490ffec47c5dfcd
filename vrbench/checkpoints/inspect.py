"""What a checkpoint is, as `vrbench inspect` says it: a record, and the same as text.

No weight is loaded. torch is imported only for what an empty model has to judge: folders of a whole model, and
`random/...`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import yaml
from pydantic import Field

from vrbench.checkpoints import image_settings, locate, resolve, validation
from vrbench.checkpoints.diff import Difference, difference
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.checkpoints.resolve import Checkpoint
from vrbench.checkpoints.tensor_index import Adapter, Stored, dtypes, parameters, stored
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json, read_text
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import SCHEMA_VERSION, Lineage, LineageStep, Record

WIDTH = 110


class Ranks(Record):
    """The layers of one adapter that have one rank."""

    of: str = Field(description="Checkpoint that the adapter belongs to.")
    rank: int = Field(description="Rank of the LoRA matrices.")
    layers: str = Field(description="Layers, as `LayerSet` text, counted in the model that the adapter was put on.")
    modules: tuple[str, ...] = Field(description="Modules of a layer, such as 'self_attn.q_proj'.")


class Against(Record):
    """What differs from a base."""

    base: str = Field(description="Checkpoint that it is compared with.")
    digest: str = Field(default="", description="The base's digest, if it is at hand or recorded.")
    known_by: str = Field(description="'weights' when they were compared, 'lineage' when the base is not at hand.")
    depth: int = Field(description="Decoder layers of the base; the layers below are counted in it.")
    tuned: str = Field(default="", description="Layers with other weights, as `LayerSet` text; empty when unknown.")
    removed: str = Field(default="", description="Layers that are gone, as `LayerSet` text; empty when unknown.")
    others: tuple[str, ...] = Field(default=(), description="What else has other weights, such as 'projector'.")
    added: tuple[str, ...] = Field(default=(), description="Parts that the base has not.")
    note: str = Field(default="", description="What could not be told, and why.")


class Description(Record):
    """What is known of one checkpoint without loading it."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    id: str = Field(description="What the user asked for, or a folder's name.")
    folder: str = Field(description="Where it lies.")
    revision: str = Field(default="", description="Hub revision, if it came from a hub.")
    digest: str = Field(description="sha256 over all that decides its answers.")
    family: str = Field(description="Model family.")
    depth: int = Field(description="Decoder layers that the loaded model has.")
    parameters: dict[str, int] = Field(description="LLM, projector, vision tower, total; adapters count as merged.")
    adapter_parameters: int = Field(default=0, description="Of all adapters that are merged when it is loaded.")
    dtypes: dict[str, int] = Field(description="How weights are stored -> number of values.")
    ranks: tuple[Ranks, ...] = Field(default=(), description="Ranks of the adapters.")
    against: Against | None = Field(default=None, description="What differs from its base; none for a whole model.")
    lineage: tuple[Lineage, ...] = Field(default=(), description="Its own first, then its bases'.")
    licence: str = Field(default="", description="As the lineage or the model card states it; empty if neither does.")
    note: str = Field(default="", description="What a reader must know, such as files that are not read.")
    images: tuple[str, ...] = Field(default=(), description="What is not shown as its files say, or cut off.")
    code: dict[str, str] = Field(default={}, description="Python file of its own, run when it is loaded -> its sha256.")


def describe(name: str, base: str | None = None, *, offline: bool = False, trusted: bool = False) -> Description:
    """What a checkpoint is, and what differs from its base.

    Args:
        name: "pocket/full", a folder, a hub id, or a language model's folder.
        base: what it is compared with; else what it was made from, if that is recorded and at hand.
        offline: never ask a hub.
        trusted: describe what has code of its own too; the code is named and not run.

    Raises:
        VrbenchError: every fault of the checkpoint or of a base that was named, at once.
    """
    look = partial(resolve.resolve, offline=offline, fitted=False, trusted=trusted)
    found, named = look(name), look(base) if base else None
    own = stored(found)
    return Description(
        id=found.id, folder=str(found.path), revision=found.revision, digest=found.digest, family=found.family,
        depth=found.depth, parameters=parameters(own), dtypes=dtypes(own), lineage=_lineage(found),
        adapter_parameters=sum(adapter.parameters for adapter in own.adapters),
        ranks=tuple(r for adapter in own.adapters for r in _ranks(adapter)),
        against=_against(found, own, named), licence=_licence(found), note=_note(found), code=found.code,
        images=tuple(_images(found)),
    )  # fmt: skip


def _lineage(found: Checkpoint) -> tuple[Lineage, ...]:
    """The lineage under the names by which its checkpoints are found here; a recipe may have called them otherwise."""
    here: Checkpoint | None = found
    lines = []
    for line in found.lineage:
        lines.append(line.model_copy(update={"id": here.id}) if here else line)
        here = here.base if here else None
    return tuple(lines)


def _ranks(adapter: Adapter) -> Iterator[Ranks]:
    layers: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for layer, modules in sorted(adapter.ranks.items()):
        for rank in sorted(set(modules.values())):
            named = tuple(sorted(module for module, r in modules.items() if r == rank))
            layers.setdefault((rank, named), []).append(layer)
    for (rank, named), numbers in layers.items():
        yield Ranks(of=adapter.of, rank=rank, layers=str(LayerSet.of(numbers, adapter.depth)), modules=named)


def _against(found: Checkpoint, own: Stored, named: Checkpoint | None) -> Against | None:
    """Compared with the base that was named, else with the one below, else with the recorded one if it is at hand."""
    base, why = (named or found.base), ""
    recorded = found.lineage[0].base if found.lineage else None
    if base is None and recorded:
        try:
            base = resolve.resolve(recorded.id, offline=True, near=found.path, fitted=False)
        except VrbenchError as fault:
            why = f"the base is not at hand ({str(fault).splitlines()[0]})"
        if base and recorded.digest and base.digest != recorded.digest:
            named_now = _shown(recorded.id, found.path)
            base, why = None, f"what {named_now} leads to now has another digest than the base had"
    if base is None:
        return _recorded(found, why) if recorded else None
    try:
        return _compared(base, difference(found, own, base, stored(base)))
    except VrbenchError as fault:
        return Against(base=base.id, digest=base.digest, known_by="weights", depth=base.depth, note=str(fault))


def _compared(base: Checkpoint, found: Difference) -> Against:
    note = ""
    if found.uncompared:
        layers = _text(found.uncompared, found.depth)
        note = f"layers {layers} carry an adapter in the base, so that their weights cannot be compared"
    return Against(
        base=base.id, digest=base.digest, known_by="weights", depth=found.depth, tuned=_text(found.tuned, found.depth),
        removed=_text(found.removed, found.depth), others=tuple(sorted(found.others)),
        added=tuple(sorted(found.added)), note=note,
    )  # fmt: skip


def _recorded(found: Checkpoint, why: str) -> Against:
    """What the lineage says, in the base's numbers, where the base cannot be looked at."""
    own = found.lineage[0]
    assert own.base is not None  # or nothing was recorded
    depth = own.steps[0].depth if own.steps else found.depth
    rest, tuned = list(range(depth)), set()
    for step in own.steps:
        layers = LayerSet.parse(step.layers, step.depth)
        touched = [number for place, number in enumerate(rest) if place in layers]
        if step.kind == "pruned":
            rest = [number for number in rest if number not in touched]
        else:
            tuned |= set(touched)
    return Against(
        base=_shown(own.base.id, found.path), digest=own.base.digest, known_by="lineage", depth=depth,
        tuned=_text(tuned, depth), removed=_text(set(range(depth)) - set(rest), depth), note=why,
    )  # fmt: skip


def _text(layers: set[int], depth: int) -> str:
    return str(LayerSet.of(layers, depth) if layers else LayerSet.none(depth))


def _licence(found: Checkpoint) -> str:
    stated = next((line.licence for line in found.lineage if line.licence), "")
    return stated or _of_card(found.root.path / "README.md")


def _of_card(card: Path) -> str:
    """`license` in the YAML at the beginning of a model card; empty if there is none."""
    try:
        text = read_text(card)
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, yaml.YAMLError, IndexError):
        return ""
    return str(head.get("license") or head.get("license_name") or "") if isinstance(head, dict) else ""


def _images(found: Checkpoint) -> Iterator[str]:
    """What is told of its images before it is run; nothing of a language model alone, or a family that is not known."""
    if found.family in FAMILIES or found.root.code:
        yield from image_settings.notes_with_options(found)


def _note(found: Checkpoint) -> str:
    if found.root.has(RECIPE):
        return str(read_json(found.root.path / RECIPE).get("note", ""))
    unused = validation.unused_weights(found.path) if found.base is None else []
    return f"the safetensors files are read, and not {', '.join(unused)}" if unused else ""


def as_text(told: Description) -> str:
    """The description for people."""
    fields = [_field(name, value) for name, value in _facts(told) if value]
    return "\n".join([*fields, "", "lineage:", *_history(told)])


def _facts(told: Description) -> Iterator[tuple[str, str]]:
    yield "checkpoint", told.id
    yield "folder", told.folder
    yield "revision", told.revision
    yield "family", told.family
    yield "decoder layers", str(told.depth)
    counts = [f"{part} {number:,}" for part, number in told.parameters.items() if number and part != "total"]
    yield "parameters", f"{told.parameters['total']:,} ({', '.join(counts)})"
    total = max(1, sum(told.dtypes.values()))
    yield "stored as", ", ".join(f"{dtype} {100 * number / total:.3g} %" for dtype, number in told.dtypes.items())
    for ranks in told.ranks:
        modules = ", ".join(ranks.modules)
        yield f"adapter of {ranks.of}", f"rank {ranks.rank} on layers {ranks.layers}: {modules}"
    if told.adapter_parameters:
        yield "adapters' parameters", f"{told.adapter_parameters:,}, merged when it is loaded"
    if told.against:
        yield from _differences(told.against)
    yield "licence", told.licence or "not stated"
    yield "digest", told.digest
    yield "code of its own", ", ".join(f"{file} ({digest[:12]})" for file, digest in told.code.items())
    yield "images", "; ".join(told.images)
    yield "note", told.note


def _differences(told: Against) -> Iterator[tuple[str, str]]:
    how = "weights compared" if told.known_by == "weights" else "as the lineage says"
    yield "against", f"{told.base}, {told.depth} layers ({how})"
    yield "  tuned layers", told.tuned
    yield "  removed layers", told.removed
    yield "  also changed", ", ".join(told.others)
    yield "  not in the base", ", ".join(told.added)
    yield "  not told", told.note


def _history(told: Description) -> Iterator[str]:
    """One line a step, the oldest first; bases are found from folder to folder, as their relative paths are stored."""
    number = 0
    folders: list[Path | None] = [Path(told.folder)]
    for line in told.lineage:
        folders.append(_folder(line.base.id, folders[-1]) if line.base else None)
    for line, folder in reversed(list(zip(told.lineage, folders, strict=False))):
        if line.base:
            digest = f", digest {line.base.digest[:12]}" if line.base.digest else ""
            yield f"  {line.id}: made from {_shown(line.base.id, folder)}{digest}"
        else:
            yield f"  {line.id}: a whole model"
        for step in line.steps:
            number += 1
            yield f"    {number}. {_step(step, folder)}"
    if not told.lineage:
        yield "  none is recorded"


def _folder(name: str, near: Path | None) -> Path | None:
    """The folder that a lineage in `near` names, as `sources.find` looks for it; none if there is no such folder."""
    if near is None or name in locate.published() or name in locate.BACKBONES:
        return None
    places = (near / name, Path(name).expanduser())
    return next((place.resolve() for place in places if place.is_dir()), None)


def _shown(name: str, near: Path | None) -> str:
    """A checkpoint that a lineage in `near` names: of a path the folder's name, and where it leads to."""
    folder = _folder(name, near)
    if folder is not None:
        return f"{folder.name} ({folder})"
    is_path = name.startswith(("/", "./", "../"))
    return f"{Path(name).name} ({name}, which is not there)" if is_path else name


def _step(step: LineageStep, near: Path | None = None) -> str:
    about = [step.method, f"stage {step.stage}" if step.stage else "", f"recipe {step.recipe}" if step.recipe else ""]
    how = ", ".join(part for part in about if part)
    source = f" from {_shown(step.backbone.id, near)}, digest {step.backbone.digest[:12]}" if step.backbone else ""
    return f"{step.kind}: layers {step.layers} of {step.depth}{source}{f' ({how})' if how else ''}"


def _field(name: str, text: str) -> str:
    return textwrap.fill(f"{name + ': ':26}{text}", WIDTH, subsequent_indent=" " * 26, break_on_hyphens=False)
