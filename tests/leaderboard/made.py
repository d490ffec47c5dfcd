"""Made-up boards: small tasks of the pocket family's rows, and submissions whose answers are drawn at random.

The answers are chance, but everything made of them is the real thing: the project's own harness tasks, scoring,
records and files. Folders: `boards/made/board.yaml`, `boards/made/submissions/...`, and `tasks/` with the task files
and their data, which is what `include_path` names.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from vrbench.core.io import digest_of, write_atomically
from vrbench.core.layers import LayerSet
from vrbench.core.run_storage import save_run
from vrbench.core.schemas import (
    AnswerProvenance,
    BaseRef,
    CheckpointRef,
    Lineage,
    LineageStep,
    Provenance,
    RunRecord,
    RunSettings,
    Sample,
    TaskResult,
)
from vrbench.core.version import __version__
from vrbench.data import tables
from vrbench.evaluation.inputs_digest import inputs_digest
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan_task
from vrbench.leaderboard.board import Board, BoardFamily, BoardSettings, BoardSuites, PinnedTask, prompts_digest
from vrbench.leaderboard.rescore import Rescorer
from vrbench.leaderboard.schema import Submission
from vrbench.tasks import registry

BOARD = "made"
DEPTH = 12
RECIPE = "name: made-region\nlayers: sparse-uniform:3\nseed: 0\n"

Answers = Sequence[str]
"""What may be said to an item: the right answer first."""


@dataclass(frozen=True)
class Made:
    """A made-up board on disk.

    Attributes:
        root: folder of the boards, as `leaderboards/` is.
        tasks: folder of its task files, for `include_path`.
        submissions: the folders of its submissions, the baseline's first.
    """

    root: Path
    tasks: Path
    submissions: tuple[Path, ...]

    @property
    def board(self) -> Path:
        """Folder of the board."""
        return self.root / BOARD


@dataclass(frozen=True)
class Kind:
    """How a made-up task is made of one of the pocket family's.

    Attributes:
        like: the task whose file it takes.
        rows: number of items -> its rows.
        answers: row -> what may be said to it, the right answer first; none where likelihoods are asked.
        right: row -> index of the right option, where likelihoods of options are asked.
    """

    like: str
    rows: Callable[[int], list[dict[str, Any]]]
    answers: Callable[[dict[str, Any]], Answers] | None = None
    right: Callable[[dict[str, Any]], int] | None = None


def _mme(n: int) -> list[dict[str, Any]]:
    from vrbench.pocket.visual import pocket_mme

    return pocket_mme("dev", images=-(-n // 8))[:n]


def _mmbench(n: int) -> list[dict[str, Any]]:
    from vrbench.pocket.visual import pocket_mmbench

    return pocket_mmbench("dev", base_questions=-(-n // 4))[:n]


def _seed(n: int) -> list[dict[str, Any]]:
    from vrbench.pocket.visual import pocket_seed

    return pocket_seed("dev", questions=n)


def _words(n: int) -> list[dict[str, Any]]:
    from vrbench.pocket.visual import pocket_textvqa

    return pocket_textvqa("dev", questions=n)


def _generated(name: str) -> Callable[[int], list[dict[str, Any]]]:
    """Rows of a generated set as often as needed, each time under other ids."""

    def rows(n: int) -> list[dict[str, Any]]:
        from vrbench import pocket

        found = pocket.generate(name, "test")
        rounds = (dict(row, id=f"{k}/{row['id']}") for k in itertools.count() for row in found)
        return list(itertools.islice(rounds, n))

    return rows


def _letters(row: dict[str, Any]) -> Answers:
    return [row["answer"], *(letter for letter in "ABCD" if letter != row["answer"])]


def _yes_no(row: dict[str, Any]) -> Answers:
    return ["Yes", "No"] if row["answer"] == "Yes" else ["No", "Yes"]


def _option(row: dict[str, Any]) -> int:
    return int(row["answer"])


_SHAPES = Kind("easy_vqa", _generated("easy_vqa"), lambda row: [row["answer"], "purple", "a square, I think"])
_FACTS = Kind("pocket_facts", _generated("pocket_facts"), right=_option)
_GRAMMAR = Kind("pocket_grammar", _generated("pocket_grammar"), right=_option)

KINDS: dict[str, Kind] = {
    "made_mme": Kind("pocket_mme", _mme, _yes_no),
    "made_mmbench": Kind("pocket_mmbench", _mmbench, _letters),
    "made_seed": Kind("pocket_seed", _seed, _letters),
    "made_words": Kind("pocket_textvqa", _words, lambda row: [row["answers"][0], "desert", "no word"]),
    "made_shapes": _SHAPES,
    "made_shapes2": _SHAPES,
    "made_facts": _FACTS,
    "made_facts2": _FACTS,
    "made_grammar": _GRAMMAR,
    "made_pydoc": Kind("pocket_pydoc", _generated("pocket_pydoc")),
}
"""Task id -> how it is made; five of pictures that come first, then five others. 'like' says of which suite."""

FEW = ("made_mme", "made_words", "made_facts", "made_pydoc")
"""One of each kind of request and two ways of counting: enough for most tests."""


def make_board(
    folder: Path, submissions: int = 3, items: int = 16, tasks: Sequence[str] = FEW, families: int = 1, seed: int = 0
) -> Made:
    """Make a board in a folder, with submissions that pass.

    Args:
        submissions: how many of each family; the first one is its baseline.
        items: samples a task, a multiple of 8.
        tasks: keys of `KINDS`.
        families: how many families; each has its own baseline.
        seed: of the answers.
    """
    started = start_board(folder, items, tasks, families, seed)
    others = [(family, number) for family in started.board.families for number in range(1, submissions)]
    placed = [started.add(family, number) for family, number in others]
    return Made(started.root, folder / "tasks", (*started.baselines, *placed))


@dataclass(frozen=True)
class Started:
    """A board that has its baselines only, and what makes more submissions to it.

    Attributes:
        root: folder of the boards.
        board: the board.
        rescorers: task id -> what scores answers to it.
        baselines: folders of the baselines' submissions, family by family.
        seed: of the answers.
    """

    root: Path
    board: Board
    rescorers: Mapping[str, Rescorer]
    baselines: tuple[Path, ...]
    seed: int

    def add(self, family: str, number: int) -> Path:
        """Make one more submission; returns its folder."""
        record, samples = made_run(self.rescorers, family, number, self.seed)
        return place(self.root, record, samples, family, number, self.board.families[family].baseline or "")


def start_board(folder: Path, items: int, tasks: Sequence[str], families: int = 1, seed: int = 0) -> Started:
    """Make a board that has its baselines only; the arguments are those of `make_board`."""
    write_tasks(folder / "tasks", tasks, items)
    rescorers = rescorers_of(folder / "tasks", tasks)
    root = folder / "boards"
    runs = {name: made_run(rescorers, name, 0, seed) for name in map(family_name, range(families))}
    board = board_of(rescorers, runs)
    write_atomically(root / BOARD / "board.yaml", yaml.safe_dump(board.model_dump(mode="json"), sort_keys=False))
    placed = [place(root, *run, family, 0, board.families[family].baseline or "") for family, run in runs.items()]
    return Started(root, board, rescorers, tuple(placed), seed)


def write_tasks(folder: Path, tasks: Sequence[str], items: int) -> None:
    """Task files and their data as parquet beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    shipped = {file.stem: file for file in registry.tasks_dir().glob("*/*.yaml")}
    for task in tasks:
        told = yaml.safe_load(shipped[KINDS[task].like].read_text(encoding="utf-8"))
        told |= {"id": task, "n": items, "data": {"kind": "file", "name": f"{task}.parquet"}, "title": f"{task}, made"}
        told.pop("groups", None)
        write_atomically(folder / f"{task}.yaml", yaml.safe_dump(told, sort_keys=False))
        pq.write_table(tables.from_rows(items_of(task, items)).data.table, folder / f"{task}.parquet")


