"""The commands that make a submission again: its checkpoint, its answers, its scores and its comparison."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from vrbench.checkpoints.locate import published
from vrbench.core.schemas import Lineage
from vrbench.leaderboard.site.content import BoardContent, Entry
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display

Command = tuple[str, str]
"""What it does, and the command line."""


def commands(content: BoardContent, entry: Entry) -> list[Command]:
    """Every command in order: nothing of a stranger's stands in one unquoted.

    The submission was committed after the commit that it was run with, so its recipe is kept before the code goes back.
    """
    folder = f"leaderboards/{entry.submission.path}"
    recipe = f"{folder}/recipe.yaml" if entry.recipe and _is_trained(entry.record.checkpoint.lineage[:1]) else ""
    commit = entry.record.provenance.commit
    found: list[Command] = []
    there = re.fullmatch("[0-9a-f]{7,64}", commit) is not None
    if there and recipe:
        found.append(("Keep its recipe, which is younger than the code", f"cp {recipe} recipe.yaml"))
        recipe = "recipe.yaml"
    if there:
        found.append(("The code as it was", f"git checkout {commit}"))
    made, checkpoint = _checkpoint(entry, recipe)
    found += [*made, _answers(content, entry, checkpoint)]
    if there:
        found.append(("Back to the board", "git checkout -"))
    found.append(
        ("Score the answers that were handed in again: no GPU, no weights", f"vrbench leaderboard validate {folder}")
    )
    base = content.baseline_of(entry)
    if base is not None:
        claims = " ".join(f"--claim {shlex.quote(claim.text)}" for claim in content.table.claims)
        other = f"leaderboards/{base.submission.path}"
        found.append(("Compare it with its baseline", f"vrbench compare {folder} --baseline {other} {claims}"))
    return found


def _checkpoint(entry: Entry, recipe: str) -> tuple[list[Command], str]:
    """One command for each checkpoint of the lineage that vrbench can make, the first base's first; and its place.

    What vrbench comes with is taken as it is, so that it answers with the very weights.
    """
    lineages, shipped = entry.record.checkpoint.lineage, published()
    found: list[Command] = []
    places: dict[str, str] = {}
    for line in reversed(lineages):
        name, place = " ".join(sanitize_for_display(line.id, 100).split()), f"checkpoints/{line.id.replace('/', '-')}"
        own = recipe if line is lineages[0] else ""
        steps = [f"{command} --out {_word(place)}" for command in _steps(line, own, places)]
        known = ", which also comes with vrbench" if line.id in shipped else ""
        found += [(f"Make {name}{known}", step) for step in steps]
        if steps and not known:
            places[line.id] = place
    reference = entry.record.checkpoint.id
    return found, places.get(lineages[0].id, reference) if lineages else reference


def _is_trained(lines: Iterable[Lineage]) -> bool:
    return any(step.kind == "trained" for line in lines for step in line.steps)


def _steps(line: Lineage, recipe: str, places: Mapping[str, str]) -> Iterator[str]:
    trained = [step for step in line.steps if step.kind == "trained"]
    made = places.get(line.base.id, "") if line.base else ""
    if trained and (recipe or trained[-1].recipe):
        base_of_it = f" --set {_word(f'base={made}')}" if made else ""
        yield f"vrbench train {_word(recipe or trained[-1].recipe)}{base_of_it}"
    base = _word(made or line.base.id) if line.base else ""
    for step in line.steps:
        if step.kind == "pruned" and base:
            yield f"vrbench prune {base} --layers {_word(step.layers)} --all-layers"
        if step.kind == "restored" and base and step.backbone is not None:
            yield f"vrbench restore {base} --layers {_word(step.layers)} --from {_word(step.backbone.id)}"


def _answers(content: BoardContent, entry: Entry, checkpoint: str) -> Command:
    settings = entry.record.settings
    data = " --data-root DATA" if settings.data_root else ""
    tasks = ",".join(content.board.tasks)
    what = "Answer every item again" + (", with the data of the hub in DATA" if data else "")
    images = settings.image_settings
    more = ("" if images == "harness" else f" --image-settings {_word(images)}") + data
    return what, (
        f"vrbench run --ckpt {_word(checkpoint)} --tasks {tasks} --dtype {_word(settings.dtype)}{more} --out runs"
    )


def _word(text: str) -> str:
    """A stranger's text as one word of a command line, on that line, and no option."""
    word = " ".join(sanitize_for_display(text, 300).split())
    return shlex.quote(f"./{word}" if word.startswith("-") else word)
