"""What is seen of a submission without scoring: every reason against it, told at once, and its recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.desk import (
    ABOUT,
    Desk,
    rewrite,
    set_board,
    set_checkpoint,
    set_results,
    set_samples,
    set_settings,
)
from tests.leaderboard.made import BOARD, RECIPE
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import Lineage, RunRecord
from vrbench.leaderboard.publish import prepare
from vrbench.leaderboard.submission import read_submission


def answered_by_changed_code(record: RunRecord) -> RunRecord:
    """A run of committed code that reused the answers of code that was not."""
    by = record.provenance
    some = tuple(answers.model_copy(update={"dirty": True}) for answers in by.answered)
    return record.model_copy(update={"provenance": by.model_copy(update={"answered": some})})


# Requirements with advice, and what `submit` adds; test_check.py and test_requirements.py have all of them.
FALSE: dict[str, tuple[Callable[[Desk], object], str]] = {
    "limit": (lambda d: set_settings(d.region, limit=16), "it was run with limit 16; a board takes whole tasks only"),
    "dtype": (
        lambda d: set_settings(d.region, dtype="bfloat16"),
        "it was computed in bfloat16, its baseline in float32; run it with --dtype float32",
    ),
    "dirty answers": (
        lambda d: rewrite(d.region, answered_by_changed_code),
        "3 of its 3 answers were computed from a checkout with uncommitted changes ('2026-01-04T09:00:00+00:00' to "
        "'2026-01-05T10:00:00+00:00'); commit them and run it again with another --out",
    ),
    "depth": (
        lambda d: set_checkpoint(d.region, depth=32, lineage=()),
        "the checkpoint had 32 decoder layers before any was removed; family tiny has 12",
    ),
    "another baseline": (
        lambda d: set_checkpoint(d.full, digest="e" * 64),
        "the baseline given is tiny-full (eeeeeeeeeeeeeeee); family tiny of board made is compared with maker/",
    ),
    "baseline not there": (
        lambda d: shutil.rmtree(d.root / BOARD / "submissions"),
        "is not on board made yet; submit it first, with its own run as --baseline",
    ),
    "no baseline pinned": (
        lambda d: set_board(d.root, lambda raw: raw["families"]["tiny"].update(baseline=None)),
        "family tiny of board made has no baseline yet; a maintainer pins it in board.yaml",
    ),
    "not pinned": (
        lambda d: set_board(d.root, lambda raw: raw["tasks"]["made_mme"].update(data_digest=None)),
        "made_mme: the digest of its data is not pinned yet",
    ),
    "prompts not pinned": (
        lambda d: set_board(d.root, lambda raw: raw["families"]["tiny"].update(prompts={})),
        "made_mme: the digest of its prompts is not pinned yet",
    ),
    "other samples": (
        lambda d: (d.region / "samples" / "made_mme.jsonl").write_text("{}\n"),
        "is not what the record says: its sha256 differs",
    ),
    "no run": (lambda d: shutil.rmtree(d.region), "no run at"),
    "no baseline run": (lambda d: shutil.rmtree(d.full), "no run at"),
    "no board": (lambda d: shutil.rmtree(d.root / BOARD), "there is no board at"),
}  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("name", FALSE)
    def test_a_false_one_is_refused_with_its_reason(self, desk: Desk, name: str) -> None:
        falsify, reason = FALSE[name]
        falsify(desk)
        assert any(reason in said for said in desk.refused()), reason

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            ({"name": "region"}, "name 'region' is not ORG/NAME"),
            ({"name": "a/b/c"}, "name 'a/b/c' is not ORG/NAME"),
            ({"name": "../../x/y"}, "is not ORG/NAME"),
            ({"name": "My Lab/y"}, "'org': name 'My Lab' is not allowed"),
            ({"name": "lab/.."}, "'name': name '..' is not allowed"),
            ({"url": "javascript:alert(1)"}, "'url': "),
            ({"description": "two\nlines"}, "'description': it has a line feed"),
            ({"family": "huge"}, "family 'huge' is not on board made; there are tiny"),
            ({"board": "other"}, "there is no board at"),
        ],
    )
    def test_what_is_said_is_held_to_the_record_s_types(self, desk: Desk, said: dict[str, Any], reason: str) -> None:
        assert any(reason in sentence for sentence in desk.refused(**said)), desk.refused(**said)

    def test_missing_and_added_tasks_are_told_with_the_command_that_helps(self, desk: Desk) -> None:
        run = load_run(desk.region)
        renamed = tuple(r.model_copy(update={"task": "mme"}) if r.task == "made_mme" else r for r in run.record.results)
        samples = {"mme" if task == "made_mme" else task: rows for task, rows in run.samples.items()}
        save_run(desk.region, run.record.model_copy(update={"results": renamed}), samples)
        said = desk.refused()
        tasks = "--tasks made_mme,made_words,made_facts,made_pydoc"
        assert f"it lacks made_mme; run it with {tasks}" in said
        assert f"it has mme, which board made has not; run it with {tasks}" in said
        assert "the tasks of its settings are not those of its results" in said

    def test_a_run_of_an_older_vrbench_is_told_in_one_sentence(self, desk: Desk) -> None:
        raw = json.loads((desk.region / "run.json").read_text())
        for result in raw["results"]:
            del result["definition_digest"]
            file = desk.region / "samples" / f"{result['task']}.jsonl"
            rows = [json.loads(line) for line in file.read_text().splitlines()]
            told = [{name: value for name, value in row.items() if name != "responses"} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in told))
            result["samples_digest"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (desk.region / "run.json").write_text(json.dumps(raw))
        tasks = "made_mme, made_words, made_facts, made_pydoc"
        assert desk.refused() == [f"an older vrbench made it, which kept no raw responses of {tasks}; run it again"]

    def test_samples_written_in_another_way_are_told(self, desk: Desk) -> None:
        file = desk.region / "samples" / "made_mme.jsonl"
        before = hashlib.sha256(file.read_bytes()).hexdigest()
        file.write_text(file.read_text().replace('":', '": '))
        record = desk.region / "run.json"
        record.write_text(record.read_text().replace(before, hashlib.sha256(file.read_bytes()).hexdigest()))
        assert desk.refused() == ["made_mme: its samples were written by another vrbench; run it again with this one"]

    def test_all_faults_are_told_at_once(self, desk: Desk) -> None:
        set_settings(desk.region, limit=16, dtype="bfloat16")
        set_results(desk.region, "made_mme", version="0")
        set_results(desk.region, "made_words", data_digest="0" * 64)
        set_samples(desk.region, "made_facts", prompt_digest="")
        assert len(desk.refused()) == 5

    def test_all_that_is_wrong_with_the_inputs_is_told_at_once(self, desk: Desk) -> None:
        said = desk.refused(board="other", name="x")
        assert len(said) == 2

    def test_two_families_of_one_architecture_need_the_name(self, desk: Desk) -> None:
        def second(raw: dict[str, Any]) -> None:
            raw["families"]["tiny"]["baseline"] = None
            raw["families"]["other"] = dict(raw["families"]["tiny"], prompts={})

        set_board(desk.root, second)
        assert any("name it with --family, one of tiny, other" in text for text in desk.refused())
        assert not any("name it with" in text for text in desk.refused(family="other"))


class TestRecipe:
    def checkpoint(self, desk: Desk, folder: Path) -> Path:
        """A folder with the lineage that the run names."""
        folder.mkdir()
        lineage = load_run(desk.region).record.checkpoint.lineage[0]
        (folder / "vrbench.json").write_text(lineage.model_dump_json())
        (folder / "recipe.yaml").write_text(RECIPE)
        return folder

    def test_the_recipe_of_the_checkpoint_is_handed_in(self, desk: Desk, tmp_path: Path) -> None:
        packed = desk.pack(checkpoint=self.checkpoint(desk, tmp_path / "ckpt"))
        assert (packed.path / "recipe.yaml").read_text() == RECIPE
        assert read_submission(packed.path).recipe == RECIPE

    def test_a_published_checkpoint_s_is_found_by_its_id(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        from vrbench.checkpoints.locate import PUBLISHED_FOLDER

        lineage = Lineage.model_validate_json((PUBLISHED_FOLDER / "region" / "vrbench.json").read_text())
        set_checkpoint(desk.region, id="pocket/region", lineage=(lineage,), depth=30)
        found, _ = prepare(desk.region, desk.full, ABOUT, desk.root)
        assert found.files["recipe.yaml"] == (PUBLISHED_FOLDER / "region" / "recipe.yaml").read_bytes()
        set_checkpoint(desk.region, id="pocket/top")  # whose folder has another lineage
        found, _ = prepare(desk.region, desk.full, ABOUT, desk.root)
        assert "recipe.yaml" not in found.files

    def test_another_checkpoint_s_folder_is_refused(self, desk: Desk, tmp_path: Path) -> None:
        folder = self.checkpoint(desk, tmp_path / "ckpt")
        raw = json.loads((folder / "vrbench.json").read_text())
        raw["steps"][0]["layers"] = "1"
        (folder / "vrbench.json").write_text(json.dumps(raw))
        (said,) = desk.refused(checkpoint=folder)
        assert "is not the checkpoint that was run, tiny-region-1; give its folder" in said
        assert "is not a folder" in desk.refused(checkpoint=tmp_path / "nowhere")[0]

    def test_a_recipe_with_aliases_is_refused(self, desk: Desk, tmp_path: Path) -> None:
        folder = self.checkpoint(desk, tmp_path / "ckpt")
        (folder / "recipe.yaml").write_text("a: &a [x]\nb: *a\n")
        _, errors = prepare(desk.region, desk.full, dataclasses.replace(ABOUT, checkpoint=folder), desk.root)
        assert ["anchor" in error for error in errors] == [True]
        assert desk.refused(checkpoint=folder) == errors