def rescorers_of(folder: Path, tasks: Sequence[str]) -> dict[str, Rescorer]:
    """Task id -> what scores its answers."""
    specs = registry.load(folder)
    return {task: Rescorer(plan_task(specs[task], RunConfig())) for task in tasks}


def family_name(number: int) -> str:
    """Key of a family."""
    return "tiny" if number == 0 else f"tiny{number + 1}"


def board_of(rescorers: Mapping[str, Rescorer], baselines: Mapping[str, tuple[RunRecord, dict[str, Any]]]) -> Board:
    """The board of these tasks, its digests pinned from the baselines' runs."""
    jobs = {task: rescorer.job for task, rescorer in rescorers.items()}
    return Board(
        id=BOARD,
        title="A made-up board",
        description="Answers drawn at random.",
        tasks={
            task: PinnedTask(
                version=job.spec.version, n=job.spec.n, data_digest=job.digest, definition_digest=job.definition_digest
            )
            for task, job in jobs.items()
        },
        suites=BoardSuites(
            visual=tuple(task for task, job in jobs.items() if job.spec.suite == "pocket_visual"),
            text=tuple(task for task, job in jobs.items() if job.spec.suite == "pocket_text"),
        ),
        settings=BoardSettings(dtypes=("float32", "bfloat16")),
        averaging="mean of tasks",
        claims=("visual>=99%", "text>=-1"),
        families={
            name: BoardFamily(
                title=f"Family {name}",
                model="llava",
                depth=DEPTH,
                baseline=f"maker/{name}-full@{record.checkpoint.digest[:16]}",
                prompts={task: prompts_digest(rows) for task, rows in samples.items()},
            )
            for name, (record, samples) in baselines.items()
        },
        shown=dict.fromkeys(jobs, True),
        maintainers=("maker",),
    )


