"""Of a stranger's folder only plain files with known names are opened; nothing is followed, waited for or written."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaderboard.hostile import documents
from tests.leaderboard.hostile.oracle import is_harmless_line
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.leaderboard import history
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.submission import read_submission
from vrbench.leaderboard.untrusted_input import files as reading_files
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.files import read_bytes, submission_files, submission_folders

SAMPLES = f"samples/{documents.TASK}.jsonl.gz"
SECRET = "known to nobody"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole submission."""
    return documents.write_submission(tmp_path / "submission")


def told(folder: Path) -> str:
    with pytest.raises(VrbenchError) as error:
        read_submission(folder)
    return str(error.value)


def test_a_right_one_is_read(folder: Path) -> None:
    submitted = read_submission(folder)
    assert submitted.run.samples == {documents.TASK: documents.SAMPLES}
    assert submitted.submission.name == "region" and submitted.recipe == documents.RECIPE
    assert list(submission_files(folder)) == ["recipe.yaml", "run.json", SAMPLES, "submission.json"]
    (folder / "recipe.yaml").unlink()
    assert read_submission(folder).recipe == ""


@pytest.mark.parametrize("name", ["run.json", "submission.json", "recipe.yaml", SAMPLES])
class TestNoPlainFile:
    def test_a_symbolic_link_is_refused(self, folder: Path, tmp_path: Path, name: str) -> None:
        (folder / name).rename(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        assert "is a link" in told(folder)
        with pytest.raises(VrbenchError, match="is a link"):
            read_bytes(folder / name)

    def test_a_link_to_a_secret_shows_none_of_it(self, folder: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "secret").write_text(SECRET)
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret")
        assert SECRET not in told(folder)

    def test_a_link_to_nothing_is_refused(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(folder / "nothing")
        assert "is a link" in told(folder)

    def test_a_link_to_an_endless_device_is_refused(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        assert "is a link" in told(folder)

    def test_a_hard_link_is_refused(self, folder: Path, tmp_path: Path, name: str) -> None:
        os.link(folder / name, tmp_path / "second")
        assert "hard link" in told(folder)

    def test_a_pipe_is_refused_and_not_waited_for(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)
        assert "is a pipe" in told(folder)
        with pytest.raises(VrbenchError, match="is a pipe"):
            read_bytes(folder / name)

    def test_a_folder_is_refused(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()
        assert "is a folder" in told(folder)


class TestOtherThings:
    def test_a_device_is_refused(self) -> None:
        with pytest.raises(VrbenchError, match="is a device"):
            read_bytes(Path("/dev/zero"))
        assert reading_files._kind(stat.S_IFBLK) == "a device"

    def test_a_socket_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "run.json").unlink()
        monkeypatch.chdir(folder)  # the name of a socket is short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("run.json")
            assert "is a socket" in told(folder)

    def test_a_file_that_grows_while_it_is_read_is_not_read_on(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading_files, "_validate_file", lambda *_: [])
        with pytest.raises(VrbenchError, match="more than 100 bytes"):
            read_bytes(folder / "run.json", 100)

    @pytest.mark.parametrize("name", ["samples", "."])
    def test_folders_may_be_no_links_either(self, folder: Path, tmp_path: Path, name: str) -> None:
        moved = tmp_path / "moved"
        (folder / name).rename(moved) if name != "." else folder.rename(moved)
        (folder / name if name != "." else folder).symlink_to(moved)
        assert "is a link" in told(folder)

    def test_what_is_not_known_is_named_harmlessly(self, folder: Path) -> None:
        (folder / "setup.py").write_text("raise SystemExit(1)")
        (folder / ".git").mkdir()
        (folder / "samples" / "\x1b[31m\u202e.jsonl.gz").write_text("")
        (folder / "samples" / "..jsonl.gz").write_text("")
        said = told(folder)
        assert "setup.py" in said and ".git" in said and "[U+001B][31m[U+202E]" in said and "..jsonl.gz" in said

    def test_a_name_that_is_not_utf8_is_refused(self, folder: Path) -> None:
        with open(os.fsencode(folder) + b"/\xff\xfe", "wb"):
            pass
        assert "is not a file of a submission" in told(folder)

    @pytest.mark.parametrize("name", ["RUN.JSON", "Run.json", "samples/POCKET_MME.jsonl.gz", "Samples"])
    def test_names_that_differ_only_in_case_are_refused(self, folder: Path, name: str) -> None:
        (folder / name).write_text("")
        assert "differ only in case" in told(folder)

    @pytest.mark.parametrize("task", ["con", "nul", "com1", "lpt9", "a-b", "a.b", "x" * 65])
    def test_a_task_that_cannot_be_a_file_everywhere_is_refused(self, folder: Path, task: str) -> None:
        (folder / "samples" / f"{task}.jsonl.gz").write_text("")
        assert "is not a file of a submission" in told(folder)

    def test_more_files_than_are_read_are_refused(self, folder: Path) -> None:
        for i in range(limits.FILES + 1):
            (folder / "samples" / f"t{i}.jsonl.gz").touch()
        assert "more than 512 files" in told(folder)

    def test_what_is_missing_and_what_is_wrong_is_told_at_once(self, folder: Path) -> None:
        (folder / "run.json").unlink()
        (folder / "submission.json").unlink()
        (folder / "x").write_text("")
        with pytest.raises(VrbenchError) as error:
            submission_files(folder)
        assert len(error_messages(error.value)) == 3

    def test_no_folder_at_all(self, tmp_path: Path) -> None:
        assert "cannot be read" in told(tmp_path / "none")
        assert "cannot be read" in told(Path("a\0b"))


class TestWhatTheRecordSays:
    @pytest.mark.parametrize("task", ["../../run", "/etc/passwd", "a/b", "..", "con", "A", "x" * 65, ""])
    def test_no_task_leads_out_of_the_folder(self, folder: Path, task: str) -> None:
        text = (folder / "run.json").read_text().replace(f'"{documents.TASK}"', f'"{task}"')
        (folder / "run.json").write_text(text)
        assert "task" in told(folder) and "not" in told(folder)

    def test_samples_that_belong_to_no_result_are_refused(self, folder: Path) -> None:
        (folder / "samples" / "other.jsonl.gz").write_bytes((folder / SAMPLES).read_bytes())
        assert "no result" in told(folder)

    def test_samples_that_are_missing_are_told(self, folder: Path) -> None:
        (folder / SAMPLES).unlink()
        assert "which is missing" in told(folder)

    def test_samples_of_another_digest_are_refused(self, folder: Path, tmp_path: Path) -> None:
        other = documents.write_submission(tmp_path / "other", documents.samples_bytes(documents.SAMPLES[:2]))
        (folder / SAMPLES).write_bytes((other / SAMPLES).read_bytes())
        assert "sha256 differs" in told(folder)

    def test_a_run_that_the_submission_does_not_name_is_refused(self, folder: Path) -> None:
        (folder / "run.json").write_text((folder / "run.json").read_text() + "\n")
        assert "not the one that submission.json names" in told(folder)

    @pytest.mark.parametrize("name", ["run.json", "submission.json"])
    @pytest.mark.parametrize(
        ("version", "words"),
        [("2", "a later vrbench"), ("0", "reads 1"), ("true", "reads 1"), ('"1"', "reads 1"), ("1.0", "reads 1")],
    )
    def test_another_schema_version_is_refused(self, folder: Path, name: str, version: str, words: str) -> None:
        text = (folder / name).read_text().replace('"schema_version": 1', f'"schema_version": {version}', 1)
        (folder / name).write_text(text)
        assert "schema version" in told(folder) and words in told(folder)

    def test_a_lineage_of_a_later_schema_is_refused(self, folder: Path) -> None:
        head, found, tail = (folder / "run.json").read_text().rpartition('"schema_version": 1')
        assert found
        (folder / "run.json").write_text(f'{head}"schema_version": 7{tail}')
        assert "lineage of schema version 7" in told(folder)


class TestFolders:
    def test_only_folders_of_submissions_are_found(self, tmp_path: Path) -> None:
        root = tmp_path / "submissions"
        right = documents.write_submission(root / "lab__region" / documents.HEX[:16])
        assert submission_folders(root) == ([right], [])
        (root / "notes.txt").write_text("")
        (root / "link__a").symlink_to(tmp_path)
        (root / "Lab__region").mkdir()
        (root / "region").mkdir()
        (root / "lab__region" / "latest").symlink_to(right)
        (root / "lab__region" / "..x").mkdir()
        found, faults = submission_folders(root)
        assert found == [right] and len(faults) == 6

    def test_none_and_a_link(self, tmp_path: Path) -> None:
        assert submission_folders(tmp_path / "none") == ([], [])
        (tmp_path / "link").symlink_to(tmp_path)
        found, faults = submission_folders(tmp_path / "link")
        assert found == [] and "is a link" in faults[0]


def test_reading_a_submission_runs_none_of_it_and_needs_no_torch(folder: Path, tmp_path: Path) -> None:
    (folder / "recipe.yaml").write_text(f"a: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from vrbench.leaderboard.submission import read_submission\n"
        f"try: read_submission(Path({str(folder)!r}))\nexcept Exception as error: print(error)\n"
        "print(sorted({'torch', 'pickle', 'transformers', 'datasets'} & set(sys.modules) - {'pickle'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has a tag (!)" in done.stdout and done.stdout.endswith("[]\n")
    assert not (tmp_path / "ran").exists()


class TestCommits:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A checkout whose one commit has a whole submission; the folder of all boards."""
        root = tmp_path / "checkout" / "leaderboards"
        documents.write_submission(root / "pocket" / "submissions" / "lab__region" / documents.HEX[:16])
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
            _git(root.parent, *words)
        return root

    def test_a_name_that_is_not_utf8_is_told_and_breaks_nothing(self, root: Path) -> None:
        folder = next(root.glob("*/submissions/*/*"))
        with open(os.fsencode(folder) + b"/\xff\x1b[31m", "wb"):
            pass
        _git(root, "add", ".")
        _git(root, "commit", "-qm", "two")
        os.unlink(os.fsencode(folder) + b"/\xff\x1b[31m")
        (told,) = history.changed_submissions(root, "HEAD").values()
        assert len(told) == 1 and is_harmless_line(told[0]) and "was removed" in told[0]

    @pytest.mark.parametrize("content", [b"", b"[" * 10**5, b"\xff", b"{}", b'{"schema_version":99}'])
    def test_a_leaderboard_that_cannot_be_read_is_refused_in_harmless_words(self, root: Path, content: bytes) -> None:
        (root / "pocket" / "leaderboard.json").write_bytes(content)
        with pytest.raises(VrbenchError) as error:
            history.read_leaderboard(root / "pocket")
        assert all(is_harmless_line(message) for message in error_messages(error.value))

    def test_a_board_that_is_a_link_is_none(self, root: Path) -> None:
        (root / "pocket" / "board.yaml").write_text(documents.BOARD)
        assert load_board(root / "pocket").id == "pocket"
        (root / "pocket").rename(root / "elsewhere")
        (root / "pocket").symlink_to(root / "elsewhere")
        with pytest.raises(VrbenchError, match="is a link"):
            load_board(root / "pocket")


def _git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org", *words], check=True,
        capture_output=True,
    )  # fmt: skip
