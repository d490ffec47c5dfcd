"""How a result was made, as its report says it: the command and the versions; and the page of a simulation."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from vrbench.core.provenance import PACKAGES, commit_of, package_version

FOLDERS = {
    "--data-root": "DATA",
    "--originals": "DIR",
    "--tokenizers": "DIR",
    "--work": "",
    "--report": "",
    "--folder": "",
    "--out": "",
}
"""Options whose values are the machine's own -> what stands for them; nothing where the result is the same anyway."""


def command() -> str:
    """The command as it was typed, but for the folders."""
    told, words = [], iter(sys.argv[1:])
    for word in words:
        name, given, _ = word.partition("=")
        if name not in FOLDERS:
            told.append(word)
            continue
        if not given:
            next(words, "")
        told += [name, FOLDERS[name]] if FOLDERS[name] else []
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *told])


def versions() -> str:
    """vrbench's commit, and the libraries that decide the numbers."""
    commit, dirty = commit_of(Path(__file__).resolve().parents[1])
    own = f"vrbench {commit[:12] or 'of no commit'}{' with changes' if dirty else ''}"
    return ", ".join([own, *(f"{name} {package_version(name)}" for name in PACKAGES if package_version(name))]) + "."


def page(about: str, report: Callable[[int, int], str], out: Path) -> None:
    """Simulate as the command line says, and write and print the page.

    Args:
        about: what --help says.
        report: (trials a setting, processes) -> Markdown.
        out: where it goes if --out says nothing else.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=out)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(report(given.trials, given.processes), encoding="utf-8")
    print(given.out.read_text(encoding="utf-8"))
