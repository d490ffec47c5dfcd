"""What `benchmarks/pruning.py` measured, as a table and a plot."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from tabulate import tabulate

from vrbench.pruning import removal_methods
from vrbench.pruning.removal_methods import gate_fisher, greedy, lazy_greedy, loss, one_shot

removal_methods.removal_method({"loss-once": one_shot}, "nats an answer")(loss)
removal_methods.removal_method({"gate-fisher-again": greedy}, "squared nats")(gate_fisher)

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
DASHES = ("-", "--", ":")
SHOWN = (1, 2, 4, 6, 8)
PASSES = {one_shot: "D/2", greedy: "N D/2", lazy_greedy: "D/2 + a few N"}


def agreement(one: dict[str, Any], singles: dict[str, float]) -> tuple[float, float]:
    """Spearman's and Kendall's correlation of a score with the measured loss without each layer alone."""
    if not one["scores"]:
        return float("nan"), float("nan")
    layers = sorted(one["scores"], key=int)
    both = [one["scores"][layer] for layer in layers], [singles[layer] for layer in layers]
    return float(spearmanr(*both).statistic), float(kendalltau(*both).statistic)


def cost(by: str) -> str:
    """Passes over the dev images that an order of N of D candidates takes."""
    if by not in removal_methods.REMOVAL_METHODS:
        return "2" if by in ("taylor", "fisher") else "1"
    method = removal_methods.REMOVAL_METHODS[by]
    if method.measure is gate_fisher:
        return "2" if method.search is one_shot else "2 N"
    return PASSES[method.search]


def report(found: dict[str, Any], plot: str) -> str:
    """Markdown: one table a checkpoint, the plot, and how it was measured."""
    lines = [
        "# Which score says best what removing layers costs?",
        "",
        f"Orders are chosen on {found['pictures']} dev pictures and judged on {found['judged']} others, with up to "
        f"{found['turns']} questions each. Nothing is healed. Loss: nats an answer, of the right answers; right: % of "
        "the questions that greedy decoding answers rightly; in brackets 95 % intervals, by bootstrap over pictures. "
        "rho, tau: Spearman's and Kendall's correlation with the measured loss without each layer alone, on the judged "
        "pictures. Passes: forward passes through all layers over the dev pictures (a backward pass counts as one), "
        "for N layers to remove and D to choose from.",
        "",
        f"![Dev loss against layers removed]({plot})",
    ]
    for one in found["checkpoints"]:
        outside = f", outside the region ({len(one['candidates'])} layers may go)" if one["region"] else ""
        lines += ["", f"## {one['checkpoint']}{outside}", ""]
        lines += ["Loss of the right answers:", "", _table(one, "loss", 1, found), ""]
        lines += ["Questions answered rightly, %:", "", _table(one, "right", 100, found), ""]
    summaries = removal_methods.removal_criteria()
    lines += ["## The scores", "", *(f"- `{by}`: {summaries[by]}" for by in found["checkpoints"][0]["scores"])]
    return "\n".join([*lines, "", _made(found), ""])


def _made(found: dict[str, Any]) -> str:
    sizes = f"--pictures {found['pictures']} --judged {found['judged']} --turns {found['turns']}"
    names = " ".join(one["checkpoint"] for one in found["checkpoints"])
    packages = f"torch {found['torch']}, transformers {found['transformers']}"
    commit = found["commit"][:12] or "of no commit"
    beside = f" The seconds are of {found['beside']} processes that shared it." if found["beside"] > 1 else ""
    return (
        f"`python -m benchmarks.pruning --ckpt {names} {sizes}` on {found['device']}, float32, vrbench {commit}, "
        f"{packages}.{beside}"
    )


def _table(one: dict[str, Any], column: str, scale: int, found: dict[str, Any]) -> str:
    most = max(len(score["sets"]) for score in one["scores"].values()) - 1
    shown = [n for n in SHOWN if n <= most]
    rows = []
    for by, score in one["scores"].items():
        rho, tau = agreement(score, one["singles"])
        head = [f"`{by}`", cost(by), f"{score['seconds']:.0f}", _number(rho), _number(tau)]
        rows.append(head + [_cell(score["judged"], n, column, scale) for n in shown])
    whole = _cell(next(iter(one["scores"].values()))["judged"], 0, column, scale)
    headers = ["by", "passes", "seconds", "rho", "tau", *(f"-{n}" for n in shown)]
    return f"{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}\n\nWith all layers: {whole}."


def _cell(judged: list[dict[str, Any]], removed: int, column: str, scale: int) -> str:
    if removed >= len(judged):
        return "-"
    value, low, high = (scale * v for v in judged[removed][column])
    digits = 2 if scale == 1 else 1
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def picture(found: dict[str, Any]) -> bytes:
    """PNG: dev loss, on a logarithmic scale, against layers removed; a line a score, a panel a checkpoint."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        panels = found["checkpoints"]
        figure = Figure(figsize=(6.2 * len(panels), 4.6), layout="constrained")
        for axes, one in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
            for number, (by, score) in enumerate(one["scores"].items()):
                _line(axes, number, by, score)
            axes.set_title(one["checkpoint"] + (", outside the region" if one["region"] else ""))
            axes.set(xlabel="layers removed", yscale="log")
            axes.grid(alpha=0.3)
        figure.axes[0].set_ylabel("loss of right answers on dev pictures, nats an answer")
        figure.axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        FigureCanvasAgg(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return stream.getvalue()


def _line(axes: Any, number: int, by: str, score: dict[str, Any]) -> None:
    points: NDArray[np.float64] = np.array([judged["loss"] for judged in score["judged"]])
    removed = [len(one) for one in score["sets"]]
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS)]
    axes.plot(removed, points[:, 0], dash, color=colour, label=by, marker="o", markersize=3, linewidth=1.4)
    axes.fill_between(removed, points[:, 1], points[:, 2], color=colour, alpha=0.1, linewidth=0)
