"""Every visual task from a data root of the hub's columns and types to a score, with a tiny model."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest

import vrbench
from benchmarks import documents
from benchmarks.scorers import Says
from tests.task_data import load_task
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import RunRecord
from vrbench.data.locate import locate
from vrbench.evaluation import lmms_eval_adapter
from vrbench.evaluation.built_task import harness_config, select_items
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import stop_criteria
from vrbench.evaluation.task_scores import TaskScores
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

TASKS = tuple(documents.SETS)
ITEMS = 6
ONE = "Answer the question using a single word or phrase."
ZH = "请直接使用所提供的选项字母作为答案回答。"
LETTER = "Answer with the option's letter from the given choices directly."


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, specs: dict[str, TaskSpec]) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name in TASKS:
        documents.write(specs[name], folder, ITEMS)
    return folder


@pytest.fixture(scope="module")
def record(root: Path, tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """All tasks of the suite in one run, with answers cut short."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        lmms_eval_adapter,
        "stop_criteria",
        lambda given, longest, stops: stop_criteria({**given, "max_gen_toks": 6}, longest, stops),
    )
    out = tmp_path_factory.mktemp("runs")
    made = vrbench.evaluate(str(tiny_llava), "visual", data_root=root, out=out, device="cpu", show_progress=False)
    patch.undo()
    return made


def test_the_suite_is_what_has_documents_here(record: RunRecord) -> None:
    assert sorted(result.task for result in record.results) == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_goes_from_its_files_to_a_score(record: RunRecord, name: str) -> None:
    (result,) = [result for result in record.results if result.task == name]
    assert result.error == ""
    assert result.n >= ITEMS
    assert result.n_unscored == 0
    assert result.score is not None
    assert 0 <= result.score.value <= 100
    assert result.official


def test_mmbench_shows_circular_and_vanilla(record: RunRecord) -> None:
    for name in ("mmbench_en", "mmbench_cn"):
        (result,) = [result for result in record.results if result.task == name]
        assert set(result.official) == {"gpt_eval_score", "vanilla"}
        assert result.score is not None
        assert result.official["gpt_eval_score"] == pytest.approx(result.score.value)


def asked(spec: TaskSpec, root: Path, said: str = "A") -> tuple[TaskScores, list[Any]]:
    """The outcome of one answer to everything, and the requests."""
    parts = select_items(spec, load_task(spec, root), None, 0)
    answerer: Any = Says([said] * 100)
    return evaluate_task(spec, parts, answerer), answerer.asked


def first(name: str, n: int = ITEMS) -> dict[str, Any]:
    """The first of the made rows."""
    return documents.SETS[name][0](random.Random(f"{name} 0"), n)[0]


PROMPTS = {
    "mmbench_en": f"{{question}} There are several options:\nA. {{A}}\nB. {{B}}\n\n{LETTER}",
    "mmbench_cn": f"nan {{question}} There are several options:\nA. {{A}}\nB. {{B}}\n\n{ZH}",
    "seedbench": f"{{question}}\nA. {{choice_a}}\nB. {{choice_b}}\nC. {{choice_c}}\nD. {{choice_d}}\n{LETTER}",
    "gqa": f"{{question}}\n{ONE}",
    "scienceqa_img": f"{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\n{LETTER}",
    "docvqa_val": f"{{question}}\n{ONE}",
    "ocrvqa": f"{{questions[0]}}\n{ONE}",
    "pope": f"{{question}}\n{ONE}",
    "chartqa": "{question}\nAnswer the question with a single word.",
    "hallusionbench": "{question}",
    "tabmwp": f"{{question}}\n{ONE}",
}


@pytest.mark.parametrize("name", list(PROMPTS))
def test_the_prompt_and_the_picture_are_the_rows(specs: dict[str, TaskSpec], root: Path, name: str) -> None:
    row = first(name)
    requests = asked(specs[name], root)[1]
    assert requests[0].prompt == "<image>" + PROMPTS[name].format(**row)
    if name != "gqa":  # its pictures are in another file, seen below
        shown = row["image"] if name == "seedbench" else [row["image"]]
        assert [png(p.load()) for p in requests[0].images] == [kept["bytes"] for kept in shown]


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    pixels.save(stream, format="PNG")
    return stream.getvalue()


