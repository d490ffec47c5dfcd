"""The commands that make a submission again: its checkpoint, its answers, its scores and its comparison."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from vrbench.leaderboard.reading import shown
from vrbench.leaderboard.site.content import BoardContent, Entry
from vrbench.records import Lineage

Command = tuple[str, str]
"""What it does, and the command line."""


def commands(content: BoardContent, entry: Entry) -> list[Command]:
    """Every command in order: nothing of a stranger's stands in one unquoted."""
    folder = f"leaderboards/{entry.submission.path}"
    found = [*_code(entry), *_checkpoint(entry, folder), _answers(content, entry)]
    found.append(
        ("Score the answers that were handed in again: no GPU, no weights", f"vrbench leaderboard validate {folder}")
    )
    base = content.baseline_of(entry)
    if base is not None:
        claims = " ".join(f"--claim {shlex.quote(claim.text)}" for claim in content.table.claims)
        other = f"leaderboards/{base.submission.path}"
        found.append(("Compare it with its baseline", f"vrbench compare {folder} --baseline {other} {claims}"))
    return found


def _code(entry: Entry) -> Iterator[Command]:
    if re.fullmatch("[0-9a-f]{7,64}", entry.record.provenance.commit):
        yield "The code as it was", f"git checkout {_word(entry.record.provenance.commit)}"


def _checkpoint(entry: Entry, folder: str) -> Iterator[Command]:
    """One command for each checkpoint of the lineage that vrbench can make, the first base's first."""
    lineages = entry.record.checkpoint.lineage
    for line in reversed(lineages):
        recipe = f"{folder}/recipe.yaml" if line is lineages[0] and entry.recipe else ""
        for command in _steps(line, recipe):
            name, place = " ".join(shown(line.id, 100).split()), f"checkpoints/{line.id.replace('/', '-')}"
            yield f"Make {name}", f"{command} --out {_word(place)}"


def _steps(line: Lineage, recipe: str) -> Iterator[str]:
    trained = [step for step in line.steps if step.kind == "trained"]
    if trained and (recipe or trained[-1].recipe):
        yield f"vrbench train {_word(recipe or trained[-1].recipe)}"
    base = _word(line.base.id) if line.base else ""
    for step in line.steps:
        if step.kind == "pruned" and base:
            yield f"vrbench prune {base} --layers {_word(step.layers)} --all-layers"
        if step.kind == "restored" and base and step.backbone is not None:
            yield f"vrbench restore {base} --layers {_word(step.layers)} --from {_word(step.backbone.id)}"


def _answers(content: BoardContent, entry: Entry) -> Command:
    settings, reference = entry.record.settings, entry.record.checkpoint
    data = " --data-root DATA" if settings.data_root else ""
    tasks = ",".join(content.board.tasks)
    what = "Answer every item again" + (", with the data of the hub in DATA" if data else "")
    return what, (
        f"vrbench run --ckpt {_word(reference.id)} --tasks {tasks} --dtype {_word(settings.dtype)}{data} --out runs"
    )


def _word(text: str) -> str:
    """A stranger's text as one word of a command line, on that line, and no option."""
    word = " ".join(shown(text, 300).split())
    return shlex.quote(f"./{word}" if word.startswith("-") else word)
