"""Pairs of English sentences that differ in one point of grammar.

A model is right when it gives the grammatical sentence the higher likelihood. Each kind of pair is a function that
draws one pair; the word lists are in `vocabulary.yaml`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from vrbench.pocket import vocabulary

TEST, DEV = 50, 12  # pairs of each kind
SEED = 23

_LISTS = vocabulary()["grammar"]
PEOPLE: list[list[str]] = _LISTS["people"]
THINGS: list[list[str]] = _LISTS["things"]
VERBS: list[list[str]] = _LISTS["verbs"]
INTRANSITIVE: list[list[str]] = _LISTS["intransitive"]
OBJECTS: dict[str, str] = _LISTS["objects"]
HERS = ("Mary", "Anna", "Julia", "Susan", "Emma", "Laura", "Sarah", "Alice", "Helen", "Grace")
HIS = ("John", "Peter", "David", "Thomas", "Robert", "James", "Paul", "George", "Henry", "Mark")
HER_RELATIVES = ("mother", "sister", "aunt", "daughter", "wife", "niece")
HIS_RELATIVES = ("father", "brother", "uncle", "son", "husband", "nephew")
ADJECTIVES = ("small", "old", "new", "heavy", "cheap", "strange", "dirty", "large", "dark", "clean")
PLACES = ("in the kitchen", "near the station", "behind the house", "under the stairs", "at the office", "by the door")
WHEN_PAST = ("yesterday", "last week", "two years ago", "last night", "last summer")
COUNTED_PLACES = ("near", "behind", "beside", "next to")

SentencePair = tuple[str, str]
"""The grammatical sentence, then the other."""


def rows(split: str) -> list[dict[str, Any]]:
    """Return rows with id, kind, choices (two sentences), answer (the grammatical one; 0 and 1 equally often)."""
    found = []
    for kind, draw_pair in KINDS.items():
        pairs = _distinct_pairs(draw_pair, random.Random(f"{SEED} {kind}"))
        chosen = pairs[:TEST] if split == "test" else pairs[TEST:]
        for number, (good, bad) in enumerate(chosen):
            answer = number % 2
            choices = [bad, good] if answer else [good, bad]
            found.append({"id": f"{kind}/{number}", "kind": kind, "choices": choices, "answer": answer})
    return found


def _distinct_pairs(draw_pair: Callable[[random.Random], SentencePair], rng: random.Random) -> list[SentencePair]:
    """TEST + DEV pairs, none twice."""
    pairs: dict[SentencePair, None] = {}
    while len(pairs) < TEST + DEV:
        good, bad = draw_pair(rng)
        pairs[_capitalized(good), _capitalized(bad)] = None
    return list(pairs)


def _agreement(rng: random.Random) -> SentencePair:
    """The verb agrees with its subject, not with the noun that stands next to it."""
    one, many = rng.choice(THINGS)
    other = rng.choice([t for t in THINGS if t[0] != one])
    place, adjective = rng.choice(COUNTED_PLACES), rng.choice(ADJECTIVES)
    if rng.random() < 0.5:
        subject, right, wrong = f"the {one} {place} the {other[1]}", "is", "are"
    else:
        subject, right, wrong = f"the {many} {place} the {other[0]}", "are", "is"
    return f"{subject} {right} {adjective}.", f"{subject} {wrong} {adjective}."


def _agreement_clause(rng: random.Random) -> SentencePair:
    """Agreement across a relative clause."""
    one, many = rng.choice(PEOPLE)
    other = rng.choice([p for p in PEOPLE if p[0] != one])
    base, third, _, _ = rng.choice(INTRANSITIVE)
    if rng.random() < 0.5:
        subject, right, wrong = f"the {one} that the {other[1]} know", third, base
    else:
        subject, right, wrong = f"the {many} that the {other[0]} knows", base, third
    place = rng.choice(PLACES)
    return f"{subject} {right} {place}.", f"{subject} {wrong} {place}."


def _determiner(rng: random.Random) -> SentencePair:
    """This and that take the singular, these and those the plural."""
    one, many = rng.choice(THINGS)
    person, adjective = rng.choice(HERS + HIS), rng.choice(ADJECTIVES)
    _, _, past, _ = rng.choice([v for v in VERBS if v[0] in ("break", "choose", "forget", "see", "hide", "steal")])
    if rng.random() < 0.5:
        word, right, wrong = rng.choice(("this", "that")), one, many
    else:
        word, right, wrong = rng.choice(("these", "those")), many, one
    return f"{person} {past} {word} {adjective} {right}.", f"{person} {past} {word} {adjective} {wrong}."


def _reflexive(rng: random.Random) -> SentencePair:
    """Himself and herself agree with the subject, not with the name inside it."""
    verb = rng.choice(("hurt", "blamed", "praised", "introduced", "hid", "surprised", "defended", "described"))
    tail = rng.choice(("yesterday", "at the party", "last week", "again", "in the meeting"))
    if rng.random() < 0.5:
        name, relative, right, wrong = rng.choice(HIS), rng.choice(HER_RELATIVES), "herself", "himself"
    else:
        name, relative, right, wrong = rng.choice(HERS), rng.choice(HIS_RELATIVES), "himself", "herself"
    subject = rng.choice((f"{name}'s {relative}", f"the {relative} of {name}"))
    return f"{subject} {verb} {right} {tail}.", f"{subject} {verb} {wrong} {tail}."


def _participle(rng: random.Random) -> SentencePair:
    """Have takes the participle, not the past form."""
    base, _, past, participle = rng.choice(VERBS)
    person = rng.choice(PEOPLE)
    subject = rng.choice((f"the {person[0]} has", f"the {person[1]} have", f"{rng.choice(HERS + HIS)} had"))
    return f"{subject} {participle} {OBJECTS[base]}.", f"{subject} {past} {OBJECTS[base]}."


def _past(rng: random.Random) -> SentencePair:
    """The past form stands alone, the participle does not."""
    base, _, past, participle = rng.choice([v for v in VERBS if v[2] != v[3]])
    subject, when = rng.choice(HERS + HIS), rng.choice(WHEN_PAST)
    return f"{subject} {past} {OBJECTS[base]} {when}.", f"{subject} {participle} {OBJECTS[base]} {when}."


def _comparative(rng: random.Random) -> SentencePair:
    """A short adjective takes -er, and not more beside it."""
    _, more = rng.choice(_LISTS["adjectives"])
    first, second = rng.sample(PEOPLE, 2)
    opening = f"the {first[0]} is"
    return f"{opening} much {more} than the {second[0]}.", f"{opening} more {more} than the {second[0]}."


def _quantifier(rng: random.Random) -> SentencePair:
    """Many and few count; much and little measure."""
    thing, person = rng.choice(THINGS), rng.choice(HERS + HIS)
    mass = rng.choice(("water", "sugar", "money", "furniture", "advice", "bread", "information", "luggage"))
    verb = rng.choice(("bought", "found", "had", "needed", "wanted", "lost"))
    if rng.random() < 0.5:
        return f"{person} {verb} too many {thing[1]}.", f"{person} {verb} too much {thing[1]}."
    return f"{person} {verb} too much {mass}.", f"{person} {verb} too many {mass}."


def _polarity(rng: random.Random) -> SentencePair:
    """Ever needs a negation above it; one inside a relative clause does not count."""
    first, second = rng.sample(PEOPLE, 2)
    base, _, _, participle = rng.choice([v for v in VERBS if v[0] in ("drive", "eat", "see", "steal", "wear", "write")])
    end = f"have ever {participle} {OBJECTS[base]}."
    return (
        f"no {first[1]} that the {second[1]} like {end}",
        f"the {first[1]} that no {second[1]} like {end}",
    )


def _object(rng: random.Random) -> SentencePair:
    """Some verbs take no object."""
    person, other = rng.sample(PEOPLE, 2)
    _, _, _, past = rng.choice(INTRANSITIVE)
    verb = rng.choice(("helped", "called", "followed", "visited", "thanked", "watched", "invited", "paid"))
    past = past if past != "sang" else "laughed"
    when = rng.choice(WHEN_PAST)
    return f"the {person[0]} {verb} the {other[1]} {when}.", f"the {person[0]} {past} the {other[1]} {when}."


def _question(rng: random.Random) -> SentencePair:
    """An embedded question keeps the order of a statement."""
    name = rng.choice(HERS + HIS)
    one, many = rng.choice(THINGS)
    asks = rng.choice(("knows", "asked", "wonders", "remembers", "forgot"))
    word = rng.choice(("where", "why", "how"))
    verb, thing = rng.choice((("is", one), ("was", one), ("are", many), ("were", many)))
    tail = {"where": "", "why": f" {rng.choice(PLACES)}", "how": f" {rng.choice(PLACES)}"}[word]
    return f"{name} {asks} {word} the {thing} {verb}{tail}.", f"{name} {asks} {word} {verb} the {thing}{tail}."


def _pronoun(rng: random.Random) -> SentencePair:
    """The object form after a preposition or verb, the subject form before the verb."""
    name = rng.choice(HERS + HIS)
    subject, obj = rng.choice((("I", "me"), ("he", "him"), ("she", "her"), ("we", "us"), ("they", "them")))
    if rng.random() < 0.5:
        opening = rng.choice(("the guests waited for", "the letter came from", "the dog ran after", "they laughed at"))
        return f"{opening} {name} and {obj}.", f"{opening} {name} and {subject}."
    tail = rng.choice(("went home early", "missed the bus", "cooked the dinner", "cleaned the house", "won the game"))
    return f"{name} and {subject} {tail}.", f"{name} and {obj} {tail}."


KINDS: dict[str, Callable[[random.Random], SentencePair]] = {
    "agreement": _agreement,
    "agreement_clause": _agreement_clause,
    "comparative": _comparative,
    "determiner": _determiner,
    "object": _object,
    "participle": _participle,
    "past": _past,
    "polarity": _polarity,
    "pronoun": _pronoun,
    "quantifier": _quantifier,
    "question": _question,
    "reflexive": _reflexive,
}


def _capitalized(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
