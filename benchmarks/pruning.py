"""Compare importance scores by the cost of removing layers in their order, measured on other dev images.

    python -m benchmarks.pruning --work DIR [--ckpt pocket/full pocket/region] [--num-images 400] [--device cuda]

Layers are removed in each score's order, without further training: layers outside the region, or any layer if all were
tuned. Finished measurements in DIR are not repeated. Writes benchmarks/results/pruning.md, .json and .png (--out NAME:
another name); --report-only writes them from the JSON file. Several processes with different scores or checkpoints can
share DIR; --beside records in the report how many shared the device. Test items are not used.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.pruning_report import picture, report
from vrbench.core.device import device_name, resolve_device
from vrbench.core.io import digest_of, write_atomically
from vrbench.core.provenance import commit_of, package_version
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.hidden_states import block_distances
from vrbench.pruning.loss_evaluator import AnswerLosses, LossEvaluator
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.removable_layers import RemovableLayers
from vrbench.pruning.removal_methods import BLOCK, BLOCKS, PRUNEME_BLOCK, REMOVAL_METHODS, removal_criteria
from vrbench.pruning.removal_order import removal_order
from vrbench.pruning.samples import Samples
from vrbench.statistics.resampling import resample

JUDGED_FROM = 10_000
"""Number of the first dev image on which orders are judged; they are chosen on images from 0 on."""

DRAWS = 2000
SCORES = (*REMOVAL_METHODS, "taylor", "angular", "block-influence", "multimodal-block-influence", BLOCK)
RESULTS = Path(__file__).parent / "results"


class Subject:
    """One checkpoint, with what was measured of it in the work folder."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.checkpoint = resolve_checkpoint(name)
        self.given = given
        self.outside = len(self.checkpoint.origins.tuned) < self.checkpoint.depth  # else no layer might go
        self.candidates = RemovableLayers.for_checkpoint(self.checkpoint, self.outside)

    @cached_property
    def vlm(self) -> Any:
        return load_vlm(self.checkpoint, resolve_device(self.given.device), "float32")

    @cached_property
    def judge(self) -> LossEvaluator:
        return LossEvaluator(self.vlm, DevQuestions(self.given.judged, self.given.turns, JUDGED_FROM))

    def kept(self, what: list[Any], measure: Callable[[], Any]) -> Any:
        """What was measured of it before, or is measured now; JSON."""
        key = digest_of([self.checkpoint.digest, *what])[:24]
        file = self.given.work / f"{key}.json"
        if not file.is_file():
            started = time.monotonic()
            value = measure()
            seconds = round(time.monotonic() - started, 1)
            write_atomically(file, json.dumps({"of": [self.checkpoint.id, *what], "seconds": seconds, "value": value}))
            print(f"{self.checkpoint.id}: {what} in {seconds} s", flush=True)
        return json.loads(file.read_text())

    def removals(self, by: str) -> dict[str, Any]:
        """The sets that a score removes, [[], [layer], ...], what each candidate scored alone, and the seconds."""
        pictures, turns = self.given.pictures, self.given.turns
        found = self.kept(["order", by, pictures, turns, self.given.most], lambda: self._removals(by))
        return {**found["value"], "seconds": found["seconds"]}

    def _removals(self, by: str) -> dict[str, Any]:
        most, pictures, turns = self.given.most, self.given.pictures, self.given.turns
        if by in BLOCKS:
            samples, is_pruneme = Samples(self.vlm, DevQuestions(pictures, turns)), by == PRUNEME_BLOCK
            distances = block_distances(samples, most, final_norm=is_pruneme)
            blocks = (self._block(of_length, with_first=not is_pruneme) for of_length in distances)
            return {"sets": [[], *filter(None, blocks)], "scores": {}}
        order = removal_order(
            self.checkpoint, by, most, outside_region=self.outside, questions=DevQuestions(pictures, turns),
            device=self.given.device,
        )  # fmt: skip
        sets = [list(order.order[:n]) for n in range(len(order.order) + 1)]
        return {"sets": sets, "scores": {str(i): order.scores[i] for i in self.candidates.layers}}

    def _block(self, distances: Sequence[float], with_first: bool) -> list[int]:
        """Of all blocks of some length, by first layer, the one that turns states least; none when none may go."""
        length = self.checkpoint.depth - len(distances) + 1
        first = min(self.candidates.blocks(length, with_first), key=distances.__getitem__, default=None)
        return [] if first is None else [*range(first, first + length)]

    def judged(self, removed: Sequence[int]) -> dict[str, list[float]]:
        """Loss and share of right answers, each with its interval, without some layers."""
        what = ["judged", sorted(removed), self.given.judged, self.given.turns]
        return self.kept(what, lambda: intervals(self.judge.answers(sorted(removed)), self.judge.image_of))["value"]

    def singles(self) -> dict[str, float]:
        """Layer -> the loss without it alone, which scores are to predict."""

        def measure() -> Any:
            found = self.judge.without_each([], self.candidates.layers)
            return {str(layer): answers.mean for layer, answers in found.items()}

        return self.kept(["singles", self.given.judged, self.given.turns], measure)["value"]

    def record(self) -> dict[str, Any]:
        """All that the report needs of it."""
        scores = {by: self.removals(by) for by in self.given.by}
        for one in scores.values():
            one["judged"] = [self.judged(removed) for removed in one["sets"]]
        return {
            "checkpoint": self.checkpoint.id, "digest": self.checkpoint.digest, "depth": self.checkpoint.depth,
            "candidates": list(self.candidates.layers), "region": list(self.candidates.region),
            "scores": scores, "singles": self.singles(),
        }  # fmt: skip


