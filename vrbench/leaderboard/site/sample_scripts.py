"""What the sample browser reads: scripts that assign JSON, since a page opened from `file://` can fetch nothing else.

Of each task: `index.js` (ids and groups of all items), `items-<k>.js` (what is asked, `CHUNK` items each) and pictures,
all of them written once; of each submission to it: one script of its answers and scores. A page of 10,000 items reads
the index, two scripts of answers, and the items that are in view.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.leaderboard.schema import LeaderboardRow
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

    from vrbench.evaluation.item_preview import ItemPreview

CHUNK = 200
"""Items in one script: some 40 KiB of short questions."""
LONGEST_ANSWER = 2_000
"""Characters of an answer that are shown."""
LONGEST_PROMPT = 40_000
"""Characters of a prompt, or of one option, that are shown; five worked examples of a hard task have some 10,000."""
VALIDATE = "`vrbench leaderboard validate` says what differs"
NAMESPACE = "vrbenchSamples"
"""The object of a page that the scripts fill."""


def folder(board: str, task: str) -> str:
    """Where the items of a task lie within the site; no submission's folder has this name, since theirs have '__'."""
    return f"{board}/samples/{task}"


def answers_name(row: LeaderboardRow) -> str:
    """Name of the script of one submission's answers, without its suffix."""
    return f"answers/{row.org}__{row.name}.{row.revision}"


def script(name: str, value: Any) -> str:
    """A script that puts a JSON value where the page finds it; ASCII, so that no character in it ends a line."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return f"(self.{NAMESPACE}=self.{NAMESPACE}||{{}})[{json.dumps(name)}]={text};\n"


def task_files(
    place: str, items: Iterable[ItemPreview], targets: Sequence[str], answered: Sequence[str]
) -> Iterator[tuple[str, str | bytes]]:
    """The scripts and pictures of a task's items; pictures that are the same are written once.

    Args:
        place: the task's folder within the site.
        items: in the task's order.
        targets: the right answer to each.
        answered: ids of the items that were answered, which must be the task's.

    Returns:
        Path within the site and content, one by one, so that few pictures are in memory at a time.

    Raises:
        VrbenchError: other items were answered.
    """
    ids: list[str] = []
    groups: dict[str, int] = {}
    group_of: list[int] = []
    chunk: list[list[Any]] = []
    written: set[str] = set()
    for number, item in enumerate(items):
        ids.append(item.id)
        if number >= len(answered) or item.id != answered[number]:
            break
        group_of.append(groups.setdefault(sanitize_for_display(item.group, 100), len(groups)))
        pictures = {picture_name(pixels): pixels for pixels in item.images}
        for name in [name for name in pictures if name not in written]:
            written.add(name)
            yield f"{place}/pictures/{name}", png(pictures[name])
        chunk.append(_asked(item, targets[number]))
        if len(chunk) == CHUNK:
            yield _chunk(place, number // CHUNK, chunk)
            chunk = []
    if ids != list(answered):
        raise VrbenchError(f"{place}: the items that were answered are not those of the task; {VALIDATE}")
    if chunk:
        yield _chunk(place, len(ids) // CHUNK, chunk)
    shown_ids = [sanitize_for_display(one, 200) for one in ids]
    index = {"ids": shown_ids, "groups": [*groups], "group": group_of, "chunk": CHUNK}
    yield f"{place}/index.js", script("index", index)


def _asked(item: ItemPreview, target: str) -> list[Any]:
    """An item as its script holds it: prompt, options, right answer, and name, width and height of each picture."""
    options = [sanitize_for_display(option, LONGEST_PROMPT).strip() for option in item.options]
    pictures = [[picture_name(pixels), *pixels.size] for pixels in item.images]
    prompt, right = sanitize_for_display(item.prompt, LONGEST_PROMPT), sanitize_for_display(target, LONGEST_ANSWER)
    return [prompt, options, right.strip(), pictures]


def _chunk(place: str, number: int, items: list[list[Any]]) -> tuple[str, str]:
    return f"{place}/items-{number}.js", script(f"items-{number}", items)


def answers_file(place: str, row: LeaderboardRow, samples: Sequence[Sample]) -> tuple[str, str]:
    """The script of one submission's answers and scores to one task.

    Equal texts are written once. Scores are those of an item, 0 to 1, or a log-likelihood in nats a word.
    """
    texts: dict[str, int] = {}
    name = answers_name(row)

    def number(text: str) -> int:
        return texts.setdefault(sanitize_for_display(text, LONGEST_ANSWER).strip(), len(texts))

    answers = [number(sample.answer) for sample in samples]
    said = [number(_raw(sample)) for sample in samples]
    unscored = {str(i): sample.unscored for i, sample in enumerate(samples) if sample.unscored}
    told = {
        "texts": [*texts],
        "answer": answers,
        "said": [] if said == answers else said,
        "score": [_score(sample) for sample in samples],
        "unscored": {place: sanitize_for_display(reason, 300) for place, reason in unscored.items()},
        "logs": [[round(log, 2) for log in sample.loglikelihoods] for sample in samples]
        if any(sample.loglikelihoods for sample in samples)
        else [],
    }
    return f"{place}/{name}.js", script(name, told)


def _raw(sample: Sample) -> str:
    """The text that the model gave, before any filter; its answer where it gave none."""
    first = sample.responses[0] if sample.responses else ""
    return first if isinstance(first, str) and first else sample.answer


def _score(sample: Sample) -> float | None:
    """None where the item could not be scored, or where its score has no weight to be divided by."""
    if sample.unscored or not sample.weight:
        return None
    score = round(sample.score / sample.weight, 4)
    return score if math.isfinite(score) else None


def picture_name(pixels: Pixels) -> str:
    """A file name made of what is seen: the same picture has one name wherever it is shown."""
    seen = hashlib.sha256(f"{pixels.mode} {pixels.size} ".encode() + pixels.tobytes())
    return f"{seen.hexdigest()[:20]}.png"


def png(pixels: Pixels) -> bytes:
    """The picture without loss and without anything beside its pixels, such as times, names or places."""
    bare = pixels.copy()
    bare.info.clear()
    stream = io.BytesIO()
    bare.save(stream, format="PNG", compress_level=9)
    return stream.getvalue()
