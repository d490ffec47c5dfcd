"""Made-up documents with the columns and types of each visual set on the hub, in the layout of a data root.

Texts and images are drawn from a seed.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from PIL import Image

from benchmarks import dataset_schemas
from vrbench.tasks.spec import TaskSpec

Row = dict[str, Any]

WORDS = "a cup of tea on the red table by some green door near two old dogs née Straße 茶 O'Neil".split()
ANSWERS = ["two cups", "3", "1,250", "12.5", "42%", "$3.60", "the red door", "O'Neil", "née", "yes", "7:25 P.M.", "茶"]
LETTERS = "ABCDE"
SUBJECTS = ("Accounting", "Art_Theory", "Computer_Science", "Math")


def mme(draw: random.Random, n: int) -> list[Row]:
    """Pairs of questions on images, in all fourteen subtasks in turn."""
    names = (
        "existence count position color posters celebrity scene landmark artwork OCR "
        "commonsense_reasoning numerical_calculation text_translation code_reasoning"
    ).split()
    rows = []
    for i in range((n + 1) // 2):
        about = {"question_id": f"{i}.png", "category": names[i % len(names)], "image": picture(f"mme {i}")}
        for said in ("Yes", "No"):
            question = f"Is there {phrase(draw)} in the image? Please answer yes or no."
            rows.append({**about, "question": question, "answer": said})
    return rows


def mmbench(draw: random.Random, n: int) -> list[Row]:
    """Questions with two to four options in all rotations; "nan" stands for what is not there."""
    rows: list[Row] = []
    number = 0
    while len(rows) < n:
        options = draw.sample(ANSWERS, 2 + number % 3)
        about = {"question": phrase(draw), "hint": phrase(draw) if number % 2 else "nan", "comment": "nan"}
        about |= {"category": f"kind {number % 3}", "L2-category": "all", "source": "made", "split": "dev"}
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letters = dict(zip("ABCD", turned + ["nan"] * 4, strict=False))
            index = {"index": number + turn * 1_000_000, "answer": "ABCD"[turned.index(options[0])]}
            rows.append({**about, **letters, **index, "image": picture(f"mmbench {number}")})
        number += 1
    return rows


def seed(draw: random.Random, n: int) -> list[Row]:
    """Twelve types of question; the last three are about frames of a video."""
    rows = []
    for i in range(n):
        kind = 1 + i % 12
        video = kind > 9
        options = dict(zip((f"choice_{x}" for x in "abcd"), draw.sample(ANSWERS, 4), strict=True))
        about = {
            "question_id": f"q{i}",
            "question": phrase(draw),
            "answer": draw.choice("ABCD"),
            "data_id": f"d{i // 2}",
        }
        about |= {"data_type": "video" if video else "image", "question_type_id": kind}
        frames = [picture(f"seed {i} {frame}") for frame in range(3 if video else 1)]
        rows.append({**about, **options, "image": frames, "segment": [0, 8] if video else None})
    return rows


def textvqa(draw: random.Random, n: int) -> list[Row]:
    """Ten people's answers, which agree more or less."""
    rows = []
    for i in range(n):
        about = {"image_id": f"i{i // 2}", "question_id": i, "question": phrase(draw), "question_tokens": ["a", "b"]}
        about |= {"image": picture(f"textvqa {i // 2}"), "image_width": 40, "image_height": 24, "set_name": "val"}
        about |= {"flickr_original_url": "", "flickr_300k_url": "", "image_classes": ["Door"]}
        rows.append({**about, "answers": people(draw), "ocr_tokens": draw.sample(WORDS, 3)})
    return rows


def vizwiz(draw: random.Random, n: int) -> list[Row]:
    """Ten people's answers, of which many are "unanswerable"."""
    kinds = ("other", "unanswerable", "yes/no", "number")
    rows = []
    for i in range(n):
        answers = ["unanswerable"] * 10 if i % 4 == 1 else people(draw)
        about = {"question_id": f"VizWiz_val_{i:08d}.jpg", "image": picture(f"vizwiz {i}"), "question": phrase(draw)}
        rows.append({**about, "answers": answers, "category": kinds[i % 4]})
    return rows


def gqa(draw: random.Random, n: int) -> list[Row]:
    """Questions of five structural types, three an image."""
    kinds = ("choose", "compare", "logical", "query", "verify")
    rows = []
    for i in range(n):
        about = {"id": f"q{i}", "imageId": f"n{i // 3}", "question": phrase(draw), "answer": draw.choice(ANSWERS)}
        about |= {"fullAnswer": phrase(draw), "isBalanced": True, "groups": {"global": None, "local": "13-door"}}
        about |= {"types": {"structural": kinds[i % 5], "semantic": "attr", "detailed": "x"}, "semanticStr": ""}
        rows.append({**about, "entailed": "", "equivalent": ""})
    return rows


