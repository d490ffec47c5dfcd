"""tasks/<suite>/<id>.yaml -> `TaskSpec`; and what a user means by "visual,pocket_*,mme" (no torch, no datasets)."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import load_yaml, read_text

VisualScorer = Literal[
    "mme", "mmbench", "seed", "textvqa", "anls", "chartqa", "pope", "mmmu", "hallusionbench", "tabmwp"
]
TextScorer = Literal["exact_match", "multiple_choice", "multiple_choice_norm", "mc2", "last_word", "perplexity"]
Scorer = Literal[VisualScorer, TextScorer]
Metric = Literal["mean", "macro", "mme", "circular", "vanilla", "perplexity"]


class Frozen(BaseModel):
    """Frozen, with no unknown fields: a misspelt key in a task file is told, not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Join(Frozen):
    """Columns that another config of the same set holds, such as the pictures of GQA's questions."""

    config: str = Field(min_length=1, description="The other config; the split is the same.")
    column: str = Field(description="Column of an item that names its row there.")
    key: str = Field(default="id", description="Column there that holds the name.")


class DataSource(Frozen):
    """Where a task's samples come from."""

    kind: Literal["generated", "hub", "file"] = Field(description="Drawn by this package, a hub set, or a local file.")
    name: str = Field(min_length=1, description="Generator, 'org/set', or a .parquet/.jsonl path beside the task file.")
    config: tuple[str, ...] = Field(default=(), description="The hub set's configs, each a part of the task.")
    revision: str = Field(default="", description="Hub revision; empty for the newest.")
    split: str = Field(default="test", description="Split that is scored.")
    fewshot_split: str = Field(default="", description="Split that the examples in the prompt come from.")
    images: tuple[str, ...] = Field(default=("image",), description="Columns with pictures, where there are any.")
    columns: dict[str, str] = Field(default={}, description="Column as the task calls it -> as the data call it.")
    join: Join | None = Field(default=None, description="Config that holds further columns, where there is one.")
    unnest: tuple[str, ...] = Field(default=(), description="Columns with lists whose every entry is an item.")

    @property
    def configs(self) -> tuple[str, ...]:
        """The configs, which is "default" for a set that has none."""
        return self.config or ("default",)

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """(config, split) of all that has to be at hand, what is joined among it."""
        configs = self.configs + ((self.join.config,) if self.join else ())
        return tuple((config, split) for config in configs for split in self.splits)

    @property
    def splits(self) -> tuple[str, ...]:
        """The split that is scored, then that of the examples, if there is one."""
        return (self.split, self.fewshot_split) if self.fewshot_split else (self.split,)


class GenerationSettings(Frozen):
    """How an answer is generated: greedily, up to a length or a stop text."""

    max_new_tokens: int = Field(ge=1, description="Longest answer, in tokens.")
    until: tuple[str, ...] = Field(default=("\n\n",), description="Texts that end an answer.")


