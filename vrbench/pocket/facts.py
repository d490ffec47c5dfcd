"""Knowledge questions with four options, from facts in installed packages: countries and chemical elements.

Names, capitals, continents and languages come from the data files of `countryinfo` (MIT), names and symbols of the
elements from `periodictable` (public domain). The asked countries are listed in `vocabulary.yaml`, so that the
items stay the same when a newer release of either adds entries.
"""

from __future__ import annotations

import importlib.resources
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vrbench.pocket import vocabulary

_LISTS = vocabulary()["facts"]
COUNTRIES: list[str] = _LISTS["countries"].split()
CONTINENTS: dict[str, str] = _LISTS["continents"]
LANGUAGES: dict[str, str] = _LISTS["languages"]
DEV_SHARE = 0.2
OPTIONS = 4
HEAVIEST = 96  # curium; those beyond are names that hardly any text has
SEED = 11


@dataclass(frozen=True)
class Country:
    """A country, from countryinfo."""

    code: str
    name: str
    capital: str
    continent: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class FactQuestion:
    """A sentence to complete; wrong endings are drawn from `alike`, which may hold the answer too."""

    kind: str
    subject: str
    text: str
    answer: str
    alike: list[str]


def rows(split: str) -> list[dict[str, Any]]:
    """Return rows with id, kind, subject, question, choices (four), answer (index); a subject is in one split."""
    draw = random.Random(SEED)
    questions = list(_questions())
    subjects = sorted({q.subject for q in questions})
    draw.shuffle(subjects)
    dev = set(subjects[: round(DEV_SHARE * len(subjects))])
    chosen = [q for q in questions if (q.subject in dev) == (split == "dev")]
    return [_row(question, position % OPTIONS, draw) for position, question in enumerate(chosen)]


@cache
def countries() -> tuple[Country, ...]:
    """Return the countries of `COUNTRIES`, in that order, as the installed `countryinfo` has them."""
    found: dict[str, Country] = {}
    for file in (importlib.resources.files("countryinfo") / "data").iterdir():
        if not file.name.endswith(".json"):
            continue
        entry = json.loads(file.read_text(encoding="utf-8"))
        code = entry.get("ISO", {}).get("alpha3", "")
        if code in COUNTRIES and entry.get("capital"):
            name = entry["name"].replace("The ", "the ")
            name = f"the {name}" if code in _LISTS["with_article"] else name
            languages = tuple(entry.get("languages", ()))
            found[code] = Country(code, name, entry["capital"], CONTINENTS[entry["region"]], languages)
    return tuple(found[code] for code in COUNTRIES)


@cache
def elements() -> tuple[Any, ...]:
    """Return the elements of `periodictable` by atomic number, hydrogen first."""
    import periodictable

    return tuple(e for e in periodictable.elements if 1 <= e.number <= HEAVIEST)  # the table begins with the neutron


def _questions() -> Iterator[FactQuestion]:
    for country in countries():
        yield from _country_questions(country, [c for c in countries() if c.continent == country.continent])
    for element in elements():
        name, symbol = element.name, element.symbol
        similar = [(e.name, e.symbol) for e in elements() if e.name[0] == name[0]]
        names, symbols = (list(found) for found in zip(*similar, strict=True))
        yield FactQuestion("symbol", name, f"The chemical symbol of {name} is", symbol, symbols)
        yield FactQuestion("element", name, f"In chemistry, {symbol} is the symbol for", name, names)


def _country_questions(country: Country, neighbours: Sequence[Country]) -> Iterator[FactQuestion]:
    code, name, capital = country.code, country.name, country.capital
    if not _names_share_a_beginning(country):
        capitals, names = [c.capital for c in neighbours], [c.name for c in neighbours]
        yield FactQuestion("capital", code, f"The capital city of {name} is", capital, capitals)
        yield FactQuestion("country", code, f"The city of {capital} is the capital of", name, names)
    if code not in _LISTS["on_two_continents"]:
        continents = list(CONTINENTS.values())
        yield FactQuestion("continent", code, f"The country of {name} lies in", country.continent, continents)
    if len(country.languages) == 1 and code not in _LISTS["language_unclear"] and country.languages[0] in LANGUAGES:
        language, languages = LANGUAGES[country.languages[0]], list(LANGUAGES.values())
        yield FactQuestion("language", code, f"The official language of {name} is", language, languages)


def _row(question: FactQuestion, position: int, draw: random.Random) -> dict[str, Any]:
    """Put the right option at a position among wrong ones, which are drawn."""
    wrong = sorted({*question.alike} - {question.answer})
    if len(wrong) < OPTIONS - 1:
        wrong += [w for w in _spare(question.kind) if w != question.answer and w not in wrong]
    choices = draw.sample(wrong, OPTIONS - 1)
    choices.insert(position, question.answer)
    return {
        "id": f"{question.kind}/{question.subject}", "kind": question.kind, "subject": question.subject,
        "question": question.text, "choices": choices, "answer": position,
    }  # fmt: skip


def _spare(kind: str) -> list[str]:
    """Wrong options for the few elements whose initial hardly any other has."""
    return [e.symbol if kind == "symbol" else e.name for e in elements()[:30]]


def _names_share_a_beginning(country: Country) -> bool:
    """Whether capital and country share a word's beginning, as Guatemala City does."""
    starts = {word[:3].lower() for word in re.split(r"[ -]", country.name) if len(word) > 3}
    return any(word[:3].lower() in starts for word in re.split(r"[ -]", country.capital))
