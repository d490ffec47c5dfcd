"""The options of `vrbench run`, `vrbench.evaluate` and `vrbench.run_all`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar, get_type_hints

from vrbench.checkpoints import image_settings
from vrbench.core.device import count_gpus, device_kind, resolve_device, validate_device
from vrbench.core.io import validate_output
from vrbench.core.provenance import BACKEND_PACKAGES, VRBENCH

DTYPES = ("auto", "float32", "bfloat16", "float16")
CHECKED_BY_VALUE = ("limit", "batch_size", "dtype", "gpu_memory", "device_map", "image_settings")
F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class RunConfig:
    """The options of a run; the defaults are those of the command line.

    Attributes:
        limit: maximum number of items per task; None for all.
        batch_size: rows per batch, or "auto" for as many as fit.
        device: "auto" uses a GPU if there is one; "cuda:1" is the second GPU.
        dtype: "auto" is bfloat16 on a GPU and float32 on a CPU.
        gpu_memory: share of the GPU's memory that may be used, weights included.
        deterministic: compute each answer in shapes that depend on its request alone: on one kind of device it is then
            the same bit for bit in every dtype, whatever the batch size, order, number of processes or interruptions.
        device_map: "auto" spreads the layers of a model that is larger than one GPU over all of them (accelerate).
        tp: the processes of one `torchrun` share the tensors of one model (transformers' tensor parallelism), and only
            rank 0 returns runs.
        data_root: folder of downloaded data sets; the network is then not used.
        include_path: folder with your own task files.
        out: folder of the runs.
        seed: random seed for the choice of items under a limit, and for the intervals.
        trust_remote_code: run Python code from the checkpoint; the record lists it.
        trust_task_code: run Python scorers beside your own task files.
        image_settings: settings of the image processor: "harness" for those of lmms-eval's class for the family,
            "checkpoint" for those of its files, "pad" to pad images that a LLaVA's image processor would crop.
        command: the command line, for the record.
        show_progress: whether to draw a progress bar for each task.
        skip_missing: skip tasks whose data are missing; the record lists them. Broken data are still an error.
        backend: what computes the answers: "vrbench", or "vllm" on a GPU, which is not for every task and checkpoint.
    """

    limit: int | None = None
    batch_size: int | str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    gpu_memory: float = 0.85
    deterministic: bool = False
    device_map: str | None = None
    tp: bool = False
    data_root: str | Path | None = None
    include_path: str | Path | None = None
    out: str | Path = "runs"
    seed: int = 0
    trust_remote_code: bool = False
    trust_task_code: bool = False
    image_settings: str = image_settings.HARNESS
    command: str = "python"
    show_progress: bool = True
    skip_missing: bool = False
    backend: str = VRBENCH

    def type_errors(self) -> Iterator[str]:
        """Yield which options from Python are of a wrong type, one sentence each; `errors` checks the others' values.

        A text in place of a flag would switch it on, whatever it says.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in CHECKED_BY_VALUE and not isinstance(value, get_type_hints(RunConfig)[field.name]):
                yield f"{field.name} is {value!r}; it must be of type {field.type}"

    def errors(self) -> Iterator[str]:
        """Yield what is wrong with the options, whose types are right, one sentence each."""
        if self.seed < 0:
            yield f"seed is {self.seed}; it must be at least 0"
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            yield f"limit is {self.limit!r}; it must be at least 1, or left out for all items"
        if self.batch_size != "auto" and (not isinstance(self.batch_size, int) or self.batch_size < 1):
            yield f"batch size is {self.batch_size!r}; it must be 'auto' or a number of at least 1"
        if self.dtype not in DTYPES:
            yield f"dtype {self.dtype!r} is unknown; there are {', '.join(DTYPES)}"
        if not isinstance(self.gpu_memory, (int, float)) or not 0 < self.gpu_memory <= 1:
            yield f"GPU memory is {self.gpu_memory!r}; it is a share above 0 and up to 1, such as 0.5"
        if self.image_settings not in image_settings.CHOICES:
            known = ", ".join(image_settings.CHOICES)
            yield f"image settings {self.image_settings!r} are unknown; there are {known}"
        if self.backend not in BACKEND_PACKAGES:
            yield f"backend {self.backend!r} is unknown; there are {', '.join(BACKEND_PACKAGES)}"
        yield from validate_device(self.device) or self._device_map_errors()
        if self.tp and self.device_map is not None:
            yield "a device map and tp both spread one model over GPUs; choose one of them"
        if self.tp and self.deterministic:
            yield "with tp the number of processes changes the last bits of sums; leave out deterministic, or tp"
        yield from validate_output(self.out)

    def _device_map_errors(self) -> Iterator[str]:
        if self.device_map is None:
            return
        if self.device_map != "auto":
            yield f"device map is {self.device_map!r}; it is 'auto', or left out for one GPU"
        if not count_gpus():
            yield "a device map spreads layers over GPUs, and torch sees none here; leave it out"
        elif self.device not in ("auto", "cuda"):
            yield f"device is {self.device}, but a device map uses all visible GPUs; leave one of them out"

    def resolved(self) -> RunConfig:
        """Return the same options with a real device and dtype in place of "auto"."""
        device = resolve_device(self.device)
        dtype = {"cuda": "bfloat16"}.get(device_kind(device), "float32") if self.dtype == "auto" else self.dtype
        return dataclasses.replace(self, device=device, dtype=dtype)


class RunOptions(TypedDict, total=False):
    """The fields of `RunConfig` as keywords, for type checkers: any of them may be left out."""

    limit: int | None
    batch_size: int | str
    device: str
    dtype: str
    gpu_memory: float
    deterministic: bool
    device_map: str | None
    tp: bool
    data_root: str | Path | None
    include_path: str | Path | None
    out: str | Path
    seed: int
    trust_remote_code: bool
    trust_task_code: bool
    image_settings: str
    command: str
    show_progress: bool
    skip_missing: bool
    backend: str


def shows_options(function: F) -> F:
    """Give a function with `**options: Unpack[RunOptions]` the signature that names them, for `help` and completion."""
    signature = inspect.signature(function)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in dataclasses.fields(RunConfig)
        if f.name != "command"
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function