class TaskSpec(Frozen):
    """One task: which items, which harness's prompt and scoring, and what its score means.

    `id_column`, `cluster`, `group` and `unit` name a column, or are a jinja expression over the columns such as
    "{{index % 1000000}}". Where the data have no column of that name, `config` is the item's config.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", description="The file's stem.")
    suites: tuple[str, ...] = Field(min_length=1, description="Suites that the task belongs to, the home suite first.")
    title: str = Field(description="What is asked, in a few words.")
    harness: Literal["lm-eval", "lmms-eval"] = Field(description="Whose prompts, filters and scoring are used.")
    harness_task: str = Field(
        default="", description="The harness's own YAML under its tasks folder; {config} stands for each config."
    )
    scorer: Scorer = Field(description="Key of `vrbench.tasks.scorers.SCORERS`.")
    description: str = Field(default="", description="Text before the prompt (own prompts only).")
    prompt: str | None = Field(default=None, description="Prompt, a jinja template over the columns.")
    choices: str | tuple[str, ...] | None = Field(default=None, description="Options: a list, or jinja giving one.")
    target: str | None = Field(default=None, description="Right answer: a column, or jinja giving text or index.")
    delimiter: str = Field(default=" ", description="What stands between prompt and answer (own prompts only).")
    generation: GenerationSettings | None = Field(default=None, description="In place of the harness's settings.")
    judge: str = Field(default="", description="Why a judge model is needed: such a task is listed and refused.")
    ocr_tokens: bool | None = Field(default=None, description="OCR tokens in the prompt; none where there are none.")
    column: str = Field(default="", description="Its column in the tables of arXiv:2412.12785, where it has one.")
    fewshot: int = Field(default=0, ge=0, description="Examples in the prompt.")
    harness_examples: bool = Field(default=False, description="The harness's own YAML holds the examples.")
    filter: str = Field(default="", description="Which of the harness's filters scores; empty for its first.")
    data: DataSource = Field(description="Where the samples come from.")
    metric: Metric = Field(description="Key of `vrbench.tasks.metrics.METRICS`.")
    higher_is_better: bool = Field(default=True, description="Direction of the metric.")
    chance: float | None = Field(ge=0, le=100, description="Score of guessing on the 0-100 scale; none if undefined.")
    id_column: str | None = Field(default=None, description="Stable id of an item; none takes its position.")
    cluster: str | None = Field(default=None, description="What items share; none makes each item its own.")
    group: str | None = Field(default=None, description="Subtask, question type or subject.")
    unit: str | None = Field(default=None, description="Items that count together; none makes each item its own.")
    groups: tuple[str, ...] = Field(default=(), description="Groups of the full set, if parts of it are in use.")
    n: int = Field(ge=1, description="Items of the full set.")
    version: str = Field(min_length=1, description="Version of this definition; scores of two versions do not mix.")
    licence: str = Field(default="", description="Of the data, SPDX name where there is one.")
    citation: str = Field(default="", description="Whom to cite.")
    url: str = Field(default="", description="Where it comes from.")
    note: str = Field(default="", description="What a reader of the score must know.")

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> TaskSpec:
        faults = list(_contradictions(self))
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def suite(self) -> str:
        """The home suite."""
        return self.suites[0]

    def harness_files(self) -> dict[str, str]:
        """Config -> the harness's own YAML relative to its tasks folder; empty when the prompt is our own."""
        if not self.harness_task:
            return {}
        return {config: self.harness_task.replace("{config}", config) for config in self.data.configs}

    def missing_groups(self, present: Iterable[str]) -> tuple[str, ...]:
        """Groups of the full set that are not among those present; empty means that totals are complete."""
        here = set(present)
        return tuple(g for g in self.groups if g not in here)


