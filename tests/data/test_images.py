"""Images open in one way wherever they are seen: upright, 8 bits a channel, whole or refused."""

from __future__ import annotations

import base64
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.evaluation.test_task_scores import write_task
from vrbench import cli
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.data import images as image_module
from vrbench.data import tables
from vrbench.data.images import ImageError, has_16_bits, image_size, inspect_image, open_image, strict_pillow
from vrbench.data.tables import decode_images
from vrbench.evaluation import task_result
from vrbench.evaluation.requests import request_image
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan_task
from vrbench.pruning.questions import FolderQuestions
from vrbench.training.conversations import InvalidSample, TrainingImage

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
RAMP = np.linspace(2000, 60000, 1200).reshape(30, 40)


def file(image: Any, kind: str, **settings: Any) -> bytes:
    content = BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_run_train_and_layers_see_the_same_upright_image(kind: str, orientation: int, tmp_path: Path) -> None:
    content = file(Image.fromarray(PIXELS), kind, exif=turned(orientation))
    (tmp_path / f"0.{kind.lower()}").write_bytes(content)
    seen = datasets.Image().decode_example({"bytes": content, "path": None}).convert("RGB")  # as in lmms-eval
    assert seen.size == ((20, 40) if orientation == 6 else (40, 20))
    row = tables.from_rows([{"image": {"bytes": content, "path": None}}])[0]
    [[asked]] = FolderQuestions(tmp_path, 1)
    stored = tmp_path / f"0.{kind.lower()}"
    trained = [TrainingImage("x", where).open() for where in (content, stored)]
    for image in (row["image"].convert("RGB"), asked.image, *trained):
        assert (image.size, image.tobytes()) == (seen.size, seen.tobytes())
    assert {TrainingImage("x", where).size() for where in (content, stored)} == {seen.size}
    assert inspect_image(content)[0] == inspect_image(stored)[0] == ""


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_images_of_8_bits_keep_mode_and_digest(mode: str) -> None:
    grey = Image.fromarray(PIXELS).convert("L")
    image = grey.convert(mode) if mode == "LA" else Image.fromarray(PIXELS).convert(mode)
    content = file(image, "JPEG" if mode == "YCbCr" else "TIFF")  # no Pillow reads each TIFF of YCbCr that it writes
    before, now = datasets.Image().decode_example({"bytes": content, "path": None}), open_image(content)
    assert request_image(now, lambda: now) == request_image(before, lambda: before)
    assert now.convert("RGB").tobytes() == before.convert("RGB").tobytes()
    assert not has_16_bits(content)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_keep_the_high_byte(kind: str, tmp_path: Path) -> None:
    values = RAMP.astype(np.uint16)
    content = file(Image.fromarray(values), kind)
    expected = (values >> 8).astype(np.uint8)
    assert np.array_equal(np.asarray(open_image(content)), expected)
    assert np.array_equal(np.asarray(TrainingImage("x", content).open())[..., 1], expected)
    row = tables.from_rows([{"image": {"bytes": content, "path": None}}])[0]
    assert np.array_equal(np.asarray(row["image"]), expected)
    assert has_16_bits(content) and inspect_image(content)[0] == ""


def test_the_program_shows_no_advice_of_pillow_on_palettes(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(PIXELS).convert("P")
    image.info["transparency"] = bytes(range(256))
    content = file(image, "PNG")
    monkeypatch.setattr("sys.argv", ["vrbench", "version"])
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        open_image(content).convert("RGB")
        assert "Palette images with Transparency" in str(shown[0].message)
        shown.clear()
        with pytest.raises(SystemExit):
            cli.main()
        open_image(content).convert("RGB")
        assert not shown


def test_16_bit_images_of_a_task_are_counted_under_the_table(tmp_path: Path) -> None:
    deep, plain = (file(Image.fromarray(RAMP.astype(kind)), "PNG") for kind in (np.uint16, np.uint8))
    jobs = []
    for images in ([plain, plain, deep], [plain, plain, plain]):
        rows = [{"q": "Which?", "said": "red", "image": base64.b64encode(image).decode()} for image in images]
        spec = write_task(
            tmp_path, "mine", rows, harness="lmms-eval", scorer="exact_match", metric="mean", prompt="'{{q}}'",
            target="said",
        )  # fmt: skip
        jobs.append(plan_task(spec, RunConfig()))
    assert [job.sixteen_bits for job in jobs] == [1, 0]
    samples = [Sample(id=f"{i}", cluster=f"{i}", score=1.0, responses=("red",)) for i in range(3)]
    told = [task_result.answer_fields("exact_match", samples, {}, 100, job.sixteen_bits)["warnings"] for job in jobs]
    assert told == [
        ("1 image has 16 bits a channel, reduced to the high 8; lmms-eval clips such an image to white",), (),
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "word"), [(np.float32, "a fraction of 32 bits"), (np.int32, "whole numbers of 32")])
def test_32_bits_are_refused_since_nothing_says_what_is_white(kind: Any, word: str) -> None:
    content = file(Image.fromarray(RAMP.astype(kind)), "TIFF")
    assert word in inspect_image(content)[0] and "save it with 8 or 16 bits" in inspect_image(content)[0]
    with pytest.raises(ImageError, match=word):
        open_image(content)
    with pytest.raises(InvalidSample) as invalid:
        TrainingImage("deep.tif", content).check()
    assert invalid.value.category == "image broken"


