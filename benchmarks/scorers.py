"""Compare the scores of every visual task with its harness's, item by item, on made-up and recorded answers.

    python benchmarks/scorers.py [--items 320]
    python benchmarks/scorers.py --record [--ckpt pocket/region,...] [--tasks mme,...]

The documents are made up in the format of the hub's data sets (`documents.py`), with made-up answers in many formats
(`answer_variants.py`) and answers of the pocket checkpoints (`recorded.py`; --record computes them again). vrbench
scores the answers, and so does lmms-eval's own task object, built from its own YAML, with its filters,
`process_results` and aggregations. Writes benchmarks/results/scorers.md; exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import random
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date
from functools import reduce
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the folder's own modules, by their name
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import answer_variants, documents, recorded
from benchmarks.report_header import versions
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.data import loading
from vrbench.data.locate import locate
from vrbench.evaluation.built_task import SubtaskData, select_items
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.harness_adapter import silence_output
from vrbench.tasks import metrics, registry
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.spec import TaskSpec

REPORT = Path(__file__).parent / "results" / "scorers.md"
OWN = {"tabmwp": "own rule, see tests/evaluation/test_tabmwp.py", "ocrvqa": "lmms-eval's exact_match as GQA calls it"}


@dataclass(frozen=True)
class Line:
    """The outcome of answers to one task.

    Attributes:
        answers: one an item.
        right: points that vrbench gave them.
        items: items whose score is the harness's (MME: pairs; MMBench: questions; then all items of them).
        figures: aggregates of the harness that vrbench has, and how many of them are the same.
    """

    task: str
    answers: int
    right: float
    items: int
    figures: int
    same_figures: int

    @property
    def equal(self) -> bool:
        """Whether everything is the same."""
        return self.items == self.answers and self.figures == self.same_figures > 0

    def __add__(self, other: Line) -> Line:
        """Both outcomes of one task together."""
        sums = [getattr(self, x.name) + getattr(other, x.name) for x in fields(self) if x.name != "task"]
        return Line(self.task, *sums)


class Prompts:
    """What an adapter asks of a model beside its answers: the whole prompt of a question."""

    prompt_format = FAMILIES["llava"].prompt_format
    context_length = 2048

    def prompt(self, text: str, n_images: int = 0) -> str:
        """The text after a mark for each image."""
        return "<image>" * n_images + text


class Says:
    """Stands in for the engine: says what was laid down for each request, and keeps the requests."""

    def __init__(self, said: Sequence[str]) -> None:
        self.vlm = Prompts()
        self.said = list(said)
        self.asked: list[Any] = []

    def answer(self, requests: Sequence[Any], title: str = "") -> list[str]:
        """The answers in the order of the requests."""
        self.asked += requests
        return self.said[: len(requests)]


def check(spec: TaskSpec, items: int, root: Path) -> Line:
    """Score made-up answers to made-up documents of one task both ways.

    Args:
        items: documents at least.
        root: empty folder for the documents.
    """
    part = _documents(spec, items, root)
    rows = part.rows[spec.data.split]
    plain = rows.remove_columns([name for name in spec.data.images if name in rows.column_names])
    return _compare(spec, part, answer_variants.answers(spec.id, list(plain)))


def check_recorded(spec: TaskSpec, recordings: Sequence[recorded.Recording], root: Path) -> Line:
    """Score the recorded answers of one task both ways, those of each checkpoint as one run.

    Args:
        recordings: of this task.
        root: empty folder for the documents.

    Raises:
        VrbenchError: there are no answers, or they were given to other documents.
    """
    if not recordings:
        raise VrbenchError(f"task {spec.id!r} has no recorded answers; make them with --record")
    part = _documents(spec, recorded.DOCUMENTS, root)
    ids = recorded.ids(spec, part)
    return reduce(Line.__add__, [_compare(spec, part, recording.to(ids)) for recording in recordings])


def _documents(spec: TaskSpec, items: int, root: Path) -> SubtaskData:
    documents.write(spec, root, items)
    (part,) = select_items(spec, loading.load(spec, locate(spec, root)), None, 0)
    return part


def _compare(spec: TaskSpec, part: SubtaskData, said: Sequence[str]) -> Line:
    """Score answers both ways, one a document."""
    answerer: Any = Says(said)
    outcome = evaluate_task(spec, [part], answerer)
    theirs = Reference(spec, part, said, [sample.id for sample in outcome.samples])
    units: dict[tuple[str, str], list[int]] = {}
    for number, sample in enumerate(outcome.samples):
        whole = metrics.METRICS[SCORERS[spec.scorer].metric].whole_units
        units.setdefault((sample.group, sample.unit if whole else sample.id), []).append(number)
    same = sum(len(numbers) for numbers in units.values() if _agree(spec, outcome.samples, theirs, numbers))
    whole_figures = theirs.figures(range(len(said)))
    same_figures = sum(outcome.official[name] == value for name, value in whole_figures.items())
    right = sum(sample.score for sample in outcome.samples)
    return Line(spec.id, len(said), right, same, len(whole_figures), same_figures)


def _agree(spec: TaskSpec, samples: Sequence[Sample], theirs: Reference, numbers: Sequence[int]) -> bool:
    """Whether some items that count together get the same score both ways."""
    scorer = SCORERS[spec.scorer]
    metric = metrics.METRICS[scorer.metric]
    ours = metric.compute([samples[i] for i in numbers])
    figures = {**theirs.figures(numbers), "subtasks": 1}
    return abs(ours - scorer.official([(len(numbers), figures)])) < 1e-9


class Reference:
    """lmms-eval's own task object over the same documents and answers."""

    def __init__(self, spec: TaskSpec, part: SubtaskData, said: Sequence[str], ids: Sequence[str]) -> None:
        from lmms_eval.api.task import ConfigurableTask

        class Task(ConfigurableTask):  # type: ignore[misc]
            def download(self, dataset_kwargs: Any = None) -> None:
                self.dataset = self.dataset_no_image = part.rows

        self.task = Task(config=_config(spec))
        self.task.build_all_requests()
        for instance, text in zip(self.task.instances, said, strict=True):
            instance.resps.append(text)
        self.task.apply_filters()
        self.metrics = []
        for instance, seed, doc in zip(self.task.instances, ids, part.rows[spec.data.split], strict=True):
            random.seed(seed)  # MMMU draws an option where no letter can be read; vrbench draws it by the item's id
            response = next(iter(instance.filtered_resps.values()))
            self.metrics.append(self.task.process_results(copy.deepcopy(doc), [response]))

    def figures(self, numbers: Sequence[int]) -> dict[str, float]:
        """Its aggregates over some of the documents."""
        found = {}
        for name, function in self.task.aggregation().items():
            values = [copy.deepcopy(self.metrics[i][name]) for i in numbers if name in self.metrics[i]]
            if values:
                with tempfile.TemporaryDirectory() as folder:
                    takes_args = "args" in inspect.signature(function).parameters
                    found[name] = float(
                        function(values, **({"args": Namespace(output_path=folder)} if takes_args else {}))
                    )
        return found


