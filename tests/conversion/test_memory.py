"""A conversion takes little more memory than its largest shard, whatever the whole model takes.

What is measured: the resident set of a process of its own, as the kernel counts it (VmHWM), over what it was just
before the conversion. That includes the pages of files that torch and safetensors have mapped, although the kernel may
drop them at any time. Everything was imported before, by the conversion of a tiny model.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests import forked
from tests.conversion import sources as tiny
from tests.conversion.tokenizers import save_tokenizer
from vrbench.conversion.convert import convert

SHARDS = 4


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def grown(source: Path, out: Path, base: str | None, tower: str) -> int:
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests have freed is not to be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = status("VmRSS")
    convert(str(source), out, base, tower)
    return status("VmHWM") - before


def write_peaks(big: Path, out: Path) -> None:
    base, tower = big / "base", str(big / "small" / "tower")
    convert(str(big / "small" / "lora"), out / "small", str(big / "small" / "base"), tower)
    forms = {"safetensors": None, "bin": None, "lora": str(base)}
    peaks = {form: grown(big / form, out / form, named, tower) for form, named in forms.items()}
    (out / "peaks.json").write_text(json.dumps(peaks))


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model to warm up with, and one of 140 MB in four shards, merged in both formats and as a base."""
    folder = tmp_path_factory.mktemp("big")
    small = tiny.make("llava")
    tiny.save_lora(small, folder / "small" / "lora")
    tiny.save_base(small, folder / "small" / "base")
    tiny.save_tower(small, folder / "small" / "tower")
    wide = tiny.make("llava", intermediate_size=60_000, num_hidden_layers=6, initializer_range=0.02)
    tiny.save_state(wide.own_state(), folder / "safetensors", "safetensors", SHARDS)
    tiny.save_state(wide.own_state(), folder / "bin", "bin", SHARDS)
    tiny.save_state(wide.llm, folder / "base", "bin", SHARDS)
    tiny.save_lora(wide, folder / "lora", layers=tuple(range(6)))
    for name in ("safetensors", "bin", "base"):
        (folder / name / "config.json").write_text(json.dumps(wide.settings))
        save_tokenizer("llava", folder / name)
    return folder


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux to count memory")
def test_the_peak_is_less_than_1_3_of_the_largest_shard(big: Path, tmp_path: Path) -> None:
    sizes = {form: [f.stat().st_size for f in (big / form).glob("*-of-*")] for form in ("safetensors", "bin", "base")}
    sizes["lora"] = sizes.pop("base")
    process = forked.start(write_peaks, big, tmp_path, environment={"VRBENCH_CACHE": str(tmp_path / "cache")})
    assert forked.ended(process) == 0
    for form, peak in json.loads((tmp_path / "peaks.json").read_text()).items():
        largest, total = max(sizes[form]), sum(sizes[form])
        print(f"{form}: peak {peak / 1e6:.0f} MB, largest shard {largest / 1e6:.0f} MB, all {total / 1e6:.0f} MB")
        assert largest > 30e6 and total > 3 * largest  # else it could not be told from a model that is held whole
        assert peak < 1.3 * largest, form
        assert (tmp_path / form / "vrbench.json").is_file()
        shutil.rmtree(tmp_path / form)


def test_the_shards_of_the_big_model_differ_in_content(big: Path) -> None:
    """So that no test above passes because its files are empty."""
    state = torch.load(sorted((big / "bin").glob("*-of-*"))[0], weights_only=True, mmap=True)
    assert max(float(value.std()) for value in state.values()) > 0
