"""The sample browser: of a submission and a task every item with its images, question, right answer, and the answers of
the submission and its baseline.

There is one for every task whose samples the board allows to be shown (`shown` of board.yaml). Its data are scripts
that assign JSON, since a page opened from `file://` can fetch nothing else. Of each task: `index.js` (ids and groups of
all items), `items-<k>.js` (prompts, `CHUNK` items each) and images, all of them written once; of each submission to it:
one script of its answers and scores. A page of 10,000 items reads the index, two scripts of answers, and the items in
view.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.schemas import Sample
from vrbench.leaderboard.schema import LeaderboardRow, LeaderboardTask
from vrbench.leaderboard.site import pages
from vrbench.leaderboard.site.content import BoardContent, BoardEntry
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.leaderboard.submission import read_submission
from vrbench.leaderboard.untrusted_input.files import quote_path
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display
from vrbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.evaluation.item_preview import ItemPreview

RIGHT = 0.5
"""Score from which an answer is called right, where a task gives parts of a point."""

CHUNK = 200
"""Items in one script: about 40 KiB of short questions."""
MAX_ANSWER = 2_000
"""Characters of an answer that are shown."""
MAX_PROMPT = 40_000
"""Characters of a prompt, or of one option, that are shown; five worked examples of a hard task have about 10,000."""
VALIDATE = "`vrbench leaderboard validate` reports what differs"
NAMESPACE = "vrbenchSamples"
"""The object of a page that the scripts fill."""
ItemTargets = list[tuple[str, str]]
"""Id and right answer of each item of a task."""


def files(
    content: BoardContent, frame: Frame, specs: Mapping[str, TaskSpec], data_root: str | Path | None = None
) -> Iterator[tuple[str, str | bytes]]:
    """Yield path and content of every file of a board's sample browsers: pages, the scripts that they read, and images.

    Args:
        specs: task -> its definition.
        data_root: folder with the hub's data sets, for tasks of the hub.

    Raises:
        VrbenchError: samples that cannot be read or are not the task's, data that are missing or are not the board's.
    """
    board = content.board
    shown = dict.fromkeys(task.id for entry in content.entries for task in content.shown_tasks(entry))
    advice = "but there is no task file of it; give --include-path"
    raise_errors(f"samples of {task} may be shown, {advice}" for task in shown if task not in specs)
    items: dict[str, ItemTargets] = {}
    for entry in content.entries:
        tasks = content.shown_tasks(entry)
        samples = read_submission(entry.folder, board.n_items).run.samples if tasks else {}
        for task in tasks:
            found = [(sample.id, sample.target) for sample in samples[task.id]]
            if items.setdefault(task.id, found) != found:
                name = quote_path(entry.folder)
                raise VrbenchError(f"{name}: its samples of {task.id} have other ids or targets; {VALIDATE}")
            yield answers_file(pages.samples_folder(board.id, task.id), entry.row, samples[task.id])
            path = pages.samples_page(board.id, entry.row, task.id)
            yield path, _page(content, entry, task, frame, path)
    for name, answered in items.items():
        yield from _items(content, specs[name], answered, data_root)


def _page(content: BoardContent, entry: BoardEntry, task: LeaderboardTask, frame: Frame, path: str) -> str:
    row, board = entry.row, content.board
    baseline = content.baseline_of(entry)
    if baseline is not None and task not in content.shown_tasks(baseline):
        baseline = None
    trail = (
        PageLink(board.title, pages.board_page(board.id)),
        PageLink(f"{row.org}/{row.name}", pages.submission_page(board.id, row)),
    )
    return frame.render(
        "samples.html.j2", path, f"{task.id}, samples", trail, board=board, row=row, task=task, baseline=baseline,
        right=RIGHT, place=pages.samples_folder(board.id, task.id), namespace=NAMESPACE, ours=answers_name(row),
        theirs=answers_name(baseline.row) if baseline else "",
    )  # fmt: skip


def _items(
    content: BoardContent, spec: TaskSpec, answered: ItemTargets, data_root: str | Path | None
) -> Iterator[tuple[str, str | bytes]]:
    """Yield pages of items from the task's data, which must be the board's and contain the answered items."""
    from vrbench.evaluation.item_preview import preview_items
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.evaluation.run_plan import plan_task

    job = plan_task(spec, RunConfig(data_root=data_root))
    pinned, board = content.board.tasks[spec.id].data_digest, content.board.id
    if pinned is not None and job.digest != pinned:
        digests = f"their digest is {job.digest[:16]}, the board's is {pinned[:16]}"
        raise VrbenchError(f"the data of {spec.id} are not those of board {board}: {digests}")
    yield from task_files(pages.samples_folder(board, spec.id), preview_items(job), answered)


def answers_name(row: LeaderboardRow) -> str:
    """Return the name of the script of one submission's answers, without its suffix."""
    return f"answers/{row.org}__{row.name}.{row.revision}"