def _config(spec: TaskSpec) -> dict[str, Any]:
    """What lmms-eval's own YAML says, with what it calls by name or leaves out put in here."""
    import lmms_eval.api.metrics  # registers them
    from lmms_eval.tasks.hallusion_bench import evaluate_hb
    from lmms_eval.tasks.mmbench.en_utils import mmbench_aggregate_dev_results_static
    from lmms_eval.utils import load_yaml_config

    from vrbench.tasks import tabmwp

    folder = Path(lmms_eval.__file__).parent / "tasks"
    file = spec.harness_files().get(spec.data.configs[0]) or "gqa/gqa.yaml"
    told: dict[str, Any] = dict(load_yaml_config(str(folder / file)))
    told |= {"test_split": spec.data.split, "process_docs": None, "dataset_path": None, "dataset_name": None}
    told["metric_list"] = [metric for metric in told["metric_list"] if metric["metric"] != "submission"]
    if spec.id in OWN:
        told |= {"doc_to_text": "question", "lmms_eval_specific_kwargs": None}
    if spec.id == "tabmwp":
        told |= {"process_results": tabmwp.process_results}
        told |= {"metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}]}
    if spec.id == "mmbench_cn":
        told["metric_list"][0]["aggregation"] = mmbench_aggregate_dev_results_static
    if spec.id == "hallusionbench":
        for metric in told["metric_list"]:
            metric["aggregation"] = getattr(evaluate_hb, f"hb_aggregation_result_{metric['metric']}_intern")
    return told


def report(lines: Sequence[tuple[Line, Line]], recordings: Sequence[recorded.Recording], command: str) -> str:
    """Markdown: tasks, answers, and how many are scored the same.

    Args:
        lines: of each task, what came of the made-up answers and of the recorded ones.
    """
    rows = [
        f"| {made.task} | {made.answers} | {made.right:.1f} | {said.answers} | {said.right:.1f} | "
        f"{OWN.get(made.task, 'lmms-eval')} | {made.items} + {said.items} | "
        f"{made.same_figures + said.same_figures} of {made.figures + said.figures} | "
        f"{'yes' if made.equal and said.equal else '**no**'} |"
        for made, said in lines
    ]
    digests = dict(sorted({(one.checkpoint, one.digest) for one in recordings}))
    asked = ", ".join(f"{name} ({digest[:16]})" for name, digest in digests.items())
    return "\n".join(
        [
            "# The scorers against the harness's own",
            "",
            f"{date.today().isoformat()}. Answers to made-up documents, one an item, scored by vrbench and by "
            "lmms-eval's own task objects: filters, process_results and aggregations. MME's pairs and MMBench's "
            "questions in all rotations are compared as wholes, since lmms-eval has no score of a part of them.",
            "",
            f"Made up: answers in all dresses. Recorded: what {asked} said to {recorded.DOCUMENTS} documents a task "
            "and a few more where questions belong together, through vrbench's engine, in float32, with each task's "
            f"own prompt and settings, {recorded.LONGEST} tokens at most; those of each checkpoint are one run.",
            "",
            "| task | made up | points | recorded | points | scored against | the same, item by item | "
            "the same aggregates | equal |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"`{command}`",
            "",
            versions(),
            "",
        ]
    )


def main(told: Sequence[str] | None = None) -> int:
    """Compare, print and write; returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=320, help="made-up answers per task")
    parser.add_argument("--record", action="store_true", help="record the checkpoints' answers instead of comparing")
    parser.add_argument("--ckpt", default=recorded.CHECKPOINTS, help="to be recorded")
    parser.add_argument("--tasks", default=",".join(documents.SETS), help="to be recorded")
    given = parser.parse_args(told)
    specs = registry.load()
    if given.record:
        recorded.record_all(given.ckpt.split(","), registry.select(given.tasks, specs))
        return 0
    recordings = recorded.read()
    lines = []
    for name in documents.SETS:
        mine = [one for one in recordings if one.task == name]
        with tempfile.TemporaryDirectory() as folder, silence_output():
            made = check(specs[name], given.items, Path(folder) / "made")
            lines.append((made, check_recorded(specs[name], mine, Path(folder) / "recorded")))
    written = report(lines, recordings, f"python benchmarks/scorers.py --items {given.items}")
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(written, encoding="utf-8")
    print(written)
    return 0 if all(made.equal and said.equal for made, said in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
