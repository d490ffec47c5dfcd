"""Questions of knowledge with four options, from facts that installed packages carry: countries and chemical elements.

Names, capitals, continents and languages come from the data files of `countryinfo` (MIT), names and symbols of the
elements from `periodictable` (public domain). What is asked is listed here, so that the items stay the same when a
newer release of either adds entries: only undisputed capitals, of states whose entry is the same in countryinfo 0.1.2
and 1.0.1.
"""

from __future__ import annotations

import importlib.resources
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

STATES = """
AFG AGO ALB ARE ARG ARM AUS AUT AZE BEL BEN BFA BGD BGR BHR BHS BIH BLR BLZ BRA BRB BRN BTN BWA CAF CAN CHE CHL CHN CMR
COL CPV CRI CUB DEU DNK DOM DZA ECU EGY ERI ESP EST ETH FIN FJI FRA GAB GEO GHA GIN GMB GNB GRC GRD GTM GUY HND HRV
HTI IND IRL IRN IRQ ISL ITA JAM JOR JPN KEN KGZ KHM KOR KWT LAO LBN LBR LBY LCA LIE LSO LTU LVA MAR MDA MDG MDV MEX MLI
MLT MOZ MRT MUS MWI MYS NAM NER NGA NIC NLD NOR NPL NZL OMN PAK PAN PER PHL PNG POL PRK PRT PRY QAT ROU RUS RWA SAU SDN
SEN SLB SLE SLV SOM SSD SUR SVK SVN SWE SYC SYR TCD TGO THA TJK TKM TON TTO TUN TUR TZA UGA URY USA UZB VEN VNM VUT WSM
YEM ZMB ZWE
""".split()
WITH_ARTICLE = {"ARE", "CAF", "DOM", "MDV", "NLD", "PHL", "SLB", "USA"}  # as in "the Netherlands"
ON_TWO_CONTINENTS = {"ARM", "AZE", "EGY", "GEO", "RUS", "TUR"}
# No official language in law, or one that changed since the packages' data were gathered.
LANGUAGE_UNCLEAR = {"AUS", "BFA", "CHL", "ERI", "MEX", "MLI", "MUS", "NER", "PHL", "USA"}
CONTINENTS = {"Africa": "Africa", "Americas": "the Americas", "Asia": "Asia", "Europe": "Europe", "Oceania": "Oceania"}
LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "da": "Danish",
    "de": "German", "dv": "Maldivian", "dz": "Dzongkha", "el": "Greek", "en": "English", "es": "Spanish",
    "et": "Estonian", "fa": "Persian", "fr": "French", "hr": "Croatian", "id": "Indonesian", "is": "Icelandic",
    "it": "Italian", "ja": "Japanese", "ka": "Georgian", "km": "Khmer", "ko": "Korean", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "ms": "Malay", "ne": "Nepali", "nl": "Dutch",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovene",
    "sq": "Albanian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
DEV_SHARE = 0.2
OPTIONS = 4
HEAVIEST = 96  # curium; those beyond are names that hardly any text has
SEED = 11


@dataclass(frozen=True)
class Country:
    """What the package says about a country."""

    code: str
    name: str
    capital: str
    continent: str
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Element:
    """What the package says about a chemical element."""

    number: int
    name: str
    symbol: str


@dataclass(frozen=True)
class FactQuestion:
    """A sentence to be ended; `wrong` are candidates for wrong ends, the most tempting first."""

    kind: str
    subject: str
    text: str
    answer: str
    wrong: tuple[str, ...]


def rows(split: str) -> list[dict[str, Any]]:
    """Columns id, kind, subject, question, choices (four), answer (index). All questions on a subject share a split."""
    draw = random.Random(SEED)
    questions = list(_questions())
    subjects = sorted({q.subject for q in questions})
    draw.shuffle(subjects)
    dev = set(subjects[: round(DEV_SHARE * len(subjects))])
    chosen = [q for q in questions if (q.subject in dev) == (split == "dev")]
    return [_row(question, place % OPTIONS, draw) for place, question in enumerate(chosen)]


