"""Task files: those that ship, those of a user, and what a list of names means."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

TASK = """\
id: mine
suites: [own]
title: my questions
harness: lm-eval
scorer: multiple_choice
prompt: "{{question}}"
choices: choices
target: answer
data: {kind: file, name: mine.jsonl}
metric: mean
chance: 25
n: 4
version: "1"
"""


def own(folder: Path, text: str = TASK, stem: str = "mine") -> Path:
    file = folder / f"{stem}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_shipped_tasks_say_what_they_are(specs: dict[str, TaskSpec]) -> None:
    files = sorted(registry.tasks_dir().glob("*/*.yaml"))
    assert sorted(file.stem for file in files) == sorted(specs)
    for file in files:
        spec = specs[file.stem]
        assert spec.suite == file.parent.name
        assert spec.licence and spec.citation
        assert file.read_text(encoding="utf-8").startswith("# Example"), f"{file} lacks a worked example"


def test_the_suites_hold_what_they_promise(specs: dict[str, TaskSpec]) -> None:
    members = {suite: {s.id for s in specs.values() if suite in s.suites} for s in specs.values() for suite in s.suites}
    paper = {"ocrvqa", "docvqa_val", "mmbench_en", "gqa", "scienceqa_img", "textvqa", "mmmu_val", "seedbench"}
    more = {"mme", "mmbench_cn", "textvqa_ocr", "pope", "ai2d", "chartqa", "hallusionbench", "vizwiz", "tabmwp"}
    assert members["paper_visual"] == paper
    assert members["visual"] == paper | more
    assert members["judged"] == {"hallusionbench_gpt"}
    assert members["paper_text"] == {"mmlu", "bbh", "ceval", "cmmlu"}
    assert members["text"] - members["paper_text"] == {
        "mmlu_0shot", "arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "gsm8k", "truthfulqa_mc2",
        "openbookqa", "lambada",
    }  # fmt: skip
    assert members["pocket_visual"] == {"pocket_mme", "pocket_mmbench", "pocket_seed", "pocket_textvqa", "easy_vqa"}
    assert members["pocket_text"] == {"pocket_facts", "pocket_grammar", "pocket_pydoc"}
    assert members["pocket"] == members["pocket_visual"] | members["pocket_text"]
    assert members["embedded"] == members["pocket"] - {"pocket_pydoc"} | {"pocket_docs"}


def test_harness_files_are_in_the_harnesses(specs: dict[str, TaskSpec]) -> None:
    for spec in specs.values():
        found = importlib.util.find_spec(spec.harness.replace("-", "_"))
        assert found is not None and found.origin is not None
        for path in spec.harness_files().values():
            assert (Path(found.origin).parent / "tasks" / path).is_file(), f"{spec.id}: {path}"


def test_mmlu_has_a_file_for_each_of_its_57_subjects(specs: dict[str, TaskSpec]) -> None:
    files = specs["mmlu"].harness_files()
    assert len(files) == len(set(files.values())) == 57
    assert files["anatomy"] == "mmlu/default/mmlu_anatomy.yaml"


def test_missing_groups_are_those_of_the_full_set(specs: dict[str, TaskSpec]) -> None:
    mme = specs["mme"]
    assert len(mme.groups) == 14
    assert mme.missing_groups(mme.groups) == ()
    assert mme.missing_groups([g for g in mme.groups if g not in ("OCR", "scene")]) == ("scene", "OCR")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ("mme", ["mme"]),
        ("piqa,mme", ["piqa", "mme"]),
        (" piqa , paper_text ", ["piqa", "bbh", "ceval", "cmmlu", "mmlu"]),
        ("pocket_t*", ["pocket_facts", "pocket_grammar", "pocket_pydoc", "pocket_textvqa"]),
        (["mme", "piqa"], ["mme", "piqa"]),
    ],
)
def test_names_mean_ids_suites_and_globs_once_each(
    specs: dict[str, TaskSpec], names: str | list[str], ids: list[str]
) -> None:
    assert [spec.id for spec in registry.select(names, specs)] == ids


def test_unknown_names_are_told_all_at_once_with_the_nearest(specs: dict[str, TaskSpec]) -> None:
    with pytest.raises(MultipleErrors) as caught:
        registry.select("mmluu,mme,pockets,qqqqqq,zz*", specs)
    first, second, third, fourth = caught.value.messages
    assert "'mmluu'" in first and "did you mean mmlu" in first
    assert "'pockets'" in second and "pocket" in second.split("mean")[1]
    assert "'qqqqqq'" in third and "there are" in third and "easy_vqa" in third and "pocket_text" in third
    assert "'zz*'" in fourth


@pytest.mark.parametrize("names", ["", " , ", []])
def test_no_name_is_not_all_names(specs: dict[str, TaskSpec], names: str | list[str]) -> None:
    with pytest.raises(VrbenchError, match="no task was named"):
        registry.select(names, specs)


def test_a_users_task_is_added_with_its_data_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    own(folder)
    spec = registry.load(tmp_path)["mine"]
    assert spec.data.name == str(folder / "mine.jsonl")
    assert [s.id for s in registry.select("own", registry.load(tmp_path))] == ["mine"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("id: mine", "id: other", "make them equal"),
        ("metric: mean", "metric: mean\nmetrics: mean", "metrics: Extra inputs"),
        ("metric: mean", "metric: mean\nmetric: macro", "given twice: metric"),
        ("kind: file,", "kind: file, kind: hub,", "given twice: kind"),
        ("scorer: multiple_choice", "scorer: multiple", "scorer 'multiple' is unknown; there are .*multiple_choice"),
        ("chance: 25", "chance: 250", "chance"),
        ("chance: 25\n", "", "chance: Field required"),
        ("choices: choices\n", "", "needs choices"),
        ("target: answer\n", "", "needs a target"),
        ('prompt: "{{question}}"\n', "", "either harness_task or prompt"),
        ("harness: lm-eval", "harness: lm-eval\nharness_task: piqa/piqa.yaml", "either harness_task or prompt"),
        ("metric: mean", "metric: circular", "needs unit"),
        ("metric: mean", "metric: macro", "needs group"),
        ("metric: mean", "metric: perplexity", "go together"),
        ("metric: mean", "metric: accuracy", "metric 'accuracy' is unknown; there are mean, macro"),
        ("scorer: multiple_choice", "scorer: seed", "scorer seed is lmms-eval's; harness lm-eval has exact_match"),
        ("harness: lm-eval", "harness: lmms-eval", "scorer multiple_choice is lm-eval's; harness lmms-eval has mme, "),
        ("metric: mean", "metric: mean\nfewshot: 5", "fewshot_split"),
        ("name: mine.jsonl", "name: mine.jsonl, config: [a]", "kind hub"),
        ("title: my questions", "title: !!python/object/apply:os.getcwd []", "is not YAML"),
        (TASK, "- a list", "mapping of keys"),
        (TASK, "id: [", "is not YAML"),
    ],
)
def test_a_faulty_task_file_is_told_with_its_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TASK
    file = own(tmp_path, TASK.replace(old, new))
    with pytest.raises(VrbenchError, match=said) as caught:
        registry.load(tmp_path)
    assert str(caught.value).startswith(f"{file}: ")


def test_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    own(tmp_path, "id: [", "a")
    own(tmp_path, TASK, "b")
    own(tmp_path)
    with pytest.raises(MultipleErrors) as caught:
        registry.load(tmp_path)
    assert [fault.partition(": ")[0] for fault in caught.value.messages] == [
        str(tmp_path / "a.yaml"),
        str(tmp_path / "b.yaml"),
    ]


def test_a_users_task_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    own(tmp_path, TASK.replace("id: mine", "id: piqa"), "piqa")
    with pytest.raises(VrbenchError, match=r"'piqa' is taken by .*piqa\.yaml"):
        registry.load(tmp_path)


class TestBrokenFiles:
    """Own task files that cannot be used, beside sound ones."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        own(tmp_path)
        own(
            tmp_path,
            TASK.replace("chance: 25", "chanse: 25").replace("[own]", "[other]").replace("id: mine", "id: broken"),
            "broken",
        )
        own(tmp_path, "id: [", "unread")
        return tmp_path

    @pytest.mark.parametrize(
        ("names", "files", "left"),
        [
            ("mine", "", "mine"),
            ("mine,broken", "broken", "mine"),
            ("mine, unread", "unread", "mine"),
            ("own", "unread", "own"),  # a suite that the file that cannot be read may name
            ("other", "broken", ""),
            ("brok*,pocket_facts", "broken", "pocket_facts"),
            ("*", "broken unread", "*"),
            ("misspelt", "unread", "misspelt"),
        ],
    )
    def test_those_that_a_name_may_mean_are_faults_and_the_others_are_warned_of(
        self, names: str, files: str, left: str, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = registry.load_for(names, folder)
        assert [Path(fault.partition(": ")[0]).stem for fault in asked.errors] == files.split()
        warned = [record.getMessage() for record in caplog.records]
        assert len(warned) == 2 - len(files.split()) and all(str(folder) in line for line in warned)
        assert "mine" in asked.specs and ",".join(asked.names) == left

    def test_they_are_told_with_the_faults_of_the_other_tasks(self, folder: Path) -> None:
        with pytest.raises(MultipleErrors) as told:
            plan(["pocket/full"], "mine,broken,pocket_fact", RunConfig(include_path=folder, out=folder, device="cpu"))
        for words in ("broken.yaml: ", "mine.jsonl", "'pocket_fact' is unknown"):
            assert words in str(told.value)
        assert "'broken' is unknown" not in str(told.value)


def test_an_include_path_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VrbenchError, match=r"has no \.yaml file"):
        registry.load(tmp_path)
    with pytest.raises(VrbenchError, match="is not a folder"):
        registry.load(tmp_path / "nowhere")
