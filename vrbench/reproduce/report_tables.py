"""The report's tables as texts: ours, and the published ones; the same rows in every format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vrbench.reporting.formatting import number, p_value
from vrbench.reproduce.claims import told
from vrbench.reproduce.layersets import LayerChoice
from vrbench.reproduce.orderings import PairwiseTest
from vrbench.reproduce.published import PublishedTable
from vrbench.reproduce.results import PlanResults, ResultRow
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import TABLES
from vrbench.training.profile_results import ProfileRow


@dataclass(frozen=True)
class ReportTable:
    """A table of texts.

    Attributes:
        title: what it is.
        headers: one a column; the first column holds names.
        rows: one text a column.
        caption: how it is to be read.
        source: where a published one is from; empty for ours.
        folded: whether a page that can fold shows only the title at first.
        missing: places of rows of which something is missing.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    source: str = ""
    folded: bool = False
    missing: frozenset[int] = frozenset()


def published(table: PublishedTable) -> ReportTable:
    """A published table with its source; figures with the digits that were published."""
    rows = tuple(tuple(c if isinstance(c, str) else f"{c:.2f}" for c in row) for row in table.rows)
    return ReportTable(f"Published: {table.title}; {table.model}", table.headers, rows, table.note, table.mark)


def ours(results: PlanResults, key: str) -> ReportTable:
    """A table's rows: what each keeps of the visual score and of the text, with intervals over items and seeds."""
    rows = results.rows.get(key, ())
    visual, text, ratios = results.pool("visual"), results.pool("text"), results.ratios()
    series = any(row.series for row in rows)
    headers = ("series",) * series + (_heading(key),)
    headers += ("visual score", "visual kept %", "each seed", "seeds' SD") if visual else ()
    headers += ("text score", "text, points") if text else ()
    headers += (*(f"{task} kept %" for task in ratios), "seeds")
    lines = []
    for row in rows:
        cells = (row.series,) * series + (row.label,)
        cells += _visual(results, row, visual) if visual else ()
        cells += (_score(results, row, text), _gained(results, row, text)) if text else ()
        cells += tuple(_kept(results, row, [task]) for task in ratios)
        lines.append((*cells, _seeds(row)))
    missing = frozenset(i for i, row in enumerate(rows) if row.missing)
    return ReportTable(f"Measured here: {TABLES[key].title.lower()}", headers, tuple(lines), "", missing=missing)


def _heading(key: str) -> str:
    return TABLES[key].x or {"strategies": "strategy", "text": "model"}.get(key, "row")


def _visual(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> tuple[str, ...]:
    found = results.kept(row, tasks)
    each = ", ".join(number(value, 1) for value in found.each.values()) if found else "-"
    scatter = number(found.scatter, 1) if found else "-"
    return _score(results, row, tasks), _kept(results, row, tasks), each, scatter


def _score(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> str:
    found = results.bootstrap.score(row.runs, tasks)
    return number(found.value, 1) if found else "-"


def _kept(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> str:
    if row.is_baseline:
        return "100"
    return shown(results.kept(row, tasks), 1)


def _gained(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> str:
    return "0" if row.is_baseline else shown(results.gained(row, tasks), 1, signed=True)


def shown(found: SeedEstimate | None, digits: int, signed: bool = False) -> str:
    """A figure with its interval; an asterisk where it is over items alone."""
    if found is None:
        return "-"
    return told(found, digits, "*" if len(found.each) == 1 else "", signed)


def _seeds(row: ResultRow) -> str:
    """How many seeds there are; and where some are missing, which steps are not done."""
    asked = len(row.pairs) + len(row.missing)
    if not row.missing:
        return str(asked)
    return f"{len(row.pairs)} of {asked}; not done: {', '.join(dict.fromkeys(row.missing.values()))}"


def by_task(results: PlanResults, key: str) -> ReportTable:
    """What each row keeps of each task."""
    rows = [row for row in results.rows.get(key, ()) if not row.is_baseline]
    tasks = (*results.pool("visual"), *results.pool("text"), *results.ratios())
    series = any(row.series for row in rows)
    headers = ("series",) * series + (_heading(key), *tasks)
    lines = tuple(
        (row.series,) * series + (row.label, *(_kept(results, row, [task]) for task in tasks)) for row in rows
    )
    return ReportTable("Measured here: kept of each task, %", headers, lines, folded=True)


def orderings(found: Sequence[PairwiseTest], title: str, folded: bool) -> ReportTable:
    """Pairs of rows, the better one first."""
    headers = ("better", "worse", "points", "seeds' SD", "p", "p (Holm)", "told apart")
    rows = tuple(
        (
            o.better,
            o.worse,
            shown(o.difference, 1, signed=True),
            number(o.difference.scatter, 1),
            p_value(o.difference.p),
            p_value(o.p_holm),
            "yes" if o.is_clear else "no",
        )
        for o in found
    )
    return ReportTable(title, headers, rows, folded=folded)


def layer_choices(found: Iterable[LayerChoice]) -> ReportTable:
    """Which layers each strategy took, seed by seed."""
    headers = ("strategy", "layers, seed by seed", "alike between seeds", "alike with sparse-uniform")
    rows = tuple((c.strategy, _each_seed(c), _alike(c.between_seeds), _alike(c.with_region)) for c in found)
    caption = (
        "Alike: layers in both sets as a share of those in either (Jaccard), mean over pairs of seeds, or over seeds."
    )
    return ReportTable("Measured here: the layers chosen", headers, rows, caption)


def _each_seed(choice: LayerChoice) -> str:
    texts = {seed: str(layers) for seed, layers in choice.layers.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"seed {seed}: {text}" for seed, text in texts.items())


def _alike(share: float | None) -> str:
    return "-" if share is None else number(share, 2)


def profile(rows: Sequence[ProfileRow]) -> list[ReportTable]:
    """Training steps and prefills, each with what is saved against the whole."""
    from vrbench.training.profile_results import profile_cells

    titles = {"train": "Measured here: a training step", "prefill": "Measured here: prefill"}
    found = [(titles[kind], cells) for kind, cells in profile_cells(rows).items() if cells]
    return [
        ReportTable(title, tuple(cells[0]), tuple(tuple(line.values()) for line in cells), _measured_on(rows))
        for title, cells in found
    ]


def _measured_on(rows: Sequence[ProfileRow]) -> str:
    devices = ", ".join(dict.fromkeys(row.device for row in rows if row.device))
    versions = dict.fromkeys(", ".join(f"{n} {v}" for n, v in sorted(row.versions.items())) for row in rows)
    return f"Random weights at true shapes; {devices}; {'; '.join(versions)}."
