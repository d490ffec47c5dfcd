"""What lmms-eval's own evaluator says of the same answers, and what its own LLaVA answers with the same weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.utils
import lmms_eval.utils
import pytest
from datasets import Dataset, DatasetDict, Image, List
from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from lmms_eval.api.instance import Instance

from benchmarks.harness_models import LmmsEvalModel
from benchmarks.parity import official
from tests.evaluation import made
from tests.task_data import load_task
from vrbench.checkpoints.families import FAMILIES
from vrbench.core import jinja_sandbox
from vrbench.core.errors import VrbenchError
from vrbench.data import tables
from vrbench.evaluation import lm_eval_adapter, lmms_eval_adapter  # noqa: F401  # they replace the environment
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.built_task import SubtaskData, build_task, harness_config, select_items
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.models.llava_model import LlavaModel
from vrbench.tasks import registry
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.spec import DataSource, TaskSpec

SAID = ["Yes", "no.", "Yes, there is", "N", "maybe", "A", "B. a cup", "The answer is C.", "D", "red", "a table", ""]
SETTINGS: dict[str, Any] = {"version": "1", "title": "", "chance": 0, "n": 1, "suites": ("made",)}
KEYS: dict[str, dict[str, Any]] = {
    "mme": {"metric": "mme", "cluster": "question_id", "group": "category", "unit": "{{category}} {{question_id}}"},
    "mmbench": {"metric": "circular", "cluster": "{{index % 1000000}}", "unit": "{{index % 1000000}}"},
    "seed": {"metric": "mean", "group": "question_type_id", "id_column": "question_id"},
    "textvqa": {"metric": "mean", "cluster": "image_id"},
}
FILES = {
    "mme": ("mme/mme.yaml", "test"),
    "mmbench": ("mmbench/mmbench_en_dev_static.yaml", "dev"),
    "seed": ("seedbench/seedbench.yaml", "test"),
    "textvqa": ("textvqa/textvqa_val.yaml", "validation"),
}
TOTALS = {
    "mme": ["mme_perception_score"],
    "mmbench": ["gpt_eval_score"],
    "seed": ["seed_all", "seed_image"],
    "textvqa": ["exact_match"],
}


class Recorded:
    """Stands in for the engine: says what was laid down for each request, whatever it is."""

    def __init__(self, vlm: LlavaModel, said: Sequence[str]) -> None:
        self.vlm = vlm
        self.said = list(said)

    def answer(self, requests: Sequence[Any], title: str = "") -> list[str]:
        return self.said[: len(requests)]


def spec_of(name: str) -> TaskSpec:
    file, split = FILES[name]
    source = DataSource(kind="generated", name=name, split=split)
    about = {"id": name, "harness": "lmms-eval", "harness_task": file, "scorer": name, "data": source}
    return TaskSpec(**about, **KEYS[name], **SETTINGS)


def part_of(name: str) -> SubtaskData:
    rows = Dataset.from_list(getattr(made, name)())
    rows = rows.cast_column("image", List(Image()) if name == "seed" else Image())
    return SubtaskData("default", tuple(range(len(rows))), DatasetDict({FILES[name][1]: rows}))


def answers(name: str, n: int) -> list[str]:
    """Answers of which many are right, in spellings that the official parsers have to deal with."""
    draw = random.Random(name)
    rows = getattr(made, name)()
    right = [row.get("answer") or row["answers"][0] for row in rows]
    return [right[i] if draw.random() < 0.6 else draw.choice(SAID) for i in range(n)]


@pytest.mark.parametrize("name", list(FILES))
def test_scores_are_those_of_the_evaluator_over_the_same_answers(
    vlm: LlavaModel, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec, part = spec_of(name), part_of(name)
    recorded: Any = Recorded(vlm, answers(name, len(part.positions)))
    outcome = evaluate_task(spec, [part], recorded)
    assert list(tmp_path.iterdir()) == []  # nothing is written where the user stands
    task = lmms_eval_adapter.LmmsEvalTask(harness_config(spec, "default"), part.rows, 0)
    theirs = official(task, LmmsEvalModel(recorded))
    for total in TOTALS[name]:
        assert outcome.official[total] == theirs[total]
        assert 0 < outcome.official[total] < 800
    assert [sample.answer for sample in outcome.samples] == recorded.said
    assert 0 < sum(sample.score for sample in outcome.samples) < len(outcome.samples)


def test_scoring_leaves_the_rows_as_they_are(vlm: LlavaModel) -> None:
    spec, part = spec_of("textvqa"), part_of("textvqa")
    recorded: Any = Recorded(vlm, answers("textvqa", len(part.positions)))
    twice = [evaluate_task(spec, [part], recorded).samples for _ in range(2)]
    assert twice[0] == twice[1]
    assert twice[0][0].target == made.textvqa()[0]["answers"][0]  # as people wrote it, not as it was normalised


def test_a_figure_that_is_not_the_harnesss_is_an_error(vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    scorer = SCORERS["seed"]
    wrong = replace(scorer, score=lambda document: replace(scorer.score(document), score=0.0))
    monkeypatch.setitem(SCORERS, "seed", wrong)
    part = part_of("seed")
    recorded: Any = Recorded(vlm, answers("seed", len(part.positions)))
    with pytest.raises(RuntimeError, match=r"task seed: mean is 0\.0, but lmms-eval says"):
        evaluate_task(spec_of("seed"), [part], recorded)


def test_answers_are_those_of_llava_hf(vlm: LlavaModel, tiny_llava: Path, data_root: Path, tmp_path: Path) -> None:
    llava_hf = pytest.importorskip("lmms_eval.models.simple.llava_hf", reason="needs decord")
    reference = _reference(llava_hf, tiny_llava, vlm)
    spec = registry.load()["mme"]
    parts = select_items(spec, load_task(spec, data_root), 12, seed=0)
    task = lmms_eval_adapter.LmmsEvalTask(harness_config(spec, "default"), parts[0].rows, 0)
    task.build_all_requests()
    reference.task_dict = {"mme": task.dataset}
    theirs = [reference.generate_until([_copy(instance)])[0] for instance in task.instances]
    with AnswerStore(tmp_path / "a.sqlite", "c") as store:
        answerer = InferenceEngine(vlm, store, show_progress=False)
        outcome = evaluate_task(spec, parts, answerer)
        context, _, *rest = task.instances[0].args
        stopping = {"until": [theirs[0][2:4]], "max_new_tokens": 16}  # which llava_hf takes, and never uses
        asked = _copy(Instance("generate_until", (context, stopping, *rest), 0, task.instances[0].metadata))
        model = LmmsEvalModel(answerer)
        model.task_dict = reference.task_dict
        assert model.generate_until([asked]) == [theirs[0]]
    assert [sample.answer for sample in outcome.samples] == theirs
    assert len(set(theirs)) > 3 and theirs[0][2:4]


def _reference(llava_hf: Any, folder: Path, vlm: LlavaModel) -> Any:
    """lmms-eval's LLaVA with the same weights; its processor is put together here, since the light folder has none."""
    from transformers import LlavaProcessor

    from tests.tiny import SIDE

    made_here = LlavaProcessor(
        vlm.image_processor, vlm.tokenizer, patch_size=SIDE // 2, vision_feature_select_strategy="full"
    )
    whole = llava_hf.AutoProcessor
    llava_hf.AutoProcessor = type("Given", (), {"from_pretrained": staticmethod(lambda *_, **__: made_here)})
    try:
        reference = llava_hf.LlavaHf(pretrained=str(folder), device="cpu", dtype="float32", device_map="cpu")
    finally:
        llava_hf.AutoProcessor = whole
    return reference


