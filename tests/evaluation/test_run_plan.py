"""What is told before weights are loaded, and what makes two runs different."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.evaluation import made
from tests.fakehub import parquet
from vrbench.core.errors import MultipleErrors, VrbenchError, error_messages
from vrbench.evaluation.evaluate import evaluate
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import RunPlan, plan
from vrbench.tasks import registry

PIQA = "baber/piqa/default/validation.parquet"
ARC = "allenai/ai2_arc/ARC-Easy/test.parquet"
MME = "lmms-lab-encoder/MME/default/test.parquet"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    """A data root that a test may spoil."""
    return Path(shutil.copytree(sound, tmp_path / "root"))


@pytest.fixture
def planned(tiny_llava: Path, root: Path, tmp_path: Path) -> Callable[..., RunPlan]:
    def made_of(tasks: str, **options: Any) -> RunPlan:
        known: dict[str, Any] = {"data_root": root, "out": tmp_path / "runs", "device": "cpu"}
        return plan([str(tiny_llava)], tasks, RunConfig(**(known | options)))

    return made_of


def write(root: Path, file: str, rows: list[dict[str, Any]]) -> None:
    (root / file).write_bytes(parquet(rows))


class TestFaultsOfFiles:
    """Told without reading an item, all at once."""

    def test_every_fault_of_every_file_is_told_at_once(self, planned: Callable[..., RunPlan], root: Path) -> None:
        (root / PIQA).write_bytes((root / PIQA).read_bytes()[:-40])
        write(root, ARC, [{"question": "?", "choices": {"text": ["a"], "label": ["A"]}}])
        (root / MME).unlink()
        with pytest.raises(MultipleErrors) as told:
            planned("piqa,arc_easy,mme,nothing_such", batch_size=0)
        size, unknown, piqa, arc, mme = told.value.messages
        assert size.startswith("batch size is 0") and unknown.startswith("task 'nothing_such' is unknown")
        assert piqa.startswith(f"task 'piqa': {root / PIQA} cannot be read as parquet, it may be truncated")
        assert arc == f"task 'arc_easy': {root / ARC} has no column id; it has question, choices"
        assert "lmms-lab-encoder/MME is not whole under the data root" in mme and MME.split("/")[-1] in mme

    def test_items_are_told_together_with_folders(self, tiny_llava: Path, root: Path, tmp_path: Path) -> None:
        broken = Path(shutil.copytree(tiny_llava, tmp_path / "broken"))
        (broken / "model.safetensors").unlink()
        write(root, PIQA, [{"goal": "g", "sol1": "a", "sol2": "b", "label": 5}] * 2)
        known = RunConfig(data_root=root, out=tmp_path / "runs", device="cpu")

        def told(*names: str) -> list[str]:
            with pytest.raises(VrbenchError) as error:
                plan([str(tiny_llava), *names], "piqa", known)
            return error_messages(error.value)

        items = [fault for fault in told() if "piqa" in fault]
        assert items and [fault for fault in told(str(broken)) if "piqa" in fault] == items
        assert any(str(broken) in fault for fault in told(str(broken)))
        (name,) = told(str(tmp_path / "brokn"))  # a name that leads nowhere is told at once
        assert "did you mean" in name

    def test_0_rows_and_too_few_examples(self, planned: Callable[..., RunPlan], root: Path) -> None:
        rows = [{"question": "?", "subject": "s", "choices": ["a", "b", "c", "d"], "answer": 1}] * 5
        for subject in registry.load()["mmlu"].data.config:
            for split in ("test", "dev"):
                file = root / "cais/mmlu" / subject / f"{split}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(parquet(rows))
        import pyarrow.parquet as pq

        empty = root / "cais/mmlu/virology/test.parquet"
        pq.write_table(pq.read_table(empty).slice(0, 0), empty)
        few = root / "cais/mmlu/anatomy/dev.parquet"
        few.write_bytes(parquet(rows[:4]))
        with pytest.raises(MultipleErrors) as told:
            planned("mmlu")
        assert told.value.messages == (
            f"task 'mmlu': {few} has 4 rows, but the prompt needs 5 examples",
            f"task 'mmlu': {empty} has 0 rows",
        )

    def test_a_file_that_is_damaged_inside_is_told_too(self, planned: Callable[..., RunPlan], root: Path) -> None:
        content = bytearray((root / PIQA).read_bytes())
        content[4:400] = b"\xff" * 396
        (root / PIQA).write_bytes(content)
        with pytest.raises(VrbenchError, match=rf"{root / PIQA} cannot be read as parquet"):
            planned("piqa")


class TestFaultsOfItems:
    def test_every_fault_of_every_item_is_told_at_once_and_no_weight_is_loaded(
        self, planned: Callable[..., RunPlan], root: Path
    ) -> None:
        piqa, mme = made.piqa(), made.mme()
        piqa[1]["label"], piqa[2]["label"] = 7, None
        mme[3]["image"]["bytes"] = mme[3]["image"]["bytes"][:90]
        write(root, PIQA, piqa)
        write(root, MME, mme)
        with pytest.raises(MultipleErrors) as told:
            planned("piqa,mme,arc_easy")
        label, answer, picture = told.value.messages
        assert label == f"task 'piqa': {root / PIQA}, row 1: the right answer, 7, is none of the 2 options"
        assert answer == f"task 'piqa': {root / PIQA}, row 2: it has no answer (empty: label)"
        assert picture.startswith(f"task 'mme': {root / MME}, row 3: the image in column image cannot be used: ")

    def test_an_answer_that_fills_the_context_is_told_before_weights_load(self, root: Path, tmp_path: Path) -> None:
        ckpt = tiny.save_llava(tmp_path / "short")
        config = json.loads((ckpt / "config.json").read_text())
        config["text_config"]["max_position_embeddings"] = 64
        (ckpt / "config.json").write_text(json.dumps(config))
        (tmp_path / "q.jsonl").write_text(json.dumps({"q": "Which?", "a": "red"}))
        (tmp_path / "own.yaml").write_text(
            "id: own\ntitle: own\nsuites: [own]\nversion: '1'\nn: 1\nchance: null\nharness: lm-eval\nmetric: mean\n"
            "scorer: exact_match\nprompt: '{{q}}'\ntarget: a\ndata: {kind: file, name: q.jsonl}\n"
            "generation: {max_new_tokens: 64}\n"
        )
        options = RunConfig(data_root=root, include_path=tmp_path, out=tmp_path / "runs", device="cpu")
        with pytest.raises(VrbenchError, match=r"^task 'own': 64 tokens for an answer leave no room .* 64 of short;"):
            plan([str(ckpt)], "own,piqa", options)

    def test_items_of_a_whole_run_are_not_looked_at_again(
        self, planned: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.evaluation import item_validation

        ready = planned("piqa")
        monkeypatch.setattr(item_validation, "validate_items", lambda *_: iter(["looked at"]))
        with pytest.raises(VrbenchError, match="looked at"):
            planned("piqa")
        folder = ready.folder(ready.checkpoints[0])
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
        assert planned("piqa").tasks[0].digest == ready.tasks[0].digest


def own(folder: Path, name: str, **keys: Any) -> None:
    """A task file of a user's own over `mine.jsonl`."""
    text = {
        "id": name, "suites": ["mine"], "title": "made", "harness": "lm-eval", "scorer": "exact_match",
        "prompt": "{{q}}", "target": "a", "metric": "mean", "chance": None, "n": 3, "version": "1",
        "data": {"kind": "file", "name": "mine.jsonl"}, **keys,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(json.dumps(text))
    if not (folder / "mine.jsonl").exists():
        (folder / "mine.jsonl").write_text("".join(json.dumps({"q": f"{i}?", "a": str(i)}) + "\n" for i in range(3)))


class TestJudges:
    @pytest.fixture
    def mine(self, tmp_path: Path) -> Path:
        own(tmp_path / "mine", "plain")
        own(tmp_path / "mine", "judged", judge="answers are rated by a large model")
        return tmp_path / "mine"

    def test_one_that_is_named_is_refused_with_the_reason_and_the_other_faults(
        self, planned: Callable[..., RunPlan], mine: Path
    ) -> None:
        with pytest.raises(MultipleErrors) as told:
            planned("judged,plian", include_path=mine, limit="0")
        assert told.value.messages[0].startswith("limit is '0'; it must be at least 1")
        judged, unknown = told.value.messages[1:]
        assert judged == "task 'judged' needs a judge model and is not run: answers are rated by a large model"
        assert unknown.startswith("task 'plian' is unknown; did you mean plain")

    @pytest.mark.parametrize("names", ["mine", "mine,plain", "pl*n,mi*"])
    def test_a_suite_leaves_it_out_and_says_so_once(
        self, planned: Callable[..., RunPlan], mine: Path, names: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert "judged" not in {job.spec.id for job in planned(names, include_path=mine, limit=1).tasks}
        assert [r.getMessage() for r in caplog.records if "left out" in r.getMessage()] == [
            "vrbench: left out, since they need a judge model: judged"
        ]

    def test_nothing_else_is_left(self, planned: Callable[..., RunPlan], mine: Path) -> None:
        with pytest.raises(VrbenchError, match=r"'jud\*' names only tasks that need a judge model"):
            planned("jud*", include_path=mine)


class TestInputs:
    """All that decides an answer is in the digest that names a run's folder."""

    def digests(self, made_plan: RunPlan) -> tuple[str, str, str]:
        (job,) = made_plan.tasks
        return made_plan.inputs_digest(made_plan.checkpoints[0]), job.digest, job.definition_digest

    @pytest.fixture
    def first(self, planned: Callable[..., RunPlan], tmp_path: Path) -> tuple[str, str, str]:
        own(tmp_path / "mine", "mine")
        return self.digests(planned("mine", include_path=tmp_path / "mine"))

    @pytest.mark.parametrize(
        "change",
        [
            {"prompt": "{{q}} Say it."},
            {"target": "q"},
            {"description": "Answer."},
            {"delimiter": ": "},
            {"generation": {"max_new_tokens": 5}},
            {"generation": {"max_new_tokens": 5, "until": ["."]}},
            {"scorer": "multiple_choice", "choices": ["0", "1", "2"]},
        ],
    )
    def test_a_changed_prompt_or_generation_is_another_input_over_the_same_data(
        self, planned: Callable[..., RunPlan], tmp_path: Path, first: tuple[str, str, str], change: dict[str, Any]
    ) -> None:
        own(tmp_path / "mine", "mine", **change)
        inputs, of_data, definition = self.digests(planned("mine", include_path=tmp_path / "mine"))
        assert inputs != first[0] and of_data == first[1] and definition != first[2]

    def test_words_for_the_reader_change_nothing(
        self, planned: Callable[..., RunPlan], tmp_path: Path, first: tuple[str, str, str]
    ) -> None:
        own(tmp_path / "mine", "mine", title="another", note="a note", licence="MIT", column="A")
        assert self.digests(planned("mine", include_path=tmp_path / "mine")) == first

    def test_other_items_are_another_input_of_the_same_definition(
        self, planned: Callable[..., RunPlan], tmp_path: Path, first: tuple[str, str, str]
    ) -> None:
        file = tmp_path / "mine" / "mine.jsonl"
        file.write_text(file.read_text().replace("2?", "two?"))
        inputs, of_data, definition = self.digests(planned("mine", include_path=tmp_path / "mine"))
        assert inputs != first[0] and of_data != first[1] and definition == first[2]

    def test_the_examples_in_the_prompt_and_their_number_count(
        self, planned: Callable[..., RunPlan], root: Path, tmp_path: Path
    ) -> None:
        spec = {"kind": "hub", "name": "o/n", "split": "test", "fewshot_split": "dev"}

        def found(fewshot: int, examples: list[dict[str, str]]) -> tuple[str, str, str]:
            own(tmp_path / "mine", "mine", data=spec, fewshot=fewshot)
            for split, rows in (("test", [{"q": "?", "a": "!"}] * 3), ("dev", examples)):
                file = root / "o/n/default" / f"{split}.parquet"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(parquet(rows))
            return self.digests(planned("mine", include_path=tmp_path / "mine"))

        rows = [{"q": f"{i}", "a": "x"} for i in range(4)]
        two, three, others = found(2, rows), found(3, rows), found(2, rows[::-1])
        assert two[0] != three[0] and two[1] == three[1] and two[2] != three[2]
        assert two[0] != others[0] and two[1] != others[1] and two[2] == others[2]


def test_sentences_of_one_fault_and_of_many() -> None:
    assert error_messages(VrbenchError("one")) == ["one"]
    assert error_messages(MultipleErrors(["one", "two"])) == ["one", "two"]


def test_options_of_a_wrong_type_are_reported_together() -> None:
    wrong: dict[str, Any] = {"trust_remote_code": "no", "device": None, "backend": ["vllm"], "out": None, "seed": 1.5}
    with pytest.raises(VrbenchError) as raised:
        plan(["random/tiny"], "pocket_facts", RunConfig(**wrong))
    messages = error_messages(raised.value)
    assert {message.partition(" ")[0] for message in messages} == set(wrong)
    assert "trust_remote_code is 'no'; it must be of type bool" in messages
    assert not list(RunConfig(out=Path("x"), data_root=Path("y")).type_errors())


def test_a_seed_below_0_is_an_error_before_the_run() -> None:
    assert list(RunConfig(seed=-1).errors()) == ["seed is -1; it must be at least 0"]


def test_a_run_of_processes_that_share_a_model_is_not_for_evaluate() -> None:
    with pytest.raises(VrbenchError, match="with tp only rank 0 has a run to return; use run_all"):
        evaluate("random/tiny", "pocket_facts", tp=True)
