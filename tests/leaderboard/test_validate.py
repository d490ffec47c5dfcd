"""Whole boards: what is taken, what is refused, what the board said before, and who ran a checkpoint again."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.leaderboard.forging import Forged
from tests.leaderboard.made import BOARD, Made, made_run, rescorers_of
from vrbench.cli import app
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import CheckpointRef, Lineage, LineageStep, Run, RunRecord
from vrbench.evaluation.inputs_digest import inputs_digest, task_inputs
from vrbench.leaderboard import check as checking
from vrbench.leaderboard import validate as validating
from vrbench.leaderboard.check import SubmissionChecker
from vrbench.leaderboard.rows import layer_region, row_cost
from vrbench.leaderboard.schema import Leaderboard
from vrbench.leaderboard.validate import Validation, validate
from vrbench.statistics.comparison import compare
from vrbench.tasks import registry


def scored_by_today(folder: Path) -> Run:
    """A submitted run as if the same code had answered all: a board takes several versions, `compare` does not."""
    run = load_run(folder)
    results = tuple(result.model_copy(update={"code": {}}) for result in run.record.results)
    return run.model_copy(update={"record": run.record.model_copy(update={"results": results})})


@pytest.fixture
def written(board: Made, green: Validation) -> Made:
    """A copy with its leaderboard.json."""
    validating.write_leaderboards(replace(green, root=board.root))
    return board


def found(board: Made, path: Path | None = None, **how: Any) -> Validation:
    return validate(path or board.root, **{"jobs": 1, "include_path": board.tasks, **how})


def refused(board: Made, path: Path | None = None, against: str | None = None) -> dict[str, tuple[str, ...]]:
    found = validate(path or board.root, jobs=1, include_path=board.tasks, against=against).rejections
    assert all(path.split("/")[0] == BOARD for path in found)
    return {path: tuple(reasons) for path, reasons in found.items()}


def place_of(board: Made, number: int) -> str:
    return board.submissions[number].relative_to(board.root).as_posix()


def forge(board: Made, number: int, folder: Path, change: Callable[[Forged], None]) -> None:
    """Put a changed copy of a submission in its place."""
    forged = Forged(board, number, folder)
    change(forged)
    shutil.rmtree(board.submissions[number])
    shutil.copytree(forged.folder, board.submissions[number])


def worse(forged: Forged) -> None:
    forged.record(lambda record: record["provenance"].update(dirty=True))


class TestBoard:
    def test_what_was_made_is_taken(self, green: Validation, made_board: Made) -> None:
        assert green.rejections == {}
        assert sorted(green.accepted) == sorted(place_of(made_board, i) for i in range(4))
        assert green.boards.keys() == {BOARD}

    def test_rows_say_what_was_made(self, green: Validation, made_board: Made) -> None:
        rows = {row.name: row for row in green.boards[BOARD].rows}
        full, pruned = rows["tiny-full"], rows["tiny-region-3"]
        assert full.is_baseline
        assert full.visual is not None
        assert (full.visual.retention.low, full.visual.retention.high) == (100, 100)
        assert full.region.tuned == "all"
        assert full.verdicts == ()
        assert (pruned.region.removed, pruned.region.removed_share) == ("10-11", 2 / 12)
        assert (pruned.region.tuned, pruned.region.tuned_share) == ("0,4,8", 3 / 12)
        assert [verdict.claim.text for verdict in pruned.verdicts] == ["visual>=99%", "text>=-1"]
        assert pruned.cost.seconds == 120.5
        assert pruned.text is not None
        assert pruned.text.tasks == ("made_facts",)  # a perplexity is in no mean
        assert [task.task for task in pruned.tasks] == ["made_mme", "made_words", "made_facts", "made_pydoc"]
        assert pruned.status.kind == "rescored"

    def test_figures_are_those_of_the_run_and_of_compare(self, green: Validation, made_board: Made) -> None:
        row = next(row for row in green.boards[BOARD].rows if row.name == "tiny-region-1")
        baseline, run = map(scored_by_today, made_board.submissions[:2])
        (candidate,) = compare([run], baseline).candidates
        for ours, theirs in zip(row.tasks, candidate.tasks, strict=True):
            assert ours.score.value == theirs.candidate
            assert (ours.retention.low, ours.retention.high) == (theirs.retention_low, theirs.retention_high)
            assert (ours.difference.low, ours.difference.high) == (theirs.difference_low, theirs.difference_high)
        assert row.visual is not None
        visual = next(suite for suite in candidate.suites if suite.name == "pocket_visual")
        assert row.visual.retention.value == visual.retention
        assert row.visual.retention.high == visual.retention_high
        assert [verdict.verdict for verdict in row.verdicts] == [verdict.verdict for verdict in candidate.verdicts]

    def test_rows_are_sorted_and_ranked(self, green: Validation) -> None:
        rows = green.boards[BOARD].rows
        scores = [row.visual.score for row in rows if row.visual is not None]
        assert [s.value for s in scores] == sorted((s.value for s in scores if s.value is not None), reverse=True)
        assert all(
            score.rank is not None and score.rank.best <= i + 1 <= score.rank.worst for i, score in enumerate(scores)
        )

    def test_several_processes_give_the_same_bytes(
        self, board: Made, green: Validation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vrbench.leaderboard.check.MIN_FORKED", 1)
        forked: list[int] = []
        start = checking._check_in_processes
        monkeypatch.setattr(checking, "_check_in_processes", lambda *given: forked.append(given[-1]) or start(*given))
        validating.write_leaderboards(replace(green, root=board.root))
        content = (board.board / "leaderboard.json").read_bytes()
        again = found(board, jobs=2)
        assert forked == [2]
        assert (again.rejections, again.notes) == ({}, [])
        validating.write_leaderboards(again)
        assert (board.board / "leaderboard.json").read_bytes() == content

    def test_one_submission_is_looked_at_with_its_baseline(self, board: Made, tmp_path: Path) -> None:
        assert found(board, board.submissions[2]).accepted == [place_of(board, 2)]
        forge(board, 3, tmp_path / "x", worse)
        assert refused(board, board.submissions[2]) == {}
        assert refused(board, board.submissions[3]).keys() == {place_of(board, 3)}

    def test_candidates_of_a_refused_baseline_are_refused(self, board: Made, tmp_path: Path) -> None:
        forge(board, 0, tmp_path / "x", worse)
        odd = refused(board)
        assert odd.keys() == {place_of(board, i) for i in range(4)}
        assert "uncommitted changes" in odd[place_of(board, 0)][0]
        assert all("was refused" in odd[place_of(board, i)][0] for i in (1, 2, 3))

    def test_who_calls_itself_a_baseline_is_none(self, board: Made, tmp_path: Path) -> None:
        reference = f"lab1/tiny-region-1@{board.submissions[1].name}"
        forge(board, 1, tmp_path / "x", lambda forged: forged.submission(lambda told: told.update(baseline=reference)))
        odd = refused(board)
        assert odd.keys() == {place_of(board, 1)}
        assert odd[place_of(board, 1)][0].startswith(f"its baseline is {reference}; family tiny is compared with maker")

    def test_what_lies_beside_submissions_is_refused(self, board: Made) -> None:
        (board.board / "submissions" / "run_me.py").write_text("1")
        odd = refused(board)
        assert odd.keys() == {f"{BOARD}/submissions"}
        assert "only folders of submissions are allowed there" in odd[f"{BOARD}/submissions"][0]

    def test_a_board_without_submissions_has_nothing_refused(self, board: Made) -> None:
        shutil.rmtree(board.board / "submissions")
        made = found(board)
        assert made.rejections == {}
        assert made.notes == ["board made: there is no submission yet"]

    def test_a_folder_without_boards(self, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="there is no board in"):
            validate(tmp_path)
        with pytest.raises(VrbenchError, match="is not a folder"):
            validate(tmp_path / "none")


class TestTasks:
    """The board against the task files and the data that are here."""

    def test_a_newer_version_of_a_task(self, board: Made, tmp_path: Path) -> None:
        tasks = self.changed(board, tmp_path, "made_mme", "version: '1'", "version: '2'")
        (reasons,) = refused(replace(board, tasks=tasks)).values()
        assert reasons == ("board made has made_mme at version 1; its task file has version 2",)

    def test_another_prompt(self, board: Made, tmp_path: Path) -> None:
        tasks = self.changed(board, tmp_path, "made_facts", "'{{question}}'", "'Think. {{question}}'")
        odd = refused(replace(board, tasks=tasks))
        assert odd == {f"{BOARD}/board.yaml": ("board made has made_facts with another prompt, generation or scoring "
                                               "than its task file",)}  # fmt: skip

    def test_other_data(self, board: Made, tmp_path: Path) -> None:
        tasks = Path(shutil.copytree(board.tasks, tmp_path / "other"))
        shutil.copyfile(tasks / "made_words.parquet", tasks / "made_facts.parquet")
        shutil.copyfile(board.tasks / "made_facts.parquet", tasks / "made_facts.parquet")
        import pyarrow.parquet as pq

        table = pq.read_table(tasks / "made_facts.parquet")
        pq.write_table(table.take([1, 0, *range(2, 16)]), tasks / "made_facts.parquet")
        odd = refused(replace(board, tasks=tasks))
        assert odd.keys() == {f"{BOARD}/board.yaml"}
        assert (
            "the data of made_facts here (made_facts.parquet, a local file) are not those of board made"
            in (odd[f"{BOARD}/board.yaml"][0])
        )

    def test_tasks_that_are_not_here(self, board: Made) -> None:
        odd = refused(replace(board, tasks=None))  # type: ignore[arg-type]
        assert len(odd[f"{BOARD}/board.yaml"]) == 4
        assert "has the task made_mme, for which there is no task file here" in odd[f"{BOARD}/board.yaml"][0]

    @staticmethod
    def changed(board: Made, folder: Path, task: str, old: str, new: str) -> Path:
        tasks = Path(shutil.copytree(board.tasks, folder / "other"))
        file = tasks / f"{task}.yaml"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        return tasks


class TestBefore:
    """What leaderboard.json said."""

    def test_a_stored_score_moved(self, written: Made) -> None:
        self.change(written, lambda value: value["rows"][2]["tasks"][1]["score"].update(value=1.5))
        (reasons,) = refused(written).values()
        assert len(reasons) == 1
        assert reasons[0].startswith("its stored 'tasks.1.score.value' changed: leaderboard.json has '1.5', its ")

    def test_a_stored_interval_of_a_mean_moved(self, written: Made) -> None:
        self.change(written, lambda value: value["rows"][0]["visual"]["retention"].update(low=1.5))
        (reasons,) = refused(written).values()
        assert "'visual.retention.low' changed" in reasons[0]

    def test_a_verdict_moved(self, written: Made) -> None:
        def praise(value: Any) -> None:
            row = next(row for row in value["rows"] if row["verdicts"])
            row["verdicts"][0].update(verdict="refuted" if row["verdicts"][0]["verdict"] != "refuted" else "supported")

        self.change(written, praise)
        (reasons,) = refused(written).values()
        assert "'verdicts.0.verdict' changed" in reasons[0]

    def test_ranks_may_move_since_other_rows_come(self, written: Made) -> None:
        self.change(written, lambda value: value["rows"][0]["visual"]["score"]["rank"].update(best=1, worst=9))
        made = found(written)
        assert made.rejections == {}
        assert made.notes == [f"{BOARD}/leaderboard.json is not what its submissions give; write it with --write"]

    def test_an_earlier_submission_is_gone(self, written: Made) -> None:
        shutil.rmtree(written.submissions[2])
        odd = refused(written)
        reference = f"lab2/tiny-region-2@{written.submissions[2].name}"
        assert odd == {place_of(written, 2): (f"{reference} is in leaderboard.json, but its submission is gone",)}

    def test_a_refused_submission_is_not_called_gone(self, written: Made, tmp_path: Path) -> None:
        forge(written, 2, tmp_path / "x", worse)
        odd = refused(written)
        assert odd.keys() == {place_of(written, 2)}
        assert len(odd[place_of(written, 2)]) == 1

    def test_an_unreadable_leaderboard(self, written: Made) -> None:
        (written.board / "leaderboard.json").write_text('{"rows": NaN}', encoding="utf-8")
        odd = refused(written)
        assert odd.keys() == {f"{BOARD}/leaderboard.json"}

    def test_a_new_submission_only_makes_it_stale(self, written: Made) -> None:
        def drop(value: Any) -> None:
            value["rows"] = [row for row in value["rows"] if row["name"] != "tiny-region-1"]

        self.change(written, drop)
        made = found(written)
        assert made.rejections == {}
        assert len(made.notes) == 1
        assert len(made.known) == 3

    def test_nothing_is_written_while_something_is_refused(self, written: Made, tmp_path: Path) -> None:
        content = (written.board / "leaderboard.json").read_bytes()
        forge(written, 1, tmp_path / "x", worse)
        with pytest.raises(VrbenchError, match="uncommitted changes"):
            validating.write_leaderboards(found(written))
        assert (written.board / "leaderboard.json").read_bytes() == content

    @staticmethod
    def change(board: Made, change: Callable[[Any], None]) -> None:
        file = board.board / "leaderboard.json"
        value = json.loads(file.read_text(encoding="utf-8"))
        change(value)
        text = Leaderboard.model_validate(value).model_dump_json(indent=1) + "\n"
        assert text != file.read_text(encoding="utf-8")
        file.write_text(text, encoding="utf-8")


class TestAgainst:
    """What was handed in before, by git."""

    @pytest.fixture
    def repository(self, board: Made) -> Made:
        self.git(board, "init", "-q", "-b", "main")
        self.commit(board)
        return board

    @staticmethod
    def git(board: Made, *words: str) -> None:
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *name, *words], cwd=board.root.parent, check=True, capture_output=True)

    def commit(self, board: Made) -> None:
        self.git(board, "add", "-A")
        self.git(board, "commit", "-q", "-m", "state", "--allow-empty")

    def test_an_earlier_submission_was_changed_so_that_nothing_shows(self, repository: Made, tmp_path: Path) -> None:
        """Its description alone; every digest agrees, and there is no leaderboard.json."""
        self.git(repository, "switch", "-q", "-c", "mine")
        forge(
            repository, 1, tmp_path / "x",
            lambda forged: forged.submission(lambda told: told.update(description="the best")),
        )  # fmt: skip
        assert refused(repository) == {}
        for commit in (False, True):
            if commit:
                self.commit(repository)
            odd = refused(repository, against="main")
            assert odd.keys() == {place_of(repository, 1)}
            assert odd[place_of(repository, 1)][0].startswith(
                "'submission.json' was changed since main; a submission is never changed"
            )

    def test_an_earlier_submission_was_removed(self, repository: Made) -> None:
        shutil.rmtree(repository.submissions[3])
        odd = refused(repository, against="main")
        assert odd.keys() == {place_of(repository, 3)}
        assert any("'run.json' was removed since main" in reason for reason in odd[place_of(repository, 3)])

    def test_a_new_submission_and_one_that_main_got_meanwhile(self, repository: Made, tmp_path: Path) -> None:
        shutil.move(repository.submissions[3], tmp_path / "later")
        shutil.move(repository.submissions[2], tmp_path / "mine")
        self.commit(repository)
        self.git(repository, "switch", "-q", "-c", "mine")
        shutil.move(tmp_path / "mine", repository.submissions[2])
        self.commit(repository)
        self.git(repository, "switch", "-q", "main")
        shutil.move(tmp_path / "later", repository.submissions[3])
        self.commit(repository)
        self.git(repository, "switch", "-q", "mine")
        assert refused(repository, against="main") == {}

    @pytest.mark.parametrize("name", ["nowhere", "--output=/tmp/x"])
    def test_no_such_commit(self, repository: Made, name: str) -> None:
        with pytest.raises(VrbenchError, match=r"is not a commit or branch|git merge-base failed"):
            validate(repository.root, jobs=1, include_path=repository.tasks, against=name)


class TestReproductions:
    """A maintainer's own run of a submitted checkpoint."""

    def test_a_run_that_agrees(self, board: Made) -> None:
        self.put(board, 1)
        made = found(board)
        assert made.rejections == {}
        status = {row.name: row.status for row in made.boards[BOARD].rows}
        assert (status["tiny-region-1"].kind, status["tiny-region-1"].by) == ("reproduced", "maker")
        assert status["tiny-region-1"].date == "2026-02-01"
        assert status["tiny-region-2"].kind == "rescored"

    def test_a_run_on_another_device_with_other_libraries_agrees(self, board: Made) -> None:
        record, samples = self.read(place := self.put(board, 1))
        elsewhere = {"device": "cpu", "torch": "3.0"}
        assert record.settings.environment and record.settings.environment != elsewhere
        settings = record.settings.model_copy(update={"environment": elsewhere, "device": "cpu"})
        specs = registry.load(board.tasks)
        tasks = {r.task: task_inputs(specs[r.task], r.data_digest, r.harness, r.code) for r in record.results}
        digest = inputs_digest(record.checkpoint.digest, tasks, settings)
        assert digest != record.inputs_digest
        update = {"settings": settings, "inputs_digest": digest}
        save_run(place, record.model_copy(update=update), samples, compressed=True)
        made = found(board)
        assert made.rejections == {}
        assert {row.name: row.status.kind for row in made.boards[BOARD].rows}["tiny-region-1"] == "reproduced"

    def test_a_run_that_does_not_agree(self, board: Made) -> None:
        rescorers = rescorers_of(board.tasks, ("made_mme", "made_words", "made_facts", "made_pydoc"))
        place = self.put(board, 1)
        (
            record,
            _,
        ) = self.read(place)
        wrong = {task: rescorer.score(tuple(
            sample.model_copy(update={"responses": ("nothing",)}) if isinstance(sample.responses[0], str) else sample
            for sample in self.read(place)[1][task]
        )) for task, rescorer in rescorers.items()}  # fmt: skip
        changed = record.model_copy(update={"results": tuple(wrong[r.task][0] for r in record.results)})
        save_run(place, changed, {task: rows for task, (_, rows) in wrong.items()}, compressed=True)
        odd = refused(board)
        assert odd.keys() == {place.relative_to(board.root).as_posix()}
        assert any(reason.startswith("made_words: it scores 0.00 [") for reason in odd.popitem()[1])

    @pytest.mark.parametrize(
        ("about", "said"),
        [({"by": "lab1"}, "'lab1' is not a maintainer of board made"), ({"date": "2026-13-01"}, "date")],
    )
    def test_who_and_when(self, board: Made, about: dict[str, str], said: str) -> None:
        place = self.put(board, 1, **about)
        (reasons,) = refused(board).values()
        assert said in reasons[0]
        assert place.is_dir()

    def test_of_another_checkpoint(self, board: Made) -> None:
        place = self.put(board, 1)
        shutil.rmtree(place)
        shutil.copytree(self.put(board, 2), place)
        odd = refused(board)[place.relative_to(board.root).as_posix()]
        assert odd[0].startswith("it is a run of another checkpoint")

    def test_of_nothing_that_was_handed_in(self, board: Made) -> None:
        place = self.put(board, 1)
        place.rename(place.with_name("0" * 16))
        ((path, reasons),) = refused(board).items()
        assert path.endswith("0" * 16)
        assert reasons == ("it belongs to no submission that was accepted",)

    def test_with_figures_that_do_not_follow(self, board: Made) -> None:
        place = self.put(board, 1)
        record, samples = self.read(place)
        first = record.results[0].model_copy(update={"n": 3})
        save_run(place, record.model_copy(update={"results": (first, *record.results[1:])}), samples, compressed=True)
        (reasons,) = refused(board).values()
        assert reasons == ("made_mme: 'n' is '3' in run.json; from the answers it is '16'",)

    @staticmethod
    def read(place: Path) -> tuple[RunRecord, dict[str, Any]]:
        from vrbench.core.run_storage import load_run

        run = load_run(place)
        return run.record, run.samples

    @staticmethod
    def put(board: Made, number: int, **about: str) -> Path:
        """The submission's own run as the maintainer's."""
        source = board.submissions[number]
        place = board.board / "reproductions" / source.parent.name / source.name
        shutil.copytree(source, place)
        for name in ("submission.json", "recipe.yaml"):
            (place / name).unlink()
        told = {"schema_version": 1, "by": "maker", "date": "2026-02-01", **about}
        (place / "reproduction.json").write_text(json.dumps(told), encoding="utf-8")
        return place


