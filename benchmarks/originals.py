"""Compare tokens and labels of the styles with the published code they are named after, on made samples.

    python -m benchmarks.originals --originals DIR [--tokenizers DIR] [--pin]

DIR holds checkouts of haotian-liu/LLaVA, BAAI-DCAI/Bunny and SiyuanWangw/Visual-Region in folders of the names LLaVA,
Bunny and Visual-Region. Their functions are read from there and run as they are: this repository has no copy of them.
Writes benchmarks/results/originals.md; exits with 1 if a style differs where nothing is said of it. `--pin` writes what
the originals gave to tests/training/originals.json, which a test compares with, without the originals.

The tokenizers are small ones made for tests, of the kinds that the models have: SentencePiece with a space in front
(LLaVA; read by sentencepiece itself for the original and converted for vrbench), bytes with Llama 3's special tokens,
and Phi 3's. With --tokenizers the models' own are compared as well: folders llava, bunny-llama and bunny-phi3, as many
as there are, with a tokenizer.json.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import contextlib
import copy
import importlib.util
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from benchmarks import report_header
from benchmarks.odd_conversations import KINDS, Record, samples
from tests.conversion.tokenizers import original_words, save_tokenizer
from vrbench.checkpoints.prompts import vicuna_template
from vrbench.conversion.tokenizer import convert_tokenizer
from vrbench.core.io import digest_of
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.conversations import Conversation, InvalidSample, TrainingImage, parse_record
from vrbench.training.recipe import Style

REPORT = Path(__file__).parent / "results" / "originals.md"
PINNED = Path(__file__).parents[1] / "tests" / "training" / "originals.json"
IMAGE_TOKENS = 25
IMAGE_PLACE, IGNORED = -200, -100

Tokens = tuple[list[int], list[int]] | None
"""Token ids and labels with images as IMAGE_TOKENS tokens of id -200; None where the code stops, or leaves it out.

