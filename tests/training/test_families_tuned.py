"""Chosen layers of every family are tuned on conversations, and the folder that is written is the tuned model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny, tiny_families
from tests.training.conversation_samples import LATER, ONE, SEVERAL, TWO, WORDS
from vrbench.checkpoints.checkpoint import DELTA
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.parameter_names import canonical_name, is_outside_layers, layer_index
from vrbench.checkpoints.safetensors_index import read_header
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.models.load import load_model, load_vlm
from vrbench.models.resolve import inspect_checkpoint, resolve_checkpoint
from vrbench.training import stages
from vrbench.training.conversation_batches import collate
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.prepare import dry_run
from vrbench.training.recipe import TrainRecipe
from vrbench.training.run import train
from vrbench.training.trainable import sample_layers, unwrap_peft

LAYERS = "1,3"
ASKED = (ONE, SEVERAL, TWO, WORDS, LATER)


def base_of(family: str, folder: Path) -> Path:
    return tiny.save_llava(folder) if family == "llava" else tiny_families.save(family, folder)


def conversations(folder: Path) -> tuple[Path, Path]:
    """The conversations as LLaVA's JSON, and the folder of their images."""
    images, records = folder / "images", []
    images.mkdir()
    for sample in ASKED:
        said = []
        for turn in sample.turns:
            marks = "" if "<image>" in turn.question else "<image>\n" * turn.n_images
            said += [{"from": "human", "value": marks + turn.question}, {"from": "gpt", "value": turn.answer}]
        names = [picture.name for picture in sample.images]
        for picture in sample.images:
            (images / picture.name).write_bytes(picture.source)  # type: ignore[arg-type]
        records.append({"id": sample.id, "conversations": said, **({"image": names} if names else {})})
    file = folder / "mix.json"
    file.write_text(json.dumps(records))
    return file, images


