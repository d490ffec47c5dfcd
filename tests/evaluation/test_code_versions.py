"""What the code that decides answers and scores gives is what it gave in its version; else the version is raised."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tests import fingerprints
from vrbench.checkpoints import families
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.code_versions import COMPONENTS
from vrbench.evaluation.code_versions import task_versions
from vrbench.tasks import registry
from vrbench.tasks.scorers import SCORERS

HELD: dict[str, Any] = json.loads(fingerprints.FILE.read_text())


@pytest.mark.parametrize("name", fingerprints.FINGERPRINTS)
def test_what_a_version_gives_has_not_changed(name: str) -> None:
    assert told(name) == ""


def told(name: str) -> str:
    """What is to be done, if a version or what it gives is not the one held."""
    now, held = fingerprints.FINGERPRINTS[name][0](), HELD.get(name, {"version": 0, "fingerprint": ""})
    write = f"then write its fingerprint: python -m tests.fingerprints '{name}'"
    if now != held["version"]:
        return f"{name} has version {now}, tests/versions.json has {held['version']}: see that it is meant, {write}"
    if fingerprints.fingerprint(name) != held["fingerprint"]:
        return f"{name} gives something else than in version {now}: raise it (vrbench/checkpoints/code_versions.py says where), {write}"  # noqa: E501
    return ""


def test_nothing_is_held_that_is_not_looked_at() -> None:
    assert HELD.keys() == fingerprints.FINGERPRINTS.keys()


def test_a_scorer_that_scores_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SCORERS["pope"]

    def always_right(document: Any) -> Any:
        return dataclasses.replace(old.score(document), score=1.0)

    altered = dataclasses.replace(old, score=always_right, official=lambda _: 100.0)
    monkeypatch.setitem(SCORERS, "pope", altered)
    assert f"scorer pope gives something else than in version {old.version}: raise it" in told("scorer pope")
    monkeypatch.setitem(SCORERS, "pope", dataclasses.replace(altered, version=old.version + 1))
    assert "python -m tests.fingerprints 'scorer pope'" in told("scorer pope")


def test_another_prompt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    old = families.FAMILIES["gemma3"]

    def politely(processor: Any, turns: Any, answered: bool) -> str:
        asked = [dataclasses.replace(turn, question=f"Please: {turn.question}") for turn in turns]
        return old.prompt_format.build(processor, asked, answered)

    prompt_format = dataclasses.replace(old.prompt_format, build=politely)
    monkeypatch.setitem(families.FAMILIES, "gemma3", dataclasses.replace(old, prompt_format=prompt_format))
    assert "family gemma3 gives something else than in version" in told("family gemma3")


def test_another_stop_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from vrbench.models import generation

    monkeypatch.setattr(generation, "decode_answer", lambda vlm, tokens, limit: vlm.tokenizer.decode(tokens))
    assert "decoding gives something else than in version" in told("decoding")


def test_a_fingerprint_is_not_written_again_under_its_old_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "versions.json"
    old = {"metrics": {**HELD["metrics"], "fingerprint": "0" * 64}}
    file.write_text(json.dumps(old))
    monkeypatch.setattr(fingerprints, "FILE", file)
    assert fingerprints.main(["metrics"]) == 1
    assert "metrics: what it gives changed, and its version is still" in capsys.readouterr().err
    assert json.loads(file.read_text()) == old
    monkeypatch.setitem(COMPONENTS, "metrics", COMPONENTS["metrics"] + 1)
    assert fingerprints.main(["metrics"]) == 0
    (held,) = json.loads(file.read_text()).values()
    assert held == {"version": COMPONENTS["metrics"], "fingerprint": HELD["metrics"]["fingerprint"]}


class TestWhatCounts:
    """Which versions count for which task."""

    def code(self, monkeypatch: pytest.MonkeyPatch, task: str, tmp_path: Any, **more: Any) -> set[str]:
        for name in COMPONENTS:
            monkeypatch.setitem(COMPONENTS, name, 9)
        of = Checkpoint("x", tmp_path, "", "d", "llava", 4, **more)
        return {name for name, found in task_versions(of, registry.load()[task]).items() if found == 9}

    def test_a_task_knows_the_code_that_answers_and_scores_it(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        always = {"requests", "context", "metrics"}
        assert self.code(monkeypatch, "mme", tmp_path) == {*always, "images", "decoding"}
        assert self.code(monkeypatch, "gsm8k", tmp_path) == {*always, "decoding"}
        assert self.code(monkeypatch, "piqa", tmp_path) == {*always, "loglikelihood"}
        base = Checkpoint("b", tmp_path, "", "d", "llava", 4)
        assert self.code(monkeypatch, "piqa", tmp_path, base=base) == {*always, "loglikelihood", "layering"}

    def test_version_1_adds_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        for name in COMPONENTS:
            monkeypatch.setitem(COMPONENTS, name, 1)
        llava = dataclasses.replace(families.FAMILIES["llava"], version=1)
        monkeypatch.setitem(families.FAMILIES, "llava", llava)
        of = Checkpoint("x", tmp_path, "", "d", "llava", 4)
        assert task_versions(of, registry.load()["piqa"]) == {}
        monkeypatch.setitem(families.FAMILIES, "llava", dataclasses.replace(llava, version=2))
        assert task_versions(of, registry.load()["piqa"]) == {"family": 2}

    def test_generated_text_tasks_are_those_of_the_scorers_named(self) -> None:
        from vrbench.evaluation.built_task import harness_config

        for spec in registry.load().values():
            if spec.harness == "lm-eval" and spec.scorer not in ("perplexity", "last_word"):
                kind = harness_config(spec, spec.data.configs[0])["output_type"]
                assert (kind == "generate_until") == SCORERS[spec.scorer].is_generated, spec.id
