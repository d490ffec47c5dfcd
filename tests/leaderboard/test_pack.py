"""A run becomes a submission: whole or not at all, once, and never changed."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import pytest

from tests.leaderboard.desk import (
    ABOUT,
    Desk,
    rewrite,
    set_samples,
    tree,
)
from tests.leaderboard.made import BOARD
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.leaderboard import packing, publish
from vrbench.leaderboard.packing import PACKING_PREFIX, PackedFolder
from vrbench.leaderboard.publish import SubmissionMetadata, pack, prepare
from vrbench.leaderboard.submission import read_submission


class TestPacked:
    def test_a_run_becomes_a_folder_that_reads_back_as_the_same_run(self, desk: Desk) -> None:
        packed = desk.pack(description="three layers", url="https://example.org/a", licence="MIT")
        ours = load_run(desk.region)
        assert packed.is_new
        assert packed.path == desk.root / BOARD / "submissions" / "my-lab__region" / ours.record.checkpoint.digest[:16]
        found = read_submission(packed.path)
        assert (found.run.record, found.run.samples) == (ours.record, ours.samples)
        said = found.submission
        assert (said.org, said.name, said.board, said.family) == ("my-lab", "region", BOARD, "tiny")
        assert (said.description, said.url, said.licence) == ("three layers", "https://example.org/a", "MIT")
        baseline = load_run(desk.full).record.checkpoint.digest[:16]
        assert said.baseline == f"maker/tiny-full@{baseline}"
        assert said.run_digest == hashlib.sha256((packed.path / "run.json").read_bytes()).hexdigest()

    def test_nothing_else_is_written(self, desk: Desk) -> None:
        before = tree(desk.root)
        packed = desk.pack()
        new = set(tree(desk.root)) - set(before)
        inside = {str(p.relative_to(packed.path)) for p in packed.path.rglob("*") if p.is_file()}
        assert {name for name in new if (desk.root / name).is_file()} == {
            str((packed.path / name).relative_to(desk.root)) for name in inside
        }
        tasks = load_run(desk.region).samples
        assert inside == {"run.json", "submission.json", *(f"samples/{task}.jsonl.gz" for task in tasks)}
        assert not list((desk.root / BOARD).glob(f"{PACKING_PREFIX}*"))
        assert oct(packed.path.stat().st_mode)[-3:] == "755"

    def test_the_same_run_gives_the_same_bytes_anywhere(self, desk: Desk, tmp_path: Path) -> None:
        shutil.copytree(desk.root, tmp_path / "other")
        first, second = desk.pack(), pack(desk.region, desk.full, ABOUT, tmp_path / "other")
        assert tree(first.path) == tree(second.path)

    def test_the_licence_is_that_of_the_lineage_if_none_is_given(self, desk: Desk) -> None:
        assert read_submission(desk.pack().path).submission.licence == "Apache-2.0"

    def test_a_submission_s_own_folder_can_be_the_baseline_given(self, desk: Desk) -> None:
        (there,) = (desk.root / BOARD / "submissions").glob("*/*")
        assert pack(desk.region, there, ABOUT, desk.root).is_new

    def test_a_baseline_is_handed_in_with_its_own_run(self, desk: Desk) -> None:
        shutil.rmtree(desk.root / BOARD / "submissions")
        packed = pack(desk.full, desk.full, SubmissionMetadata("maker/tiny-full", BOARD), desk.root)
        assert read_submission(packed.path).submission.is_baseline
        assert desk.pack().is_new


class TestAgain:
    def test_the_same_submission_again_is_told_and_changes_nothing(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = desk.pack()
        before = tree(desk.root)
        monkeypatch.setattr("vrbench.leaderboard.publish.__version__", "9.9.9")  # packed later, by a later vrbench
        assert desk.pack() == PackedFolder(first.path, is_new=False)
        assert tree(desk.root) == before

    def test_another_run_of_the_same_revision_is_refused(self, desk: Desk) -> None:
        desk.pack()
        rewrite(
            desk.region, lambda r: r.model_copy(update={"provenance": r.provenance.model_copy(update={"seconds": 1})})
        )
        (said,) = desk.refused()
        assert "holds my-lab/region@" in said
        assert "already, with other run_digest, run.json" in said

    def test_other_words_on_the_same_revision_are_refused(self, desk: Desk) -> None:
        desk.pack(description="one thing")
        (said,) = desk.refused(description="another thing")
        assert "already, with other description;" in said

    def test_a_changed_submission_there_is_noticed(self, desk: Desk) -> None:
        packed = desk.pack()
        (packed.path / "samples" / "made_mme.jsonl.gz").write_bytes(gzip.compress(b"{}"))
        (said,) = desk.refused()
        assert "with other samples/made_mme.jsonl.gz" in said

    def test_one_that_came_there_in_the_meantime_is_not_written_over(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepared = prepare(desk.region, desk.full, ABOUT, desk.root)
        packed = desk.pack(description="another was faster")
        before = tree(packed.path)
        monkeypatch.setattr(publish, "prepare", lambda *_: prepared)
        with pytest.raises(VrbenchError, match="with other description"):
            desk.pack()
        assert tree(packed.path) == before

    def test_the_same_run_under_another_name_is_another_submission(self, desk: Desk) -> None:
        assert desk.pack().path != desk.pack(name="my-lab/region-2").path


class TestWholeOrNotAtAll:
    @pytest.mark.parametrize("name", ["run.json", "made_words.jsonl.gz", "submission.json"])
    def test_nothing_is_left_of_one_that_was_interrupted(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        write = packing.write_atomically

        def interrupted(path: Path, content: str | bytes) -> None:
            if path.name == name:
                raise KeyboardInterrupt
            write(path, content)

        before = tree(desk.root)
        monkeypatch.setattr(packing, "write_atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            desk.pack()
        assert tree(desk.root) == before

    def test_nothing_is_left_when_the_last_step_fails(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*paths: object) -> None:
            raise OSError(28, "No space left on device")

        before = tree(desk.root)
        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(OSError, match="No space"):
            desk.pack()
        assert tree(desk.root) == before

    def test_what_could_not_be_read_back_is_not_packed(self, desk: Desk) -> None:
        set_samples(desk.region, "made_words", answer="x" * 2**20)
        (said,) = desk.refused()
        assert "line 1 has more than" in said
