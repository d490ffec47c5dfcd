"""Task files of a stranger: `vrbench tasks NAME --include-path DIR` runs nothing of them, and says why in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from vrbench.cli import task_listing
from vrbench.core.errors import VrbenchError
from vrbench.tasks import registry, untrusted

RUN = "{{ cycler.__init__.__globals__.os.system('id > PWNED') }}"
LATE = "{{ (cycler | attr('__in' ~ 'it__')).os.system('id > PWNED') }}"
OPEN = "{{ (q | attr('__cla' ~ 'ss__')).mro()[1] }}"
EVIL = "dataset_path: x\ndoc_to_text: !function evil.run\nmetric_list: [{metric: acc}]\n"

TASK = {
    "id": "mine", "suites": ["own"], "title": "mine", "harness": "lm-eval", "scorer": "multiple_choice",
    "prompt": "{{q}}", "choices": "options", "target": "right", "data": {"kind": "file", "name": "mine.jsonl"},
    "metric": "mean", "chance": 50, "n": 2, "version": "1",
}  # fmt: skip
HARNESS = {**TASK, "prompt": None, "choices": None, "target": None}

Shown = Callable[[dict[str, object]], tuple[int, str]]


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Shows a task file of the keys given; returns the exit status and what was said of it."""
    rows = [{"q": "?", "options": ["a", "b"], "right": 0}, {"q": "!", "options": ["a", "b"], "right": 1}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)

    def show(task: dict[str, object] | str) -> tuple[int, str]:
        file = tmp_path / "mine.yaml"
        file.write_text(task if isinstance(task, str) else yaml.safe_dump(task))
        try:
            status, said = 0, task_listing.describe_task(registry.read(file)).splitlines()[-1]
        except VrbenchError as error:
            status, said = 2, str(error)
        assert not (tmp_path / "PWNED").exists() and "\n" not in said
        return status, said

    return show


def test_the_command_says_it_in_a_line_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**TASK, "prompt": RUN}))
    command = [sys.executable, "-m", "vrbench", "tasks", "mine", "--include-path", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and not Path("PWNED").exists()
    assert done.stderr.startswith(f"vrbench: {tmp_path}/mine.yaml: prompt: it uses '__")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("field", untrusted.TEMPLATES)
@pytest.mark.parametrize("template", [RUN, LATE, OPEN])
def test_a_template_of_any_field_runs_nothing(shown: Shown, field: str, template: str) -> None:
    status, said = shown({**TASK, field: template})
    if template == RUN:
        assert status == 2 and f"mine.yaml: {field}: it uses '__" in said
    elif field not in ("id_column", "cluster"):  # of which an example has no need; see test_keys
        assert said.startswith("no example can be shown: ") and "unsafe" in said


def test_a_task_on_images_runs_nothing_either(shown: Shown) -> None:
    for template in (LATE, OPEN):
        _, said = shown({**TASK, "harness": "lmms-eval", "scorer": "exact_match", "choices": None, "prompt": template})
        assert said.startswith("no example can be shown: ") and "is unsafe" in said


@pytest.mark.parametrize("harness", ["lm-eval", "lmms-eval"])
@pytest.mark.parametrize(
    "name",
    [
        "{here}/evil.yaml", "../../evil.yaml", "piqa/../../../../../../../../../../{here}/evil.yaml", "/etc/passwd",
        "..\\..\\evil.yaml", "~/evil.yaml", "file://{here}/evil.yaml", "evil.yaml", "piqa", "piqa/piqa.yaml/..",
        "piqa/../piqa/piqa.yaml", "piqa/{config.__class__}.yaml", "{0}", "a" * 5000, "piqa/piqa.yaml\0", ".", "",
    ],
)  # fmt: skip
def test_a_harness_task_is_a_file_of_the_harness(shown: Shown, tmp_path: Path, harness: str, name: str) -> None:
    (tmp_path / "evil.yaml.txt").write_text(EVIL)
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')\ndef run(doc): pass\n")
    name = name.replace("{here}", str(tmp_path))
    status, said = shown({**HARNESS, "harness": harness, "harness_task": name, "scorer": "exact_match"})
    assert status == 2
    assert "harness_task" in said and ("tasks folder" in said or "no such .yaml" in said or name == "")


def test_a_link_or_a_config_does_not_lead_out_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lm_eval"
    (package / "tasks").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tasks" / "here.yaml").write_text("task: here\n")
    (tmp_path / "evil.yaml").write_text(EVIL)
    (package / "tasks" / "link.yaml").symlink_to(tmp_path / "evil.yaml")
    (package / "tasks" / "round.yaml").symlink_to(package / "tasks" / "round.yaml")
    monkeypatch.setattr(untrusted, "_harness_tasks", lambda harness: (package / "tasks").resolve())
    assert untrusted.harness_file("lm-eval", "here.yaml") == package / "tasks" / "here.yaml"
    for name in ("link.yaml", "round.yaml"):
        with pytest.raises(VrbenchError, match="harness_task"):
            untrusted.harness_file("lm-eval", name)


def test_a_config_does_not_lead_out_of_the_harness(shown: Shown, tmp_path: Path) -> None:
    (tmp_path / "evil.txt").write_text(EVIL)
    hub = {
        "kind": "hub",
        "name": "cais/mmlu",
        "config": ["anatomy", f"../../../../../../../../../{tmp_path}/evil.yaml#"],
    }
    status, said = shown({**HARNESS, "harness_task": "mmlu/default/mmlu_{config}.yaml", "data": hub})
    assert status == 2 and "is not a file in lm-eval's tasks folder" in said


def test_a_task_whose_scoring_runs_what_a_model_writes_is_refused(shown: Shown) -> None:
    status, said = shown({**HARNESS, "harness_task": "humaneval/humaneval.yaml", "scorer": "exact_match"})
    assert status == 2 and "runs the code that a model writes" in said


@pytest.mark.parametrize(
    "text",
    [
        "id: mine\ntitle: !function evil.run\n",
        "id: mine\ntitle: !!python/object/apply:os.system ['id > PWNED']\n",
        "id: mine\ntitle: !!python/name:os.system\n",
        "id: mine\ninclude: evil.yaml\n",
        "id: mine\ntask: piqa\nprocess_results: !function evil.run\n",
    ],
)
def test_yaml_runs_nothing(shown: Shown, tmp_path: Path, text: str) -> None:
    (tmp_path / "evil.py").write_text("open('PWNED', 'w')\ndef run(doc): pass\n")
    status, said = shown(text)  # type: ignore[arg-type]
    assert status == 2 and said.startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scorer", "__init__"), ("scorer", "os.system"), ("metric", "__class__"), ("harness", "os"),
        ("data", {"kind": "generated", "name": "os:system"}),
        ("data", {"kind": "generated", "name": "vrbench.cli:app"}),
        ("data", {"kind": "generated", "name": "pocket_mme", "split": "../x"}), ("id", "../mine"),
    ],
)  # fmt: skip
def test_names_are_looked_up_in_tables_and_never_in_python(shown: Shown, key: str, value: object) -> None:
    status, said = shown({**TASK, key: value})
    assert status == 2 or "unknown" in said
