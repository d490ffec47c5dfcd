"""Pairs of English sentences that differ in one point of grammar; templates and word lists are written here.

A model is right when it finds the grammatical sentence likelier. Each kind of pair is a function that draws one pair.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

TEST, DEV = 50, 12  # pairs of each kind
SEED = 23

# singular, plural
PEOPLE = (
    ("teacher", "teachers"), ("farmer", "farmers"), ("nurse", "nurses"), ("pilot", "pilots"), ("lawyer", "lawyers"),
    ("child", "children"), ("woman", "women"), ("man", "men"), ("waiter", "waiters"), ("singer", "singers"),
    ("student", "students"), ("doctor", "doctors"), ("painter", "painters"), ("guest", "guests"),
    ("manager", "managers"), ("driver", "drivers"),
)  # fmt: skip
THINGS = (
    ("key", "keys"), ("box", "boxes"), ("letter", "letters"), ("chair", "chairs"), ("report", "reports"),
    ("picture", "pictures"), ("window", "windows"), ("bottle", "bottles"), ("knife", "knives"), ("shelf", "shelves"),
    ("lamp", "lamps"), ("book", "books"), ("ticket", "tickets"), ("cup", "cups"), ("bag", "bags"), ("coat", "coats"),
)  # fmt: skip
HERS = ("Mary", "Anna", "Julia", "Susan", "Emma", "Laura", "Sarah", "Alice", "Helen", "Grace")
HIS = ("John", "Peter", "David", "Thomas", "Robert", "James", "Paul", "George", "Henry", "Mark")
HER_RELATIVES = ("mother", "sister", "aunt", "daughter", "wife", "niece")
HIS_RELATIVES = ("father", "brother", "uncle", "son", "husband", "nephew")
# base, third person, past, participle (irregular)
VERBS = (
    ("break", "breaks", "broke", "broken"), ("choose", "chooses", "chose", "chosen"),
    ("drive", "drives", "drove", "driven"), ("eat", "eats", "ate", "eaten"),
    ("forget", "forgets", "forgot", "forgotten"),
    ("give", "gives", "gave", "given"), ("hide", "hides", "hid", "hidden"), ("know", "knows", "knew", "known"),
    ("see", "sees", "saw", "seen"), ("steal", "steals", "stole", "stolen"), ("take", "takes", "took", "taken"),
    ("throw", "throws", "threw", "thrown"), ("wear", "wears", "wore", "worn"), ("write", "writes", "wrote", "written"),
    ("draw", "draws", "drew", "drawn"), ("tear", "tears", "tore", "torn"), ("shake", "shakes", "shook", "shaken"),
)  # fmt: skip
OBJECTS = {
    "break": "the glass", "choose": "the wrong road", "drive": "the old truck", "eat": "the whole cake",
    "forget": "the address", "give": "a long speech", "hide": "the money", "know": "the answer", "see": "the accident",
    "steal": "a bicycle", "take": "the last train", "throw": "the ball", "wear": "a red hat", "write": "a long poem",
    "draw": "a small map", "tear": "the curtain", "shake": "the tree",
}  # fmt: skip
# does without an object: base, third person, participle, past
INTRANSITIVE = (
    ("sleep", "sleeps", "sleeping", "slept"), ("laugh", "laughs", "laughing", "laughed"),
    ("arrive", "arrives", "arriving", "arrived"), ("wait", "waits", "waiting", "waited"),
    ("smile", "smiles", "smiling", "smiled"), ("sing", "sings", "singing", "sang"),
    ("swim", "swims", "swimming", "swam"), ("fall", "falls", "falling", "fell"),
)  # fmt: skip
ADJECTIVES = ("small", "old", "new", "heavy", "cheap", "strange", "dirty", "large", "dark", "clean")
TALL = (("tall", "taller"), ("fast", "faster"), ("old", "older"), ("strong", "stronger"), ("young", "younger"),
        ("rich", "richer"), ("quick", "quicker"), ("short", "shorter"))  # fmt: skip
PLACES = ("in the kitchen", "near the station", "behind the house", "under the stairs", "at the office", "by the door")
WHEN_PAST = ("yesterday", "last week", "two years ago", "last night", "last summer")
COUNTED_PLACES = ("near", "behind", "beside", "next to")

Pair = tuple[str, str]  # the grammatical sentence, then the other


def rows(split: str) -> list[dict[str, Any]]:
    """Columns id, kind, choices (two sentences), answer (index of the grammatical one, 0 and 1 equally often)."""
    found = []
    for kind, draw_pair in KINDS.items():
        pairs = _different(draw_pair, random.Random(f"{SEED} {kind}"))
        chosen = pairs[:TEST] if split == "test" else pairs[TEST:]
        for number, (good, bad) in enumerate(chosen):
            answer = number % 2
            found.append(
                {
                    "id": f"{kind}/{number}",
                    "kind": kind,
                    "choices": [bad, good] if answer else [good, bad],
                    "answer": answer,
                }
            )
    return found


def _different(draw_pair: Callable[[random.Random], Pair], rng: random.Random) -> list[Pair]:
    """TEST + DEV pairs, none twice."""
    pairs: dict[Pair, None] = {}
    while len(pairs) < TEST + DEV:
        good, bad = draw_pair(rng)
        pairs[_start(good), _start(bad)] = None
    return list(pairs)


def _agreement(rng: random.Random) -> Pair:
    """The verb agrees with its subject, not with the noun that stands next to it."""
    one, many = rng.choice(THINGS)
    other = rng.choice([t for t in THINGS if t[0] != one])
    place, adjective = rng.choice(COUNTED_PLACES), rng.choice(ADJECTIVES)
    if rng.random() < 0.5:
        subject, right, wrong = f"the {one} {place} the {other[1]}", "is", "are"
    else:
        subject, right, wrong = f"the {many} {place} the {other[0]}", "are", "is"
    return f"{subject} {right} {adjective}.", f"{subject} {wrong} {adjective}."


def _agreement_clause(rng: random.Random) -> Pair:
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


def _determiner(rng: random.Random) -> Pair:
    """This and that take the singular, these and those the plural."""
    one, many = rng.choice(THINGS)
    person, adjective = rng.choice(HERS + HIS), rng.choice(ADJECTIVES)
    _, _, past, _ = rng.choice([v for v in VERBS if v[0] in ("break", "choose", "forget", "see", "hide", "steal")])
    if rng.random() < 0.5:
        word, right, wrong = rng.choice(("this", "that")), one, many
    else:
        word, right, wrong = rng.choice(("these", "those")), many, one
    return f"{person} {past} {word} {adjective} {right}.", f"{person} {past} {word} {adjective} {wrong}."


def _reflexive(rng: random.Random) -> Pair:
    """Himself and herself agree with the subject, not with the name inside it."""
    verb = rng.choice(("hurt", "blamed", "praised", "introduced", "hid", "surprised", "defended", "described"))
    tail = rng.choice(("yesterday", "at the party", "last week", "again", "in the meeting"))
    if rng.random() < 0.5:
        name, relative, right, wrong = rng.choice(HIS), rng.choice(HER_RELATIVES), "herself", "himself"
    else:
        name, relative, right, wrong = rng.choice(HERS), rng.choice(HIS_RELATIVES), "himself", "herself"
    subject = rng.choice((f"{name}'s {relative}", f"the {relative} of {name}"))
    return f"{subject} {verb} {right} {tail}.", f"{subject} {verb} {wrong} {tail}."


def _participle(rng: random.Random) -> Pair:
    """Have takes the participle, not the past form."""
    base, _, past, participle = rng.choice(VERBS)
    person = rng.choice(PEOPLE)
    subject = rng.choice((f"the {person[0]} has", f"the {person[1]} have", f"{rng.choice(HERS + HIS)} had"))
    return f"{subject} {participle} {OBJECTS[base]}.", f"{subject} {past} {OBJECTS[base]}."


def _past(rng: random.Random) -> Pair:
    """The past form stands alone, the participle does not."""
    base, _, past, participle = rng.choice([v for v in VERBS if v[2] != v[3]])
    subject, when = rng.choice(HERS + HIS), rng.choice(WHEN_PAST)
    return f"{subject} {past} {OBJECTS[base]} {when}.", f"{subject} {participle} {OBJECTS[base]} {when}."


def _comparative(rng: random.Random) -> Pair:
    """A short adjective takes -er, and not more beside it."""
    _, more = rng.choice(TALL)
    first, second = rng.sample(PEOPLE, 2)
    opening = f"the {first[0]} is"
    return f"{opening} much {more} than the {second[0]}.", f"{opening} more {more} than the {second[0]}."


def _quantifier(rng: random.Random) -> Pair:
    """Many and few count; much and little measure."""
    thing, person = rng.choice(THINGS), rng.choice(HERS + HIS)
    mass = rng.choice(("water", "sugar", "money", "furniture", "advice", "bread", "information", "luggage"))
    verb = rng.choice(("bought", "found", "had", "needed", "wanted", "lost"))
    if rng.random() < 0.5:
        return f"{person} {verb} too many {thing[1]}.", f"{person} {verb} too much {thing[1]}."
    return f"{person} {verb} too much {mass}.", f"{person} {verb} too many {mass}."


def _polarity(rng: random.Random) -> Pair:
    """Ever needs a negation above it; one inside a relative clause does not count."""
    first, second = rng.sample(PEOPLE, 2)
    base, _, _, participle = rng.choice([v for v in VERBS if v[0] in ("drive", "eat", "see", "steal", "wear", "write")])
    end = f"have ever {participle} {OBJECTS[base]}."
    return (
        f"no {first[1]} that the {second[1]} like {end}",
        f"the {first[1]} that no {second[1]} like {end}",
    )


def _object(rng: random.Random) -> Pair:
    """Some verbs take no object."""
    person, other = rng.sample(PEOPLE, 2)
    _, _, _, past = rng.choice(INTRANSITIVE)
    verb = rng.choice(("helped", "called", "followed", "visited", "thanked", "watched", "invited", "paid"))
    past = past if past != "sang" else "laughed"
    when = rng.choice(WHEN_PAST)
    return f"the {person[0]} {verb} the {other[1]} {when}.", f"the {person[0]} {past} the {other[1]} {when}."


def _question(rng: random.Random) -> Pair:
    """An embedded question keeps the order of a statement."""
    name = rng.choice(HERS + HIS)
    one, many = rng.choice(THINGS)
    asks = rng.choice(("knows", "asked", "wonders", "remembers", "forgot"))
    word = rng.choice(("where", "why", "how"))
    verb, thing = rng.choice((("is", one), ("was", one), ("are", many), ("were", many)))
    tail = {"where": "", "why": f" {rng.choice(PLACES)}", "how": f" {rng.choice(PLACES)}"}[word]
    return f"{name} {asks} {word} the {thing} {verb}{tail}.", f"{name} {asks} {word} {verb} the {thing}{tail}."


def _pronoun(rng: random.Random) -> Pair:
    """The object form after a preposition or verb, the subject form before the verb."""
    name = rng.choice(HERS + HIS)
    subject, obj = rng.choice((("I", "me"), ("he", "him"), ("she", "her"), ("we", "us"), ("they", "them")))
    if rng.random() < 0.5:
        opening = rng.choice(("the guests waited for", "the letter came from", "the dog ran after", "they laughed at"))
        return f"{opening} {name} and {obj}.", f"{opening} {name} and {subject}."
    tail = rng.choice(("went home early", "missed the bus", "cooked the dinner", "cleaned the house", "won the game"))
    return f"{name} and {subject} {tail}.", f"{name} and {obj} {tail}."


KINDS: dict[str, Callable[[random.Random], Pair]] = {
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


def _start(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