def recipe(base: Path, folder: Path, data: dict[str, Any] | None = None, **tune: Any) -> TrainRecipe:
    file, images = conversations(folder)
    settings = {
        "layers": LAYERS, "rank": 4, "alpha": 8, "steps": 1, "batch": 2, "accumulate": 2, "lr": 1e-2,
        "lr_projector": 1e-2, **tune,
    }  # fmt: skip
    given = {"conversations": str(file), "images": str(images), "length": 4000, **(data or {})}
    return TrainRecipe.model_validate(
        {"name": "r", "makes": "tuned", "base": str(base), "dtype": "float32", "data": given, "tune": settings}
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a training has in memory when it writes its folder."""
    kept: list[Any] = []
    save = stages.save_tuned

    def keep(model: Any, *others: Any) -> str:
        kept.append(model)
        return save(model, *others)

    monkeypatch.setattr(stages, "save_tuned", keep)
    return kept


def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.inference_mode():
        return unwrap_peft(model).eval()(**inputs, use_cache=False).logits[batch["attention_mask"] == 1]


def changed(model: Any, base: Any) -> tuple[set[int], bool, bool]:
    """(layers, whether all of the projector, whether anything else) that differ from the base."""
    differ = {n for (n, p), q in zip(model.named_parameters(), base.parameters(), strict=True) if not torch.equal(p, q)}
    names = {id(p): name for name, p in model.named_parameters()}
    by_layer = [{names[id(p)] for p in layer.parameters()} for layer in components.decoder_layers(model)]
    projector = {names[id(p)] for part in components.projector(model) for p in part.parameters()}
    layers = {i for i, inside in enumerate(by_layer) if inside & differ}
    return layers, projector <= differ, bool(differ - projector - set().union(*by_layer))


@pytest.mark.parametrize("sampling", [None, "lisa:1"])
def test_a_frozen_projector_is_not_rewritten_in_the_recipe_s_type(sampling: str | None, tmp_path: Path) -> None:
    base = base_of("llava", tmp_path / "base")
    asked = recipe(base, tmp_path, tuning="weights", lr_projector=0, sampling=sampling)
    out = train(asked.model_copy(update={"dtype": "bfloat16"}), tmp_path / "tuned", device="cpu")
    made, before = (load_model(resolve_checkpoint(str(path)), torch.float32) for path in (out, base))
    pairs = zip(
        components.projector_parameters(made).values(), components.projector_parameters(before).values(), strict=True
    )
    assert all(torch.equal(p, q) for p, q in pairs)


SAMPLING = {"tuning": "weights", "sampling": 1, "every": 1, "steps": 2}
WAYS = [*((family, "lora") for family in sorted(FAMILIES)), ("qwen3_vl", "weights"), ("mllama", "weights"),
        ("llava", "sampling")]  # fmt: skip


@pytest.mark.parametrize(("family", "tuning"), WAYS)
@pytest.mark.supports("{family}", "tuned")
def test_the_written_folder_is_the_tuned_model(family: str, tuning: str, tmp_path: Path, trained: list[Any]) -> None:
    base = base_of(family, tmp_path / "base")
    batch = 4 if family == "paligemma" else 2  # enough for an image to be among them
    on_disk = {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    how = SAMPLING if tuning == "sampling" else {"tuning": tuning}
    asked = recipe(base, tmp_path, **how, checkpointing=True, batch=batch)
    asked = asked.model_copy(update={"seed": int(tuning == "sampling")})  # 1 draws each of the two layers once
    out = train(asked, tmp_path / "tuned", device="cpu")
    checkpoint = resolve_checkpoint(str(out))
    assert on_disk == {file: file.read_bytes() for file in base.rglob("*") if file.is_file()}
    step = checkpoint.lineage[0].steps[-1]
    assert (step.layers, step.method) == (LAYERS, how["tuning"])
    told = json.loads(checkpoint.lineage[0].steps[-1].note)
    assert told["samples"] == (10 if family == "paligemma" else 5) and told["of"] == 5 and told["left_out"] == {}
    vlm = load_vlm(checkpoint)
    made = ConversationEncoder(vlm, 4000)
    batch = collate([row for row in (made.encode(made.split(s)[0]) for s in (ONE, SEVERAL)) if row])
    ours, theirs = logits(vlm.model, batch), logits(trained[0], batch)
    before = load_model(resolve_checkpoint(str(base)), torch.float32)
    assert torch.allclose(ours, theirs, atol=2e-4) and not torch.allclose(ours, logits(before, batch), atol=0.05)
    assert changed(vlm.model, before) == ({1, 3}, True, False)
    told = inspect_checkpoint(str(out))
    assert told.against is not None and told.parameters == inspect_checkpoint(str(base)).parameters
    assert (told.against.tuned, told.against.others) == ("1,3", ("projector",))


def test_packing_trains_the_same(tmp_path: Path) -> None:
    base = base_of("llava", tmp_path / "base")
    tuned = {}
    for packing in (False, True):
        (tmp_path / str(packing)).mkdir()
        asked = recipe(base, tmp_path / str(packing), packing=packing, steps=3, batch=4)
        out = train(asked, tmp_path / f"tuned-{packing}", device="cpu")
        tuned[packing] = load_model(resolve_checkpoint(str(out)), torch.float32).state_dict()
    assert all(torch.allclose(tuned[True][name], value, atol=1e-4) for name, value in tuned[False].items())


def test_packing_is_refused_where_samples_would_see_each_other(tmp_path: Path) -> None:
    asked = recipe(base_of("qwen3_vl", tmp_path / "base"), tmp_path, packing=True)
    with pytest.raises(VrbenchError, match=r"tune.packing is for llava, .*; base is of family qwen3_vl"):
        dry_run(asked, tmp_path / "out")


TOWERS = [*((family, "weights") for family in FAMILIES), ("llava", "lora"), ("qwen3_vl", "lora"), ("mllama", "lora")]


@pytest.mark.parametrize(("family", "how"), TOWERS)
def test_a_trained_tower_is_in_the_folder(family: str, how: str, tmp_path: Path, trained: list[Any]) -> None:
    base = base_of(family, tmp_path / "base")
    batch = 4 if family == "paligemma" else 2  # enough for an image to be among them
    more = {"dora": True} if family == "llava" else {"tuning": "weights"} if how == "lora" else {}
    asked = recipe(base, tmp_path, tower=how, lr_tower=1e-2, batch=batch, **more)
    told = dry_run(asked, tmp_path / "tuned")
    out = train(asked, tmp_path / "tuned", device="cpu")
    checkpoint = resolve_checkpoint(str(out))
    assert [step.method for step in checkpoint.lineage[0].steps][1:] == ["tower"]
    vlm, before = load_vlm(checkpoint), load_model(resolve_checkpoint(str(base)), torch.float32)
    made = ConversationEncoder(vlm, 4000)
    rows = collate([row for row in (made.encode(made.split(s)[0]) for s in (ONE, SEVERAL)) if row])
    assert torch.allclose(logits(vlm.model, rows), logits(trained[0], rows), atol=2e-4)
    pairs = zip(vlm.model.named_parameters(), before.parameters(), strict=True)
    differ = {canonical_name(name) for (name, ours), theirs in pairs if not torch.equal(ours, theirs)}
    inside = set(components.tower_parameters(vlm.model))
    others = differ - inside - set(components.projector_parameters(vlm.model))
    assert {layer_index(name) for name in others} == {1, 3} and len(differ & inside) > len(inside) / 4
    assert vlm.tower_origin == checkpoint.digest
    assert re.search(r"[1-9][\d,]* in the vision tower", told)
    against = inspect_checkpoint(str(out)).against
    assert against is not None and "vision tower" in against.others


@pytest.mark.parametrize("family", FAMILIES)
def test_lisa_writes_embeddings_norm_and_head(family: str, tmp_path: Path, trained: list[Any]) -> None:
    base = base_of(family, tmp_path / "base")
    batch = 4 if family == "paligemma" else 2  # enough for an image to be among them
    asked = recipe(base, tmp_path, tuning="weights", sampling="lisa:1", checkpointing=True, batch=batch)
    out = train(asked, tmp_path / "tuned", device="cpu")
    step = resolve_checkpoint(str(out)).lineage[0].steps[-1]
    assert (step.method, step.layers) == ("weights+embeddings", LAYERS)
    model = load_model(resolve_checkpoint(str(out)), torch.float32)
    before = load_model(resolve_checkpoint(str(base)), torch.float32)
    pairs = zip(model.named_parameters(), trained[0].parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for (_, ours), theirs in pairs)
    assert changed(model, before) == ({*sample_layers(LayerSet.of([1, 3], tiny.DEPTH), 1, 0, 0)}, True, True)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    names = {"embed_tokens.weight", "norm.weight", *(() if is_tied else ("lm_head.weight",))}
    stored = read_header(out / DELTA)
    assert {name for name in stored if is_outside_layers(name)} == names
    told = inspect_checkpoint(str(out)).against
    heads = () if is_tied else ("head",)
    assert told is not None and {*told.others} == {"embeddings", "final norm", *heads, "projector"}


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_lisa_computes_hidden_states_in_the_recipe_s_type(family: str, tmp_path: Path, trained: list[Any]) -> None:
    """SmolVLM puts image features among the embeddings only if both are of one type."""
    base = base_of(family, tmp_path / "base")
    asked = recipe(base, tmp_path, tuning="weights", sampling="lisa:1").model_copy(update={"dtype": "bfloat16"})
    train(asked, tmp_path / "tuned", device="cpu")
    embeddings = trained[0].get_input_embeddings()
    assert embeddings.weight.dtype == torch.float32
    assert embeddings(torch.tensor([[1]], device="cpu")).dtype == torch.bfloat16


def test_a_base_that_is_pruned_and_tuned_itself(tmp_path: Path, trained: list[Any]) -> None:
    from vrbench.pruning.prune import prune
    from vrbench.pruning.recipe import make_recipe

    base = base_of("llava", tmp_path / "base")
    first = train(recipe(base, tmp_path), tmp_path / "first", device="cpu")
    angular = make_recipe(makes="small", base=str(first), remove=1, by="angular", pictures=1, turns=1)
    small = prune(angular, tmp_path / "small", "cpu")
    (tmp_path / "more").mkdir()
    healed = train(recipe(small, tmp_path / "more", layers="0"), tmp_path / "healed", device="cpu")
    vlm = load_vlm(resolve_checkpoint(str(healed)))
    made = ConversationEncoder(vlm)
    batch = collate([row for row in [made.encode(ONE)] if row])
    assert vlm.depth == 3 and torch.allclose(logits(vlm.model, batch), logits(trained[-1], batch), atol=2e-4)


def test_the_share_and_the_faults_are_told(tmp_path: Path) -> None:
    base = base_of("llava", tmp_path / "base")
    half = recipe(base, tmp_path, {"share": 0.4, "subset": "uniform", "length": 28}, epochs=1.0, steps=None)
    out = train(half, tmp_path / "out", device="cpu")
    told = json.loads(resolve_checkpoint(str(out)).lineage[0].steps[-1].note)
    (tmp_path / "moved").mkdir()
    for folder in (base, out):
        folder.rename(tmp_path / "moved" / folder.name)
    assert resolve_checkpoint(str(tmp_path / "moved" / "out")).depth == tiny.DEPTH  # its base is found beside it
    assert told["of"] == 5 and told["samples"] + told["left_out"].get("longer than data.length", 0) == 2
    (tmp_path / "images" / "0.png").unlink()
    styled = half.data.model_copy(update={"style": "llava", "label_newline": True})
    with pytest.raises(VrbenchError, match=r"data\.label_newline goes with data\.style 'vrbench', not 'llava'"):
        train(half.model_copy(update={"data": styled}), tmp_path / "none", device="cpu")
    wrong = half.model_copy(update={"base": str(tmp_path / "nowhere")})
    with pytest.raises(VrbenchError) as found:
        train(wrong, tmp_path / "none", device="cpu")
    told = error_messages(found.value)
    assert "no checkpoint" in told[0] and "2 image missing" in told[1] and "sample 1 (id x)" in told[2]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("family", "fault"), [("llava", "has no line break"), ("paligemma", "ends with its end")])
def test_a_template_is_checked_before_weights_are_loaded(
    family: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(base_of(family, tmp_path / "base"), tmp_path, {"label_newline": True})
    monkeypatch.setattr(stages, "load_vlm", None)
    with pytest.raises(VrbenchError, match=f"data.label_newline is true, but .* {fault}"):
        train(asked, tmp_path / "out", device="cpu")


def test_what_is_frozen_stays_in_the_recipe_s_type(tmp_path: Path, trained: list[Any]) -> None:
    base = base_of("qwen2_5_vl", tmp_path / "base")
    half = recipe(base, tmp_path).model_copy(update={"dtype": "bfloat16"})
    train(half, tmp_path / "out", device="cpu")
    for name, parameter in trained[0].named_parameters():
        expected = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == expected, name
    learned = {name for name, p in trained[0].named_parameters() if p.requires_grad}
    assert all("lora_" in name or "merger" in name for name in learned) and len(learned) > 20
