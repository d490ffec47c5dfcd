"""Submissions that were made up or changed: each is refused, with its own reason and no other."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.leaderboard.forging import Forged
from tests.leaderboard.made import Made
from vrbench.core.schemas import Run, Sample
from vrbench.leaderboard.check import SubmissionChecker

Change = Callable[[Forged], None]
RIGHT, WRONG = (lambda sample: sample.score == 1), (lambda sample: sample.score == 0)


def changed_answer(forged: Forged) -> None:
    place = forged.found("made_words", RIGHT)
    forged.sample("made_words", place, responses=("no such word",))


def changed_answer_and_its_score(forged: Forged) -> None:
    """A careful one, who changes all that is said of the item, but not the figures of the task."""
    place = forged.found("made_words", WRONG)
    target = forged.run.samples["made_words"][place].target
    forged.sample("made_words", place, responses=(target,), answer=target, score=1.0)


def changed_score(forged: Forged) -> None:
    forged.sample("made_words", forged.found("made_words", WRONG), score=1.0)


def without_an_item(forged: Forged) -> None:
    forged.samples("made_words", lambda rows: rows[1:])


def with_another_item(forged: Forged) -> None:
    forged.samples("made_words", lambda rows: [*rows, rows[0].model_copy(update={"id": "mine"})])


def with_an_item_twice(forged: Forged) -> None:
    forged.samples("made_words", lambda rows: [*rows, rows[0]])


def reordered(forged: Forged) -> None:
    forged.samples("made_words", lambda rows: [rows[1], rows[0], *rows[2:]])


def without_responses(forged: Forged) -> None:
    forged.samples("made_words", lambda rows: [row.model_copy(update={"responses": ()}) for row in rows])


def other_prompt(task: str) -> Change:
    return lambda forged: forged.sample(task, 3, prompt_digest="0" * 64)


def field(name: str, value: Any) -> Change:
    """Another value in run.json, by its path within it."""

    def change(forged: Forged) -> None:
        def put(inside: Any) -> None:
            *path, last = name.split(".")
            for part in path:
                inside = inside[int(part)] if part.isdigit() else inside[part]
            assert inside[int(last) if last.isdigit() else last] != value
            inside[int(last) if last.isdigit() else last] = value

        forged.record(put)

    return change


def result(task: str, name: str, value: Any) -> Change:
    """Another value in the result of a task."""

    def change(forged: Forged) -> None:
        place = next(i for i, r in enumerate(forged.run.record.results) if r.task == task)
        field(f"results.{place}.{name}", value)(forged)

    return change


def said(name: str, value: Any) -> Change:
    """Another value in submission.json."""
    return lambda forged: forged.submission(lambda told: told.update({name: value}))


def sample(task: str, **fields: Any) -> Change:
    return lambda forged: forged.sample(task, 2, **fields)


def without_a_task(forged: Forged) -> None:
    def drop(record: dict[str, Any]) -> None:
        record["results"] = [r for r in record["results"] if r["task"] != "made_facts"]
        record["settings"]["tasks"].remove("made_facts")

    forged.record(drop)
    (forged.folder / "samples/made_facts.jsonl.gz").unlink()


def with_another_task(forged: Forged) -> None:
    def add(record: dict[str, Any]) -> None:
        record["results"].append({**record["results"][0], "task": "made_more"})
        record["settings"]["tasks"].append("made_more")

    forged.record(add)
    samples = forged.folder / "samples"
    (samples / "made_more.jsonl.gz").write_bytes((samples / "made_mme.jsonl.gz").read_bytes())


def a_task_twice(forged: Forged) -> None:
    forged.record(lambda record: record["results"].append(record["results"][0]))


def died(forged: Forged) -> None:
    def fail(record: dict[str, Any]) -> None:
        record["status"] = record["results"][1]["status"] = "error"

    task = forged.run.record.results[1].task
    forged.record(fail)
    (forged.folder / f"samples/{task}.jsonl.gz").unlink()


def at_another_path(forged: Forged) -> None:
    place = forged.folder.parent.with_name("lab9__better")
    place.mkdir()
    forged.folder = forged.folder.rename(place / forged.folder.name)


def other_bytes(forged: Forged) -> None:
    """Samples changed without their digest."""
    file = forged.folder / "samples/made_words.jsonl.gz"
    text = gzip.decompress(file.read_bytes()).decode()
    file.write_bytes(gzip.compress(text.replace('"unscored":""', '"unscored":"" ').encode()))


def cut_off(forged: Forged) -> None:
    file = forged.folder / "samples/made_words.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])


def nan(forged: Forged) -> None:
    file = forged.folder / "samples/made_words.jsonl.gz"
    text = gzip.decompress(file.read_bytes()).decode()
    changed = text.replace('"score":', '"score":NaN,"was":', 1)
    file.write_bytes(gzip.compress(changed.encode()))


def other_run(forged: Forged) -> None:
    file = forged.folder / "run.json"
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")


def a_link(forged: Forged) -> None:
    file = forged.folder / "recipe.yaml"
    file.unlink(missing_ok=True)
    file.symlink_to("/etc/hostname")


def a_script(forged: Forged) -> None:
    (forged.folder / "setup.py").write_text("print('run me')", encoding="utf-8")


def text_for_a_likelihood(forged: Forged) -> None:
    forged.sample("made_facts", 0, responses=("A", "B", "C", "D"))


def more_likely_than_certain(forged: Forged) -> None:
    place = forged.found("made_pydoc", lambda sample: True)
    forged.sample("made_pydoc", place, responses=(12.5,), score=12.5)


def likelier(forged: Forged) -> None:
    """Log-likelihoods that are not those of the responses."""
    rows = forged.run.samples["made_facts"]
    forged.sample("made_facts", 0, loglikelihoods=tuple(log / 2 for log in rows[0].loglikelihoods))


def other_depth(forged: Forged) -> None:
    """A lineage that removes two layers of twelve and leaves eleven."""
    forged.record(lambda record: record["checkpoint"].update(depth=11))


FIGURES = [r"made_words: 'score.value' is .* in run.json; from the answers it is",
           r"made_words: 'official.exact_match' is"]  # fmt: skip

CASES: dict[str, tuple[Change, list[str]]] = {
    "one changed answer": (
        changed_answer,
        [r"made_words: the answer of 1 sample does not follow", r"made_words: the score of 1 sample", *FIGURES],
    ),
    "one changed answer with its score": (
        changed_answer_and_its_score,
        [*FIGURES, r"made_words: 'score.(low|high)' is"],
    ),
    "one changed score": (
        changed_score,
        [r"made_words: the score of 1 sample does not follow .*: '1.0' instead of '0.0'"],
    ),
    "changed figure": (result("made_words", "score.value", 99.5), [r"made_words: 'score.value' is '99.5' in run.json"]),
    "changed interval": (result("made_words", "score.low", 1.25), [r"made_words: 'score.low' is '1.25' in run.json"]),
    "changed group": (
        result("made_mme", "groups.color.value", 3.5),
        [r"made_mme: 'groups.color.value' is '3.5' in run.json"],
    ),
    "changed official figure": (
        result("made_facts", "official.acc", 0.01),
        [r"made_facts: 'official.acc' is '0.01' in run.json"],
    ),
    "changed chance": (result("made_facts", "chance", 5.0), [r"made_facts: 'chance' is '5.0' .* it is '25.0'"]),
    "changed direction": (
        result("made_pydoc", "higher_is_better", True),
        [r"made_pydoc: 'higher_is_better' is 'True' in run.json; from the answers it is 'False'"],
    ),
    "changed metric": (result("made_words", "metric", "macro"), [r"made_words: 'metric' is 'macro' .* is 'mean'"]),
    "changed note": (result("made_words", "note", "the best"), [r"made_words: 'note' is 'the best' in run.json"]),
    "more clusters": (result("made_mme", "score.clusters", 16), [r"made_mme: 'score.clusters' is '16'"]),
    "wrong number": (
        result("made_words", "n", 15),
        [r"made_words: it has 15 of the task's 16 items", r"made_words: 'n' is '15' in run.json"],
    ),
    "more unscored": (
        result("made_words", "n_unscored", 1),
        [r"made_words: it has 17 of the task's 16 items", r"made_words: 'n_unscored' is '1' in run.json"],
    ),
    "incomplete": (
        result("made_words", "complete", False),
        [r"made_words: it has 16 of the task's 16 items", r"made_words: 'complete' is 'False'"],
    ),
    "changed target": (sample("made_words", target="apple pie"), [r"made_words: the target of 1 sample"]),
    "changed shown answer": (sample("made_words", answer="sun"), [r"made_words: the answer of 1 sample"]),
    "changed cluster": (sample("made_words", cluster="mine"), [r"made_words: the cluster of 1 sample"]),
    "changed group of a sample": (sample("made_mme", group="easy"), [r"made_mme: the group of 1 sample"]),
    "changed unit": (sample("made_mme", unit="alone"), [r"made_mme: the unit of 1 sample"]),
    "changed weight": (sample("made_pydoc", weight=1e6), [r"made_pydoc: the weight of 1 sample"]),
    "an item left out of the score": (
        sample("made_words", unscored="unclear"),
        [r"made_words: the unscored of 1 sample"],
    ),
    "changed log-likelihoods": (likelier, [r"made_facts: the loglikelihoods of 1 sample"]),
    "swapped baseline": (
        said("baseline", "lab2/tiny-region-2@0eb2639680bf2c8b"),
        [
            r"its baseline is lab2/tiny-region-2@0eb2639680bf2c8b; family tiny is compared with maker/tiny-full@",
            r"its baseline lab2/tiny-region-2@0eb2639680bf2c8b is not on the board, or was refused",
        ],
    ),
    "dropped sample": (
        without_an_item,
        [r"made_words: 1 sample is missing", r"made_words: its prompts are not the board's"],
    ),
    "added sample": (
        with_another_item,
        [r"made_words.jsonl.gz' has more than 16 samples"],
    ),
    "duplicated sample": (
        lambda forged: forged.samples("made_words", lambda rows: [*rows[:-1], rows[0]]),
        [r"made_words.jsonl.gz' line 16 has a duplicate sample id"],
    ),
    "one sample more, twice": (with_an_item_twice, [r"has more than 16 samples"]),
    "reordered samples": (
        reordered,
        [r"made_words: the samples are in another order .* from line 1 on", r"made_words: its prompts are not the"],
    ),
    "another prompt with pictures": (other_prompt("made_words"), [r"made_words: its prompts are not the board's"]),
    "another prompt": (
        other_prompt("made_facts"),
        [r"made_facts: its prompts are not the board's", r"made_facts: the prompt of 1 sample is not the task's"],
    ),
    "limit": (field("settings.limit", 16), [r"it was run with limit 16", r"inputs_digest is"]),
    "another seed": (
        field("settings.seed", 7),
        [r"its seed is 7; intervals .* with seed 0", r"inputs_digest is"],
    ),
    "dirty checkout": (field("provenance.dirty", True), [r"it was run from a checkout with uncommitted changes"]),
    "answers of a dirty checkout": (
        field("provenance.answered.0.dirty", True),
        [r"3 of its 3 answers were computed from a checkout with uncommitted changes \('2026-.*another --out"],
    ),
    "other data": (result("made_mme", "data_digest", "1" * 64), [r"made_mme: its data is not the board's"]),
    "other definition": (
        result("made_mme", "definition_digest", "1" * 64),
        [r"made_mme: its definition is not the board's"],
    ),
    "no definition digest": (
        result("made_mme", "definition_digest", ""),
        [r"an older vrbench made it, which kept no raw responses of made_mme"],
    ),
    "other few-shot": (result("made_facts", "fewshot", 5), [r"made_facts: 'fewshot' is '5' .* it is '0'"]),
    "superseded task": (result("made_mme", "version", "0"), [r"made_mme: it was run at version 0; the board has"]),
    "another harness version": (
        result("made_facts", "harness", "lm-eval 0.3.0"),
        [r"made_facts: 'harness' is 'lm-eval 0.3.0' in run.json"],
    ),
    "other dtype than its baseline": (
        field("settings.dtype", "bfloat16"),
        [r"it was computed in bfloat16, its baseline in float32", r"inputs_digest is"],
    ),
    "other image settings than its baseline": (
        field("settings.image_settings", "pad"),
        [r"its image settings are pad, its baseline's harness", r"inputs_digest is"],
    ),
    "unknown dtype": (
        field("settings.dtype", "float16"),
        [r"it was computed in float16; board made takes", r"its baseline in float32", r"inputs_digest is"],
    ),
    "path not equal to content": (
        at_another_path,
        [r"it is at made/submissions/lab9__better/.* belongs at made/sub"],
    ),
    "another board": (said("board", "pocket"), [r"it is for board 'pocket', not for 'made'", r"it is at made/"]),
    "another name": (said("name", "best"), [r"it is at made/submissions/.* belongs at .*/lab1__best/"]),
    "another revision": (
        said("revision", "0" * 16),
        [r"revision 0000000000000000 is not the start of", r"it is at"],
    ),
    "another checkpoint": (
        field("checkpoint.digest", "0" * 64),
        [r"revision .* is not the start of the checkpoint's digest 0000", r"inputs_digest is"],
    ),
    "unknown family": (said("family", "huge"), [r"family 'huge' is not on board made; there are tiny"]),
    "another architecture": (
        field("checkpoint.family", "pixtral"),
        [r"the checkpoint is of model family 'pixtral'; family tiny is of 'llava'"],
    ),
    "missing task": (without_a_task, [r"it lacks made_facts; run it with --tasks"]),
    "extra task": (with_another_task, [r"it has made_more, which board made has not"]),
    "a task twice": (a_task_twice, [r"run.json' has the task 'made_mme' twice"]),
    "a task that died": (died, [r"made_words did not finish"]),
    "samples that are not those of the digest": (other_bytes, [r"made_words.jsonl.gz' is not what the record says"]),
    "wrong samples digest": (
        result("made_words", "samples_digest", "2" * 64),
        [r"made_words.jsonl.gz' is not what the record says: its sha256 differs"],
    ),
    "wrong run digest": (other_run, [r"run.json' is not the one that submission.json names"]),
    "other libraries than it ran with": (
        field("settings.environment", {"device": "cuda", "torch": "99"}),
        [r"inputs_digest is"],
    ),
    "other code than it ran with": (result("made_words", "code", {"decoding": 9}), [r"inputs_digest is"]),
    "wrong inputs digest": (field("inputs_digest", "3" * 64), [r"inputs_digest is 333333333333; checkpoint, tasks,"]),
    "truncated samples": (cut_off, [r"made_words.jsonl.gz' is cut off"]),
    "NaN": (nan, [r"made_words.jsonl.gz' line 1 has NaN, which is not a number", r"its sha256 differs"]),
    "no number in the record": (field("results.0.score.value", None), [r"run.json.*score.value.*valid number"]),
    "unknown field": (
        lambda forged: forged.record(lambda record: record.update(award="first")),
        [r"run.json'?:? .*'award': Extra inputs"],
    ),
    "future schema version of the record": (field("schema_version", 2), [r"schema version '2'; this vrbench reads 1"]),
    "future schema version of the submission": (said("schema_version", 9), [r"schema version '9'; this vrbench reads"]),
    "wrong type of licence": (said("licence", ["MIT"]), [r"submission.json'?:? .*'licence': .*valid string"]),
    "address with a script": (said("url", "javascript:alert(1)"), [r"submission.json.*'url'"]),
    "lineage that leads elsewhere": (
        other_depth,
        [r"the checkpoint's lineage is inconsistent: the steps lead"],
    ),
    "layers that do not exist": (
        field("checkpoint.lineage.0.steps.0.layers", "0-40"),
        [r"run.json' has the layers '0-40', which are not layers of a model of depth 12"],
    ),
    "no raw responses": (
        without_responses,
        [r"an older vrbench made it, which kept no raw responses of made_words", r"made_words: .*no responses"],
    ),
    "a text for a likelihood": (
        text_for_a_likelihood,
        [r"made_facts: sample '.*' has a response that is not \(log"],
    ),
    "several responses": (
        sample("made_words", responses=("a", "b")),
        [r"made_words: sample '.*' has 2 responses; the task asks 1"],
    ),
    "more likely than certain": (
        more_likely_than_certain,
        [r"made_pydoc: sample '.*' has a response that is not a"],
    ),
    "an endless answer": (
        sample("made_words", responses=("no " * 20_000,)),
        [r"made_words: sample '.*' has a response that is not a text of at most"],
    ),
    "a link": (a_link, [r"recipe.yaml' is a link; only plain files are read"]),
    "a script": (a_script, [r"setup.py' is not a file of a submission"]),
}


@pytest.fixture(scope="module")
def checker(made_board: Made) -> SubmissionChecker:
    from vrbench.leaderboard.board import load_board

    return SubmissionChecker(load_board(made_board.board), include_path=made_board.tasks)


@pytest.fixture(scope="module")
def baseline(made_board: Made, checker: SubmissionChecker) -> Run:
    found = checker.check(made_board.submissions[0], {})
    assert found.reasons == ()
    assert found.run is not None
    return found.run


def examined(checker: SubmissionChecker, forged: Forged, baseline: Run | None) -> tuple[str, ...]:
    reference = checker.board.families["tiny"].baseline or ""
    found = checker.check(forged.folder, {reference: baseline} if baseline else {})
    assert (found.run is None) == bool(found.reasons)
    return found.reasons


def test_what_is_not_changed_is_taken(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    forged = Forged(made_board, 1, tmp_path)
    forged.samples("made_words", lambda rows: rows)
    forged.record(lambda record: None)
    assert examined(checker, forged, baseline) == ()


@pytest.mark.parametrize("name", CASES)
def test_each_is_refused_with_its_own_reason(
    name: str, made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    change, expected = CASES[name]
    forged = Forged(made_board, 1, tmp_path)
    change(forged)
    reasons = examined(checker, forged, baseline)
    for pattern in expected:
        assert any(re.search(pattern, reason) for reason in reasons), (pattern, reasons)
    for reason in reasons:
        assert any(re.search(pattern, reason) for pattern in expected), reason


@pytest.mark.parametrize(("share", "is_taken"), [(0.04, True), (-0.04, True), (0.3, False), (-0.3, False)])
def test_an_interval_may_be_of_other_draws_but_not_of_other_answers(
    share: float, is_taken: bool, made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    """Another numpy draws otherwise from the same seed."""
    forged = Forged(made_board, 1, tmp_path)
    score = forged.stored("made_words").score
    assert score is not None
    moved = score.low + share * (score.high - score.low)
    forged.result("made_words", lambda told: told["score"].update(low=moved))
    assert (examined(checker, forged, baseline) == ()) == is_taken


def test_intervals_of_a_submission_are_never_kept(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    """Ends that differ as other draws do are accepted, and the board shows those that it drew itself."""
    forged = Forged(made_board, 1, tmp_path)
    drawn = {result.task: result.score for result in forged.run.record.results}

    def shift(record: dict[str, Any]) -> None:
        for result in record["results"]:
            result["score"]["low"] -= 0.04 * (result["score"]["high"] - result["score"]["low"])

    forged.record(shift)
    reference = checker.board.families["tiny"].baseline or ""
    checked = checker.check(forged.folder, {reference: baseline})
    assert checked.run is not None and checked.run.result("made_words").score == drawn["made_words"]
    row = checked.row
    assert row is not None
    for task in row.tasks:
        score = drawn[task.task]
        assert score is not None and (task.score.low, task.score.high) == (score.low, score.high)


def test_there_are_many_kinds() -> None:
    assert len(CASES) >= 60


def test_all_reasons_are_told_at_once(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    forged = Forged(made_board, 1, tmp_path)
    changed_score(forged)
    names = ["limit", "dirty checkout", "unknown family", "changed interval", "superseded task"]
    for name in names:
        CASES[name][0](forged)
    other_bytes(forged)
    reasons = examined(checker, forged, baseline)
    for name in [*names, "one changed score", "samples that are not those of the digest"]:
        pattern = CASES[name][1][0]
        assert any(re.search(pattern, reason) for reason in reasons), (name, reasons)


def test_a_candidate_whose_baseline_was_refused_is_refused(
    made_board: Made, checker: SubmissionChecker, tmp_path: Path
) -> None:
    reasons = examined(checker, Forged(made_board, 1, tmp_path), None)
    assert len(reasons) == 1
    assert re.fullmatch(r"its baseline maker/tiny-full@\w+ is not on the board, or was refused", reasons[0])


def test_a_scorer_that_fails_over_an_answer_is_a_reason(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(samples: list[Sample], seed: int, digest: str) -> None:
        raise ZeroDivisionError("by an answer")

    monkeypatch.setattr(checker.rescorers["made_words"], "score", fail)
    reasons = examined(checker, Forged(made_board, 1, tmp_path), baseline)
    assert reasons == ("made_words: its answers cannot be scored: ZeroDivisionError 'by an answer'",)


def test_scoring_that_does_not_end_is_stopped(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr("vrbench.leaderboard.check.MAX_SECONDS", 0.2)
    monkeypatch.setattr(checker.rescorers["made_words"], "score", lambda samples, seed, digest: time.sleep(30))
    start = time.monotonic()
    reasons = examined(checker, Forged(made_board, 1, tmp_path), baseline)
    assert reasons == ("made_words: scoring its answers takes more than 0 seconds",)
    assert time.monotonic() - start < 10


def test_the_json_of_a_reason_is_short(
    made_board: Made, checker: SubmissionChecker, baseline: Run, tmp_path: Path
) -> None:
    """A stranger's text in a reason is cut and has nothing in it that acts."""
    forged = Forged(made_board, 1, tmp_path)
    forged.sample("made_words", 2, target="\u202e<script>" + "x" * 5000)
    (reason,) = examined(checker, forged, baseline)
    assert len(reason) < 400
    assert "\u202e" not in reason
    assert json.dumps(reason).isascii()