class TestCommand:
    def run(self, board: Made, *options: str) -> Any:
        words = ["leaderboard", "validate", str(board.root), "--include-path", str(board.tasks), "--jobs", "1"]
        return CliRunner().invoke(app, [*words, *options])

    def test_green_and_written(self, board: Made) -> None:
        done = self.run(board, "--write")
        assert done.exit_code == 0, done.output
        assert "4 submissions scored again and accepted, none refused" in done.output
        assert (board.board / "leaderboard.json").is_file()
        assert "note" not in self.run(board).output

    def test_red_with_every_reason(self, board: Made, tmp_path: Path) -> None:
        def change(forged: Forged) -> None:
            worse(forged)
            forged.record(lambda record: record["settings"].update(limit=5))

        forge(board, 1, tmp_path / "x", change)
        done = self.run(board, "--write")
        assert done.exit_code == 2
        lines = done.output.splitlines()
        assert lines[0] == f"refused: {place_of(board, 1)}"
        assert lines[1] == "  - it was run with limit 5; a board takes whole tasks only"
        assert any("uncommitted changes" in line for line in lines)
        assert lines[-1] == "3 submissions scored again and accepted, 1 refused"
        assert not (board.board / "leaderboard.json").exists()

    def test_a_comment_has_new_rows_and_no_markup_of_strangers(self, written: Made, tmp_path: Path) -> None:
        TestBefore.change(written, lambda value: value["rows"].pop())
        forge(
            written, 1, tmp_path / "x", lambda forged: forged.sample("made_words", 0, target="`|<img src=x>[a](b)@me")
        )
        said = self.run(written, "--format", "markdown").output
        assert said.startswith("### Leaderboard")
        assert said.count("\n| ` lab") + said.count("\n| ` maker") == 1
        assert "<img src=x>" in said
        for line in said.splitlines():
            assert "<img" not in line or (line.startswith("- `` ") and line.endswith(" ``")), line


