"""`vrbench data download` and `data check`: a data root from a hub that the tests serve, resumed, and its faults."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets  # noqa: F401  # it reads HF_HUB_OFFLINE once, now, before a test says otherwise
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from tests.evaluation import made
from tests.fakehub import FakeHub, parquet, served
from tests.task_data import load_task
from vrbench import cli
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.data import hub, loading, local_mirror, sampling
from vrbench.data.download import LOCK, requests_of
from vrbench.data.download import download as fetch
from vrbench.data.locate import locate, validate_files
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
ARC = "allenai/ai2_arc/ARC-Easy/test.parquet"
PIQA = "baber/piqa/default/validation.parquet"
MME = "lmms-lab-encoder/MME/default/test.parquet"


SHIPPED = registry.load()
PIN = {name: SHIPPED[name].data.revision for name in ("piqa", "arc_easy", "mme", "mmlu")}


@pytest.fixture(scope="module")
def specs() -> dict[str, TaskSpec]:
    """The shipped tasks, for the newest revision of their sets."""
    return {name: pinned(spec, "") if spec.data.kind == "hub" else spec for name, spec in SHIPPED.items()}


HOLDS = (
    "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); input()"
)


DIES = """
import os, pathlib, signal, sys
from vrbench.data import download, hub
from vrbench.tasks import registry
def dies(name, config, split, sha, to):
    to.write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
hub.commit, hub.download = (lambda name, revision: revision or "0" * 40), dies
download.download(registry.select("piqa", registry.load()), pathlib.Path(sys.argv[1]), False)
"""


class HubInMemory:
    """In place of `vrbench.data.hub.commit` and `download`: rows by set, config and split."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {
            ("baber/piqa", "default", "validation"): made.piqa(),
            ("allenai/ai2_arc", "ARC-Easy", "test"): made.arc(),
        }
        self.newest = NEW
        self.dies_at = ""
        self.downloads: list[tuple[str, str]] = []
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(hub, "commit", self.commit)
        monkeypatch.setattr(hub, "download", self.download)

    def commit(self, name: str, revision: str = "") -> str:
        if name not in {place[0] for place in self.rows}:
            raise VrbenchError(f"there is no data set {name}")
        return {"": self.newest, "v1": OLD}.get(revision, revision)

    def download(self, name: str, config: str, split: str, sha: str, to: Path) -> None:
        to.write_bytes(b"half of it")
        if name == self.dies_at:
            raise KeyboardInterrupt
        pq.write_table(pa.Table.from_pylist(self.rows[name, config, split]), to)
        self.downloads.append((name, sha))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> HubInMemory:
    return HubInMemory(monkeypatch)


def get(specs: dict[str, TaskSpec], names: str, root: Path) -> list[str]:
    return fetch(registry.select(names, specs), root, show_progress=False)


def states(root: Path) -> dict[str, str]:
    return {found.file: found.state for found in local_mirror.check(root)}


def pinned(spec: TaskSpec, revision: str) -> TaskSpec:
    return spec.model_copy(update={"data": spec.data.model_copy(update={"revision": revision})})


