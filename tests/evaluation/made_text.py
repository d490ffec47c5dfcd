"""Small text data with the columns and types of the hub's sets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.evaluation.made import WORDS
from vrbench.tasks.spec import TaskSpec

TEXT, TEXTS, INT = pa.string(), pa.list_(pa.string()), pa.int32()
LETTERS = {letter: TEXT for letter in "ABCD"}
MARKED = pa.struct([("choices", TEXTS), ("labels", pa.list_(INT))])
OPTIONS = pa.struct([("text", TEXTS), ("label", TEXTS)])

COLUMNS: dict[str, dict[str, Any]] = {
    "cais/mmlu": {"question": TEXT, "subject": TEXT, "choices": TEXTS, "answer": pa.int64()},
    "SaylorTwift/bbh": {"input": TEXT, "target": TEXT},
    "ceval/ceval-exam": {"id": INT, "question": TEXT, **LETTERS, "answer": TEXT, "explanation": TEXT},
    "haonan-li/cmmlu": {"Question": TEXT, **LETTERS, "Answer": TEXT},
    "allenai/ai2_arc": {"id": TEXT, "question": TEXT, "choices": OPTIONS, "answerKey": TEXT},
    "Rowan/hellaswag": {
        "ind": INT, "activity_label": TEXT, "ctx_a": TEXT, "ctx_b": TEXT, "ctx": TEXT, "endings": TEXTS,
        "source_id": TEXT, "split": TEXT, "split_type": TEXT, "label": TEXT,
    },
    "allenai/winogrande": {"sentence": TEXT, "option1": TEXT, "option2": TEXT, "answer": TEXT},
    "openai/gsm8k": {"question": TEXT, "answer": TEXT},
    "truthfulqa/truthful_qa": {"question": TEXT, "mc1_targets": MARKED, "mc2_targets": MARKED},
    "allenai/openbookqa": {"id": TEXT, "question_stem": TEXT, "choices": OPTIONS, "answerKey": TEXT},
    "EleutherAI/lambada_openai": {"text": TEXT},
}  # fmt: skip
"""Hub set -> its columns."""


def put(root: Path, spec: TaskSpec, n: int = 5) -> None:
    """Write all configs and splits of a task under a data root, each with n rows; examples as many as are needed."""
    name = spec.data.name
    schema = pa.schema(list(COLUMNS[name].items()))
    for config in spec.data.configs:
        for split in spec.data.splits:
            draw = random.Random(f"{name} {config} {split}")
            rows = [
                row(name, config, number, draw)
                for number in range(n if split == spec.data.split else max(n, spec.fewshot))
            ]
            file = root / name / config / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def row(name: str, config: str, number: int, draw: random.Random) -> dict[str, Any]:
    """One row of a set, with every column that the hub's has."""
    letter = draw.choice("ABCD")
    question, options = phrase(draw, 3, 9), [phrase(draw, 1, 5) for _ in range(4)]
    lettered = dict(zip("ABCD", options, strict=True))
    choices = {"text": options, "label": list("ABCD")}
    marked = {"choices": options, "labels": [1, number % 2, 0, 0]}
    worked = f"{question} = <<1+{number}={number + 1}>>.\n#### 1,00{number}"
    gap = f"{phrase(draw, 2, 5)} because _ was {phrase(draw, 1, 4)}."
    film = f"activitynet~v_{number // 2}"
    rows: dict[str, dict[str, Any]] = {
        "cais/mmlu": {"question": question, "subject": config, "choices": options, "answer": "ABCD".index(letter)},
        "SaylorTwift/bbh": {"input": question, "target": draw.choice(["True", "(A)", "7"])},
        "ceval/ceval-exam": {
            "id": number, "question": f"{question}是____", **lettered, "answer": letter, "explanation": ""
        },
        "haonan-li/cmmlu": {"Question": f"{question}是", **lettered, "Answer": letter},
        "allenai/ai2_arc": {"id": f"q{number}", "question": question, "choices": choices, "answerKey": letter},
        "Rowan/hellaswag": {
            "ind": number, "activity_label": phrase(draw, 1, 2), "ctx_a": f"{question} [title] Tea.", "ctx_b": "she",
            "ctx": question, "endings": [f"{option}  [substeps] end." for option in options], "source_id": film,
            "split": "val", "split_type": ("indomain", "zeroshot")[number % 2], "label": str("ABCD".index(letter)),
        },
        "allenai/winogrande": {
            "sentence": gap, "option1": options[0], "option2": options[1], "answer": str(1 + number % 2)
        },
        "openai/gsm8k": {"question": f"{question}?", "answer": worked},
        "truthfulqa/truthful_qa": {"question": f"{question}?", "mc1_targets": marked, "mc2_targets": marked},
        "allenai/openbookqa": {"id": f"7-{number}", "question_stem": question, "choices": choices, "answerKey": letter},
        "EleutherAI/lambada_openai": {"text": f"{question} {phrase(draw, 5, 9)}"},
    }  # fmt: skip
    return rows[name]


def phrase(draw: random.Random, fewest: int, most: int) -> str:
    """Some words."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(fewest, most)))


def part_of(spec: TaskSpec, configs: Sequence[str]) -> TaskSpec:
    """The task with some of its configs."""
    return spec.model_copy(update={"data": spec.data.model_copy(update={"config": tuple(configs)})})
