"""Time and memory of training at true shapes, on the tiny one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.cli import app
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.training import profile as profiling
from vrbench.training.profile import (
    PAPER_SHAPES,
    ProfileOptions,
    RandomBatch,
    batch_loss,
    paper_layers,
    planned_rows,
    profile,
)
from vrbench.training.profile_results import ProfileRow, load_profile, profile_tables, save_profile
from vrbench.training.shape_model import ShapeModel

CPU = torch.device("cpu")
QUICK = ProfileOptions(batch=2, tokens=24, image_tokens=16, steps=1, removed=(0, 2))
FEW = replace(QUICK, checkpointing=[False], layers=["all"])
"""Four rows: two trainings and two prefills."""


@pytest.fixture
def model() -> ShapeModel:
    torch.manual_seed(0)
    return ShapeModel("tiny", CPU)


@pytest.fixture
def short_prefills(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefills of 40 tokens in place of the paper's 11,264."""
    monkeypatch.setattr(profiling, "PREFILL_ROWS", 2)
    monkeypatch.setattr(profiling, "PREFILL_TOKENS", 20)


def row(**more: Any) -> ProfileRow:
    return planned_rows(["tiny"], QUICK)[0].model_copy(update=more)


def tuning(method: str = "lora", layers: str = "1,3", **more: Any) -> ProfileRow:
    settings = {"masters": "float32", "checkpointing": False, "projector": True, "rank": 4, "alpha": 8, "dropout": 0}
    return row(tuning=method, indices=layers, **{**settings, **more})


def test_the_papers_settings_are_asked_by_default() -> None:
    rows = planned_rows(PAPER_SHAPES, ProfileOptions())
    assert {(r.batch, r.tokens, r.image_tokens) for r in rows if r.kind == "train"} == {(8, 768, 576)}
    assert {(r.batch, r.tokens, r.removed) for r in rows if r.kind == "prefill"} == {(16, 704, n) for n in (0, 4, 8)}
    assert {r.shape: len(LayerSet.parse(r.indices, r.depth)) for r in rows if r.layers == paper_layers(r.shape)} == {
        "llava-1.5-7b": 8, "llava-1.5-13b": 9, "bunny-llama-3-8b": 8, "bunny-phi3-mini": 8,
    }  # fmt: skip
    assert len(rows) == 4 * (2 * 2 * 2 + 3)


def test_a_row_is_asked_once_however_its_layers_are_written() -> None:
    rows = planned_rows(["tiny", "tiny"], ProfileOptions(tunings=["lora"], layers=["all", "0-3", "top:4"], removed=()))
    assert [(r.checkpointing, r.indices) for r in rows] == [(True, "all"), (False, "all")]


@pytest.mark.parametrize("method", ["lora", "weights"])
def test_only_the_chosen_layers_and_the_projector_are_trained(model: ShapeModel, method: str) -> None:
    trained = model.tune(tuning(method))
    batch_loss(model, row(), RandomBatch(model, row())).backward()
    names = {n for n, p in model.llm.named_parameters() if p.grad is not None}
    assert {n.split(".")[2] for n in names} == {"1", "3"}
    assert all("lora_" in n for n in names) == (method == "lora")
    linears = {n.split("self_attn.")[-1].split("mlp.")[-1].split(".")[0] for n in names if "norm" not in n}
    assert linears == {f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down")}
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is not None for p in model.projector.parameters())


def test_a_frozen_projector_leaves_no_backward_below_the_first_tuned_layer(model: ShapeModel) -> None:
    seen = []
    for layer in model.decoder.layers:
        layer.register_forward_hook(lambda m, i, out: seen.append(out))
    model.tune(tuning(layers="2", projector=False))
    batch_loss(model, row(), RandomBatch(model, row()))
    states = [out[0] if isinstance(out, tuple) else out for out in seen]
    assert [s.requires_grad for s in states] == [False, False, True, True]
    assert not any(p.requires_grad for p in model.projector.parameters())


@pytest.mark.parametrize("method", ["lora", "weights"])
def test_checkpointing_computes_layers_twice_and_gives_the_same_gradients(model: ShapeModel, method: str) -> None:
    grads, calls = [], []
    batch = RandomBatch(model, row())
    for is_on in (False, True):
        calls.append("start")
        torch.manual_seed(3)  # of the weights and LoRA's first values
        one = ShapeModel("tiny", CPU)
        one.decoder.layers[1].self_attn.register_forward_hook(lambda *_: calls.append("layer"))
        trained = one.tune(tuning(method, checkpointing=is_on))
        batch_loss(one, row(), batch).backward()
        grads.append([p.grad.clone() for p in trained if p.grad is not None])
    assert calls == ["start", "layer", "start", "layer", "layer"]
    assert len(grads[0]) > 4
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("method", ["lora", "weights"])
@pytest.mark.parametrize("masters", ["float32", "bfloat16"])
def test_masters_are_of_the_type_that_the_row_says(model: ShapeModel, method: str, masters: str) -> None:
    trained = model.tune(tuning(method, masters=masters))
    assert {p.dtype for p in trained} == {getattr(torch, masters)}
    ids = {id(p) for p in trained}
    frozen = [p for p in model.llm.parameters() if id(p) not in ids]
    assert {p.dtype for p in frozen} == {torch.bfloat16} and not any(p.requires_grad for p in frozen)


def test_the_loss_is_that_of_the_last_words(model: ShapeModel) -> None:
    asked = row(masters="bfloat16")
    batch = RandomBatch(model, asked)
    with torch.no_grad():
        loss = batch_loss(model, asked, batch)
        states = model.states(batch.features, batch.words).last_hidden_state
        logits = model.llm.lm_head(states).float()
    logs = logits.log_softmax(-1)
    places = range(asked.tokens - asked.answer_tokens, asked.tokens)
    words = {at: batch.words[:, at - asked.image_tokens] for at in places}
    direct = -torch.stack([logs[range(asked.batch), at - 1, words[at]] for at in places]).mean()
    assert len(places) == 4
    assert float(loss) == pytest.approx(float(direct), abs=1e-5)