def gqa_pictures(draw: random.Random, n: int) -> list[Row]:
    """The images of `gqa`, and one that no question asks for, in another order."""
    rows = [{"id": f"n{i}", "image": picture(f"gqa {i}")} for i in range((n + 2) // 3 + 1)]
    return rows[::-1]


def scienceqa(draw: random.Random, n: int) -> list[Row]:
    """Two to five options; half of the questions have a context."""
    subjects = ("natural science", "social science", "language science")
    rows = []
    for i in range(n):
        choices = draw.sample(ANSWERS, 2 + i % 4)
        about = {"image": picture(f"science {i}"), "question": phrase(draw), "choices": choices}
        about |= {"answer": draw.randrange(len(choices)), "hint": phrase(draw) if i % 2 else ""}
        about |= {"subject": subjects[i % 3], "grade": "grade4", "task": "closed choice", "topic": "physics"}
        rows.append({**about, "category": "Magnets", "skill": "Compare", "lecture": "", "solution": ""})
    return rows


def mmmu(draw: random.Random, n: int) -> list[Row]:
    """Multiple choice with one to three images, and open questions."""
    rows = []
    for i in range(n):
        pictures = 1 + i % 3
        named = " and ".join(f"<image {k}>" for k in range(1, pictures + 1))
        is_open = i % 5 == 4
        options = [] if is_open else draw.sample(ANSWERS, 2 + i % 4)
        about = {"id": f"validation_{SUBJECTS[i % 4]}_{i}", "question": f"{phrase(draw)} {named}?"}
        about |= {"options": str(options), "question_type": "open" if is_open else "multiple-choice"}
        about |= {"answer": draw.choice(ANSWERS) if is_open else draw.choice(LETTERS[: len(options)])}
        about |= {"explanation": "", "img_type": "['Plots']", "topic_difficulty": "Easy", "subfield": "x"}
        shown = {f"image_{k}": picture(f"mmmu {i} {k}") if k <= pictures else None for k in range(1, 8)}
        rows.append({**about, **shown})
    return rows


def docvqa(draw: random.Random, n: int) -> list[Row]:
    """One to three right answers; two questions a page."""
    rows = []
    for i in range(n):
        about = {"questionId": f"{49153 + i}", "question": phrase(draw), "question_types": ["form", "layout"]}
        about |= {"image": picture(f"docvqa {i // 2}"), "docId": i // 2, "ucsf_document_id": f"abcd{i // 4}"}
        about |= {"ucsf_document_page_no": "1", "data_split": "val"}
        rows.append({**about, "answers": draw.sample(ANSWERS, 1 + i % 3)})
    return rows


def ocrvqa(draw: random.Random, n: int) -> list[Row]:
    """Covers with one to five questions each; n questions in all."""
    rows: list[Row] = []
    left = n
    while left > 0:
        asked = min(left, 1 + len(rows) % 5)
        questions, answers = [phrase(draw) for _ in range(asked)], [draw.choice(ANSWERS) for _ in range(asked)]
        box = {"width": 0.1, "height": 0.1, "top_left_x": 0.5, "top_left_y": 0.5}
        about = {"image": picture(f"ocrvqa {len(rows)}"), "image_id": f"{len(rows):010d}", "questions": questions}
        about |= {"answers": answers, "ocr_tokens": ["TEA"], "ocr_info": [{"word": "TEA", "bounding_box": box}]}
        about |= {"title": "Tea", "authorName": "Ann", "genre": "Cooking", "image_url": "", "set_name": "test"}
        rows.append({**about, "image_width": 40, "image_height": 24})
        left -= asked
    return rows


def pope(draw: random.Random, n: int) -> list[Row]:
    """Three categories with the same ids; questions on an image are asked in each."""
    kinds = ("adversarial", "popular", "random")
    rows = []
    for i in range(n):
        about = {"id": f"{i}", "question_id": f"{i // 3}", "question": f"Is there {phrase(draw)} in the image?"}
        about |= {"answer": ("yes", "no")[i // 3 % 2], "image_source": f"COCO_{i // 9}", "category": kinds[i % 3]}
        rows.append({**about, "image": picture(f"pope {i // 9}")})
    return rows


def ai2d(draw: random.Random, n: int) -> list[Row]:
    """Four options; the answer is the place of the right one, as text."""
    return [
        {
            "question": phrase(draw),
            "options": draw.sample(ANSWERS, 4),
            "answer": str(draw.randrange(4)),
            "image": picture(f"ai2d {i}"),
        }
        for i in range(n)
    ]


def chartqa(draw: random.Random, n: int) -> list[Row]:
    """Written by people or by a program in turn."""
    kinds = ("human_test", "augmented_test")
    return [
        {
            "type": kinds[i % 2],
            "question": phrase(draw),
            "answer": draw.choice(ANSWERS),
            "image": picture(f"chartqa {i}"),
        }
        for i in range(n)
    ]


def hallusionbench(draw: random.Random, n: int) -> list[Row]:
    """Two questions on each of two figures of a set."""
    rows = []
    for i in range(n):
        about = {"category": ("VD", "VS")[i // 4 % 2], "subcategory": ("chart", "figure", "map")[i // 8 % 3]}
        about |= {"visual_input": "1", "set_id": f"{i // 4}", "figure_id": f"{i % 2}", "question_id": f"{i // 2 % 2}"}
        about |= {"sample_note": "made", "question": phrase(draw), "gt_answer": draw.choice("01")}
        about |= {"gt_answer_details": phrase(draw), "filename": f"./{i}.png", "image": picture(f"hallusion {i // 2}")}
        rows.append(about)
    return rows


def tabmwp(draw: random.Random, n: int) -> list[Row]:
    """Free text with and without a unit, two options, four options."""
    rows = []
    for i in range(n):
        choices = [[], [], ["linear", "nonlinear"], draw.sample(ANSWERS, 4)][i % 4]
        numbers = ["10", "1,250", "3/4", "8.20", "-5", "0.96", "-1/12"]
        about = {"id": f"{i}", "image": picture(f"tabmwp {i}"), "question": f"{phrase(draw)}?", "choices": choices}
        about |= {"answer": draw.choice(choices or numbers), "unit": ("", "$", "", "")[i % 4], "grade": 1 + i % 8}
        about |= {"ques_type": "multi_choice" if choices else "free_text"}
        rows.append({**about, "ans_type": "other_text" if choices else "integer_number"})
    return rows


SETS: dict[str, tuple[Callable[[random.Random, int], list[Row]], Mapping[str, Any]]] = {
    "mme": (mme, dataset_schemas.MME),
    "mmbench_en": (mmbench, dataset_schemas.MMBENCH),
    "mmbench_cn": (mmbench, dataset_schemas.MMBENCH),
    "seedbench": (seed, dataset_schemas.SEED),
    "textvqa": (textvqa, dataset_schemas.TEXTVQA),
    "textvqa_ocr": (textvqa, dataset_schemas.TEXTVQA),
    "gqa": (gqa, dataset_schemas.GQA),
    "scienceqa_img": (scienceqa, dataset_schemas.SCIENCEQA),
    "mmmu_val": (mmmu, dataset_schemas.MMMU),
    "docvqa_val": (docvqa, dataset_schemas.DOCVQA),
    "ocrvqa": (ocrvqa, dataset_schemas.OCRVQA),
    "pope": (pope, dataset_schemas.POPE),
    "ai2d": (ai2d, dataset_schemas.AI2D),
    "chartqa": (chartqa, dataset_schemas.CHARTQA),
    "hallusionbench": (hallusionbench, dataset_schemas.HALLUSIONBENCH),
    "vizwiz": (vizwiz, dataset_schemas.VIZWIZ),
    "tabmwp": (tabmwp, dataset_schemas.TABMWP),
}
"""Task -> how its rows are made, and its columns."""


def write(spec: TaskSpec, root: Path, n: int, seed: int = 0) -> None:
    """Put a made-up set of at least n items where a data root has it."""
    make, features = SETS[spec.id]
    for config in spec.data.configs:
        _save(root, spec, config, make(random.Random(f"{spec.id} {seed}"), n), features)
    if spec.data.join is not None:
        pictures = gqa_pictures(random.Random(seed), n)
        _save(root, spec, spec.data.join.config, pictures, dataset_schemas.GQA_PICTURES)


def _save(root: Path, spec: TaskSpec, config: str, rows: list[Row], features: Mapping[str, Any]) -> None:
    file = root / spec.data.name / config / f"{spec.data.split}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(str(file))


def people(draw: random.Random) -> list[str]:
    """Ten answers, of which some agree in all but spelling."""
    word, other = draw.sample(ANSWERS, 2)
    agreed = draw.randint(2, 10)
    return [(word, word.upper(), f"the {word}.")[k % 3] if k < agreed else other for k in range(10)]


def phrase(draw: random.Random) -> str:
    """Some words."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, 8)))


def picture(seed: str, width: int = 40, height: int = 24) -> dict[str, Any]:
    """Random pixels as a data file holds them."""
    stream = io.BytesIO()
    pixels = random.Random(seed).randbytes(width * height * 3)
    Image.frombytes("RGB", (width, height), pixels).save(stream, format="PNG")
    return {"bytes": stream.getvalue(), "path": None}