def test_ocr_tokens_are_in_the_prompt_of_one_task_and_not_of_the_other(specs: dict[str, TaskSpec], root: Path) -> None:
    documents.write(specs["textvqa"], root, ITEMS)
    without = asked(specs["textvqa"], root)[1][0].prompt
    row = first("textvqa")
    assert without == f"<image>{row['question'].capitalize()}\n{ONE}"
    tokens = ", ".join(row["ocr_tokens"])
    assert asked(specs["textvqa_ocr"], root)[1][0].prompt == without.replace("\n", f"\nReference OCR token: {tokens}\n")


def test_ocr_tokens_of_a_prompt_that_knows_none_are_an_error(specs: dict[str, TaskSpec]) -> None:
    spec = specs["docvqa_val"].model_copy(update={"ocr_tokens": True})
    with pytest.raises(VrbenchError, match="'docvqa_val': ocr_tokens is given, but its prompt knows no OCR tokens"):
        harness_config(spec, "DocVQA")


def test_a_question_of_tabmwp_shows_its_unit_or_its_options(specs: dict[str, TaskSpec], root: Path) -> None:
    prompts = [request.prompt for request in asked(specs["tabmwp"], root)[1]]
    assert prompts[1].endswith(f"? (Unit: $)\n{ONE}")
    assert prompts[2].endswith(f"?\nA. linear\nB. nonlinear\n{LETTER}")


def test_several_pictures_are_shown_in_their_order(specs: dict[str, TaskSpec], root: Path) -> None:
    assert [len(request.images) for request in asked(specs["mmmu_val"], root)[1]] == [1, 2, 3, 1, 2, 3]
    shown = asked(specs["mmmu_val"], root)[1][2].images
    assert [png(p.load()) for p in shown] == [documents.picture(f"mmmu 2 {k}")["bytes"] for k in (1, 2, 3)]


def test_frames_of_a_video_are_pictures(specs: dict[str, TaskSpec], tmp_path: Path) -> None:
    documents.write(specs["seedbench"], tmp_path, 12)
    outcome, requests = asked(specs["seedbench"], tmp_path)
    assert [len(request.images) for request in requests] == [1] * 9 + [3] * 3
    assert {sample.group for sample in outcome.samples} == set(specs["seedbench"].groups)
    assert set(outcome.official) == {"seed_all", "seed_image", "seed_video"}


def test_gqas_pictures_come_from_its_other_config(specs: dict[str, TaskSpec], root: Path) -> None:
    requests = asked(specs["gqa"], root)[1]
    expected = [documents.picture(f"gqa {i // 3}")["bytes"] for i in range(ITEMS)]
    assert [png(request.images[0].load()) for request in requests] == expected


def test_without_its_pictures_gqa_is_not_whole(specs: dict[str, TaskSpec], tmp_path: Path) -> None:
    documents.write(specs["gqa"], tmp_path, 3)
    (tmp_path / "lmms-lab-encoder/GQA/testdev_balanced_images/testdev.parquet").unlink()
    with pytest.raises(VrbenchError, match=r"missing: .*testdev_balanced_images/testdev\.parquet"):
        locate(specs["gqa"], tmp_path)


def test_each_question_about_a_cover_is_an_item(specs: dict[str, TaskSpec], root: Path) -> None:
    outcome, requests = asked(specs["ocrvqa"], root)
    assert [sample.cluster for sample in outcome.samples] == [f"{i:010d}" for i in (0, 1, 1, 2, 2, 2)]
    assert [sample.id for sample in outcome.samples] == list("012345")
    assert requests[1].images == requests[2].images != requests[3].images