class TestFetch:
    def test_what_is_made_is_a_data_root_with_a_digest_of_each_file(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        assert get(specs, "piqa,arc_easy,pocket_mme", tmp_path) == [PIQA, ARC]
        entry = local_mirror.read(tmp_path).files[PIQA]
        assert (entry.rows, entry.revision, entry.asked) == (13, NEW, "")
        assert entry.columns == {"goal": "string", "sol1": "string", "sol2": "string", "label": "int64"}
        assert entry.bytes == (tmp_path / PIQA).stat().st_size
        assert states(tmp_path) == {ARC: "whole", PIQA: "whole"}
        loaded = load_task(specs["piqa"], tmp_path)
        assert loading.revision(specs["piqa"], locate(specs["piqa"], tmp_path), loaded) == NEW
        assert loaded["default"]["validation"].to_list() == made.piqa()

    def test_whole_files_are_left_alone_and_others_fetched_again(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        get(specs, "piqa,arc_easy", tmp_path)
        fake.newest = "3" * 40  # a newer commit is not a reason to fetch
        assert get(specs, "piqa,arc_easy", tmp_path) == []
        for spoil in (
            lambda f: f.write_bytes(f.read_bytes()[:-9]),
            lambda f: f.write_bytes(f.read_bytes()[::-1]),
            Path.unlink,
        ):
            spoil(tmp_path / PIQA)
            assert get(specs, "piqa,arc_easy", tmp_path) == [PIQA]
        (tmp_path / local_mirror.DIGEST_FILE).unlink()  # nobody knows then whether they are whole
        assert get(specs, "piqa,arc_easy", tmp_path) == [PIQA, ARC]

    def test_stopped_it_leaves_no_half_file_and_goes_on(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        fake.dies_at = "allenai/ai2_arc"
        with pytest.raises(KeyboardInterrupt):
            get(specs, "piqa,arc_easy", tmp_path)
        assert states(tmp_path) == {PIQA: "whole"}
        assert not list((tmp_path / ARC).parent.iterdir())
        (tmp_path / ARC).with_name(".test.parquet.part").write_bytes(b"left by a kill")
        fake.dies_at = ""
        assert get(specs, "piqa,arc_easy", tmp_path) == [ARC]
        assert [p.name for p in (tmp_path / ARC).parent.iterdir()] == ["test.parquet"]

    def test_killed_in_the_middle_it_goes_on(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        done = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], env={**os.environ, "HF_HUB_OFFLINE": "0"})
        assert done.returncode == -signal.SIGKILL
        (left,) = (path for path in (tmp_path / PIQA).parent.iterdir() if path.stat().st_size)
        assert left.name.startswith(".validation.parquet.")  # and nothing has the name of a whole file
        assert states(tmp_path) == {}
        with pytest.raises(VrbenchError, match=r"not there: default/validation|not whole under the data root"):
            locate(specs["piqa"], tmp_path)
        assert get(specs, "piqa", tmp_path) == [PIQA]
        assert [path.name for path in (tmp_path / PIQA).parent.iterdir()] == ["validation.parquet"]
        assert states(tmp_path) == {PIQA: "whole"}

    def test_a_pinned_revision_is_what_is_fetched(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        get(specs, "piqa", tmp_path)
        spec = pinned(specs["piqa"], "v1")
        (told,) = validate_files(spec, locate(spec, tmp_path))
        assert "is for revision v1 of baber/piqa" in told and f"{PIQA} is of {NEW}" in told
        assert fetch([spec], tmp_path, show_progress=False) == [PIQA]
        assert fetch([pinned(spec, OLD)], tmp_path, show_progress=False) == []  # the same by its commit
        assert local_mirror.read(tmp_path).files[PIQA].revision == OLD and fake.downloads[-1] == ("baber/piqa", OLD)
        assert not list(validate_files(spec, locate(spec, tmp_path)))
        with pytest.raises(VrbenchError, match=r"wanted at revisions 'v1' and 'the newest'"):
            requests_of([spec, specs["piqa"]])

    def test_every_fault_is_told_and_what_can_be_had_is_kept(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        with pytest.raises(MultipleErrors) as told:
            get(specs, "mme,mmlu,piqa", tmp_path)
        assert told.value.messages == (
            "there is no data set lmms-lab-encoder/MME",
            "there is no data set cais/mmlu",
        )
        assert states(tmp_path) == {PIQA: "whole"}

    def test_a_hub_that_does_not_answer_is_not_asked_again(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def silent(name: str, revision: str = "") -> str:
            asked.append(name)
            raise hub.UnreachableError("the hub cannot be reached")

        monkeypatch.setattr(hub, "commit", silent)
        with pytest.raises(
            VrbenchError, match=r"cannot be reached; 0 of 116 files were downloaded, run it again to resume"
        ):
            get(specs, "mme,mmlu,piqa", tmp_path)
        assert len(asked) == 1

    def test_offline_it_says_what_forbids_it(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(VrbenchError, match="1 files are to be downloaded, but HF_HUB_OFFLINE forbids it"):
            get(specs, "piqa", tmp_path)
        with pytest.raises(VrbenchError, match="the data of pocket_mme are not on the hub"):
            get(specs, "pocket_mme", tmp_path)

    def test_a_folder_that_cannot_be_filled_is_told(
        self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path
    ) -> None:
        with pytest.raises(VrbenchError, match="cannot be written to"):
            get(specs, "piqa", Path("/proc/nowhere"))
        command = [sys.executable, "-c", HOLDS, str(tmp_path / LOCK)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(VrbenchError, match="is being written to by another process"):
                get(specs, "piqa", tmp_path)
            other.communicate("go on")
        (tmp_path / local_mirror.DIGEST_FILE).write_text("{")
        with pytest.raises(VrbenchError, match=r"vrbench-data\.json is not a digest file"):
            get(specs, "piqa", tmp_path)


class TestCheck:
    def called(self, *command: str) -> Result:
        return CliRunner().invoke(cli.app, ["data", "check", *command])

    def test_it_exits_with_0_only_when_all_is_whole(self, fake: HubInMemory, tmp_path: Path) -> None:
        get(SHIPPED, "piqa,arc_easy", tmp_path)
        done = self.called(str(tmp_path))
        assert done.exit_code == 0 and "2 whole" in done.stdout and f"revision {PIN['piqa'][:12]}" in done.stdout
        done = self.called(str(tmp_path), "--tasks", "piqa,mme,pocket_mme")
        assert done.exit_code == 2 and "1 whole, 1 missing" in done.stdout and ARC not in done.stdout

    def test_it_tells_every_state(self, specs: dict[str, TaskSpec], fake: HubInMemory, tmp_path: Path) -> None:
        fake.rows |= {("o/changed", "c", "s"): made.piqa(), ("o/short", "c", "s"): made.piqa()}
        fake.rows |= {("o/gone", "c", "s"): made.piqa()}
        more = [
            specs["piqa"].model_copy(
                update={"data": specs["piqa"].data.model_copy(update={"name": name, "config": ("c",), "split": "s"})}
            )
            for name in ("o/changed", "o/short", "o/gone")
        ]
        fetch([specs["piqa"], *more], tmp_path, show_progress=False)
        content = bytearray((tmp_path / "o/changed/c/s.parquet").read_bytes())
        content[20] ^= 1
        (tmp_path / "o/changed/c/s.parquet").write_bytes(content)
        (tmp_path / "o/short/c/s.parquet").write_bytes(content[:-30])
        (tmp_path / "o/gone/c/s.parquet").unlink()
        for name, rows in (("own", parquet(made.piqa())), ("part", parquet(made.piqa())[:-10])):
            (tmp_path / f"o/{name}.parquet").write_bytes(rows)
        assert states(tmp_path) == {
            PIQA: "whole",
            "o/changed/c/s.parquet": "changed",
            "o/gone/c/s.parquet": "missing",
            "o/own.parquet": "unrecorded",
            "o/part.parquet": "truncated",
            "o/short/c/s.parquet": "truncated",
        }
        assert self.called(str(tmp_path)).exit_code == 2
        assert self.called(str(tmp_path / "o")).exit_code == 2  # nothing there is recorded

    def test_an_empty_folder_is_not_whole(self, tmp_path: Path) -> None:
        done = self.called(str(tmp_path))
        assert done.exit_code == 2 and "no data file" in done.stdout


CARD = """---
configs:
- config_name: default
  data_files:
  - {split: validation, path: data/validation-*}
  - {split: train, path: data/train-*}
---
"""


def call(url: str, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`vrbench data download` in a process of its own, with a hub of ours for the real one."""
    code = "from vrbench.cli import main; main()"
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0", "HF_HUB_ETAG_TIMEOUT": "2"}
    return subprocess.run(
        [sys.executable, "-c", code, "data", "fetch", *command, "--to", str(home / "root")],
        capture_output=True, text=True, env={**os.environ, **settings},
    )  # fmt: skip


class TestOverHttp:
    """The real client against a hub that this machine serves."""

    @pytest.fixture
    def served_hub(self) -> FakeHub:
        rows = made.piqa()
        parts = {
            "README.md": CARD.encode(),
            "data/validation-00000-of-00002.parquet": parquet(rows[:8]),
            "data/validation-00001-of-00002.parquet": parquet(rows[8:]),
            "data/train-00000-of-00001.parquet": parquet(rows),
        }
        arc = "".join(json.dumps(row) + "\n" for row in made.arc()).encode()
        lines = {"README.md": CARD.replace("default", "ARC-Easy").replace("validation", "test").encode()}
        lines |= {"data/test-0.jsonl": arc, "data/train-0.jsonl": arc}
        mme = {"data/test-00000.parquet": parquet(made.mme())}
        return FakeHub(
            {
                "baber/piqa": {PIN["piqa"]: parts, NEW: {}},
                "allenai/ai2_arc": {PIN["arc_easy"]: lines},
                "lmms-lab-encoder/MME": {PIN["mme"]: mme},
                "cais/mmlu": {PIN["mmlu"]: mme},
            },
            gated=("cais/mmlu",),
        )

    def test_sets_of_any_layout_become_a_data_root_once(
        self, served_hub: FakeHub, tmp_path: Path, specs: dict[str, TaskSpec]
    ) -> None:
        with served(served_hub):
            done = call(served_hub.url, tmp_path, "piqa,arc_easy,mme")
            assert done.returncode == 0, done.stderr
            assert "3 files downloaded" in done.stdout and "3/3" in done.stderr  # the progress bar
            fetched = [path.split("/", 1)[1] for path in served_hub.downloads()]
            assert sorted(fetched) == [
                "data/test-00000.parquet",
                "data/validation-00000-of-00002.parquet",
                "data/validation-00001-of-00002.parquet",
            ]  # and not the training split
            asked = len(served_hub.asked)
            again = call(served_hub.url, tmp_path, "piqa,arc_easy,mme")
            assert again.returncode == 0 and "0 files downloaded" in again.stdout
            assert not [line for line in served_hub.asked[asked:] if "/datasets/" in line]
        root = tmp_path / "root"
        assert states(root) == {PIQA: "whole", ARC: "whole", MME: "whole"}
        revisions = {file: entry.revision for file, entry in local_mirror.read(root).files.items()}
        assert revisions == {PIQA: PIN["piqa"], ARC: PIN["arc_easy"], MME: PIN["mme"]}
        assert load_task(specs["piqa"], root)["default"]["validation"].to_list() == made.piqa()
        assert load_task(specs["arc_easy"], root)["ARC-Easy"]["test"].to_list() == made.arc()
        picture = pq.read_schema(root / MME).field("image").type
        assert {picture.field(i).name for i in range(picture.num_fields)} == {"bytes", "path"}
        assert sampling.digest(load_task(specs["mme"], root)["default"]["test"]) == sampling.digest(made.mme())

    def test_pictures_that_are_files_of_their_own_come_along(self, tmp_path: Path) -> None:
        files, lines = {}, []
        for number, row in enumerate(made.mme()[:4]):
            files[f"test/{number}.bmp"] = row["image"]["bytes"]
            about = {name: value for name, value in row.items() if name != "image"}
            lines.append(json.dumps({"file_name": f"{number}.bmp", **about}) + "\n")
        files["test/metadata.jsonl"] = "".join(lines).encode()
        with served(FakeHub({"lmms-lab-encoder/MME": {PIN["mme"]: files}})) as hub_there:
            done = call(hub_there.url, tmp_path, "mme")
        assert done.returncode == 0, done.stderr
        shutil.rmtree(tmp_path / "hf")  # as on a machine that the data root is copied to
        stored = pq.read_table(tmp_path / "root" / MME)["image"].to_pylist()
        assert [picture["bytes"] for picture in stored] == [row["image"]["bytes"] for row in made.mme()[:4]]

    def test_faults_are_told_in_one_sentence_each(self, served_hub: FakeHub, tmp_path: Path) -> None:
        del served_hub.sets["allenai/ai2_arc"], served_hub.sets["lmms-lab-encoder/MME"]
        served_hub.sets["baber/piqa"][PIN["piqa"]] = {"data/train-00000.parquet": parquet(made.piqa())}
        with served(served_hub):
            done = call(served_hub.url, tmp_path, "piqa,arc_easy,mme,mmlu")
        assert done.returncode == 2
        told = [line for line in done.stderr.splitlines() if line.startswith("vrbench: ")]
        assert len(told) == 4, done.stderr
        assert told[0] == "vrbench: data set baber/piqa (config default) has no split 'validation'; it has train"
        assert (
            told[1] == f"vrbench: there is no data set allenai/ai2_arc on the hub at {served_hub.url}, or it is private"
        )
        assert "lmms-lab-encoder/MME" in told[2]
        assert told[3].startswith("vrbench: data set cais/mmlu is gated: request access on its page")

    def test_no_hub_at_all(self, tmp_path: Path) -> None:
        done = call("http://127.0.0.1:9", tmp_path, "piqa")
        assert done.returncode == 2
        (told,) = [line for line in done.stderr.splitlines() if line.startswith("vrbench: ")]
        assert "the hub at http://127.0.0.1:9 cannot be reached for data set baber/piqa" in told
        assert "0 of 1 files were downloaded" in told