def _copy(instance: Instance) -> Instance:
    """llava_hf takes settings out of the request it is given."""
    context, settings, *rest = instance.args
    copied = Instance(instance.request_type, (context, dict(settings), *rest), instance.idx, instance.metadata)
    return copied


def mmmu() -> DatasetDict:
    """An item with two images, in the columns of MMMU."""
    row = {"id": "validation_Art_1", "question": "Is <image 1> older than <image 2>?"}
    row |= {
        "question_type": "multiple-choice",
        "options": "['yes', 'no']",
        "answer": "A",
        "image_1": made.noise("a"),
        "image_2": made.noise("b"),
    }
    rows = Dataset.from_list([row])
    return DatasetDict({"validation": rows.cast_column("image_1", Image()).cast_column("image_2", Image())})


def asked_of(model_name: str, vlm: Any) -> str:
    """The text of MMMU's item as a class of lmms-eval is given it."""
    spec = registry.load()["mmmu_val"]
    task = SubtaskData("default", [0], mmmu()).harness_task(spec, model_name)
    task.build_all_requests()
    said: list[str] = []
    prompt = SimpleNamespace(
        prompt_format=vlm.prompt_format, context_length=2048, prompt=lambda text, n: said.append(text) or text
    )
    lmms_eval_adapter.LmmsEvalAdapter(prompt).requests([(task, task.instances[0])])  # type: ignore[arg-type]
    return said[0]


