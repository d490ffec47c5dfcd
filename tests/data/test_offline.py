"""With a data root, or with HF_HUB_OFFLINE=1, a whole run makes no socket: the kernel would kill it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cutoff
from tests.evaluation import made
from tests.fakehub import FakeHub, parquet, served
from vrbench.core.run_storage import load_run
from vrbench.tasks import registry

WHY_NOT = cutoff.why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

MAIN = """
import json, sys, traceback
from vrbench.cli import app
codes = []
for command in json.loads(sys.argv[1]):
    try:
        codes.append(app(command, standalone_mode=False) or 0)
    except BaseException as error:
        codes.append(getattr(error, "code", None) or traceback.format_exc())
print(json.dumps(codes))
"""
OPENS = "import socket; socket.socket(socket.AF_{family}); print('opened')"
COMMIT = registry.load()["piqa"].data.revision
OLDER, NEWER = "a" * 40, "b" * 40

LOAD = f"""
from datasets import load_dataset
from vrbench.data import loading as data
from vrbench.data.locate import locate
from vrbench.tasks import registry
for commit in ("{OLDER}", "{NEWER}"):
    load_dataset("o/two", revision=commit)
spec = registry.load()["piqa"]
print(data.revision(spec, locate(spec), data.load(spec, locate(spec))))
"""

CACHED = """
from vrbench.data import loading as data
from vrbench.data.locate import locate
from vrbench.evaluation.run_plan import RunConfig, plan_task
from vrbench.tasks import registry
spec = registry.load()["piqa"]
print(plan_task(spec, RunConfig(limit=2)).origin)
for commit in sys.argv[1:]:
    source = spec.data.model_copy(update={"name": "o/two", "revision": commit})
    pinned = spec.model_copy(update={"data": source})
    try:
        print(data.revision(pinned, locate(pinned), data.load(pinned, locate(pinned))))
    except Exception as error:
        print(error)
"""


@pytest.mark.parametrize("family", ["INET", "INET6"])
def test_a_socket_of_the_internet_is_death(family: str) -> None:
    done = cutoff.run(OPENS.format(family=family))
    assert (done.returncode, done.stdout) == (cutoff.KILLED, "")


def test_other_sockets_are_not() -> None:
    assert cutoff.run(OPENS.format(family="UNIX")).stdout == "opened\n"


def test_a_look_at_the_hub_is_death() -> None:
    assert cutoff.run("from vrbench.data import hub; hub.commit('o/n')").returncode == cutoff.KILLED


def test_with_a_data_root_no_command_makes_one(tiny_llava: Path, tmp_path: Path) -> None:
    root, out = str(made.hub(tmp_path / "root")), tmp_path / "runs"
    measured = ["run", "--limit", "2", "--device", "cpu", "--out", str(out), "--ckpt", str(tiny_llava),
                "--tasks", "piqa,mme,pocket_grammar", "--data-root", root]  # fmt: skip
    commands = [["tasks"], ["tasks", "piqa", "--data-root", root], ["data", "check", root], measured]
    done = cutoff.run(MAIN, json.dumps(commands))  # online, as far as it knows
    assert done.returncode == 0, (done.returncode, done.stderr)
    *told, codes = done.stdout.splitlines()
    assert json.loads(codes) == [0, 0, 2, 0], (codes, done.stderr)
    assert any("target: " in line for line in told)
    (file,) = out.glob("*/*/run.json")
    found = load_run(file)
    assert found.record.status == "ok"
    assert found.result("mme").data == "lmms-lab-encoder/MME test, from the data root, revision not recorded"


class TestHubsCache:
    """Sets that were loaded online once, from a hub that this machine serves, and are then used without a network."""

    @pytest.fixture(scope="class")
    def cache(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("hf")
        rows = {"data/validation-0.parquet": parquet(made.piqa())}
        hub = FakeHub({"baber/piqa": {COMMIT: rows}, "o/two": {OLDER: rows, NEWER: rows}})
        with served(hub):
            settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0"}
            done = subprocess.run(
                [sys.executable, "-c", LOAD], capture_output=True, text=True, env={**os.environ, **settings}
            )
            assert done.stdout == f"{COMMIT}\n", done.stderr
        return folder

    def test_a_plan_names_the_commit_and_another_than_the_pinned_one_is_refused(self, cache: Path) -> None:
        done = cutoff.run(CACHED, OLDER, NEWER, "d" * 40, HF_HUB_OFFLINE="1", HF_HOME=str(cache))
        assert done.returncode == 0, done.stderr
        planned, older, newer, unknown = done.stdout.splitlines()
        assert planned == f"baber/piqa validation, from the hub's cache, revision {COMMIT}"
        assert f"revision {OLDER} of data set o/two was requested, but the hub's cache gave {NEWER}" in older
        assert newer == NEWER
        assert "data set o/two is not whole in the hub's cache" in unknown