def made_run(
    rescorers: Mapping[str, Rescorer], family: str, number: int, seed: int = 0
) -> tuple[RunRecord, dict[str, tuple[Sample, ...]]]:
    """One run of a family: the fully tuned one for number 0, else one with some layers tuned, every third pruned."""
    accuracy = 0.72 if number == 0 else 0.72 - 0.25 * random.Random(f"{family} {number} {seed}").random()
    samples: dict[str, tuple[Sample, ...]] = {}
    results: list[TaskResult] = []
    for task, rescorer in rescorers.items():
        draw = random.Random(f"{family} {number} {task} {seed}")
        result, rows = rescorer.score(answered(rescorer, task, family, accuracy, draw))
        results.append(result.model_copy(update={"seconds": 2.5, "asked": result.n}))
        samples[task] = rows
    ref = checkpoint(family, number)
    made = {"packages": {"torch": "2.9.0"}, "device": "Made-up card"}
    when = {"first": "2026-01-04T09:00:00+00:00", "last": "2026-01-05T10:00:00+00:00"}
    by = AnswerProvenance(requests=3, reused=True, vrbench=__version__, **when, **made)
    environment = {"device": "cuda", "torch": "2.9.0"} if number % 2 else {}  # runs of 0.2.0 name none
    settings = RunSettings(tasks=tuple(sorted(rescorers)), device="cuda", dtype="float32", environment=environment)
    code = {"decoding": 2} if number % 2 else {}
    results = [result.model_copy(update={"code": code}) for result in results]
    decides = {task: rescorer.job.inputs(code) for task, rescorer in rescorers.items()}
    record = RunRecord(
        status="ok",
        checkpoint=ref,
        settings=settings,
        inputs_digest=inputs_digest(ref.digest, decides, settings),
        results=tuple(results),
        provenance=Provenance(
            vrbench=__version__, commit=f"{number:040x}", dirty=False, python="3.11.9", platform="Linux",
            answered=(by,) if number % 2 else (), **made, image_processor="SiglipImageProcessorPil",
            command=f"vrbench run --ckpt {ref.id} --tasks {','.join(rescorers)}", started="2026-01-05T10:00:00+00:00",
            seconds=2.5 * len(rescorers),
        ),
    )  # fmt: skip
    return record, samples