def script(name: str, value: Any) -> str:
    """Return a script that puts a JSON value where the page finds it; ASCII, so that no character in it ends a line."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return f"(self.{NAMESPACE}=self.{NAMESPACE}||{{}})[{json.dumps(name)}]={text};\n"


def task_files(place: str, items: Iterable[ItemPreview], answered: ItemTargets) -> Iterator[tuple[str, str | bytes]]:
    """Yield path and content of the scripts and images of a task's items; equal images are written once.

    Args:
        place: the task's folder within the site.
        items: in the task's order; few of their images are in memory at a time.
        answered: the items that were answered, which must be the task's, with the right answer to each.

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
        if number >= len(answered) or item.id != answered[number][0]:
            break
        group_of.append(groups.setdefault(sanitize_for_display(item.group, 100), len(groups)))
        images = [(image_name(image), image) for image in item.images]
        for name, image in images:
            if name not in written:
                written.add(name)
                yield f"{place}/images/{name}", png(image)
        options = [sanitize_for_display(option, MAX_PROMPT).strip() for option in item.options]
        target = sanitize_for_display(answered[number][1], MAX_ANSWER).strip()
        sizes = [[name, *image.size] for name, image in images]
        chunk.append([sanitize_for_display(item.prompt, MAX_PROMPT), options, target, sizes])
        if len(chunk) == CHUNK or len(ids) == len(answered):
            script_name = f"items-{number // CHUNK}"
            yield f"{place}/{script_name}.js", script(script_name, chunk)
            chunk = []
    if ids != [answered_id for answered_id, _ in answered]:
        raise VrbenchError(f"{place}: the items that were answered are not those of the task; {VALIDATE}")
    shown_ids = [sanitize_for_display(one, 200) for one in ids]
    index = {"ids": shown_ids, "groups": [*groups], "group": group_of, "chunk": CHUNK}
    yield f"{place}/index.js", script("index", index)


def answers_file(place: str, row: LeaderboardRow, samples: Sequence[Sample]) -> tuple[str, str]:
    """Return path and content of the script of one submission's answers and scores to one task.

    Equal texts are written once. Scores are those of an item, 0 to 1, or a log-likelihood in nats a word.
    """
    texts: dict[str, int] = {}

    def number(text: str) -> int:
        return texts.setdefault(sanitize_for_display(text, MAX_ANSWER).strip(), len(texts))

    answers = [number(sample.answer) for sample in samples]
    said = [number(_raw(sample)) for sample in samples]
    unscored = {str(i): sample.unscored for i, sample in enumerate(samples) if sample.unscored}
    logs = [[round(log, 2) for log in sample.loglikelihoods] for sample in samples]
    value = {
        "texts": [*texts],
        "answer": answers,
        "said": [] if said == answers else said,
        "score": [_score(sample) for sample in samples],
        "unscored": {place: sanitize_for_display(reason, 300) for place, reason in unscored.items()},
        "logs": logs if any(logs) else [],
    }
    name = answers_name(row)
    return f"{place}/{name}.js", script(name, value)


def _raw(sample: Sample) -> str:
    """Return the text that the model gave, before any filter; its answer if it gave none."""
    first = sample.responses[0] if sample.responses else ""
    return first if isinstance(first, str) and first else sample.answer


def _score(sample: Sample) -> float | None:
    """Return the score, or None if the item could not be scored or its weight is 0."""
    if sample.unscored or not sample.weight:
        return None
    score = round(sample.score / sample.weight, 4)
    return score if math.isfinite(score) else None


def image_name(image: Image) -> str:
    """Return a file name made of what is seen: the same image has one name wherever it is shown."""
    seen = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
    return f"{seen.hexdigest()[:20]}.png"


def png(image: Image) -> bytes:
    """Return the image losslessly, without metadata such as times, names or places."""
    bare = image.copy()
    bare.info.clear()
    stream = io.BytesIO()
    bare.save(stream, format="PNG", compress_level=9)
    return stream.getvalue()
