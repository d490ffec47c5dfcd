"""Boards as files: what is read, what is refused, and digests that are those of the task files and the runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.run_storage import load_run
from vrbench.evaluation.inputs_digest import definition_digest
from vrbench.leaderboard.board import Board, boards, load_board, prompts_digest
from vrbench.leaderboard.pin import pin
from vrbench.tasks import registry

ROOT = Path(__file__).parents[2] / "leaderboards"
FULL = next((ROOT / "pocket" / "submissions" / "vrbench__pocket-full").glob("*"))


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A copy of the pocket board's folder, with nothing but its file."""
    folder = tmp_path / "pocket"
    folder.mkdir()
    shutil.copyfile(ROOT / "pocket" / "board.yaml", folder / "board.yaml")
    return folder


def change(folder: Path, **values: Any) -> None:
    raw = yaml.safe_load((folder / "board.yaml").read_text())
    (folder / "board.yaml").write_text(yaml.safe_dump(raw | values, sort_keys=False))


def refused(folder: Path) -> list[str]:
    with pytest.raises(VrbenchError) as caught:
        load_board(folder)
    return error_messages(caught.value)


class TestCommitted:
    def test_there_are_the_pocket_board_and_the_paper_s(self) -> None:
        assert set(boards(ROOT)) == {"paper", "pocket"}

    @pytest.mark.parametrize(
        ("name", "visual", "text"),
        [("pocket", "pocket_visual", "pocket_text"), ("paper", "paper_visual", "paper_text")],
    )
    def test_their_means_are_over_the_suites_of_the_task_files(self, name: str, visual: str, text: str) -> None:
        found, specs = boards(ROOT)[name], registry.load()
        assert set(found.suites.visual) == {spec.id for spec in registry.select(visual, specs)}
        further = {"pocket_pydoc", "pocket_docs"} if name == "pocket" else set()
        assert set(found.suites.text) ^ further == {spec.id for spec in registry.select(text, specs)}

    def test_the_pocket_board_holds_all_embedded_tasks(self) -> None:
        assert set(boards(ROOT)["pocket"].tasks) == {spec.id for spec in registry.select("embedded", registry.load())}

    @pytest.mark.parametrize("name", ["pocket", "paper"])
    def test_versions_numbers_and_definitions_are_those_of_the_task_files(self, name: str) -> None:
        specs = registry.load()
        for task, held in boards(ROOT)[name].tasks.items():
            ours = (held.version, held.n, held.definition_digest)
            assert ours == (specs[task].version, specs[task].n, definition_digest(specs[task])), task

    def test_every_run_of_the_pocket_board_has_its_data_and_its_prompts(self) -> None:
        found = boards(ROOT)["pocket"]
        family = found.families["pocket"]
        runs = [load_run(file.parent) for file in sorted((ROOT / "pocket").glob("submissions/*/*/run.json"))]
        assert len(runs) >= 8
        for run in runs:
            for task, held in found.tasks.items():
                assert run.result(task).data_digest == held.data_digest, task
                assert prompts_digest(run.samples[task]) == family.prompts[task], task

    def test_the_pocket_baseline_is_the_fully_tuned_checkpoint(self) -> None:
        digest = load_run(FULL).record.checkpoint.digest
        assert boards(ROOT)["pocket"].families["pocket"].baseline == f"vrbench/pocket-full@{digest[:16]}"

    def test_only_the_paper_s_board_has_something_that_is_not_pinned(self) -> None:
        found = boards(ROOT)
        assert found["pocket"].unpinned() == []
        said = found["paper"].unpinned()
        tasks = ", ".join(found["paper"].tasks)
        assert f"board paper: the data of {tasks} are not pinned yet" in said
        assert "board paper: family llava-1.5-7b has no baseline yet" in said
        assert f"board paper: the prompts of family bunny-llama-3-8b for {tasks} are not pinned yet" in said
        assert not any("definition" in sentence for sentence in said)

    def test_samples_of_the_paper_s_benchmarks_are_not_shown(self) -> None:
        assert not any(boards(ROOT)["paper"].shown.values())