def test_what_is_no_whole_image_is_refused(tmp_path: Path) -> None:
    jpeg, png = (file(Image.fromarray(PIXELS), kind) for kind in ("JPEG", "PNG"))
    flipped = png[:60] + bytes([png[60] ^ 1]) + png[61:]
    (tmp_path / "text.jpg").write_text("<html>")
    for content in (b"", jpeg[:-200], png[:-30], flipped, tmp_path / "text.jpg", tmp_path / "none.jpg"):
        assert inspect_image(content)[0]
        with pytest.raises(ImageError):
            open_image(content)
    assert inspect_image(tmp_path / "text.jpg")[0] == "UnidentifiedImageError: cannot identify image file"
    assert inspect_image(jpeg + b"\0" * 200)[0] == ""  # whole, with more behind its end


def test_an_image_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = file(Image.fromarray(PIXELS), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)  # of its 800; twice as many is Pillow's limit
    assert inspect_image(content)[0].startswith("DecompressionBombError: Image size (800 pixels) exceeds limit of 600")
    with pytest.raises(ImageError, match="DecompressionBombError"):
        image_size(content)


def test_rows_that_datasets_made_open_in_the_same_way() -> None:
    content = file(Image.fromarray(RAMP.astype(np.uint16)), "PNG")
    expected = (RAMP.astype(np.uint16) >> 8).astype(np.uint8)
    kinds = datasets.Features({"image": datasets.Image(), "more": [datasets.Image()], "n": datasets.Value("int64")})
    stored = {"bytes": content, "path": None}
    theirs = datasets.Dataset.from_list([{"image": stored, "more": [stored], "n": n} for n in range(3)], kinds)
    mapped = theirs.select([2, 0]).map(lambda row: {"n": row["n"] + 10}, load_from_cache_file=False)
    selected = decode_images(theirs.select([2, 0]))
    for rows in (tables.from_hub(theirs, ["image"], "org/set"), selected, decode_images(mapped)):
        assert np.array_equal(np.asarray(rows[0]["image"]), expected)
        assert np.array_equal(np.asarray(rows[0]["more"][0]), expected)
    assert [row["n"] for row in selected] == [2, 0] and decode_images(mapped)["n"][:] == [12, 10]


def test_texts_of_a_hub_s_set_may_be_base64_and_no_paths(tmp_path: Path) -> None:
    content = file(Image.fromarray(PIXELS), "PNG")
    (tmp_path / "0.png").write_bytes(content)
    texts = datasets.Dataset.from_list([{"image": base64.b64encode(content).decode()}])
    assert tables.from_hub(texts, ["image"], "org/set")[0]["image"].size == (40, 20)
    paths = datasets.Dataset.from_list([{"image": str(tmp_path / "0.png")}])
    with pytest.raises(VrbenchError, match=r"org/set, row 0: column image: .* is a path, and this data set comes"):
        tables.from_hub(paths, ["image"], "org/set")


def test_the_size_of_a_plain_file_is_told_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # calling it would fail
    for kind in ("JPEG", "PNG", "WEBP", "BMP"):
        assert image_size(file(Image.fromarray(PIXELS), kind)) == (40, 20)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("first_out", [0, 1])
def test_pillow_is_strict_until_the_last_one_leaves(
    monkeypatch: pytest.MonkeyPatch, before: bool, first_out: int
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    inside = [strict_pillow(), strict_pillow()]
    for one in inside:
        one.__enter__()
    inside.pop(first_out).__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False, "the other is still inside"
    inside.pop().__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before
    with pytest.raises(OSError, match="gone"), strict_pillow():
        raise OSError("gone")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is before


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_header_that_states_8_bits_says_what_pillow_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of JPEG and PNG files in all modes and depths, also cut short, and of other files."""
    grey = Image.fromarray(PIXELS).convert("L")
    contents = [file(grey.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    contents += [file(grey.convert("L"), "PNG", bits=2), file(Image.fromarray(RAMP.astype(np.uint16)), "PNG")]
    contents += [file(grey.convert(mode), "JPEG") for mode in ("L", "RGB", "CMYK")]
    contents += [file(grey, kind) for kind in ("GIF", "BMP", "TIFF", "WEBP")]
    contents += [content[:length] for content in contents for length in (3, 24, 25, 40)]
    found = [has_16_bits(content) for content in contents]
    quick = [image_module._has_8_bits(content[:25]) for content in contents]
    monkeypatch.setattr(image_module, "_has_8_bits", lambda header: False)
    assert found == [has_16_bits(content) for content in contents]
    assert found[7]
    assert sum(quick[:11]) == 10