def checkpoint(family: str, number: int) -> CheckpointRef:
    """The checkpoint of a run, with the lineage that it would have."""
    base = BaseRef(id=f"{family}-base", digest=digest_of(f"{family} base"))
    tuned = LayerSet.all(DEPTH) if number == 0 else LayerSet.of(range(0, DEPTH, 1 + number % 5), DEPTH)
    name = f"{family}-full" if number == 0 else f"{family}-region-{number}"
    note = '{"device": "Made-up card", "seconds": 120.5}'
    step = LineageStep(
        kind="trained", layers=str(tuned), depth=DEPTH, method="lora", stage="tune", recipe="made-region", note=note
    )
    first = Lineage(id=name, family="llava", depth=DEPTH, base=base, steps=(step,), licence="Apache-2.0")
    lineage: tuple[Lineage, ...] = (first,)
    digest = digest_of([family, number])
    if number and number % 3 == 0:
        cut = LineageStep(kind="pruned", layers="10-11", depth=DEPTH, method="angular")
        inner = BaseRef(id=name, digest=digest_of([family, number, "whole"]))
        name = f"{name}-pruned"
        lineage = (Lineage(id=name, family="llava", depth=DEPTH - 2, base=inner, steps=(cut,)), first)
    return CheckpointRef(id=name, digest=digest, family="llava", depth=lineage[0].depth, lineage=lineage)


def answered(rescorer: Rescorer, task: str, family: str, accuracy: float, draw: random.Random) -> tuple[Sample, ...]:
    """Samples with nothing but responses and prompts, right with some probability that depends on the item too."""
    kind = KINDS[task]
    rows = items_of(task, rescorer.job.spec.n)
    found = []
    for item, row in zip(rescorer.ids, rows, strict=True):
        ease = random.Random(f"{task} {item}").random()  # the same for all, so that runs resemble each other
        right = 0.6 * ease + 0.4 * draw.random() < accuracy
        prompt = digest_of([family, task, item])  # in place of a chat template and pictures
        found.append(
            Sample(id=item, cluster="", score=0, responses=_said(kind, row, right, draw), prompt_digest=prompt)
        )
    return tuple(found)


@cache
def items_of(task: str, n: int) -> list[dict[str, Any]]:
    """The rows of a made-up task."""
    return KINDS[task].rows(n)


def _said(kind: Kind, row: dict[str, Any], right: bool, draw: random.Random) -> tuple[Any, ...]:
    if kind.answers is not None:
        options = kind.answers(row)
        return (options[0] if right else draw.choice(options[1:]),)
    if kind.right is None:
        return (-len(row["text"].split()) * (5.0 if right else 5.5) * draw.uniform(0.98, 1.02),)
    best = kind.right(row)
    others = [i for i in range(len(row["choices"])) if i != best]
    said = best if right else draw.choice(others)
    return tuple((-draw.uniform(1, 2) if i == said else -draw.uniform(3, 9), False) for i in range(len(others) + 1))


def place(
    root: Path, record: RunRecord, samples: dict[str, tuple[Sample, ...]], family: str, number: int, baseline: str
) -> Path:
    """Write a run as a submission; returns its folder."""
    revision = record.checkpoint.digest[:16]
    org, name = ("maker", f"{family}-full") if number == 0 else (f"lab{number % 4}", f"{family}-region-{number}")
    folder = root / BOARD / "submissions" / f"{org}__{name}" / revision
    run = save_run(folder, record, samples, compressed=True)
    if number:
        write_atomically(folder / "recipe.yaml", RECIPE)
    submission = Submission(
        board=BOARD, org=org, name=name, revision=revision, family=family, baseline=baseline,
        description=f"made-up number {number}", url="https://example.org/made", licence="Apache-2.0",
        submitted="2026-01-06", vrbench=__version__, run_digest=hashlib.sha256(run.read_bytes()).hexdigest(),
    )  # fmt: skip
    write_atomically(folder / "submission.json", submission.model_dump_json(indent=1) + "\n")
    return folder


def read_back(folder: Path) -> tuple[RunRecord, dict[str, tuple[Sample, ...]], Submission]:
    """A submission's record, samples and what it says of itself, to be changed and written again."""
    from vrbench.core.run_storage import load_run

    run = load_run(folder)
    submission = Submission.model_validate_json((folder / "submission.json").read_text(encoding="utf-8"))
    return run.record, dict(run.samples), submission