class TestRegion:
    """Layers and cost by the lineage."""

    @staticmethod
    def ref(depth: int, *lineages: tuple[LineageStep, ...]) -> CheckpointRef:
        made = tuple(Lineage(id=str(i), family="llava", depth=depth, steps=steps) for i, steps in enumerate(lineages))
        return CheckpointRef(id="x", digest="0" * 64, family="llava", depth=depth, lineage=made)

    def test_healing_makes_no_layer_part_of_the_region(self) -> None:
        tuned = LineageStep(kind="trained", layers="0,5", depth=10, method="lora", stage="tune")
        cut = LineageStep(kind="pruned", layers="8-9", depth=10)
        healed = LineageStep(kind="trained", layers="all", depth=8, method="weights", stage="heal")
        region = layer_region(self.ref(8, (healed,), (cut,), (tuned,)))
        assert (region.tuned, region.tuned_share, region.tuning) == ("0,5", 0.2, "lora")
        assert (region.removed, region.removed_share, region.healed) == ("8-9", 0.2, True)

    def test_removed_layers_are_counted_as_they_first_were(self) -> None:
        steps = [LineageStep(kind="pruned", layers=layers, depth=depth) for layers, depth in (("1", 4), ("1", 3))]
        region = layer_region(self.ref(2, (steps[1],), (steps[0],)))
        assert (region.removed, region.tuning, region.tuned, region.healed) == ("1-2", "none", "none", False)

    def test_a_checkpoint_without_lineage(self) -> None:
        region = layer_region(self.ref(6))
        assert (region.depth, region.tuned, region.removed) == (6, "none", "none")

    @pytest.mark.parametrize(
        ("notes", "seconds"),
        [
            (['{"seconds": 3, "device": "A"}', '{"seconds": 4.5, "device": "B"}'], 7.5),
            (['{"seconds": 3}', "made by hand"], None),
            (['{"seconds": NaN}'], None),
            (['{"seconds": -1}'], None),
            (['{"seconds": true}'], None),
            (["[" * 100_000], None),
        ],
    )
    def test_cost_is_what_every_step_noted(self, notes: list[str], seconds: float | None, green: Validation) -> None:
        steps = tuple(LineageStep(kind="trained", layers="all", depth=6, note=note) for note in notes)
        record = self.record(steps)
        assert row_cost(record).seconds == seconds

    def test_answers_from_the_store_tell_no_speed(self) -> None:
        record = self.record(())
        assert row_cost(record).items_per_second == pytest.approx(16 / 2.5)
        stored = record.model_copy(update={"results": (record.results[0].model_copy(update={"asked": 0}),)})
        assert row_cost(stored).items_per_second is None

    def record(self, steps: tuple[LineageStep, ...]) -> RunRecord:
        from vrbench.core.schemas import Provenance, RunSettings, TaskResult

        result = TaskResult(
            task="a", suite="s", version="1", status="ok", metric="mean", n=16, seconds=2.5, asked=16
        )  # fmt: skip
        return RunRecord(
            status="ok", checkpoint=self.ref(6, steps), settings=RunSettings(tasks=("a",)), inputs_digest="",
            results=(result,), provenance=Provenance(vrbench="0", device="card"),
        )  # fmt: skip


