"""With a data root, or with HF_HUB_OFFLINE=1, a whole run makes no socket: the kernel would kill it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import cutoff
from tests.evaluation import made
from tests.fakehub import FakeHub, parquet, served
from vrbench.core.run_storage import load_run
from vrbench.core.schemas import Run
from vrbench.tasks import registry

WHY_NOT = cutoff.why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

MAIN = "from vrbench.cli import main; main()"
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

PLANNED = """
from vrbench.evaluation.run_plan import RunConfig, plan_task
from vrbench.tasks import registry
print(plan_task(registry.load()["piqa"], RunConfig(limit=2)).origin)
"""

PINNED = """
from vrbench.data import loading as data
from vrbench.data.locate import locate
from vrbench.tasks import registry
spec = registry.load()["piqa"]
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


def run(out: Path, *command: str, **environment: str) -> Run:
    done = cutoff.run(MAIN, "run", "--limit", "2", "--device", "cpu", "--out", str(out), *command, **environment)
    assert done.returncode == 0, (done.returncode, done.stderr)
    (file,) = out.glob("*/*/run.json")
    return load_run(file)


def test_a_run_with_a_data_root_makes_none(tiny_llava: Path, tmp_path: Path) -> None:
    root = made.hub(tmp_path / "root")
    found = run(
        tmp_path / "runs", "--ckpt", str(tiny_llava), "--tasks", "piqa,mme,pocket_grammar", "--data-root", str(root)
    )
    assert found.record.status == "ok"
    assert found.result("mme").data == "lmms-lab-encoder/MME test, from the data root, revision not recorded"


def test_listing_and_showing_tasks_makes_none(tmp_path: Path) -> None:
    root = made.hub(tmp_path / "root")
    assert cutoff.run(MAIN, "tasks").returncode == 0  # online, as far as it knows
    done = cutoff.run(MAIN, "tasks", "piqa", "--data-root", str(root))
    assert done.returncode == 0 and "target: " in done.stdout
    assert cutoff.run(MAIN, "data", "check", str(root)).returncode == 2


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

    def test_a_planned_task_makes_none_and_names_the_commit(self, cache: Path) -> None:
        done = cutoff.run(PLANNED, HF_HUB_OFFLINE="1", HF_HOME=str(cache))
        assert done.stdout == f"baber/piqa validation, from the hub's cache, revision {COMMIT}\n", done.stderr

    def test_another_commit_than_the_pinned_one_is_refused(self, cache: Path) -> None:
        done = cutoff.run(PINNED, OLDER, NEWER, "d" * 40, HF_HUB_OFFLINE="1", HF_HOME=str(cache))
        older, newer, unknown = done.stdout.splitlines()
        assert f"revision {OLDER} of data set o/two was requested, but the hub's cache gave {NEWER}" in older
        assert newer == NEWER
        assert "data set o/two is not whole in the hub's cache" in unknown