def test_mmmu_is_asked_as_each_class_is_asked_it() -> None:
    def asked(family: str) -> str:
        prompt_format = FAMILIES[family].prompt_format
        return asked_of(prompt_format.lmms_model_name, SimpleNamespace(prompt_format=prompt_format))

    options, letter = "A. yes\nB. no", "Answer with the option's letter from the given choices directly."
    assert asked("llava") == f"Is <image 1> older than <image 2>?\n{options}\n\n{letter}"
    own = "Answer with the option letter only."
    assert asked("qwen3_vl") == f"Question: Is <image 1> older than <image 2>?\nOptions:\n{options}\n{own}"
    shown = f"Is<image>older than<image>?\n{options}\n\n{letter}"
    assert asked("internvl") == shown  # a chat class: what stands between images loses the white space around it
    assert asked("gemma3") == asked("llava")  # whatever was asked before


def test_a_task_of_loglikelihoods_with_pictures_is_refused() -> None:
    config = {**lmms_eval_adapter.LmmsEvalAdapter().read_config("mme/mme.yaml"), "output_type": "multiple_choice"}
    with pytest.raises(VrbenchError, match="'mme' is of type multiple_choice; only generate_until"):
        lmms_eval_adapter.LmmsEvalTask(config, part_of("mme").rows, 0)


def test_metrics_that_only_write_files_are_left_out() -> None:
    assert [
        m["metric"] for m in lmms_eval_adapter.LmmsEvalAdapter().read_config("textvqa/textvqa_val.yaml")["metric_list"]
    ] == ["exact_match"]


def test_pictures_are_not_decoded_for_scoring() -> None:
    for name in FILES:
        task = lmms_eval_adapter.LmmsEvalTask(harness_config(spec_of(name), "default"), part_of(name).rows, 0)
        assert "image" not in task.eval_docs_no_media.column_names
        assert "image" in task.eval_docs.column_names


def test_the_harnesses_render_in_a_sandbox_with_their_own_options() -> None:
    for theirs, newline in ((lm_eval.utils, True), (lmms_eval.utils, False)):
        assert isinstance(theirs.env, jinja_sandbox.Sandbox) and theirs.env.undefined is StrictUndefined
        assert theirs.env.keep_trailing_newline is newline
        assert theirs.apply_template("{{q | regex_replace('a', 'b')}}\n", {"q": "a"}) == "b" + "\n" * newline
        with pytest.raises(SecurityError):
            theirs.apply_template("{{ cycler.__init__.__globals__ }}", {})


def test_a_file_of_the_working_folder_is_not_taken_for_one_that_the_harness_includes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lmms_eval_adapter.LmmsEvalAdapter().read_config("mmbench/mmbench_en_dev_static.yaml")
    for file in (Path(lmms_eval.__file__).parent / "tasks" / "mmbench").glob("_default*"):
        (tmp_path / file.name).write_text("dataset_path: !function evil.run\n")
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')\ndef run(): pass\n")
    monkeypatch.chdir(tmp_path)
    assert (
        lmms_eval_adapter.LmmsEvalAdapter().read_config("mmbench/mmbench_en_dev_static.yaml").keys() == expected.keys()
    )
    assert not Path("PWNED").exists()


def test_images_are_read_once_for_all_checkpoints(
    vlm: LlavaModel, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = registry.load()["mme"]
    instances = build_task(spec, select_items(spec, load_task(spec, data_root), None, seed=0)).instances()
    opened: list[Any] = []
    read = tables.open_image
    monkeypatch.setattr(tables, "open_image", lambda content: [opened.append(content), read(content)][1])
    tables._open_again.cache_clear()
    first = lmms_eval_adapter.LmmsEvalAdapter(vlm).requests(instances)
    once = len(opened)
    assert once == len(instances) / 2  # both questions of an image follow each other
    assert lmms_eval_adapter.LmmsEvalAdapter(vlm).requests(instances) == first
    assert len(opened) == once
