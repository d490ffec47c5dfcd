"""What the code that decides answers and scores gives over fixed inputs: one fingerprint for each version in it.

    python -m tests.fingerprints [NAME...]

writes the fingerprints that changed into tests/versions.json. It refuses where the version is the old one: raise it
first, as `checkpoints.code_versions` says. Outputs are texts, token ids and rounded numbers of models that are sure of
what they
say, so that they do not hang on the last bits of another processor's or library's arithmetic.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.fingerprints import shared
from tests.fingerprints.families import family
from tests.fingerprints.scorers import HELD, scorer
from vrbench.checkpoints.code_versions import COMPONENTS
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.io import digest_of, write_atomically
from vrbench.tasks.scorers import SCORERS

FILE = Path(__file__).parents[1] / "versions.json"

FINGERPRINTS: dict[str, tuple[Callable[[], int], Callable[[], Any]]] = {
    **{name: (partial(COMPONENTS.__getitem__, name), make) for name, make in {
        "requests": shared.requests, "context": shared.context, "images": shared.images, "layering": shared.layering,
        "loglikelihood": shared.loglikelihood, "decoding": shared.decoding, "metrics": shared.figures,
    }.items()},
    **{f"family {name}": (lambda name=name: FAMILIES[name].version, partial(family, name)) for name in FAMILIES},
    **{f"scorer {name}": (lambda name=name: SCORERS[name].version, partial(scorer, name)) for name in HELD},
}  # fmt: skip
"""Name -> its version now, and what it gives now."""


def fingerprint(name: str) -> str:
    """sha256 over what a version's code gives."""
    return digest_of(json.loads(json.dumps(FINGERPRINTS[name][1]())))


def main(names: Sequence[str]) -> int:
    """Write what changed; 1 where a version has to be raised first."""
    if unknown := [name for name in names if name not in FINGERPRINTS]:
        print(f"there is no {', '.join(unknown)}; there are {', '.join(FINGERPRINTS)}", file=sys.stderr)
        return 1
    held = json.loads(FILE.read_text()) if FILE.is_file() else {}
    refused = False
    for name in names or FINGERPRINTS:
        now = {"version": FINGERPRINTS[name][0](), "fingerprint": fingerprint(name)}
        if name in held and held[name] != now and held[name]["version"] == now["version"]:
            print(
                f"{name}: what it gives changed, and its version is still {now['version']}; raise it", file=sys.stderr
            )
            refused = True
        elif held.get(name) != now:
            print(f"{name}: version {now['version']}")
            held[name] = now
    kept = {name: held[name] for name in sorted(held) if name in FINGERPRINTS}
    write_atomically(FILE, json.dumps(kept, indent=1) + "\n")
    return int(refused)