An image that the maximum cuts through is left out: vrbench's sample ends before it.
"""


@dataclass(frozen=True)
class Original:
    """A training code with a tokenizer, and vrbench's settings that stand for it.

    Attributes:
        repository: on GitHub; its last part is the folder of its checkout.
        template: key of its `conv_templates`.
        family: of the test's tokenizer.
        end: token that ends an answer.
        style: vrbench's.
        separator: vrbench's, in the chat template.
        number: of samples.
        tokenizer: folder of the model's own; None for the test's.
        longest: maximum of tokens, so that some samples are longer.
    """

    repository: str
    template: str
    family: str
    end: str
    style: Style
    separator: str = " "
    number: int = 197
    tokenizer: Path | None = None
    longest: int = 700


ORIGINALS = {
    "LLaVA-1.5": Original("haotian-liu/LLaVA", "vicuna_v1", "llava", "</s>", "llava", number=288),
    "Bunny, Llama 3": Original("BAAI-DCAI/Bunny", "llama", "bunny-llama", "<|end_of_text|>", "llava"),
    "Bunny, Phi 3": Original("BAAI-DCAI/Bunny", "phi3", "bunny-phi3", "<|endoftext|>", "llava"),
    "Visual-Region, Llama 3": Original(
        "SiyuanWangw/Visual-Region", "llama", "bunny-llama", "<|end_of_text|>", "visual-region", separator=""
    ),
    "Visual-Region, Phi 3": Original(
        "SiyuanWangw/Visual-Region", "phi3", "bunny-phi3", "<|endoftext|>", "visual-region"
    ),
}
"""What is compared, by its name in the page."""

REASONS = {
    "image in mid-question": "the image stays where it is; the originals move it to the front",
    "image in front, on the same line": "a line end follows the image; Visual-Region leaves the text as it is",
    "image in front, much white space": "outer white space is removed; Visual-Region leaves the text as it is",
    "nothing but an image": "a line end follows the image",
    "two marks in a question": "left out: the placeholders are more than the images",
    "a mark in each of two questions": "left out: the placeholders are more than the images",
    "a mark in an answer": "left out",
    "an image without a mark": "the image is shown in front; the originals do not show it",
    "a literal <image> in text only": "left out",
    "an empty answer among several": "left out; the originals ask the question, and the next one follows at once",
    "the last answer empty": "left out; the originals keep it without a label",
    "an answer of white space": "left out; the originals label the white space",
    "an empty question": "left out; the originals keep it, mostly without a label",
    "gpt first": "left out; the originals remove the first message",
    "gpt alone": "left out; the originals keep it without a label",
    "a question without an answer": "left out; the originals keep it without a label",
    "white space around answers": "outer white space is removed; the originals label it",
    "white space around questions": "outer white space is removed",
    "'ASSISTANT: ' in an answer": "labels are on the answers; the originals give no label to the sample",
    "an end token in an answer": "labels are on the answers; the originals give no label to the sample",
    "special tokens in a question": "where one is the pad token, the originals give no label to the sample",
    "about as long as the maximum, text": "where the end token is the pad token, Bunny's code gives no label to a text "
    "that is longer by less than its turns",
    "images up to the maximum and beyond": "left out: the placeholders are more than the images",
    "several images": "the originals stop, for they take one image a sample; vrbench shows them",
}
"""What the style vrbench does otherwise in a kind."""


class OriginalTokenizer:
    """A tokenizer as the original code calls it, over a function from a text to its ids."""

    legacy = True

    def __init__(self, original: Original) -> None:
        words: Any = original_words(original.family)
        if original.tokenizer:
            words = transformers.PreTrainedTokenizerFast.from_pretrained(original.tokenizer, local_files_only=True)
        self._ids: Callable[[str], list[int]] = lambda text: list(words(text)["input_ids"])
        self.bos_token_id = words.bos_token_id
        (self.eos_token_id,) = self._ids(original.end)[1:]
        is_llama_3 = original.family == "bunny-llama"  # whose code makes the end token the pad token
        self.pad_token_id = self.eos_token_id if is_llama_3 else self._ids("<unk>")[1]
        self.model_max_length = original.longest

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        if isinstance(text, str):
            return SimpleNamespace(input_ids=self._ids(text))
        (one,) = text
        return SimpleNamespace(input_ids=torch.tensor([self._ids(one)[: options["max_length"]]]))


original_tokenizer = cache(OriginalTokenizer)


def functions(file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The functions at the top of a file, run with the names that it would import; its classes and imports are not."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.decorator_list]
    names = dict(given)
    code = compile(tree, str(file), "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    exec(code, names)
    return names


def module(file: Path) -> Any:
    """A file of the original that imports nothing of its package, as a module."""
    spec = importlib.util.spec_from_file_location(f"original_{file.parents[1].name}_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@cache
def code(checkout: Path) -> tuple[dict[str, Any], Any]:
    """The functions of a checkout's data code, and its module of conversations."""
    package = "llava" if (checkout / "llava").is_dir() else "bunny"
    data, tokens = {
        "llava": ("llava/train/train.py", "llava/mm_utils.py"),
        "bunny": ("bunny/util/data_utils.py", "bunny/util/mm_utils.py"),
    }[package]
    conversation = module(checkout / package / "conversation.py")
    constants = vars(module(checkout / package / "constants.py"))
    image_tokens = functions(checkout / tokens, {"torch": torch, **constants})
    names = {
        "torch": torch, "transformers": transformers, "copy": copy, "re": re, "conversation_lib": conversation,
        "tokenizer_image_token": image_tokens["tokenizer_image_token"], "IS_TOKENIZER_GREATER_THAN_0_14": True,
        **constants,
    }  # fmt: skip
    return functions(checkout / data, names), conversation


def theirs(original: Original, checkout: Path, record: Record) -> Tokens:
    """What the original's data set and collator make of a record, with images as many tokens."""
    names, conversation = code(checkout)
    conversation.default_conversation = conversation.conv_templates[original.template]
    settings = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    sources, has_image = copy.deepcopy([record["conversations"]]), "image" in record
    try:
        if has_image:
            if not isinstance(record["image"], str):
                raise TypeError("it joins the folder and one name")
            sources = names["preprocess_multimodal"](sources, settings)
        more = (IMAGE_TOKENS,) if "Visual-Region" in original.repository else ()
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where tokens do not add up
            made = names["preprocess"](sources, original_tokenizer(original), *more, has_image=has_image)
    except (AssertionError, IndexError, KeyError, TypeError):
        return None
    ids, labels = (made[key][0].tolist()[: original.longest] for key in ("input_ids", "labels"))
    spread: list[tuple[int, int]] = []
    for token, label in zip(ids, labels, strict=True):  # as prepare_inputs_labels_for_multimodal puts images in
        spread += [(token, IGNORED)] * IMAGE_TOKENS if token == IMAGE_PLACE else [(token, label)]
    spread = spread[: original.longest]
    while spread[-1][0] == IMAGE_PLACE:  # cut through: no text ends with an image
        spread.pop()
    return [token for token, _ in spread], [label for _, label in spread]


