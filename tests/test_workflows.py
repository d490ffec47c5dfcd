"""The workflow files: what they may do, that they run nothing but the script, and that the script works here."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vrbench.core.io import load_yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "workflows"
SCRIPT = ROOT / ".ci" / "leaderboard"
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")
VALIDATE, COMMENT = "leaderboard.yml", "leaderboard-comment.yml"


def workflow(name: str) -> dict[str, Any]:
    """A workflow file; YAML 1.1 takes the key `on` for true."""
    found = load_yaml((FOLDER / name).read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in workflow(name)["jobs"].values():
        yield from job["steps"]


def test_there_are_these_workflows() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {VALIDATE, COMMENT}


@pytest.mark.parametrize("name", [VALIDATE, COMMENT])
class TestEach:
    def test_it_has_what_a_workflow_needs(self, name: str) -> None:
        found = workflow(name)
        assert set(found) <= {"name", "on", "permissions", "concurrency", "jobs"}
        for job in found["jobs"].values():
            assert set(job) <= {"if", "runs-on", "timeout-minutes", "permissions", "steps"}
            assert job["timeout-minutes"] <= 60
            assert "permissions" in found
        for step in steps(name):
            assert set(step) <= {"name", "if", "uses", "with", "run", "continue-on-error"}
            assert ("uses" in step) != ("run" in step)

    def test_actions_are_pinned_to_a_commit(self, name: str) -> None:
        used = [step["uses"] for step in steps(name) if "uses" in step]
        assert used
        assert all(PINNED.fullmatch(action) for action in used), used

    def test_nothing_of_an_event_is_put_into_a_command_or_a_script(self, name: str) -> None:
        for step in steps(name):
            assert "${{" not in step.get("run", "")
            assert "${{" not in step.get("with", {}).get("script", "")

    def test_the_word_secrets_is_not_in_it(self, name: str) -> None:
        assert "secrets." not in (FOLDER / name).read_text()
        assert "pull_request_target" not in (FOLDER / name).read_text()


class TestValidate:
    def test_it_can_read_and_nothing_else(self) -> None:
        found = workflow(VALIDATE)
        assert set(found["on"]) == {"pull_request"}
        assert found["permissions"] == {"contents": "read"}
        assert all("permissions" not in job for job in found["jobs"].values())

    def test_every_command_is_the_script_of_the_branch_it_is_merged_into(self) -> None:
        runs = [step["run"] for step in steps(VALIDATE) if "run" in step]
        assert runs == [".ci/leaderboard proposed/leaderboards HEAD^1 comparison.md"]
        code, proposed = [
            step["with"] for step in steps(VALIDATE) if step.get("uses", "").startswith("actions/checkout@")
        ]
        assert code["ref"] == "${{ github.event.pull_request.base.sha }}"
        assert "path" not in code
        assert (proposed["path"], proposed["fetch-depth"]) == ("proposed", 2)
        assert code["persist-credentials"] is False
        assert proposed["persist-credentials"] is False

    def test_what_was_found_is_kept_even_when_something_was_refused(self) -> None:
        (kept,) = [step for step in steps(VALIDATE) if "upload-artifact" in step.get("uses", "")]
        assert kept["if"] == "always()"
        assert kept["with"]["path"] == "comparison.md"


class TestComment:
    def test_it_runs_no_command_and_checks_nothing_out(self) -> None:
        used = [step["uses"].split("@")[0] for step in steps(COMMENT)]
        assert used == ["actions/download-artifact", "actions/github-script"]

    def test_it_may_write_comments_and_nothing_else(self) -> None:
        found = workflow(COMMENT)
        assert found["on"] == {"workflow_run": {"workflows": [workflow(VALIDATE)["name"]], "types": ["completed"]}}
        assert found["permissions"] == {}
        assert [job["permissions"] for job in found["jobs"].values()] == [{"actions": "read", "pull-requests": "write"}]

    def test_the_text_is_made_harmless(self, tmp_path: Path) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("no node here to run the script with")
        posted = comment(
            node,
            tmp_path,
            "| <img src=x> @all [a](https://b.example) ![c](http://d) www.e.example &#64;e |\n" + "x" * 10**6,
        )
        assert len(posted) < 65536
        for odd in ("<img", "@all", "](", "http://", "https://", "&#64;", "www.e"):
            assert odd not in posted.replace("<!-- vrbench leaderboard -->", ""), odd
        assert "do not validate" in posted


def comment(node: str, folder: Path, found: str) -> str:
    """What the script posts of a file, run in node with a made-up GitHub."""
    (script,) = [step["with"]["script"] for step in steps(COMMENT) if "script" in step.get("with", {})]
    (folder / "comparison.md").write_text(found)
    (folder / "run.cjs").write_text(
        f"""const run = {{
          head_sha: 'abc', head_branch: 'b', conclusion: 'failure', head_repository: {{ owner: {{ login: 'u' }} }},
        }};
        const context = {{ repo: {{ owner: 'o', repo: 'r' }}, payload: {{ workflow_run: run }} }};
        const core = {{ info: console.error }};
        const github = {{
          paginate: async () => [],
          rest: {{
            pulls: {{ list: async () => ({{ data: [{{ number: 7, head: {{ sha: 'abc' }} }}] }}) }},
            issues: {{ createComment: async (one) => {{ process.stdout.write(one.body); }} }},
          }},
        }};
        (async () => {{ {script} }})();
        """
    )
    return subprocess.run([node, "run.cjs"], cwd=folder, capture_output=True, text=True, check=True).stdout


class TestScript:
    def test_it_is_a_program_and_the_whole_check_calls_it(self) -> None:
        assert SCRIPT.stat().st_mode & stat.S_IXUSR
        subprocess.run(["sh", "-n", str(SCRIPT)], check=True)
        assert '\nVRBENCH="$work/venv/bin/vrbench" .ci/leaderboard\n' in (ROOT / ".ci" / "run").read_text()

    def run(self, tmp_path: Path, code: int, *words: str) -> subprocess.CompletedProcess[str]:
        """The script with a program in vrbench's place that says how it was called, and exits with a code."""
        program = tmp_path / "program.py"
        program.write_text(f"import sys\nprint('### Leaderboard', sys.argv[1:])\nsys.exit({code})\n")
        environment = {**os.environ, "VRBENCH": f"{sys.executable} {program}"}
        return subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, check=False, env=environment)

    @pytest.mark.parametrize("code", [0, 2])
    def test_it_passes_on_what_was_found_and_writes_it(self, tmp_path: Path, code: int) -> None:
        done = self.run(tmp_path, code, str(tmp_path), "HEAD^1", str(tmp_path / "page.md"))
        words = ["leaderboard", "validate", str(tmp_path), "--against", "HEAD^1", "--format", "markdown"]
        said = f"### Leaderboard {words}\n"
        assert (done.returncode, done.stdout, done.stderr) == (code, said, "")
        assert (tmp_path / "page.md").read_text() == said

    def test_outside_of_a_checkout_nothing_earlier_is_compared_with(self, tmp_path: Path) -> None:
        done = self.run(tmp_path, 0, str(tmp_path))
        assert done.stdout == f"### Leaderboard ['leaderboard', 'validate', '{tmp_path}', '--format', 'markdown']\n"

    def test_by_default_it_is_this_checkout_s_boards(self, tmp_path: Path) -> None:
        assert f"'validate', '{ROOT / 'leaderboards'}'" in self.run(tmp_path, 0).stdout
