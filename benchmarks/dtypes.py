"""Count the answers of one checkpoint that differ from float32's with bfloat16 and other batch sizes.

    python benchmarks/dtypes.py --ckpt pocket/region --tasks pocket_mme,pocket_facts --items 200 [--device cuda]

Writes benchmarks/results/dtypes.md, or the file that --report names.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from tabulate import tabulate

from benchmarks import report_header
from vrbench.core.schemas import Run
from vrbench.evaluation.evaluate import run_all
from vrbench.evaluation.run_config import RunConfig

RESULT = Path(__file__).parent / "results" / "dtypes.md"
REFERENCE = ("float32", 1)
OTHERS = (("float32", 7), ("float32", 64), ("bfloat16", 1), ("bfloat16", 7), ("bfloat16", 64))


def measure(given: argparse.Namespace, dtype: str, batch_size: int) -> Run:
    """One run in a folder of its own, so that no stored answer is taken for a new one."""
    with tempfile.TemporaryDirectory() as out:
        options = RunConfig(
            limit=given.items, dtype=dtype, batch_size=batch_size, out=Path(out), device=given.device,
            data_root=given.data_root,
        )  # fmt: skip
        (run,) = run_all([given.ckpt], given.tasks, options=options)
    return run


def rows(reference: Run, other: Run, setting: tuple[str, int]) -> list[list[object]]:
    """One row a task: items, answers that differ from the reference's, both scores."""
    made: list[list[object]] = []
    for task, samples in reference.samples.items():
        pairs = list(zip(samples, other.samples[task], strict=True))
        differ = sum(a.answer != b.answer for a, b in pairs)
        deepest = max((abs(x - y) for a, b in pairs for x, y in zip(a.loglikelihoods, b.loglikelihoods, strict=True)),
                      default=None)  # fmt: skip
        scores = [run.result(task).score for run in (reference, other)]
        made.append([*setting, task, len(pairs), differ, deepest, *(s.value for s in scores if s)])
    return made


def main() -> None:
    """Measure every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", default="pocket/region")
    parser.add_argument("--tasks", default="pocket_mme,pocket_facts")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--report", type=Path, default=RESULT)
    given = parser.parse_args()
    reference = measure(given, *REFERENCE)
    table = [row for other in OTHERS
             for row in rows(reference, measure(given, *other), other)]  # fmt: skip
    head = ["dtype", "batch size", "task", "items", "answers that differ", "greatest difference, nats",
            f"score at {REFERENCE[0]}, {REFERENCE[1]}", "score here"]  # fmt: skip
    text = (
        f"# Answers by compute type and batch size\n\n{given.ckpt}, against {REFERENCE[0]} with batch size "
        f"{REFERENCE[1]}. {datetime.now(timezone.utc):%Y-%m-%d}, {reference.record.provenance.device}.\n\n"
        + tabulate(table, head, tablefmt="github", floatfmt=".2g", missingval="")
        + f"\n\n`{report_header.command()}`\n\n{report_header.versions()}\n"
    )
    given.report.parent.mkdir(parents=True, exist_ok=True)
    given.report.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