def intervals(answers: AnswerLosses, image_of: NDArray[np.int64]) -> dict[str, list[float]]:
    """Mean over questions, and the ends of its 95 % interval: percentiles over images drawn with replacement."""
    _, place = np.unique(image_of, return_inverse=True)
    columns = [np.bincount(place, column) for column in (answers.losses, answers.correct, np.ones(len(image_of)))]
    table = np.array(columns).T
    drawn = resample(table, DRAWS, np.random.default_rng(0))
    found = {}
    for column, name in enumerate(("loss", "right")):
        value = table[:, column].sum() / table[:, 2].sum()
        found[name] = [float(value), *np.quantile(drawn[:, column] / drawn[:, 2], [0.025, 0.975]).tolist()]
    return found


def main() -> None:
    """Measure what is not there, then write and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of finished measurements")
    parser.add_argument("--ckpt", nargs="+", default=["pocket/full", "pocket/region"])
    parser.add_argument("--by", nargs="+", default=list(SCORES), choices=removal_criteria(), metavar="NAME")
    parser.add_argument("--num-images", dest="pictures", type=int, default=400, help="dev images for the scores")
    parser.add_argument("--pictures", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--judged", type=int, help="dev images for the evaluation; default: the same number")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--max-layers", dest="most", type=int, default=8, help="maximum number of removed layers")
    parser.add_argument("--most", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--beside", type=int, default=1, help="number of processes that shared the device")
    parser.add_argument("--out", type=Path, default=RESULTS / "pruning", help="files to write, without suffix")
    parser.add_argument("--report-only", action="store_true")
    given = parser.parse_args()
    stored = given.out.with_suffix(".json")
    if not given.report_only:
        if given.work is None:
            parser.error("--work is needed, so that nothing is measured twice")
        given.judged = given.judged or given.pictures
        subjects = [Subject(name, given) for name in given.ckpt]
        found = {
            "pictures": given.pictures, "judged": given.judged, "turns": given.turns,
            "beside": given.beside, "device": device_name(subjects[0].vlm.device), "torch": package_version("torch"),
            "transformers": package_version("transformers"), "commit": commit_of(RESULTS.parents[1])[0],
            "checkpoints": [subject.record() for subject in subjects],
        }  # fmt: skip
        write_atomically(stored, json.dumps(found) + "\n")
    found = json.loads(stored.read_text())
    text = report(found, given.out.with_suffix(".png").name)
    write_atomically(given.out.with_suffix(".md"), text)
    given.out.with_suffix(".png").write_bytes(picture(found))
    print(text)


if __name__ == "__main__":
    main()
