"""The report's tables as texts, the same rows in every format: what was measured, and what was published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from vrbench.core.layers import LayerSet, sparse_uniform
from vrbench.reporting.formatting import number, p_value
from vrbench.reproduce.claims import with_interval
from vrbench.reproduce.results import PlanResults, ResultRow
from vrbench.reproduce.seed_estimate import SeedEstimate
from vrbench.reproduce.tables import PUBLISHED, REGION, SOURCES, TABLES, PublishedTable
from vrbench.statistics import bootstrap


@dataclass(frozen=True)
class ReportTable:
    """A table of texts.

    Attributes:
        title: what it shows.
        headers: one a column; the first column holds names.
        rows: one text a column.
        caption: how to read it.
        source: where a published one is from; empty for a measured one.
        folded: whether a page that can fold shows only the title at first.
        incomplete: indices of rows that lack a seed.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    source: str = ""
    folded: bool = False
    incomplete: frozenset[int] = frozenset()


def report_tables(results: PlanResults, key: str) -> tuple[ReportTable, ...]:
    """Return the tables of a section: measured ones first, then published ones, then details."""
    published = [_published(PUBLISHED[name]) for name in TABLES[key].published]
    if key == "profile":
        return (*_profile(results), *published)
    details = _strategies(results) if key == "strategies" else ()
    return (_measured(results, key), *published, *details, _by_task(results, key))


def _published(table: PublishedTable) -> ReportTable:
    rows = tuple(tuple(c if isinstance(c, str) else f"{c:.2f}" for c in row) for row in table.rows)
    source = "; ".join(f"{letter}: {SOURCES[letter]}" for letter in table.source.split(", "))
    return ReportTable(f"Published: {table.title}; {table.model}", table.headers, rows, table.note, source)


def _measured(results: PlanResults, key: str) -> ReportTable:
    """Return the table of visual and text retention of each row, with intervals over items and seeds."""
    rows = results.rows.get(key, ())
    visual, text, perplexities = results.pool("visual"), results.pool("text"), results.perplexities()
    headers = _name_headers(rows, key)
    headers += ("visual score", "visual kept %", "each seed", "seeds' SD") if visual else ()
    headers += ("text score", "text, points") if text else ()
    headers += (*(f"{task} kept %" for task in perplexities), "seeds")
    lines = []
    for row in rows:
        cells = _names(rows, row)
        if visual:
            found = results.retention(row, visual)
            each = ", ".join(number(value, 1) for value in found.each.values()) if found else "-"
            sd = number(found.sd if found else None, 1)
            cells += (_score(results, row, visual), _kept(results, row, visual), each, sd)
        if text:
            difference = "0" if row.is_baseline else _estimate(results.difference(row, text), signed=True)
            cells += (_score(results, row, text), difference)
        lines.append((*cells, *(_kept(results, row, [task]) for task in perplexities), _seeds(row)))
    incomplete = frozenset(i for i, row in enumerate(rows) if row.missing)
    title = f"Measured here: {TABLES[key].title.lower()}"
    return ReportTable(title, headers, tuple(lines), incomplete=incomplete)


def _name_headers(rows: Sequence[ResultRow], key: str) -> tuple[str, ...]:
    heading = TABLES[key].x or {"strategies": "strategy", "text": "model"}.get(key, "row")
    return ("series", heading) if any(row.series for row in rows) else (heading,)


def _names(rows: Sequence[ResultRow], row: ResultRow) -> tuple[str, ...]:
    return (row.series, row.label) if any(row.series for row in rows) else (row.label,)