def test_the_checker_refuses_to_begin_with_all_that_is_wrong(board: Made, tmp_path: Path) -> None:
    from vrbench.leaderboard.board import load_board

    text = (board.board / "board.yaml").read_text(encoding="utf-8")
    (board.board / "board.yaml").write_text(text.replace("version: '1'", "version: '7'", 2), encoding="utf-8")
    with pytest.raises(VrbenchError) as told:
        SubmissionChecker(load_board(board.board), include_path=board.tasks)
    assert len(str(told.value).splitlines()) == 2


def test_made_runs_are_the_same_each_time(made_board: Made) -> None:
    rescorers = rescorers_of(made_board.tasks, ("made_words",))
    assert made_run(rescorers, "tiny", 1) == made_run(rescorers, "tiny", 1)


class TestDrawsOfAnotherNumpy:
    """Ends of intervals that differ as those of another draw do, and no more."""

    @staticmethod
    def shift(board: Made, share: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """Move the lower end of a row's score by a share of its interval; the row before and after."""
        file = board.board / "leaderboard.json"
        raw = json.loads(file.read_text())
        before = json.loads(json.dumps(raw["rows"][1]))
        score = raw["rows"][1]["tasks"][0]["score"]
        score["low"] -= share * (score["high"] - score["low"])
        file.write_text(json.dumps(raw))
        return before, raw["rows"][1]

    def test_a_published_row_keeps_its_figures(self, written: Made) -> None:
        _, stored = self.shift(written, 0.05)
        seen = found(written)
        assert seen.rejections == {}
        row = next(row for row in seen.boards[BOARD].rows if row.revision == stored["revision"])
        assert row.tasks[0].score.low == stored["tasks"][0]["score"]["low"]

    def test_more_than_that_is_refused(self, written: Made) -> None:
        self.shift(written, 2.0)
        ((reason,),) = refused(written).values()
        assert "stored 'tasks.0.score.low' changed" in reason
