"""Which items a limit chooses: spread over strata, by seed, and no unit is ever broken."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrbench.core.errors import VrbenchError
from vrbench.data.sampling import select
from vrbench.tasks import registry
from vrbench.tasks.item_keys import identify
from vrbench.tasks.spec import DataSource, TaskSpec

Loaded = dict[str, dict[str, list[dict[str, Any]]]]


class Rows(list[dict[str, Any]]):
    """Rows in memory, with what choosing needs of a `Dataset`."""

    @property
    def column_names(self) -> list[str]:
        return list(self[0]) if self else []

    def select_columns(self, names: list[str]) -> Rows:
        return Rows({name: row[name] for name in names} for row in self)


def task(configs: tuple[str, ...], **keys: str) -> TaskSpec:
    """A task over hub data with some configs."""
    about: Any = {"id": "made", "suites": ("made",), "title": "", "harness": "lm-eval", "scorer": "multiple_choice"}
    about |= {"harness_task": "a/{config}.yaml", "metric": "mean", "chance": 25, "n": 8, "version": "1"}
    return TaskSpec(**about, data=DataSource(kind="hub", name="o/n", config=configs), **keys)


def loaded(sizes: dict[str, list[dict[str, Any]]]) -> Any:
    return {config: {"test": Rows(rows)} for config, rows in sizes.items()}


SUBJECTS = registry.load()["mmlu"].data.config
EXAM = loaded({subject: [{"subject": subject}] * (8 + 5 * (i % 9)) for i, subject in enumerate(SUBJECTS)})
MMLU = task(SUBJECTS, group="subject")


@pytest.mark.parametrize(("limit", "least", "most"), [(57, 1, 1), (100, 1, 2), (114, 2, 2), (456, 8, 8)])
def test_57_subjects_get_the_same_number_of_items(limit: int, least: int, most: int) -> None:
    sizes = {config: len(chosen) for config, chosen in select(EXAM, MMLU, limit).items()}
    assert sum(sizes.values()) == limit and len(sizes) == 57
    assert (min(sizes.values()), max(sizes.values())) == (least, most)


def test_a_subject_that_is_used_up_leaves_its_place_to_the_others() -> None:
    sizes = {config: len(chosen) for config, chosen in select(EXAM, MMLU, 570).items()}
    small = {config for config in SUBJECTS if len(EXAM[config]["test"]) == 8}
    assert sum(sizes.values()) == 570
    assert all(sizes[config] == 8 for config in small)
    assert {sizes[config] for config in SUBJECTS if config not in small} == {10, 11}


def test_groups_of_the_same_name_in_several_configs_are_strata_of_their_own() -> None:
    rows = {"en": [{"kind": "a"}] * 30 + [{"kind": "b"}] * 30, "cn": [{"kind": "a"}] * 30}
    chosen = select(loaded(rows), task(("en", "cn"), group="kind"), 30)
    assert len(chosen["cn"]) == 10
    assert Counter(rows["en"][p]["kind"] for p in chosen["en"]) == {"a": 10, "b": 10}


def test_the_seed_decides_which_subjects_a_small_limit_reaches() -> None:
    first, second = (set(select(EXAM, MMLU, 5, seed)) for seed in (1, 2))
    assert len(first) == len(second) == 5 and first != second


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(VrbenchError, match=f"limit is {limit}"):
        select(EXAM, MMLU, limit)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Any, TaskSpec]:
    """Configs with rows in groups and units of any size, in any order."""
    configs = tuple(f"c{i}" for i in range(draw(st.integers(1, 4))))
    row = st.fixed_dictionaries({"kind": st.sampled_from("xyz"), "pair": st.integers(0, 6)})
    rows = {config: draw(st.lists(row, min_size=1, max_size=14)) for config in configs}
    keys = draw(st.sampled_from([{}, {"group": "kind"}, {"unit": "pair"}, {"group": "kind", "unit": "pair"}]))
    return loaded(rows), task(configs, **keys)


def units(made: Any, spec: TaskSpec) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """(group, unit), which is what the metrics hold together -> places of its items."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for config, parts in made.items():
        for position, row in enumerate(parts["test"]):
            item = identify(spec, row, config, position)
            found.setdefault((item.group, item.unit), []).append((config, position))
    return found


@settings(max_examples=50, deadline=None)
@given(tables(), st.integers(1, 60), st.integers(0, 3))
def test_no_unit_is_broken_and_the_limit_is_kept(made: tuple[Any, TaskSpec], limit: int, seed: int) -> None:
    rows, spec = made
    chosen = {(config, p) for config, positions in select(rows, spec, limit, seed).items() for p in positions}
    together = units(rows, spec)
    for places in together.values():
        assert len(chosen.intersection(places)) in (0, len(places))
    total, largest = sum(map(len, together.values())), max(map(len, together.values()))
    assert 1 <= len(chosen) <= max(limit, largest)
    assert len(chosen) > min(limit, total) - largest
    assert select(rows, spec, limit, seed) == select(rows, spec, limit, seed)


@settings(max_examples=50, deadline=None)
@given(tables(), st.integers(1, 40), st.integers(0, 3))
def test_a_smaller_limit_is_a_part_of_a_larger(made: tuple[Any, TaskSpec], limit: int, seed: int) -> None:
    rows, spec = made
    small, large = select(rows, spec, limit, seed), select(rows, spec, limit + 1, seed)
    assert all(set(positions) <= set(large[config]) for config, positions in small.items())


@settings(max_examples=50, deadline=None)
@given(tables(), st.integers(1, 60), st.integers(0, 3))
def test_strata_differ_by_one_unit_unless_one_is_used_up(made: tuple[Any, TaskSpec], limit: int, seed: int) -> None:
    rows, spec = made
    chosen = {(config, p) for config, positions in select(rows, spec, limit, seed).items() for p in positions}
    all_, taken = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for (group, _), places in units(rows, spec).items():
        stratum = places[0][0], group
        all_[stratum] += 1
        taken[stratum] += places[0] in chosen
    most = max(taken.values())
    assert all(taken[stratum] >= min(most - 1, number) for stratum, number in all_.items())


def test_an_item_whose_group_cannot_be_computed_is_told_with_its_row() -> None:
    rows = loaded({"one": [{"types": {"kind": "a"}}, {"types": None}]})
    with pytest.raises(VrbenchError, match=r"task 'made': o/n \(config one, split test\), row 1: key .* cannot be"):
        select(rows, task(("one",), group="{{types.kind}}"), 2)
