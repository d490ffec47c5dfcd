"""Count the answers that change with dtype, batches and order, and show that --deterministic changes none.

    python -m benchmarks.flips --device cuda --report benchmarks/results/h200/flips.md
    python -m benchmarks.flips --device cpu --quick

Each checkpoint answers the same items in each setting: batch sizes, another order, half of the items first as one of
two processes would, nothing shared between prompts. Writes benchmarks/results/flips.md, or what --report names.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scipy.stats import binomtest
from tabulate import tabulate

from benchmarks import report_header
from vrbench.core.device import device_name
from vrbench.core.schemas import Sample
from vrbench.evaluation import packed_backend
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.evaluate import evaluate_task
from vrbench.evaluation.requests import Request
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import PlannedTask, plan
from vrbench.models.load import load_vlm
from vrbench.models.packing import PackedSequence, one_row_per_sequence

RESULT = Path(__file__).parent / "results" / "flips.md"
WARM_UP_ITEMS = 4


@dataclass(frozen=True)
class Setting:
    """How requests are answered.

    Attributes:
        is_16_bit: in the dtype of the command line, else in float32.
        halves: requests are answered in two calls, as by two processes or after an interruption.
        shares: whether prompts share prefixes.
    """

    is_16_bit: bool
    batch_size: int | str = "auto"
    shuffled: bool = False
    halves: bool = False
    shares: bool = True
    deterministic: bool = False

    @property
    def name(self) -> str:
        """What a row of the table says."""
        more = {"shuffled": self.shuffled, "in two halves": self.halves, "nothing shared": not self.shares}
        return ", ".join([f"batch size {self.batch_size}", *(name for name, on in more.items() if on)])


def same_in_any(is_16_bit: bool, deterministic: bool) -> tuple[Setting, ...]:
    """Settings whose answers would be the same if nothing depended on what else is computed; the plain one first."""
    auto = Setting(is_16_bit, deterministic=deterministic)
    return (
        auto,
        Setting(is_16_bit, 1, shuffled=True, deterministic=deterministic),
        Setting(is_16_bit, 8, halves=True, deterministic=deterministic),
    )


SETTINGS = (
    *same_in_any(True, deterministic=True),
    *(Setting(True, size) for size in ("auto", 1, 8)),
    Setting(True, shuffled=True),
    Setting(True, halves=True),
    Setting(True, shares=False),
    *same_in_any(False, deterministic=False),
)


class TimedEngine:
    """An engine that answers as a setting says, and keeps what it answers.

    Attributes:
        seconds: of all calls.
        responses: of all calls, in the order of the requests.
    """

    def __init__(self, engine: InferenceEngine, setting: Setting) -> None:
        self.vlm, self.seconds = engine.vlm, 0.0
        self.responses: list[Any] = []
        self._engine, self._setting = engine, setting

    def answer(self, requests: Sequence[Request], title: str = "") -> list[Any]:
        """As `InferenceEngine.answer`."""
        order = list(range(len(requests)))
        if self._setting.shuffled:
            random.Random(0).shuffle(order)
        middle = len(order) // 2 if self._setting.halves else 0
        start, found = time.perf_counter(), {}
        with _sharing(self._setting.shares):
            for part in (order[:middle], order[middle:]):
                found |= dict(zip(part, self._engine.answer([requests[n] for n in part]), strict=True))
        self.seconds += time.perf_counter() - start
        self.responses += [found[n] for n in range(len(requests))]
        return self.responses[-len(requests) :]


@dataclass(frozen=True)
class Outcome:
    """What one checkpoint answers in a setting: per task samples and raw responses, and the time it takes."""

    samples: Mapping[str, Sequence[Sample]]
    responses: Mapping[str, Sequence[Any]]
    seconds: float


@contextmanager
def _sharing(shares: bool) -> Iterator[None]:
    def apart(sequences: Sequence[Sequence[int]], own: Sequence[int]) -> list[PackedSequence]:
        return one_row_per_sequence(sequences)

    if shares:
        yield
    else:
        with patch.object(packed_backend, "pack_with_prefixes", apart):
            yield


def answer(vlm: Any, tasks: Sequence[PlannedTask], setting: Setting) -> Outcome:
    """Answer all items of some tasks, with nothing stored before."""
    samples, responses, seconds = {}, {}, 0.0
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "answers.sqlite", "c") as store:
        engine = InferenceEngine(
            vlm, store, setting.batch_size, show_progress=False, deterministic=setting.deterministic
        )
        for task in tasks:
            timed = TimedEngine(engine, setting)
            samples[task.spec.id] = evaluate_task(task.spec, task.subtasks, timed).samples  # type: ignore[arg-type]
            responses[task.spec.id] = timed.responses
            seconds += timed.seconds
    return Outcome(samples, responses, seconds)


def flipped(samples: Sequence[Sample], others: Sequence[Sample]) -> int:
    """Number of items whose answer, a text or the likeliest option, is another."""
    return sum(a.answer != b.answer for a, b in zip(samples, others, strict=True))


def bits_differ(responses: Sequence[Any], others: Sequence[Any]) -> int:
    """Number of responses, texts or log-likelihoods, that are not bit for bit the same."""
    return sum(a != b for a, b in zip(responses, others, strict=True))


def greatest(responses: Sequence[Any], others: Sequence[Any]) -> float:
    """Greatest difference of a log-likelihood, in nats."""
    pairs = [(a[0], b[0]) for a, b in zip(responses, others, strict=True) if isinstance(a, tuple)]
    return max((abs(a - b) for a, b in pairs), default=0.0)


def joined(parts: Mapping[str, Sequence[Any]]) -> list[Any]:
    """What belongs to the tasks, one after the other."""
    return [one for part in parts.values() for one in part]


def share(count: int, n: int) -> str:
    """A share in percent with its 95 % interval (Wilson)."""
    low, high = binomtest(count, n).proportion_ci(method="wilson")
    return f"{100 * count / n:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def by_setting(found: Mapping[Setting, Outcome], reference: Setting, settings: Sequence[Setting]) -> list[list[Any]]:
    """Return a row for each setting: what differs from the reference over all tasks, and the time."""
    base, rows = found[reference], []
    for setting in settings:
        other = found[setting]
        samples, responses = joined(base.samples), joined(base.responses)
        count = flipped(samples, joined(other.samples))
        rows.append([
            setting.name, len(samples), count, share(count, len(samples)), len(responses),
            bits_differ(responses, joined(other.responses)), greatest(responses, joined(other.responses)),
            other.seconds / base.seconds,
        ])  # fmt: skip
    return rows


def by_task(found: Mapping[Setting, Outcome], reference: Setting, settings: Sequence[Setting]) -> list[list[Any]]:
    """Return a row for each task: answers that differ from the reference in each setting, and the share of the most."""
    rows = []
    for task, samples in found[reference].samples.items():
        counts = [flipped(samples, found[setting].samples[task]) for setting in settings]
        rows.append([task, len(samples), *counts, share(max(counts), len(samples))])
    return rows


def section(ckpt: str, found: Mapping[Setting, Outcome], dtype: str) -> str:
    """One checkpoint's tables."""
    fixed = [s for s in found if s.deterministic]
    plain = [s for s in found if s.is_16_bit and not s.deterministic]
    exact = [s for s in found if not s.is_16_bit]
    head = [
        "setting", "items", "other answers", "%, 95 % interval", "responses", "other bits", "greatest difference, nats",
        "time",
    ]  # fmt: skip

    def table(reference: Setting, settings: Sequence[Setting]) -> str:
        return tabulate(by_setting(found, reference, settings), head, tablefmt="github", floatfmt=".2g")

    tasks = tabulate(
        by_task(found, fixed[0], [*plain, exact[0]]),
        ["task", "items", *(s.name for s in plain), "float32", "most, %, 95 % interval"], tablefmt="github",
    )  # fmt: skip
    return (
        f"## {ckpt}\n\n`--deterministic` in {dtype}, against its batch size auto ({found[fixed[0]].seconds:.1f} s):\n\n"
        f"{table(fixed[0], fixed[1:])}\n\n{dtype} without it, against the same:\n\n{table(fixed[0], plain)}\n\n"
        f"float32, against its batch size auto:\n\n{table(exact[0], exact[1:])}\n\n"
        f"Answers that differ from those of `--deterministic`, by task:\n\n{tasks}\n"
    )


