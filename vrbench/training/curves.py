"""Curves of a training: loss, rate and gradient norm of every step as a table and a plot, and experiment trackers."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.io import write_atomically
from vrbench.reporting.plot_style import COLOURS, encode_figure, new_panels, use_theme
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
        folder: gets `LABEL-curves.csv` and `LABEL-curves.png` for each stage; none writes neither.
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
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["step", *curves])
        columns = ([f"{value:.6g}" for value in values] for values in curves.values())
        table.writerows([step, *row] for step, row in enumerate(zip(*columns, strict=True), start=1))
        write_atomically(self.folder / f"{label}-curves.csv", text.getvalue())
        write_atomically(self.folder / f"{label}-curves.png", draw_curves(curves))


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


def draw_curves(curves: Mapping[str, Sequence[float]]) -> bytes:
    """Draw curves below each other, over the steps; returns a PNG."""
    with use_theme():
        figure, panels = new_panels(8.2, 1.9 * len(curves) + 0.4, len(curves), 1, sharex=True)
        for (name, values), (axes,), colour in zip(curves.items(), panels, COLOURS, strict=False):
            axes.plot(range(1, len(values) + 1), values, color=colour, linewidth=1.1)
            axes.set_ylabel(AXES[name])
            axes.grid(linewidth=0.6)
        panels[-1][0].set_xlabel("step")
        return encode_figure(figure, "png")
