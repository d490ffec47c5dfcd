"""Curves of a training: loss, rate and gradient norm of every step as a table and a plot, and experiment trackers."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.io import write_atomically
from vrbench.reporting.plot_style import COLOURS, encode_figure, new_panels, series_style, use_theme
from vrbench.training.checkpoint_folder import is_first

if TYPE_CHECKING:
    from transformers import TrainerCallback

TRACKERS = ("tensorboard", "wandb")
"""Experiment trackers, each a module and an extra of that name, through transformers' integrations."""

AXES = {"loss": "loss, nats", "rate": "learning rate", "gradient_norm": "gradient norm"}
"""Curve -> label of its axis."""


@dataclass(frozen=True)
class Reporting:
    """Where the curves of a training go.

    Attributes:
        folder: gets `LABEL-curves.csv` and `LABEL-curves.png` for each stage, and `LABEL-scores.csv` where the model is
            evaluated; none writes none of them.
        trackers: of `TRACKERS`; TensorBoard's files go to `tensorboard/LABEL` in the folder.
        name: of the run, in W&B.
    """

    folder: Path | None = None
    trackers: Sequence[str] = ()
    name: str = ""

    def callbacks(self, label: str) -> list[TrainerCallback]:
        """Return the trackers of a stage; only the first process has any."""
        if not is_first() or not self.trackers:
            return []
        from transformers.integrations import TensorBoardCallback, WandbCallback

        made: list[TrainerCallback] = [WandbCallback()] if "wandb" in self.trackers else []
        if "tensorboard" in self.trackers:
            from torch.utils.tensorboard import SummaryWriter

            folder = (self.folder or Path()) / "tensorboard" / label
            made.append(TensorBoardCallback(SummaryWriter(log_dir=str(folder))))
        return made

    def write(self, label: str, curves: Mapping[str, Sequence[float]]) -> None:
        """Write the table and the plot of a stage.

        Args:
            label: of the stage.
            curves: key of `AXES` -> value at each step.
        """
        if self.folder is None:
            return
        columns = ([f"{value:.6g}" for value in values] for values in curves.values())
        rows = [[str(step), *row] for step, row in enumerate(zip(*columns, strict=True), start=1)]
        write_atomically(self.folder / f"{label}-curves.csv", _table(["step", *curves], rows))
        write_atomically(self.folder / f"{label}-curves.png", draw_curves(curves, self._scores(label)))

    def _scores(self, label: str) -> list[tuple[int, str, float]]:
        """Return step, task and score of a stage's evaluations so far."""
        file = self.folder / f"{label}-scores.csv" if self.folder else None
        if file is None or not file.is_file():
            return []
        return [
            (int(step), task, float(score)) for step, task, score in [*csv.reader(file.read_text().splitlines())][1:]
        ]

    def add_scores(self, label: str, step: int, scores: Mapping[str, float]) -> None:
        """Add the scores of an evaluation to the stage's table."""
        self._write_scores(label, [*self._scores(label), *((step, task, score) for task, score in scores.items())])

    def forget_scores(self, label: str, after: int) -> None:
        """Remove the scores after a step, which a resumed training will get again."""
        self._write_scores(label, [row for row in self._scores(label) if row[0] <= after])

    def _write_scores(self, label: str, rows: Sequence[tuple[int, str, float]]) -> None:
        if self.folder is not None:
            cells = [[str(step), task, f"{score:.6g}"] for step, task, score in rows]
            write_atomically(self.folder / f"{label}-scores.csv", _table(["step", "task", "score"], cells))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


NO_REPORTS = Reporting()


def tracker_errors(names: Sequence[str]) -> list[str]:
    """Return why trackers cannot be used, one message each; empty when all can."""
    errors = []
    for name in dict.fromkeys(names):
        if name not in TRACKERS:
            errors.append(f"tracker {name!r} is unknown; there are {', '.join(TRACKERS)}")
        elif importlib.util.find_spec(name) is None:
            errors.append(f"{name} is not installed; pip install 'vrbench[{name}]' adds it")
    return errors


def draw_curves(curves: Mapping[str, Sequence[float]], scores: Sequence[tuple[int, str, float]] = ()) -> bytes:
    """Draw curves below each other, over the steps, and the scores (step, task, score) below them; returns a PNG."""
    count = len(curves) + bool(scores)
    with use_theme():
        figure, panels = new_panels(8.2, 1.9 * count + 0.4, count, 1, sharex=True)
        for (name, values), (axes,), colour in zip(curves.items(), panels, COLOURS, strict=False):
            axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.1)
            axes.set_ylabel(AXES[name])
        lowest = panels[-1][0]
        for place, task in enumerate(dict.fromkeys(task for _, task, _ in scores)):
            steps, values = zip(*((step, score) for step, of, score in scores if of == task), strict=True)
            lowest.plot(steps, values, label=task, markersize=4, linewidth=1.1, **series_style(place))
        if scores:
            lowest.set_ylabel("score, dev items")
            lowest.legend(frameon=False)
        for (axes,) in panels:
            axes.grid(linewidth=0.6)
        lowest.set_xlabel("step")
        return encode_figure(figure, "png")
