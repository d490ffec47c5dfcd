"""From names to records: faults first, killed runs go on, batches and rivals change nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests import forked
from tests.evaluation.made import hub
from tests.tiny import save_llava
from vrbench import evaluate
from vrbench.core import provenance, run_storage, schemas
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task, run_all
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.task_scores import TaskScores
from vrbench.models.llava_model import LlavaModel
from vrbench.models.resolve import resolve_checkpoint

TASKS = "piqa,arc_easy,mme"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub(tmp_path_factory.mktemp("hub"))


def measure(ckpt: Path, root: Path, out: Path, tasks: str = TASKS, **options: Any) -> schemas.Run:
    return evaluate(str(ckpt), tasks, data_root=root, out=out, device="cpu", show_progress=False, **options)


@pytest.fixture(scope="module")
def undisturbed(tiny_llava: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("undisturbed")
    measure(tiny_llava, root, out)
    return out


def only_run(out: Path) -> schemas.Run:
    (file,) = out.glob("*/*/run.json")
    return run_storage.load_run(file)


def content(run: schemas.Run) -> tuple[Any, Any]:
    """A record without times, and its samples without log-likelihoods, which are compared apart."""
    when = {"started", "seconds", "commit", "dirty", "answered"}  # somebody may commit while the tests run
    record = run.record.model_dump(mode="json", exclude={"provenance": when})
    record["settings"].pop("batch_size")
    for result in record["results"]:
        for name in ("seconds", "asked", "reused", "samples_digest"):
            del result[name]
    empty = {"loglikelihoods": (), "responses": ()}
    return record, {task: [s.model_copy(update=empty) for s in rows] for task, rows in run.samples.items()}


def assert_same(ours: schemas.Run, theirs: schemas.Run) -> None:
    assert content(ours) == content(theirs)
    for task, rows in ours.samples.items():
        for a, b in zip(rows, theirs.samples[task], strict=True):
            assert a.loglikelihoods == pytest.approx(b.loglikelihoods, abs=1e-4)


def measure_slowly(ckpt: Path, root: Path, out: Path, tasks: str, batch_size: int) -> None:
    hidden = LlavaModel.hidden_states

    def slow(self: LlavaModel, *args: Any) -> Any:
        time.sleep(0.05)
        return hidden(self, *args)

    LlavaModel.hidden_states = slow  # type: ignore[method-assign]
    measure(ckpt, root, out, tasks, batch_size=batch_size)


def answered(out: Path) -> int:
    files = list((out / "answers").glob("*.sqlite"))
    if not files:
        return 0
    with AnswerStore(files[0], files[0].name.split(".")[0]) as store:
        return len(store)


class TestRecord:
    def test_it_says_what_was_measured_and_how(self, undisturbed: Path, tiny_llava: Path) -> None:
        run = only_run(undisturbed)
        record = run.record
        assert record.status == "ok"
        assert [r.task for r in record.results] == ["piqa", "arc_easy", "mme"]
        assert record.checkpoint.depth == 4
        assert record.settings.dtype == "float32"
        assert record.settings.tasks == ("arc_easy", "mme", "piqa")
        assert record.provenance.image_processor == "SiglipImageProcessorPil"
        assert {"torch", "transformers", "lm_eval", "lmms_eval"} <= record.provenance.packages.keys()
        assert run.path is not None and run.path.name == record.inputs_digest[:16]
        piqa = run.result("piqa")
        assert (piqa.n, piqa.n_unscored, piqa.complete) == (13, 0, False)
        assert piqa.note == "13 of the 1838 items of the full set are there"
        assert piqa.score is not None and piqa.score.value == pytest.approx(100 * piqa.official["acc"])
        assert len(run.samples["arc_easy"]) == 11

    def test_mme_has_points_of_each_subtask_and_no_totals_while_some_are_missing(self, undisturbed: Path) -> None:
        mme = only_run(undisturbed).result("mme")
        assert set(mme.official) == set(mme.groups) == {"existence", "count", "position", "color"}
        assert "missing: posters" in mme.note and "no totals" in mme.note

    def test_the_same_inputs_are_read_and_not_measured_again(
        self, undisturbed: Path, tiny_llava: Path, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = only_run(undisturbed)
        monkeypatch.setattr(InferenceEngine, "__init__", None)  # making one would fail
        assert measure(tiny_llava, root, undisturbed, batch_size=3) == before

    def test_a_run_that_is_damaged_or_of_an_older_vrbench_is_made_again_from_stored_answers(
        self, tiny_llava: Path, root: Path, tmp_path: Path
    ) -> None:
        measure(tiny_llava, root, tmp_path, "piqa")
        first = only_run(tmp_path)
        assert first.path is not None
        samples = first.path / "samples" / "piqa.jsonl"
        samples.write_text(samples.read_text().replace("Yes", "No").replace("1.0", "0.0"))
        measure(tiny_llava, root, tmp_path, "piqa")
        again = only_run(tmp_path)
        assert_same(again, first)
        assert again.record.results[0].asked == 0
        older = tuple(sample.model_copy(update={"responses": ()}) for sample in first.samples["piqa"])
        digest = hashlib.sha256(run_storage.samples_to_jsonl(older).encode()).hexdigest()
        result = first.record.results[0].model_copy(update={"samples_digest": digest})
        run_storage.save_run(first.path, first.record.model_copy(update={"results": (result,)}), {"piqa": older})
        measure(tiny_llava, root, tmp_path, "piqa")
        assert only_run(tmp_path).samples == first.samples
        assert only_run(tmp_path).record.results[0].asked == 0

    def test_other_inputs_have_another_folder(self, undisturbed: Path, tiny_llava: Path, root: Path) -> None:
        digests = {only_run(undisturbed).record.inputs_digest}
        for options in ({"limit": 2}, {"limit": 2, "seed": 1}, {"limit": 2, "dtype": "bfloat16"}):
            record = measure(tiny_llava, root, undisturbed.parent / "other", "piqa", **options)
            digests.add(record.inputs_digest)
            assert record.status == "ok"
        assert len(digests) == 4


class TestUnscored:
    """Items that could not be scored are counted, and more than 1 % of them mark the task."""

    def test_they_are_in_the_record_and_the_table(
        self, undisturbed: Path, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.reporting import scores

        whole = evaluate_task

        def run(*args: Any) -> TaskScores:
            found = whole(*args)
            lost = found.samples[0].model_copy(update={"unscored": "made so"})
            return TaskScores((lost, *found.samples[1:]), found.official)

        monkeypatch.setattr("vrbench.evaluation.evaluate.evaluate_task", run)
        measure(tiny_llava, root, tmp_path, "piqa")
        for out, gone, note in ((undisturbed, 0, "13 of the 1838"), (tmp_path, 1, "1 of 13 items (7.7 %) could not")):
            result = only_run(out).result("piqa")
            assert (result.n, result.n_unscored, result.has_many_unscored) == (13 - gone, gone, bool(gone))
            assert result.note.startswith(note)
            table = scores([only_run(out)])
            assert ("piqa (!)" in table) is bool(gone)
            assert ("12 (1 unscored)" in table and "  llava, piqa: 1 of 13 items could not be" in table) is bool(gone)


class TestResuming:
    def test_killed_it_goes_on_with_other_batches_and_the_record_is_the_same(
        self, undisturbed: Path, tiny_llava: Path, root: Path, tmp_path: Path
    ) -> None:
        runner = forked.start(measure_slowly, tiny_llava, root, tmp_path, TASKS, 1)
        while answered(tmp_path) < 10:
            assert runner.is_alive()
            time.sleep(0.05)
        runner.kill()
        assert forked.ended(runner) == -signal.SIGKILL
        assert not list(tmp_path.glob("*/*/run.json"))
        kept = answered(tmp_path)
        record = measure(tiny_llava, root, tmp_path, batch_size=7)
        whole = answered(tmp_path)
        assert 10 <= kept < whole
        assert sum(result.asked for result in record.results) == whole - kept  # none was asked again
        assert_same(only_run(tmp_path), only_run(undisturbed))

    def test_two_runs_at_once_do_no_harm(self, undisturbed: Path, tiny_llava: Path, root: Path, tmp_path: Path) -> None:
        runners = [forked.start(measure_slowly, tiny_llava, root, tmp_path, "piqa", 2) for _ in range(2)]
        assert [forked.ended(runner) for runner in runners] == [0, 0]
        piqa = only_run(undisturbed).result("piqa")
        assert only_run(tmp_path).result("piqa").score == piqa.score
        theirs = only_run(undisturbed).samples["piqa"]
        for ours, sample in zip(only_run(tmp_path).samples["piqa"], theirs, strict=True):
            assert (ours.id, ours.score) == (sample.id, sample.score)
            assert ours.loglikelihoods == pytest.approx(sample.loglikelihoods, abs=1e-4)


class TestReuse:
    """Stored answers and finished runs are used again only where the same would come out now."""

    def test_a_library_that_changed_has_everything_asked_anew(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = measure(tiny_llava, root, tmp_path, "piqa", limit=8)
        assert (first.results[0].asked, first.results[0].reused) == (16, 0)
        upgraded(monkeypatch, transformers="999")
        anew = measure(tiny_llava, root, tmp_path, "piqa", limit=5)
        assert (anew.results[0].asked, anew.results[0].reused) == (10, 0)
        assert anew.settings.environment["transformers"] == "999"
        assert [(a.packages["transformers"], a.requests, a.reused) for a in anew.provenance.answered] == [
            ("999", 10, False)
        ]
        assert measure(tiny_llava, root, tmp_path, "piqa", limit=8).results[0].asked == 6  # the five are there
        monkeypatch.undo()
        back = measure(tiny_llava, root, tmp_path, "piqa", limit=5)
        assert (back.results[0].asked, back.results[0].reused) == (0, 10)
        (by,) = back.provenance.answered
        assert by.reused and by.packages["transformers"] == first.provenance.packages["transformers"]
        assert len({run.inputs_digest for run in (first, anew, back)}) == 3

    def test_a_run_that_goes_on_after_an_upgrade_says_what_answered_which_part(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.models.llava_model import LlavaModel
        from vrbench.reporting import scores

        def killed(*_: Any) -> None:
            raise KeyboardInterrupt

        upgraded(monkeypatch, pillow="1.old")
        monkeypatch.setattr(LlavaModel, "project", killed)  # when the first answer to an image is to be computed
        with pytest.raises(KeyboardInterrupt):
            measure(tiny_llava, root, tmp_path, "piqa,mme", limit=6)
        monkeypatch.undo()
        record = measure(tiny_llava, root, tmp_path, "piqa,mme", limit=6)
        piqa, mme = record.results
        assert (piqa.asked, piqa.reused, mme.asked > 0, mme.reused) == (0, 12, True, 0)
        pillow = record.provenance.packages["pillow"]
        said = [(a.reused, a.requests, a.packages["pillow"]) for a in record.provenance.answered]
        assert said == [(True, 12, "1.old"), (False, mme.asked, pillow)]
        runs = [run_storage.load_run(file) for file in tmp_path.glob("*/*/run.json")]
        told = " ".join(scores(runs).split())
        assert f"llava: 12 of {12 + mme.asked} answers were stored before this run: 12 computed 2" in told
        assert "pillow 1.old" in told

    def test_a_scorer_of_another_version_does_not_give_the_old_score(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.tasks.scorers import SCORERS

        before = measure(tiny_llava, root, tmp_path, "piqa", limit=5)
        old = SCORERS["multiple_choice"]

        def always_right(document: Any) -> Any:
            return dataclasses.replace(old.score(document), score=1.0)

        altered = dataclasses.replace(old, score=always_right, official=lambda _: 100.0, version=old.version + 1)
        monkeypatch.setitem(SCORERS, "multiple_choice", altered)
        after = measure(tiny_llava, root, tmp_path, "piqa", limit=5)
        assert before.results[0].score is not None and before.results[0].score.value < 100
        assert after.results[0].score is not None and after.results[0].score.value == 100
        assert (after.results[0].asked, after.results[0].reused) == (0, 10)
        assert after.results[0].code == before.results[0].code | {"scorer": old.version + 1}
        assert len(list(tmp_path.glob("*/*/run.json"))) == 2  # the old run is still there

    def test_a_family_of_another_version_is_asked_anew(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.checkpoints.families import FAMILIES

        measure(tiny_llava, root, tmp_path, "mme", limit=4)
        llava = FAMILIES["llava"]
        monkeypatch.setitem(FAMILIES, "llava", dataclasses.replace(llava, version=llava.version + 1))
        (after,) = measure(tiny_llava, root, tmp_path, "mme", limit=4).results
        assert after.asked > 0 and after.reused == 0
        assert after.code["family"] == llava.version + 1

    def test_answers_of_an_older_layout_are_told_of_kept_and_not_used(
        self, tiny_llava: Path, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        old = tmp_path / "answers" / f"{only_first(tiny_llava)}.sqlite"
        old.parent.mkdir()
        old.write_bytes(b"answers of vrbench 0.2.0")
        record = measure(tiny_llava, root, tmp_path, "piqa", limit=4)
        assert (record.results[0].asked, record.results[0].reused) == (8, 0)
        measure(tiny_llava, root, tmp_path, "piqa", limit=5)
        (told,) = [message for message in caplog.messages if str(old) in message]  # once
        assert "the file is kept" in told
        assert old.read_bytes() == b"answers of vrbench 0.2.0"


def upgraded(monkeypatch: pytest.MonkeyPatch, **packages: str) -> None:
    """Have some packages installed in other versions."""
    installed = provenance.package_version
    monkeypatch.setattr(provenance, "package_version", lambda name: packages.get(name) or installed(name))


class TestSeveral:
    def test_each_is_measured_once_the_baseline_first_and_images_are_computed_once_for_all(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.models.llava_model import LlavaModel

        seen, encode = [], LlavaModel.encode_pixels
        monkeypatch.setattr(
            LlavaModel, "encode_pixels", lambda self, pixels: seen.append(len(pixels)) or encode(self, pixels)
        )
        other = save_llava(tmp_path / "other", seed=0)
        weights = other / "config.json"  # another checkpoint with the same tower
        weights.write_text(json.dumps({**json.loads(weights.read_text()), "made_by": "test"}))
        options = RunConfig(data_root=root, out=tmp_path / "runs", device="cpu", show_progress=False)
        names = [str(other), str(tiny_llava), str(other)]
        runs = run_all(names, "mme", baseline=str(tiny_llava), options=options)
        digests = [only_first(tiny_llava), only_first(other)]
        assert [run.record.checkpoint.digest for run in runs] == digests and digests[0] != digests[1]
        assert [len(run.to_pandas("mme")) for run in runs] == [24, 24]
        assert sum(n for n in seen if n > 1) == 9  # the distinct pictures; single ones only ask for the tokens' number


def only_first(folder: Path) -> str:

    return resolve_checkpoint(str(folder)).digest


class TestFaults:
    def test_all_are_told_at_once_and_no_weights_are_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import vrbench.models.load

        monkeypatch.setattr(vrbench.models.load, "load_vlm", None)
        options = RunConfig(
            limit=0, batch_size=0, device="cuda", dtype="float8", data_root=tmp_path, out="/proc/nowhere"
        )
        with pytest.raises(MultipleErrors) as told:
            run_all([str(tmp_path / "none"), str(tmp_path)], "piqa,mmme", options=options)
        faults = "\n".join(told.value.messages)
        for sentence in (
            "limit is 0; it must be at least 1",
            "batch size is 0; it must be 'auto' or a number",
            "torch sees no CUDA GPU",
            "dtype 'float8' is unknown; there are auto, float32, bfloat16",
            "'/proc/nowhere' cannot be written to",
            "task 'mmme' is unknown; did you mean mme",
            f"{tmp_path / 'none'}",
        ):
            assert sentence in faults
        assert len(told.value.messages) >= 8

    def test_missing_data_are_told_before_the_weights_are_loaded(self, tiny_llava: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match=r"data set baber/piqa is not whole under the data root"):
            measure(tiny_llava, tmp_path, tmp_path / "runs", "piqa")

    def test_a_damaged_store_is_told_before_the_weights_are_loaded(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import vrbench.models.load

        measure(tiny_llava, root, tmp_path, "piqa")
        (store,) = (tmp_path / "answers").glob("*.sqlite")
        os.truncate(store, 5000)
        monkeypatch.setattr(vrbench.models.load, "load_vlm", None)
        with pytest.raises(VrbenchError, match="is damaged"):
            measure(tiny_llava, root, tmp_path, "arc_easy")

    def test_what_names_no_checkpoint_is_refused_in_one_sentence(self) -> None:
        for wrong in (["pocket/full"], 5):
            with pytest.raises(VrbenchError, match=r"names no checkpoint; give a text or a path \(one to `evaluate`"):
                evaluate(wrong, "pocket_facts")  # type: ignore[arg-type]

    def test_a_baseline_alone_has_nothing_to_be_compared_with(self, tiny_llava: Path) -> None:
        with pytest.raises(VrbenchError, match="is the only checkpoint"):
            run_all([str(tiny_llava)], "piqa", baseline=str(tiny_llava))

    def test_a_task_that_dies_is_recorded_and_the_others_go_on(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.models.llava_model import LlavaModel

        encode = LlavaModel.encode_pixels
        monkeypatch.setattr(LlavaModel, "encode_pixels", lambda *_: 1 / 0)
        record = measure(tiny_llava, root, tmp_path, "mme,piqa", limit=2)
        assert record.status == "error"
        assert [r.status for r in record.results] == ["error", "ok"]
        assert record.results[0].error == "ZeroDivisionError: division by zero"
        assert only_run(tmp_path).samples.keys() == {"piqa"}
        monkeypatch.setattr(LlavaModel, "encode_pixels", encode)
        mended = measure(tiny_llava, root, tmp_path, "mme,piqa", limit=2)  # a run with an error is not taken for whole
        assert mended.status == "ok"
        assert mended.results[1].asked == 0

    def test_an_interrupt_is_no_error_of_a_task(
        self, tiny_llava: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vrbench.models.llava_model import LlavaModel

        def interrupted(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(LlavaModel, "hidden_states", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure(tiny_llava, root, tmp_path, "piqa")
        assert not list(tmp_path.glob("*/*/run.json"))