def _score(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> str:
    found = results.bootstrap.score(row.runs, tasks)
    return number(found.value if found else None, 1)


def _kept(results: PlanResults, row: ResultRow, tasks: Sequence[str]) -> str:
    return "100" if row.is_baseline else _estimate(results.retention(row, tasks))


def _estimate(found: SeedEstimate | None, signed: bool = False) -> str:
    """Return a value with its interval; an asterisk where it is over items alone."""
    return "-" if found is None else with_interval(found, 1, "*" if len(found.each) == 1 else "", signed)


def _seeds(row: ResultRow) -> str:
    """Return the number of seeds; where some are missing, also the steps that are not done."""
    total = len(row.pairs) + len(row.missing)
    if not row.missing:
        return str(total)
    return f"{len(row.pairs)} of {total}; not done: {', '.join(dict.fromkeys(row.missing.values()))}"


def _by_task(results: PlanResults, key: str) -> ReportTable:
    """Return the table of each row's retention of each task."""
    every = results.rows.get(key, ())
    rows = [row for row in every if not row.is_baseline]
    tasks = (*results.pool("visual"), *results.pool("text"), *results.perplexities())
    lines = tuple((*_names(rows, row), *(_kept(results, row, [task]) for task in tasks)) for row in rows)
    return ReportTable("Measured here: kept of each task, %", (*_name_headers(rows, key), *tasks), lines, folded=True)


def _strategies(results: PlanResults) -> Iterator[ReportTable]:
    """Yield the tables of pairwise tests of strategies, and of the layers that each tuned."""
    rows = [row for row in results.rows["strategies"] if not row.is_baseline and row.pairs]
    tasks = results.pool("visual")
    region = next((row for row in rows if row.label == REGION), None)
    if region is not None and len(rows) > 1:
        tests = pairwise_tests(results, [(region, row) for row in rows if row is not region], tasks)
        title = f"Measured here: {REGION} against each of the others, points of the visual score"
        yield _pairwise(tests, title, folded=False)
    tests = pairwise_tests(results, list(combinations(rows, 2)), tasks)
    if len(tests) > 1:
        clear = sum(test.is_significant for test in tests)
        title = f"Measured here: every pair; {clear} of {len(tests)} differ significantly (5 %, Holm's correction)"
        yield _pairwise(tests, title, folded=True)
    if found := results.strategy_layers():
        headers = ("strategy", "layers, seed by seed", "similarity between seeds", "similarity to sparse-uniform")
        chosen = found.get(REGION, {})
        figures = {
            name: (similarity_between_seeds(sets), similarity_to_region(sets, chosen)) for name, sets in found.items()
        }
        lines = tuple(
            (name, _each_seed(sets), *(number(value, 2) for value in figures[name])) for name, sets in found.items()
        )
        caption = (
            "Similarity: layers in both sets as a share of those in either (Jaccard), mean over pairs of seeds, or "
            "over seeds."
        )
        yield ReportTable("Measured here: the tuned layers", headers, lines, caption)


@dataclass(frozen=True)
class PairwiseTest:
    """Two rows of a table.

    Attributes:
        better: label of the one with the higher score.
        worse: label of the other.
        difference: in points of the mean over tasks, at least 0.
        p_holm: p adjusted over all tests of the table.
    """

    better: str
    worse: str
    difference: SeedEstimate
    p_holm: float

    @property
    def is_significant(self) -> bool:
        """Whether the two differ at the 5 % level."""
        return self.p_holm < 0.05


def pairwise_tests(
    results: PlanResults, pairs: Iterable[tuple[ResultRow, ResultRow]], tasks: tuple[str, ...]
) -> list[PairwiseTest]:
    """Test pairs of rows, seed by seed on the same items; Holm's correction is over these pairs."""
    found = []
    for one, other in pairs:
        both = {seed: (run, other.runs[seed]) for seed, run in one.runs.items() if seed in other.runs}
        difference = results.bootstrap.difference(both, tasks)
        if difference is not None and difference.value < 0:
            one, other = other, one
            difference = results.bootstrap.difference({seed: (b, a) for seed, (a, b) in both.items()}, tasks)
        if difference is not None and difference.p is not None:
            found.append((one.label, other.label, difference))
    adjusted = bootstrap.holm([float(d.p or 0.0) for _, _, d in found])
    return [PairwiseTest(*parts, p_holm=p) for parts, p in zip(found, adjusted, strict=True)]


def _pairwise(tests: Sequence[PairwiseTest], title: str, folded: bool) -> ReportTable:
    headers = ("better", "worse", "points", "seeds' SD", "p", "p (Holm)", "significant")
    rows = tuple(
        (test.better, test.worse, _estimate(test.difference, signed=True), number(test.difference.sd, 1),
         p_value(test.difference.p), p_value(test.p_holm), "yes" if test.is_significant else "no")
        for test in tests
    )  # fmt: skip
    return ReportTable(title, headers, rows, folded=folded)


def similarity_between_seeds(layers: Mapping[int, LayerSet]) -> float | None:
    """Return the mean Jaccard index over pairs of seeds; None with one seed."""
    return fmean(found) if (found := [jaccard(a, b) for a, b in combinations(layers.values(), 2)]) else None


def similarity_to_region(layers: Mapping[int, LayerSet], region: Mapping[int, LayerSet]) -> float:
    """Return the mean Jaccard index, over seeds, with the seed's region, or with as many layers spread evenly."""
    return fmean(jaccard(own, region.get(seed) or sparse_uniform(len(own), own.depth)) for seed, own in layers.items())


def jaccard(a: LayerSet, b: LayerSet) -> float:
    """Return the layers in both sets as a share of those in either (Jaccard 1901)."""
    both, either = set(a) & set(b), set(a) | set(b)
    return len(both) / len(either) if either else 1.0


def _each_seed(found: Mapping[int, LayerSet]) -> str:
    texts = [str(layers) for layers in found.values()]
    return texts[0] if len({*texts}) == 1 else "; ".join(f"seed {s}: {t}" for s, t in zip(found, texts, strict=True))


def _profile(results: PlanResults) -> Iterator[ReportTable]:
    """Yield the tables of training steps and prefills, each with the savings against the whole model."""
    from vrbench.training.profile_results import profile_cells

    devices = ", ".join(dict.fromkeys(row.device for row in results.profile if row.device))
    versions = (", ".join(f"{n} {v}" for n, v in sorted(row.versions.items())) for row in results.profile)
    caption = f"Random weights at true shapes; {devices}; {'; '.join(dict.fromkeys(versions))}."
    titles = {"train": "Measured here: a training step", "prefill": "Measured here: prefill"}
    for kind, cells in profile_cells(results.profile).items():
        if cells:
            yield ReportTable(titles[kind], tuple(cells[0]), tuple(tuple(line.values()) for line in cells), caption)
