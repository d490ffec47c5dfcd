"""Small data of the same columns as the real sets, made from a seed."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = "a cup of tea on the red table by some green door near two old dogs".split()
SUBTASKS = ("existence", "count", "position", "color")


def hub(folder: Path) -> Path:
    """A data root with small piqa, arc_easy and mme; returns the folder."""
    _write(folder / "baber/piqa/default/validation.parquet", piqa())
    _write(folder / "allenai/ai2_arc/ARC-Easy/test.parquet", arc())
    _write(folder / "lmms-lab-encoder/MME/default/test.parquet", mme())
    return folder


def piqa(n: int = 13) -> list[dict[str, Any]]:
    """Two ways to a goal; the goals differ in length."""
    draw = random.Random(1)
    return [
        {"goal": _phrase(draw, 3, 20), "sol1": _phrase(draw, 2, 9), "sol2": _phrase(draw, 2, 9), "label": i % 2}
        for i in range(n)
    ]


def arc(n: int = 11) -> list[dict[str, Any]]:
    """Three to five options, as in the real set."""
    draw = random.Random(2)
    rows = []
    for i in range(n):
        labels = list("ABCDE"[: 3 + i % 3])
        texts = [_phrase(draw, 1, 4) for _ in labels]
        answer = draw.choice(labels)
        choices = {"text": texts, "label": labels}
        rows.append({"id": f"q{i}", "question": _phrase(draw, 4, 12), "choices": choices, "answerKey": answer})
    return rows


def mme(pictures: int = 3) -> list[dict[str, Any]]:
    """Pairs of questions on pictures, in four subtasks; two subtasks share a picture's pixels."""
    draw = random.Random(3)
    rows = []
    for subtask in SUBTASKS:
        for i in range(pictures):
            pixels = noise(f"{i}" if subtask in ("count", "color") else f"{subtask} {i}")
            for answer in ("Yes", "No"):
                question = f"Is there {_phrase(draw, 2, 6)} in the image? Please answer yes or no."
                about = {"question_id": f"{subtask}/{i}.png", "question": question, "answer": answer}
                rows.append({**about, "category": subtask, "image": stored(pixels)})
    return rows


def mmbench(questions: int = 4) -> list[dict[str, Any]]:
    """Two to four options in all rotations; row r of question q has index r * 1,000,000 + q."""
    draw = random.Random(4)
    rows = []
    for q in range(questions):
        options = [_phrase(draw, 1, 3) for _ in range(2 + q % 3)]
        for r in range(len(options)):
            turned = options[r:] + options[:r]
            letters = dict(zip("ABCD", turned + [None] * 4, strict=False))
            about = {"index": r * 1_000_000 + q, "question": _phrase(draw, 3, 6), "hint": None, "comment": None}
            about |= {"answer": "ABCD"[turned.index(options[0])], "category": f"kind {q % 2}", "source": "made"}
            rows.append({**about, **letters, "L2-category": "all", "split": "dev", "image": stored(noise(f"{q}"))})
    return rows


def seed(n: int = 8) -> list[dict[str, Any]]:
    """Four options; the picture is a list of one."""
    draw = random.Random(5)
    rows = []
    for i in range(n):
        options = {f"choice_{letter}": _phrase(draw, 1, 3) for letter in "abcd"}
        about = {"question_id": str(i), "question": _phrase(draw, 3, 7), "answer": draw.choice("ABCD")}
        about |= {"data_type": "image", "question_type_id": 1 + i % 2}
        rows.append({**about, **options, "image": [stored(noise(f"{i}"))]})
    return rows


def textvqa(n: int = 6) -> list[dict[str, Any]]:
    """Ten answers, of which some agree, in spellings that only the official processing makes equal."""
    draw = random.Random(6)
    rows = []
    for i in range(n):
        word = draw.choice(WORDS)
        answers = [word.upper() if k % 3 == 0 else f"the {word}." if k % 3 == 1 else "no idea" for k in range(10)]
        about = {"question_id": i, "question": _phrase(draw, 3, 7), "answers": answers, "image_id": f"{i}"}
        rows.append({**about, "ocr_tokens": [word], "image": stored(noise(f"{i}"))})
    return rows


def noise(seed: str, width: int = 40, height: int = 24) -> Image.Image:
    """A picture of random pixels."""
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(width * height * 3))


def stored(pixels: Image.Image) -> dict[str, Any]:
    """A picture as data files hold it."""
    stream = io.BytesIO()
    pixels.save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}


def _phrase(draw: random.Random, fewest: int, most: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(fewest, most)))


def _write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