class Picture(TrainingImage):
    """An image that nothing is read from."""

    def open(self) -> Any:
        """A white square."""
        from PIL import Image

        return Image.new("RGB", (8, 8))


@cache
def encoder(original: Original, style: Style) -> ConversationEncoder:
    """vrbench's encoder with the converted tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        source = original.tokenizer or Path(folder)
        if source != original.tokenizer:
            save_tokenizer(original.family, source)
        made = convert_tokenizer(source, original.end, original.family == "llava")
    made.tokenizer.chat_template = vicuna_template(original.end, original.separator)
    vlm: Any = SimpleNamespace(
        family="llava", tokenizer=made.tokenizer, image_tokens=IMAGE_TOKENS, prompt_format=None,
        image_processor=lambda images, **_: {"pixel_values": torch.zeros(len(images), 3, 2, 2)},
        model=SimpleNamespace(config=SimpleNamespace(image_token_id=made.image_id)),
    )  # fmt: skip
    return ConversationEncoder(vlm, original.longest, style=style)


def ours(original: Original, style: Style, record: Record) -> Tokens:
    """What vrbench makes of a record in a style."""
    made = encoder(original, style)
    try:
        read = parse_record(record, Path("x"), "it", style)
    except InvalidSample:
        return None
    pictures = tuple(Picture(image.name, b"") for image in read.images)
    inputs = made.encode(Conversation(read.id, read.turns, pictures, read.location, read.messages))
    if inputs is None:
        return None
    shown = int((inputs["input_ids"] == made.image_id).sum())
    assert shown == IMAGE_TOKENS * len(inputs.get("pixel_values", ()))
    ids = [IMAGE_PLACE if token == made.image_id else token for token in inputs["input_ids"][0].tolist()]
    return ids, inputs["labels"][0].tolist()


def pinned_digests(made: dict[str, list[Tokens]]) -> dict[str, str]:
    """Kind -> sixteen characters that stand for the ids and labels of its samples."""
    return {kind: digest_of(found)[:16] for kind, found in made.items()}


@dataclass
class Row:
    """The samples of a kind, counted.

    Attributes:
        stops: where the original stops.
        tokens, labels: equal in the original's style.
        own_tokens, own_labels: equal in the style vrbench.
        own_left_out: where that leaves the sample out.
    """

    samples: int = 0
    stops: int = 0
    tokens: int = 0
    labels: int = 0
    own_tokens: int = 0
    own_labels: int = 0
    own_left_out: int = 0


def compare(original: Original, checkout: Path, found: dict[str, Row]) -> dict[str, str]:
    """Count the samples of each kind into `found`; returns `pinned_digests` of what the original made."""
    made: dict[str, list[Tokens]] = {}
    for kind, record in samples(original.number):
        expected = theirs(original, checkout, record)
        made.setdefault(kind, []).append(expected)
        row = found.setdefault(kind, Row())
        row.samples += 1
        row.stops += expected is None
        same_tokens, same_labels = equal(expected, ours(original, original.style, record))
        row.tokens += same_tokens
        row.labels += same_labels
        own = ours(original, "vrbench", record)
        own_tokens, own_labels = equal(expected, own)
        row.own_left_out += own is None
        row.own_tokens += own_tokens
        row.own_labels += own_labels
    return pinned_digests(made)


def equal(expected: Tokens, made: Tokens) -> tuple[bool, bool]:
    """Whether the tokens are equal, and the labels."""
    if expected is None or made is None:
        return (expected is None and made is None,) * 2
    return expected[0] == made[0], expected[1] == made[1]


def page(found: dict[str, tuple[Original, dict[str, Row]]], checkouts: Sequence[str]) -> str:
    """The report."""
    lines = [
        "# Tokens and labels of the styles and of the published code", "",
        "Made by `python -m benchmarks.originals`: samples of each kind, made by a generator, through the code of each "
        f"repository and through vrbench, with {IMAGE_TOKENS} tokens an image. A \"test\" tokenizer is a small one "
        "made for tests, of the kind that the model has; \"own\" is the model's vocabulary and merges. \"equal\": "
        "token ids, and labels at all places, of so many of the samples; where the original stops with an error, "
        "vrbench leaves the sample out, which counts as equal. An image that the maximum cuts through is not "
        "compared: vrbench ends the sample before it, and no label follows.", "",
        "A mark is an `<image>` placeholder. The image at a second one is not compared: the originals show the next "
        "sample's in the batch, vrbench the sample's own again.", "",
    ]  # fmt: skip
    columns = (
        "samples | the original stops | style: tokens equal | labels equal | `vrbench`: tokens equal | labels equal"
    )
    lines += [f"| | tokenizer | style | {columns} | left out |", "|---" * 10 + "|"]
    for name, (original, rows) in found.items():
        counts = " | ".join(str(value) for value in vars(_total(rows)).values())
        lines.append(f"| {name} | {'own' if original.tokenizer else 'test'} | `{original.style}` | {counts} |")
    lines.append("")
    for name, (original, rows) in found.items():
        if original.tokenizer:
            continue
        lines += [
            f"## {name}", "",
            f"{original.repository}, template `{original.template}`, at most {original.longest} tokens; style "
            f"`{original.style}`" + (", prompt.version `visual-region`" if not original.separator else "") + ".", "",
            f"| kind | {columns} | left out | why `vrbench` differs |", "|---" * 9 + "|",
            *(_line(kind, row) for kind, row in rows.items()), _line("**all**", _total(rows)), "",
        ]  # fmt: skip
    lines += [f"`{report_header.command()}`; {'; '.join(checkouts)}; {report_header.versions()}", ""]
    return "\n".join(lines)


def _total(rows: dict[str, Row]) -> Row:
    return Row(**{key: sum(getattr(row, key) for row in rows.values()) for key in vars(Row())})


def _line(kind: str, row: Row) -> str:
    differs = row.own_labels < row.samples or row.own_tokens < row.samples or row.tokens < row.samples
    cells = [kind, *vars(row).values()]
    return f"| {' | '.join(map(str, cells))} | {REASONS.get(kind, '') if differs else ''} |"


def commit(checkout: Path) -> str:
    """The checkout's commit, where git knows it."""
    told = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return told.stdout.strip()[:12]