def test_removed_layers_are_not_computed(model: ShapeModel) -> None:
    calls: list[int] = []
    for i, layer in enumerate(model.decoder.layers):
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
    batch = RandomBatch(model, row())
    model.remove_last(3)
    model.states(batch.features, batch.words, use_cache=True)
    assert calls == [0]


def test_joined_linears_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text, vision = RANDOM_SHAPES["bunny-phi3-mini"]
    small = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    small |= {"intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 128, "pad_token_id": 0}
    monkeypatch.setitem(RANDOM_SHAPES, "small-phi3", (text | small, vision | {"hidden_size": 16}))
    rows = profile(
        ["small-phi3"], ProfileOptions(layers=["0"], batch=1, tokens=12, image_tokens=8, steps=1, removed=()), "cpu"
    )
    lora = 128 * ((32 + 96) + (32 + 32) + (32 + 96) + (48 + 32))
    projector = 16 * 32 + 32 + 32 * 32 + 32
    assert rows[0].trainable == lora + projector


@pytest.mark.usefixtures("short_prefills")
def test_rows_are_kept_one_by_one_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "profile.json"
    told: list[ProfileRow] = []

    def stop_at_third(row: ProfileRow) -> None:
        told.append(row)
        assert len(load_profile(file)) == len(told) - 1 if file.exists() else len(told) == 1
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile(["tiny"], FEW, "cpu", file, stop_at_third)
    kept = load_profile(file)
    rows = profile(["tiny"], FEW, "cpu", file)
    assert len(kept) == 2
    assert rows[:2] == kept
    assert load_profile(file) == rows
    monkeypatch.setattr(profiling, "ShapeModel", None)  # nothing is missing: no model is made
    assert profile(["tiny"], FEW, "cpu", file) == rows


def test_rows_of_another_device_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    save_profile(file, [row(device="NVIDIA H200")])
    with pytest.raises(VrbenchError, match=r"has rows of NVIDIA H200, and this is .* threads; name another file"):
        profile(["tiny"], QUICK, "cpu", file)


@pytest.mark.usefixtures("short_prefills")
def test_out_of_memory_is_a_row_and_the_next_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    step = profiling.training_step

    def too_large(model: Any, row: ProfileRow, *more: Any) -> None:
        if row.tuning == "lora" and row.indices == "all":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        step(model, row, *more)

    monkeypatch.setattr(profiling, "training_step", too_large)
    rows = profile(["tiny"], FEW, "cpu")
    failed = [r for r in rows if r.status != "ok"]
    assert [(r.tuning, r.indices, r.status) for r in failed] == [("lora", "all", "out of memory")]
    assert all(r.seconds_per_step is None for r in failed)
    assert all(r.seconds_per_step for r in rows if r not in failed)
    assert "out of memory" in profile_tables(rows)


def test_another_fault_of_torch_is_not_called_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(profiling, "training_step", broken)
    with pytest.raises(RuntimeError, match="multiplied"):
        profile(["tiny"], QUICK, "cpu")


def test_every_fault_is_told_before_anything_is_made() -> None:
    wrong = ProfileOptions(tunings=["qlora"], batch=0, tokens=600, image_tokens=599, masters="int8", layers=["0-4"])
    with pytest.raises(MultipleErrors) as caught:
        planned_rows(["tiny", "llava"], wrong)
    told = str(caught.value)
    for part in ("shape 'llava'", "tuning 'qlora'", "batch is 0", "at least 601", "masters 'int8'"):
        assert part in told
    assert "tiny: layer 4 does not exist" in told


def test_savings_are_against_the_same_setting_with_all_layers() -> None:
    common = {"device": "card", "trainable": 1_500_000}
    rows = [
        row(seconds_per_step=2.0, peak_gib=40.0, **common),
        row(layers="0", indices="0", seconds_per_step=1.5, peak_gib=10.0, **common),
        row(layers="0", indices="0", checkpointing=False, seconds_per_step=1.0, peak_gib=10.0, **common),
    ]
    lines = [line.split() for line in profile_tables(rows).splitlines()[2:]]
    assert lines[0] == ["tiny", "lora", "on", "all", "4", "2.000", "40.0", "1.5"]
    assert lines[1] == ["tiny", "lora", "on", "0", "1.500", "10.0", "1.5", "25", "%", "75", "%"]
    assert lines[2] == ["tiny", "lora", "off", "0", "1.000", "10.0", "1.5"]


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text('[{"kind": "train"}]')
    with pytest.raises(VrbenchError, match="is not a profile"):
        load_profile(file)
    with pytest.raises(VrbenchError, match="no profile at"):
        load_profile(tmp_path / "none.json")


@pytest.mark.usefixtures("short_prefills")
def test_the_command_prints_both_tables_and_writes_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "profile.json"
    asked = "profile --shape tiny --tuning lora --checkpointing off --batch 2 --tokens 24 --image-tokens 16 --steps 1"
    done = CliRunner().invoke(app, [*asked.split(), "--device", "cpu", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "time saved" in done.stdout
    assert "tokens/s" in done.stdout
    rows = json.loads(out.read_text())
    assert [(r["kind"], r["indices"]) for r in rows] == [("train", "all"), ("train", "0"), ("prefill", "none")]
    assert all(r["seconds_per_step"] > 0 and r["versions"]["torch"] == torch.__version__ for r in rows)
