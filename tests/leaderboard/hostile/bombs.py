"""Small files that would become large or slow; each is read in a process that may have little memory.

    python -m tests.leaderboard.hostile.bombs FOLDER

prints one JSON line a bomb: name, messages of the refusal (none if it was read), processor seconds, peak MiB of memory.
"""

from __future__ import annotations

import gzip
import json
import resource
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.leaderboard.hostile import documents
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.leaderboard.board import load_board
from vrbench.leaderboard.submission import read_submission
from vrbench.leaderboard.untrusted_input import limits
from vrbench.leaderboard.untrusted_input.parsing import parse_yaml
from vrbench.leaderboard.untrusted_input.text import sanitize_for_display

MEMORY = 768 * 2**20
"""Address space of the process; Python with the project's light libraries takes some 250 MiB of it."""

SAMPLES = f"samples/{documents.TASK}.jsonl.gz"
ROWS = {documents.TASK: 3}
LONG = 10**5


def zeros(mebibytes: int) -> bytes:
    """A gzip of so many MiB of zeros, a thousandth of that size, made without compressing them all."""
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(2**20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + block * mebibytes


def one_line(text: str) -> bytes:
    """A sample whose answer is replaced by a text of JSON."""
    return documents.samples_bytes(documents.SAMPLES[:1]).replace(b'"Yes"', text.encode(), 1)


def submission_with(**texts: bytes) -> Callable[[Path], object]:
    """Reads a right submission in which some files have another content; double underscores stand for dots."""

    def read(folder: Path) -> object:
        documents.write_submission(folder)
        for name, content in texts.items():
            (folder / (SAMPLES if name == "samples" else name.replace("__", "."))).write_bytes(content)
        return read_submission(folder, ROWS)

    return read


def samples_of(content: bytes) -> Callable[[Path], object]:
    """Reads a submission whose samples are these lines, with the digests that belong to them."""
    return lambda folder: read_submission(documents.write_submission(folder, content), ROWS)


def run_with(field: str, text: str) -> Callable[[Path], object]:
    """Reads a submission in whose run.json one value of a field is replaced by a text of JSON."""

    def read(folder: Path) -> object:
        documents.write_submission(folder)
        head, _, tail = (folder / "run.json").read_text().partition(f'"{field}": ')
        rest = tail[json.JSONDecoder().raw_decode(tail)[1] :]
        run_text = f'{head}"{field}": {text}{rest}'
        (folder / "run.json").write_text(run_text)
        (folder / "submission.json").write_text(documents.submission(run_text).model_dump_json())
        return read_submission(folder, ROWS)

    return read


def board_of(text: str) -> Callable[[Path], object]:
    """Reads a board of this YAML."""

    def read(folder: Path) -> object:
        folder.mkdir()
        (folder / "board.yaml").write_text(text)
        return load_board(folder)

    return read


RESULT = json.dumps(json.loads(documents.run_record().model_dump_json())["results"][0])
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
MANY_TASKS = "".join(f"  t{i}: {{version: '1', n: 1}}\n" for i in range(8_000))
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "zeros": (submission_with(samples=zeros(8_192)), "more than 134,217,728 bytes"),
    "members": (submission_with(samples=gzip.compress(b"", mtime=0) * 500_000), "after the end"),
    "two members": (submission_with(samples=gzip.compress(documents.samples_bytes(), mtime=0) * 2), "after the end"),
    "gzip of gzip": (samples_of(gzip.compress(zeros(1_024), 1)), "not UTF-8"),
    "large record": (submission_with(run__json=b" " * (limits.RECORD_BYTES + 1)), "at most 4,194,304"),
    "line feeds": (samples_of(b"\n" * 20_000_000), "not read beyond line 4|more than 3 samples"),
    "one long line": (samples_of(b'{"id":"' + b"x" * 20_000_000), "more than 1,048,576 bytes"),
    "many samples": (
        samples_of(b"".join(b'{"id":"%d","cluster":"","score":0.0}\n' % i for i in range(300_000))),
        "more than 3 samples",
    ),
    "many numbers": (samples_of(one_line('"","loglikelihoods":[' + "0," * 400_000 + "0]")), "more than 50,000 values"),
    "wrong numbers": (samples_of(one_line('"","responses":[' + "{}," * 300_000 + "{}]")), "more than 50,000 values"),
    "wrong results": (run_with("results", "[" + "0," * 1_500_000 + "0]"), "more than 50,000 values"),
    "many results": (run_with("results", "[" + f"{RESULT}," * 4_000 + RESULT + "]"), "more than 50,000 values"),
    "many keys": (
        run_with("official", "{" + ",".join(f'"{i}":1' for i in range(300_000)) + "}"),
        "more than 50,000 values",
    ),
    "same keys": (run_with("official", "{" + ",".join('"a":1' for _ in range(45_000)) + "}"), "key 'a' twice"),
    "deep lists": (run_with("results", "[" * LONG + "]" * LONG), "nested more than 64"),
    "deep open lists": (submission_with(run__json=b"[" * limits.RECORD_BYTES), "nested more than 64"),
    "deep mappings": (submission_with(submission__json=b'{"a":' * LONG + b"1" + b"}" * LONG), "nested more than 64"),
    "deep sample": (samples_of(b'{"id":' * LONG), "nested more than 64"),
    "escapes": (run_with("status", '"' + "\\\\" * 1_900_000 + '"'), "'status'"),
    "digits": (run_with("depth", "9" * LONG), r"beyond 2\^53"),
    "digits of a float": (run_with("chance", "0." + "1" * 3_000_000), ""),
    "exponent": (run_with("chance", "1e400"), "larger than a double"),
    "exponent of digits": (run_with("chance", "1e" + "9" * LONG), "larger than a double"),
    "depth": (run_with("depth", "9007199254740992"), "1 to 1,024"),
    "layers": (run_with("layers", '"' + ",".join(["0-29"] * 500_000) + '"'), "values|layers"),
    "layers of depth": (lambda folder: run_with("lineage", json.dumps([_deep_lineage()]))(folder), "1 to 1,024"),
    "laughs": (submission_with(recipe__yaml=LAUGHS.encode()), "anchor"),
    "deep yaml": (submission_with(recipe__yaml=b"[" * LONG), "nested"),
    "deep yaml lists": (submission_with(recipe__yaml=b"- " * LONG), "nested"),
    "deep yaml mappings": (submission_with(recipe__yaml=b"{a: " * 60_000), "nested"),
    "yaml questions": (submission_with(recipe__yaml=b"? " * LONG), "nested"),
    "yaml digits": (submission_with(recipe__yaml=b"a: " + b"9" * LONG), "more than 40 digits"),
    "yaml sixties": (submission_with(recipe__yaml=b"a: 1" + b":1" * 100_000), "more than 40 digits"),
    "yaml keys": (submission_with(recipe__yaml="".join(f"k{i}: 1\n" for i in range(20_000)).encode()), ""),
    "yaml same keys": (submission_with(recipe__yaml=b"a: 1\n" * 50_000), "given twice"),
    "yaml spaces": (submission_with(recipe__yaml=b"a: '" + b" \n" * 120_000), "not YAML"),
    "yaml tags": (submission_with(recipe__yaml=b"! " * 120_000), "tag"),
    "yaml commas": (submission_with(recipe__yaml=b"[" + b"a," * 120_000), "not YAML"),
    "board laughs": (board_of(LAUGHS), "anchor"),
    "board tasks": (board_of(documents.BOARD.replace("suites:", MANY_TASKS + "suites:")), "is in no suite"),
    "display": (lambda folder: sanitize_for_display("\u202e" * 10**7), ""),
    "yaml marks": (lambda folder: parse_yaml("x: " + "e\u0301" * LONG, "text"), ""),
}
"""Name -> how it is read, and a pattern of the sentence that refuses it; none where it may be read."""


def _deep_lineage() -> dict[str, object]:
    step = {"kind": "trained", "layers": "all", "depth": 2**52}
    return {"schema_version": 1, "id": "x", "family": "llava", "depth": 2**52, "steps": [step]}


def peak() -> int:
    """MiB that this process ever held; what `getrusage` gives includes those of the process that started it."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def main(folder: Path) -> None:
    """Read every bomb and say what came of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for place, (name, (read, _)) in enumerate(BOMBS.items()):
        told: list[str] = []
        began = time.process_time()
        try:
            read(folder / str(place))
        except VrbenchError as error:
            told = error_messages(error)
        except BaseException as error:
            told = [f"NOT REFUSED BUT {type(error).__name__}: {str(error)[:300]}"]
        seconds = time.process_time() - began
        print(json.dumps({"name": name, "told": told, "seconds": round(seconds, 2), "mebibytes": peak()}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