def main() -> int:
    """Compare, write the page, and tell whether a style differs from what it is named after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--originals", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--pin", action="store_true")
    given = parser.parse_args()
    asked = dict(ORIGINALS)
    for name, original in ORIGINALS.items():
        if given.tokenizers and (given.tokenizers / original.family).is_dir():
            own = replace(original, tokenizer=given.tokenizers / original.family, longest=250)
            asked[f"{name}, own tokenizer"] = own
    found: dict[str, tuple[Original, dict[str, Row]]] = {}
    pinned = {}
    for name, original in asked.items():
        found[name] = original, {kind: Row() for kind in KINDS}
        digests = compare(original, given.originals / original.repository.split("/")[1], found[name][1])
        if name in ORIGINALS:
            pinned[name] = digests
    repositories = dict.fromkeys(original.repository for original in ORIGINALS.values())
    checkouts = [f"{name} {commit(given.originals / name.split('/')[1])}".strip() for name in repositories]
    REPORT.write_text(page(found, checkouts), encoding="utf-8")
    print(REPORT.read_text(encoding="utf-8"))
    if given.pin:
        PINNED.write_text(json.dumps(pinned, indent=0) + "\n", encoding="utf-8")
    differing = [
        f"{name}: {kind}" for name, (_, rows) in found.items() for kind, row in rows.items()
        if min(row.labels, row.tokens) < row.samples
    ]  # fmt: skip
    print("\n".join(["differ:", *differing]) if differing else "no style differs")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