def measure(ckpt: str, given: argparse.Namespace) -> tuple[str, str]:
    """Return the tables of one checkpoint, and the device."""
    config = RunConfig(limit=given.items, device=given.device, data_root=given.data_root, skip_missing=True)
    run_plan = plan([ckpt], given.tasks, config)
    few = plan([ckpt], given.tasks, replace(config, limit=WARM_UP_ITEMS))
    found: dict[Setting, Outcome] = {}
    device = ""
    for is_16_bit in (True, False):
        vlm = load_vlm(run_plan.checkpoints[0], run_plan.config.device, given.dtype if is_16_bit else "float32")
        device = device_name(vlm.device)
        answer(vlm, few.tasks, Setting(is_16_bit))
        for setting in (s for s in SETTINGS if s.is_16_bit == is_16_bit):
            found[setting] = answer(vlm, run_plan.tasks, setting)
            print(ckpt, vlm.dtype, setting.name, "deterministic" * setting.deterministic,
                  f"{found[setting].seconds:.1f} s", flush=True)  # fmt: skip
    return section(ckpt, found, given.dtype), device


def page(sections: Sequence[str], device: str) -> str:
    """Markdown, of the checkpoints that are done."""
    return (
        f"# Answers that change with dtype, batches and order\n\n{datetime.now(timezone.utc):%Y-%m-%d}, {device}. "
        "Items are those of all tasks; a response is one log-likelihood or text, and has other bits if it is not the "
        "same to the last bit. Times are those of answering, relative to the reference of a table.\n\n"
        + "\n".join(sections)
        + f"\n`{report_header.command()}`\n\n{report_header.versions()}\n"
    )


def main() -> None:
    """Measure every setting and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", action="append", help="pocket/region and pocket/full if left out")
    parser.add_argument("--tasks", help="pocket if left out")
    parser.add_argument("--items", type=int, help="of each task; 48 if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--quick", action="store_true", help="one checkpoint, two tasks, 4 items of each, if left out")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--report", type=Path, default=RESULT)
    given = parser.parse_args()
    given.items = given.items or (4 if given.quick else 48)
    given.tasks = given.tasks or ("pocket_mme,pocket_facts" if given.quick else "pocket")
    ckpts = given.ckpt or ["pocket/region", *([] if given.quick else ["pocket/full"])]
    sections: list[str] = []
    for ckpt in ckpts:
        made, device = measure(ckpt, given)
        sections.append(made)
        given.report.parent.mkdir(parents=True, exist_ok=True)
        given.report.write_text(page(sections, device))
    print(given.report.read_text())


if __name__ == "__main__":
    main()
