"""Steps that only write what they did, so that execution can be seen without a model."""

from __future__ import annotations

import os
import time
from multiprocessing.forkserver import ForkServer
from pathlib import Path

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.reproduce.plan import Plan, PlanStep
from vrbench.reproduce.worker import StepFunction, StepJob

Value = str | int | float | bool

LIGHT = ForkServer()
LIGHT.set_forkserver_preload(["tests.reproduce.fake_steps"])


def use_light_workers(patch: pytest.MonkeyPatch) -> None:
    """Fork new processes from one that has imported these steps and little else."""
    patch.setattr("multiprocessing.forkserver.connect_to_new_process", LIGHT.connect_to_new_process)


def note(job: StepJob, what: str) -> None:
    """Add a line to the folder's diary: what was done, by which process, and with which GPU and threads."""
    folder = job.folder
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    told = " ".join(os.environ.get(name, "-") for name in names)
    with (folder / "diary").open("a") as stream:
        stream.write(f"{what} {job.step.name} {os.getpid()} {told}\n")


def train(job: StepJob) -> None:
    """Write a checkpoint; `seconds`, `held`, `fault` and `die` say how it goes; a held one waits for the file "go"."""
    note(job, "begin")
    time.sleep(float(job.step.arguments.get("seconds", 0)))
    while "held" in job.step.arguments and not (job.folder / "go").exists():
        time.sleep(0.01)
    if "fault" in job.step.arguments:
        raise VrbenchError(str(job.step.arguments["fault"]))
    if "die" in job.step.arguments:
        os._exit(3)
    print("the step's own words")
    job.output.mkdir(parents=True, exist_ok=True)
    (job.output / "vrbench.json").write_text("{}")
    (job.output / "model.safetensors").write_text(str(job.step.arguments))
    note(job, "end")


def layers(job: StepJob) -> None:
    """Write a file."""
    note(job, "begin")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    job.output.write_text(str(job.step.arguments["ckpt"]))
    note(job, "end")


def run(job: StepJob) -> None:
    """Read the checkpoint's weights, as a measurement would."""
    note(job, "begin")
    (Path(str(job.step.arguments["ckpt"])) / "model.safetensors").read_text()
    job.output.mkdir(parents=True, exist_ok=True)
    note(job, "end")


def profile(job: StepJob) -> None:
    """Do nothing."""
    note(job, "begin")
    note(job, "end")


FUNCTIONS: dict[str, StepFunction] = {"train": train, "layers": layers, "prune": train, "run": run, "profile": profile}


def step(name: str, *needs: str, minutes: float = 1.0, **arguments: Value) -> PlanStep:
    """A step whose kind is the first part of its name."""
    kind = name.partition("-")[0]
    if kind in ("run", "layers", "prune") and "ckpt" not in arguments:
        arguments = {"ckpt": f"{{{needs[0]}}}", **arguments}
    return PlanStep(name=name, kind=kind, needs=needs, arguments=arguments, minutes=minutes)  # type: ignore[arg-type]


def plan(*steps: PlanStep, **changes: object) -> Plan:
    """A plan of some steps."""
    told = {"family": "pocket", "tables": ("layers",), "seeds": (0,), "tasks": "pocket", "limit": 4, "entries": ()}
    return Plan.model_validate({**told, **changes, "steps": steps})


def diary(folder: Path) -> list[list[str]]:
    """The lines of the diary, in words."""
    file = folder / "diary"
    return [line.split() for line in file.read_text().splitlines()] if file.is_file() else []


def begun(folder: Path) -> list[str]:
    """Names of the steps that were begun, in order."""
    return [line[1] for line in diary(folder) if line[0] == "begin"]
