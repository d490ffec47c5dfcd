"""The commands that reproduce a submission: its checkpoint, its answers, its scores and its comparison."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

from vrbench.checkpoints.locate import published_names
from vrbench.core.schemas import Lineage
from vrbench.leaderboard.site.content import BoardContent, BoardEntry
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display

Command = tuple[str, str]
"""What it does, and the command line."""


def commands(content: BoardContent, entry: BoardEntry) -> list[Command]:
    """Return every command in order; untrusted text in them is quoted.

    The submission was committed after the commit that it was run with, so its recipe is copied before that commit is
    checked out.
    """
    folder = f"leaderboards/{entry.submission.path}"
    own = entry.record.checkpoint.lineage[:1]
    is_trained = any(step.kind == "trained" for line in own for step in line.steps)
    recipe = f"{folder}/recipe.yaml" if entry.recipe and is_trained else ""
    commit = entry.record.provenance.commit
    is_known = re.fullmatch("[0-9a-f]{7,64}", commit) is not None
    found: list[Command] = []
    if is_known and recipe:
        found.append(("Keep its recipe, which is newer than the code", f"cp {recipe} recipe.yaml"))
        recipe = "recipe.yaml"
    if is_known:
        found.append(("The code as it was", f"git checkout {commit}"))
    made, checkpoint = _make_checkpoint(entry, recipe)
    found += [*made, _answer(content, entry, checkpoint)]
    if is_known:
        found.append(("Back to the board", "git checkout -"))
    found.append(("Score the submitted answers again: no GPU, no weights", f"vrbench leaderboard validate {folder}"))
    base = content.baseline_of(entry)
    if base is not None:
        claims = " ".join(f"--claim {shlex.quote(claim.text)}" for claim in content.table.claims)
        other = f"leaderboards/{base.submission.path}"
        found.append(("Compare it with its baseline", f"vrbench compare {folder} --baseline {other} {claims}"))
    return found


def _make_checkpoint(entry: BoardEntry, recipe: str) -> tuple[list[Command], str]:
    """Return a command for each checkpoint of the lineage, the first base's first, and the last one's path.

    Checkpoints that vrbench comes with are used as they are, so that the weights are the same.
    """
    lineages, shipped = entry.record.checkpoint.lineage, published_names()
    found: list[Command] = []
    places: dict[str, str] = {}
    for line in reversed(lineages):
        name, place = " ".join(sanitize_for_display(line.id, 100).split()), f"checkpoints/{line.id.replace('/', '-')}"
        recipe_file = recipe if line is lineages[0] else ""
        steps = [f"{step} --out {_quoted(place)}" for step in _steps(line, recipe_file, places)]
        known = ", which also comes with vrbench" if line.id in shipped else ""
        found += [(f"Make {name}{known}", step) for step in steps]
        if steps and not known:
            places[line.id] = place
    reference = entry.record.checkpoint.id
    return found, places.get(lineages[0].id, reference) if lineages else reference


def _steps(line: Lineage, recipe: str, places: Mapping[str, str]) -> Iterator[str]:
    trained = [step for step in line.steps if step.kind == "trained"]
    made = places.get(line.base.id, "") if line.base else ""
    if trained and (recipe or trained[-1].recipe):
        base_option = f" --set {_quoted(f'base={made}')}" if made else ""
        yield f"vrbench train {_quoted(recipe or trained[-1].recipe)}{base_option}"
    base = _quoted(made or line.base.id) if line.base else ""
    for step in line.steps:
        if step.kind == "pruned" and base:
            yield f"vrbench prune {base} --layers {_quoted(step.layers)} --all-layers"
        if step.kind == "restored" and base and step.backbone is not None:
            yield f"vrbench restore {base} --layers {_quoted(step.layers)} --from {_quoted(step.backbone.id)}"


def _answer(content: BoardContent, entry: BoardEntry, checkpoint: str) -> Command:
    settings = entry.record.settings
    words = ["vrbench run --ckpt", _quoted(checkpoint), "--tasks", ",".join(content.board.tasks)]
    words += ["--dtype", _quoted(settings.dtype)]
    words += [] if settings.image_settings == "harness" else ["--image-settings", _quoted(settings.image_settings)]
    words += ["--deterministic"] if settings.deterministic else []
    words += ["--data-root DATA"] if settings.data_root else []
    what = "Answer every item again" + (", with the data of the hub in DATA" if settings.data_root else "")
    return what, " ".join([*words, "--out runs"])


def _quoted(text: str) -> str:
    """Quote untrusted text as one word of a command line that is not an option."""
    word = " ".join(sanitize_for_display(text, 300).split())
    return shlex.quote(f"./{word}" if word.startswith("-") else word)