class TestRefused:
    def test_all_faults_of_a_board_are_told_at_once(self, board: Path) -> None:
        change(
            board, claims=["visual is fine"], maintainers=[], extra=1, averaging="median",
            settings={"limit": 100, "dtypes": ["float16"]},
        )  # fmt: skip
        said = "\n".join(refused(board))
        for words in ("claim 'visual is fine' cannot be read", "'maintainers'", "'extra'", "'averaging'",
                      "'settings.limit'", "'settings.dtypes.0'"):  # fmt: skip
            assert words in said, words

    def test_suites_families_and_shown_name_the_board_s_own_tasks(self, board: Path) -> None:
        raw = load_board(board).model_dump(mode="json")
        raw["suites"] = {"visual": ["pocket_mme", "pocket_mme", "mme"], "text": raw["suites"]["text"]}
        raw["shown"] = {"pocket_mme": True, "gqa": False}
        raw["families"]["pocket"]["prompts"] = {"mmlu": None}
        change(board, **raw)
        (said,) = refused(board)
        for words in (
            "suites: pocket_mme is in them more than once",
            "suites: mme is not a task of the board",
            "tasks: pocket_seed is in no suite",
            "shown: gqa is not a task of the board",
            "shown: pocket_seed is missing",
            "families.pocket.prompts: mmlu is not a task of the board",
        ):
            assert words in said, words

    @pytest.mark.parametrize(
        "baseline",
        ["vrbench/full", "vrbench/full@12", "Vrbench/full@" + "0" * 16, "a/b/c@" + "0" * 16, "../x@" + "0" * 16],
    )
    def test_a_baseline_is_a_reference(self, board: Path, baseline: str) -> None:
        raw = load_board(board).model_dump(mode="json")
        raw["families"]["pocket"]["baseline"] = baseline
        change(board, families=raw["families"])
        (said,) = refused(board)
        assert said.startswith(f"'{board}/board.yaml': 'families.pocket.baseline': ")

    def test_a_folder_is_named_as_its_board(self, board: Path) -> None:
        moved = board.rename(board.parent / "other")
        assert refused(moved) == [f"{moved}/board.yaml: id is 'pocket', but the folder is 'other'; make them equal"]

    def test_a_board_of_a_later_vrbench_is_not_read(self, board: Path) -> None:
        change(board, schema_version=2)
        assert "schema version '2'; this vrbench reads 1" in refused(board)[0]

    def test_a_key_given_twice_is_refused(self, board: Path) -> None:
        with (board / "board.yaml").open("a") as file:
            file.write("title: Another\n")
        assert "title" in refused(board)[0]

    def test_no_board(self, tmp_path: Path) -> None:
        assert "there is no board at" in refused(tmp_path)[0]
        with pytest.raises(VrbenchError, match=r"no board in .* with --boards FOLDER, such as `leaderb"):
            boards(tmp_path)

    def test_a_board_that_is_not_there_names_those_beside_it(self, board: Path) -> None:
        assert refused(board.parent / "pokcet") == [
            f"there is no board at '{board.parent}/pokcet'; did you mean 'pocket'?"
        ]
        assert refused(board.parent / "zzz")[0].endswith("/zzz'; there are pocket")
        assert "with --boards FOLDER" in refused(board.parent / "deeper" / "pocket")[0]

    def test_every_broken_board_is_told(self, board: Path) -> None:
        shutil.copytree(board, board.parent / "other")
        change(board, title="")
        with pytest.raises(VrbenchError) as caught:
            boards(board.parent)
        assert len(error_messages(caught.value)) == 2


class TestPin:
    def emptied(self, board: Path) -> None:
        raw = load_board(board).model_dump(mode="json")
        for held in raw["tasks"].values():
            held |= {"data_digest": None, "definition_digest": None}
        raw["families"]["pocket"] |= {"prompts": {}, "baseline": None}
        change(board, **raw)

    def test_everything_is_filled_from_task_files_and_a_run(self, board: Path) -> None:
        before = load_board(board)
        self.emptied(board)
        assert load_board(board).unpinned()
        pin(board, [FULL], baseline="vrbench/pocket-full")
        assert load_board(board) == before

    def test_without_a_run_data_and_prompts_stay_open(self, board: Path) -> None:
        self.emptied(board)
        changes = pin(board)
        assert {change.place.split(".")[-1] for change in changes} == {"definition_digest"}
        assert any("easy_vqa, pocket_mmbench" in sentence for sentence in load_board(board).unpinned())

    def test_what_is_pinned_moves_only_when_told_to(self, board: Path) -> None:
        raw = load_board(board).model_dump(mode="json")
        raw["tasks"]["easy_vqa"] |= {"data_digest": "0" * 64, "n": 12}
        change(board, tasks=raw["tasks"])
        before = (board / "board.yaml").read_bytes()
        with pytest.raises(VrbenchError) as caught:
            pin(board, [FULL])
        assert [text.split(" ")[0] for text in error_messages(caught.value)] == [
            "tasks.easy_vqa.n",
            "tasks.easy_vqa.data_digest",
        ]
        assert (board / "board.yaml").read_bytes() == before
        assert {change.old for change in pin(board, [FULL], replace=True)} == {"0" * 64, "12"}
        assert load_board(board).tasks["easy_vqa"].n == 9673

    def test_the_comments_above_stay_and_pinning_again_changes_no_byte(self, board: Path) -> None:
        before = (board / "board.yaml").read_bytes()
        assert before.startswith(b"# ")
        assert pin(board, [FULL], baseline="vrbench/pocket-full") == []
        assert (board / "board.yaml").read_bytes() == before

    def test_faults_are_told_at_once(self, board: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError) as caught:
            pin(board, [tmp_path / "nowhere"], family="llava-1.5-7b")
        said = error_messages(caught.value)
        assert any("no run at" in text for text in said)
        assert any("family 'llava-1.5-7b' is not on board pocket; there are pocket" in text for text in said)

    def test_a_run_of_another_version_or_part_of_a_task_pins_nothing(self, board: Path) -> None:
        specs = registry.load()
        moved = {**specs, "pocket_mme": specs["pocket_mme"].model_copy(update={"version": "9"})}
        with pytest.raises(VrbenchError, match="has pocket_mme at version 1; its version is 9 now"):
            pin(board, [FULL], specs=moved)

    def test_a_baseline_without_its_run_is_refused(self, board: Path) -> None:
        with pytest.raises(VrbenchError, match="a baseline needs its run"):
            pin(board, baseline="vrbench/pocket-full")


def test_prompts_are_pinned_in_their_order() -> None:
    samples = load_run(FULL).samples["pocket_mme"][:3]
    assert prompts_digest(samples) != prompts_digest(samples[::-1])
    assert len(prompts_digest(samples)) == 64


def test_a_board_read_is_the_board_written(board: Path) -> None:
    found = load_board(board)
    assert Board.model_validate_json(found.model_dump_json()) == found