def test_what_counts_together_stays_together_under_a_limit(specs: dict[str, TaskSpec], tmp_path: Path) -> None:
    for name in ("mme", "mmbench_en"):
        documents.write(specs[name], tmp_path, 40)
        (part,) = select_items(specs[name], load_task(specs[name], tmp_path), 13, 0)
        answerer: Any = Says(["A"] * 40)
        outcome = evaluate_task(specs[name], [part], answerer)  # would fail on a pair that is torn
        assert 9 <= len(outcome.samples) <= 13


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("seedbench", {"answer": "E"}),
        ("mmbench_en", {"answer": "G"}),
        ("mmbench_en", {"answer": ""}),
        ("mmbench_en", {"answer": "AB"}),
        ("hallusionbench", {"gt_answer": "2"}),
        ("hallusionbench", {"gt_answer": "01"}),
        ("mmmu_val", {"answer": "J"}),
    ],
)
def test_a_right_answer_that_is_no_option_is_an_error(
    specs: dict[str, TaskSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, wrong: dict[str, Any]
) -> None:
    make, columns = documents.SETS[name]
    monkeypatch.setitem(documents.SETS, name, (lambda draw, n: [{**row, **wrong} for row in make(draw, n)], columns))
    documents.write(specs[name], tmp_path, 4)
    with pytest.raises(VrbenchError, match=r"item .*: the right answer, '.*', is none of the options"):
        asked(specs[name], tmp_path)


def test_seedbenchs_right_answer_is_read_as_the_harness_reads_it(
    specs: dict[str, TaskSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, columns = documents.SETS["seedbench"]
    rows = lambda draw, n: [{**row, "answer": " b"} for row in make(draw, n)]  # noqa: E731
    monkeypatch.setitem(documents.SETS, "seedbench", (rows, columns))
    documents.write(specs["seedbench"], tmp_path, 4)
    outcome, _ = asked(specs["seedbench"], tmp_path, "B")
    assert [(sample.score, sample.target) for sample in outcome.samples] == [(1.0, "B")] * 4


def test_mmmus_guess_is_the_items_and_leaves_the_callers_chance_alone(
    specs: dict[str, TaskSpec], tmp_path: Path
) -> None:
    documents.write(specs["mmmu_val"], tmp_path, 60)
    random.seed(1)
    expected = random.random()
    scores = []
    for seed in (1, 2):
        random.seed(seed)
        scores.append([sample.score for sample in asked(specs["mmmu_val"], tmp_path, "no idea")[0].samples])
    random.seed(1)
    asked(specs["mmmu_val"], tmp_path, "no idea")
    assert random.random() == expected
    assert scores[0] == scores[1]
    assert 0 < sum(scores[0]) < 60


def test_a_hallusionbench_without_a_judge_asks_none(specs: dict[str, TaskSpec], tmp_path: Path) -> None:
    documents.write(specs["hallusionbench"], tmp_path, 8)
    outcome, _ = asked(specs["hallusionbench"], tmp_path, "Yes, it is.")
    rows = documents.SETS["hallusionbench"][0](random.Random("hallusionbench 0"), 8)
    right = [row["gt_answer"] == "1" for row in rows]
    assert [sample.score for sample in outcome.samples] == right
    questions = [right[i] and right[i + 1] for i in (0, 2, 4, 6)]
    figures = [right[i] and right[i + 2] for i in (0, 1, 4, 5)]
    assert outcome.official == {
        "aAcc": sum(right) / 8,
        "qAcc": pytest.approx(sum(questions) / 4),
        "fAcc": pytest.approx(sum(figures) / 4),
    }


def test_every_task_says_all_that_is_known_of_it(specs: dict[str, TaskSpec]) -> None:
    suite = [spec for spec in specs.values() if "visual" in spec.suites]
    assert {spec.id for spec in suite} == set(TASKS)
    for spec in suite:
        assert spec.licence, spec.id
        assert spec.citation, spec.id
        assert spec.url.startswith("https://"), spec.id
        assert (registry.tasks_dir() / "visual" / f"{spec.id}.yaml").read_text().startswith("# Example"), spec.id
    columns = "OCRVQA DocVQA MMBench GQA SciQA TextVQA MMMU SEED".split()
    assert sorted(spec.column for spec in registry.select("paper_visual", specs)) == sorted(columns)


def test_what_needs_a_judge_says_so_and_is_no_part_of_the_suite(specs: dict[str, TaskSpec]) -> None:
    judged = [spec.id for spec in specs.values() if spec.judge]
    assert judged == ["hallusionbench_gpt"]
    assert specs["hallusionbench_gpt"].suites == ("judged",)
