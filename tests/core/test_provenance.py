"""What a record says of the code that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from vrbench.core.provenance import commit_of

ROOT = Path(__file__).parents[2]


def test_an_archive_of_a_commit_names_it(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for name in (".gitattributes", ".git_archival.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    commit, dirty = commit_of(tmp_path)
    assert (len(commit), dirty) == (40, False)
    out = tmp_path / "out"
    out.mkdir()
    archive = subprocess.run([*git, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(out)], input=archive, check=True)
    assert commit_of(out) == (commit, None)


def test_a_checkout_that_was_changed_is_dirty(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "all"], check=True)
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path)[1] is True


def test_a_folder_without_history_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / ".git_archival.txt").write_bytes((ROOT / ".git_archival.txt").read_bytes())
    assert commit_of(tmp_path) == ("", None)