def tasks_dir() -> Path:
    """Folder of the task files: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_tasks"
    return shipped if shipped.is_dir() else package.parent / "tasks"


def load(include_path: str | Path | None = None) -> dict[str, TaskSpec]:
    """Read all task files, the user's own among them, ordered by suite and id.

    Args:
        include_path: folder with the user's task files, searched in depth.

    Raises:
        VrbenchError: all faults of all files at once, each with its file.
    """
    specs, broken = read_all(include_path)
    raise_errors(broken.values())
    return specs


def read_all(include_path: str | Path | None = None) -> tuple[dict[str, TaskSpec], dict[Path, str]]:
    """As `load`: the sound tasks, and of each broken file what is wrong with it."""
    files = sorted(tasks_dir().glob("*/*.yaml"))
    if include_path is not None:
        files += _own_files(Path(include_path))
    specs: dict[str, TaskSpec] = {}
    origin: dict[str, Path] = {}
    broken: dict[Path, str] = {}
    for file in files:
        try:
            spec = read(file)
        except VrbenchError as error:
            broken[file] = str(error)
            continue
        if spec.id in origin:
            taken = origin[spec.id]
            broken[file] = f"{file}: task id {spec.id!r} is taken by {taken}; choose another file name and id"
            continue
        specs[spec.id], origin[spec.id] = spec, file
    return specs, broken


def read(file: Path) -> TaskSpec:
    """Read one task file; a local data file is named relative to it.

    Raises:
        VrbenchError: not YAML, a key twice, an unknown or missing key, an id that is not the file's stem.
    """
    try:
        raw = load_yaml(read_text(file))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VrbenchError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"{file}: a task file is a mapping of keys, such as 'id: {file.stem}'")
    data = raw.get("data")
    if isinstance(data, dict) and data.get("kind") == "file" and isinstance(data.get("name"), str):
        raw = {**raw, "data": {**data, "name": str((file.parent / data["name"]).resolve())}}
    try:
        spec = TaskSpec.model_validate(raw)
    except ValidationError as error:
        raise VrbenchError(f"{file}: {'; '.join(_told(fault) for fault in error.errors())}") from error
    if spec.id != file.stem:
        raise VrbenchError(f"{file}: id is {spec.id!r}, but the file's stem is {file.stem!r}; make them equal")
    if not file.resolve().is_relative_to(tasks_dir()):
        from vrbench.tasks import untrusted

        raise_errors(f"{file}: {fault}" for fault in untrusted.faults(spec))
    return spec


def select(names: str | Sequence[str], specs: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """The tasks meant by ids, suites and globs, comma-separated; each once, in the order in which it is first named.

    Raises:
        VrbenchError: nothing was named, or names that match nothing: all of them, with the nearest that there are.
    """
    text = names if isinstance(names, str) else ",".join(names)
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    suites = sorted({suite for spec in specs.values() for suite in spec.suites})
    if not wanted:
        raise VrbenchError(f"no task was named; name ids or suites, such as {', '.join(suites)}")
    chosen: dict[str, TaskSpec] = {}
    unknown = []
    for name in wanted:
        found = matching(name, specs)
        chosen.update((spec.id, spec) for spec in found)
        if not found:
            unknown.append(name)
    raise_errors(_unknown(name, [*specs, *suites]) for name in unknown)
    return list(chosen.values())


def select_runnable(names: str | Sequence[str], specs: Mapping[str, TaskSpec]) -> tuple[list[TaskSpec], list[TaskSpec]]:
    """`select`, parted into the tasks that can be run and those that are left out because they need a judge model.

    Raises:
        VrbenchError: as `select`; or a task that needs a judge was named by its id, or nothing is left.
    """
    text = names if isinstance(names, str) else ",".join(names)
    named = [specs[name.strip()] for name in text.split(",") if name.strip() in specs]
    faults = [f"task {spec.id!r} needs a judge model and is not run: {spec.judge}" for spec in named if spec.judge]
    chosen: list[TaskSpec] = []
    try:
        chosen = select(names, specs)
    except VrbenchError as error:
        faults += error_messages(error)
    raise_errors(faults)
    judged = [spec for spec in chosen if spec.judge]
    if len(judged) == len(chosen):
        ids = ", ".join(spec.id for spec in judged)
        raise VrbenchError(f"{text!r} names only tasks that need a judge model, which are not run: {ids}")
    return [spec for spec in chosen if not spec.judge], judged


def _contradictions(spec: TaskSpec) -> Iterator[str]:
    if bool(spec.harness_task) == (spec.prompt is not None):
        yield "give either harness_task or prompt, not both and not neither"
    if spec.prompt is not None and spec.target is None:
        yield "a task with its own prompt needs a target"
    if spec.prompt is not None and spec.scorer == "multiple_choice" and spec.choices is None:
        yield "scorer multiple_choice needs choices"
    if (spec.scorer == "perplexity") != (spec.metric == "perplexity"):
        yield "scorer perplexity and metric perplexity go together"
    if spec.metric == "perplexity" and (spec.higher_is_better or spec.chance is not None):
        yield "a perplexity has higher_is_better: false and chance: null"
    if spec.harness == "lm-eval" and spec.scorer in get_args(VisualScorer):
        yield f"scorer {spec.scorer} is lmms-eval's; harness lm-eval has {', '.join(get_args(TextScorer))}"
    if spec.harness == "lmms-eval" and spec.scorer in set(get_args(TextScorer)) - {"exact_match"}:
        able = ", ".join((*get_args(VisualScorer), "exact_match"))
        yield f"scorer {spec.scorer} is lm-eval's; harness lmms-eval has {able}"
    if spec.scorer in ("mme", "mmbench") and spec.unit is None:
        yield f"scorer {spec.scorer} needs unit, the items that count together"
    if spec.scorer == "mme" and spec.group is None:
        yield "scorer mme needs group"
    if spec.metric in ("mme", "circular") and spec.unit is None:
        yield f"metric {spec.metric} needs unit, the items that count together"
    if spec.metric in ("mme", "macro") and spec.group is None:
        yield f"metric {spec.metric} needs group"
    if spec.fewshot and not (spec.data.fewshot_split or spec.harness_examples):
        yield f"{spec.fewshot} examples in the prompt need data.fewshot_split, or harness_examples: true"
    if spec.harness_examples and (spec.data.fewshot_split or not spec.harness_task):
        yield "harness_examples needs harness_task, and leaves data.fewshot_split out"
    if spec.data.kind != "hub" and (spec.data.config or spec.data.revision or spec.data.join):
        yield "config, revision and join belong to data of kind hub"


def _own_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise VrbenchError(f"--include-path {str(folder)!r} is not a folder")
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise VrbenchError(f"--include-path {str(folder)!r} has no .yaml file")
    return files


def matching(name: str, specs: Mapping[str, TaskSpec]) -> list[TaskSpec]:
    """The tasks that one id, suite or glob means."""
    return [s for s in specs.values() if fnmatch.fnmatchcase(s.id, name) or _in_suite(s, name)]


def _in_suite(spec: TaskSpec, name: str) -> bool:
    return any(fnmatch.fnmatchcase(suite, name) for suite in spec.suites)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"task {name!r} is unknown; {hint}"


def _told(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = f" (given {fault['input']!r})" if fault["type"] == "literal_error" else ""
    return f"{place}: {message}{given}" if place else message