@lru_cache(maxsize=1)
def states() -> tuple[Country, ...]:
    """The countries of `STATES`, in that order, as the installed `countryinfo` has them."""
    found: dict[str, Country] = {}
    for file in (importlib.resources.files("countryinfo") / "data").iterdir():
        if not file.name.endswith(".json"):
            continue
        entry = json.loads(file.read_text(encoding="utf-8"))
        code = entry.get("ISO", {}).get("alpha3", "")
        if code in STATES and entry.get("capital"):
            name = entry["name"].replace("The ", "the ")
            name = f"the {name}" if code in WITH_ARTICLE else name
            languages = tuple(entry.get("languages", ()))
            found[code] = Country(code, name, entry["capital"], CONTINENTS[entry["region"]], languages)
    return tuple(found[code] for code in STATES)


@lru_cache(maxsize=1)
def elements() -> tuple[Element, ...]:
    """The elements by atomic number, hydrogen first."""
    import periodictable

    named = (Element(e.number, e.name, e.symbol) for e in periodictable.elements)
    return tuple(e for e in named if 1 <= e.number <= HEAVIEST)  # the table begins with the neutron


def _questions() -> Iterator[FactQuestion]:
    for state in states():
        near = tuple(s for s in states() if s.continent == state.continent and s != state)
        yield from _of_state(state, near)
    for element in elements():
        alike = tuple(e for e in elements() if e.name[0] == element.name[0] and e != element)
        yield from _of_element(element, alike)


def _of_state(state: Country, near: Sequence[Country]) -> Iterator[FactQuestion]:
    code, name, capital = state.code, state.name, state.capital
    if not _gives_itself_away(state):
        yield FactQuestion("capital", code, f"The capital city of {name} is", capital, tuple(s.capital for s in near))
        yield FactQuestion(
            "country", code, f"The city of {capital} is the capital of", name, tuple(s.name for s in near)
        )
    if code not in ON_TWO_CONTINENTS:
        others = tuple(c for c in CONTINENTS.values() if c != state.continent)
        yield FactQuestion("continent", code, f"The country of {name} lies in", state.continent, others)
    if len(state.languages) == 1 and code not in LANGUAGE_UNCLEAR and state.languages[0] in LANGUAGES:
        spoken = LANGUAGES[state.languages[0]]
        others = tuple(language for language in LANGUAGES.values() if language != spoken)
        yield FactQuestion("language", code, f"The official language of {name} is", spoken, others)


def _of_element(element: Element, alike: Sequence[Element]) -> Iterator[FactQuestion]:
    name, symbol = element.name, element.symbol
    yield FactQuestion("symbol", name, f"The chemical symbol of {name} is", symbol, tuple(e.symbol for e in alike))
    yield FactQuestion("element", name, f"In chemistry, {symbol} is the symbol for", name, tuple(e.name for e in alike))


def _row(question: FactQuestion, place: int, draw: random.Random) -> dict[str, Any]:
    """The right option stands at `place`; the wrong ones are drawn."""
    wrong = sorted(set(question.wrong))
    if len(wrong) < OPTIONS - 1:
        wrong += [w for w in _spare(question.kind) if w != question.answer and w not in wrong]
    choices = draw.sample(wrong, OPTIONS - 1)
    choices.insert(place, question.answer)
    return {
        "id": f"{question.kind}/{question.subject}",
        "kind": question.kind,
        "subject": question.subject,
        "question": question.text,
        "choices": choices,
        "answer": place,
    }


def _spare(kind: str) -> list[str]:
    """Wrong options for the few elements whose initial hardly any other has."""
    return [e.symbol if kind == "symbol" else e.name for e in elements()[:30]]


def _gives_itself_away(state: Country) -> bool:
    """Whether capital and country share a word's beginning, as Guatemala City does."""
    starts = {word[:3].lower() for word in re.split(r"[ -]", state.name) if len(word) > 3}
    return any(word[:3].lower() in starts for word in re.split(r"[ -]", state.capital))
