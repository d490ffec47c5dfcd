"""A converted model is the original: its logits on a picture equal a forward pass written out, and so do its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tests.conversion import reference as plain
from tests.conversion import sources as tiny
from vrbench.conversion import lora
from vrbench.conversion.convert import convert
from vrbench.conversion.lora import read_adapter
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint

QUESTION = "What is on the picture? Is it a cat?"


def run_alone(folder: Path) -> tuple[list[int], torch.Tensor, torch.Tensor]:
    """Token ids without the picture's, pixel values and logits, with transformers and nothing of ours."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # torchvision's differs
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = processor(images=[plain.picture()], text=prompt, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs).logits[0]
    return inputs["input_ids"][0].tolist(), inputs["pixel_values"], logits


def same_as_reference(folder: Path, expected: tiny.Made, pad: bool = True) -> None:
    """The folder's model, loaded by transformers alone, is the expected one on a picture and a question."""
    ids, pixel_values, logits = run_alone(folder)
    before, after = plain.chunks(expected.family, QUESTION)
    image = json.loads((folder / "config.json").read_text())["image_token_index"]
    assert ids == [*before, *[image] * 4, *after]
    reference_pixels = plain.pixels(expected, plain.picture(), pad)
    torch.testing.assert_close(pixel_values, reference_pixels, atol=1e-6, rtol=0)
    reference = plain.reference_logits(expected, before, after, reference_pixels)
    assert reference.std() > 0.5  # so that equality says something
    torch.testing.assert_close(logits[:, : reference.shape[1]], reference, atol=1e-5, rtol=1e-5)


@pytest.mark.supports("{family}", "original layout")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_merged(family: str, form: str, tmp_path: Path) -> None:
    made = tiny.make(family)
    source = tiny.save_merged(made, tmp_path / "src", form)
    tower = tiny.save_tower(made, tmp_path / "tower")
    same_as_reference(convert(str(source), tmp_path / "out", vision_tower=str(tower)), made)


def test_merged_without_its_tower_takes_the_tower_s_folder(tmp_path: Path) -> None:
    made = tiny.make("bunny-llama")
    source = tiny.save_merged(made, tmp_path / "src", tower=False, shards=1)
    tower = tiny.save_tower(made, tmp_path / "tower", "bin")
    same_as_reference(convert(str(source), tmp_path / "out", vision_tower=str(tower)), made)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_a_tower_that_the_config_names_by_its_hub_id_is_taken_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    made = tiny.make("llava")
    source = tiny.save_merged(made, tmp_path / "src", tower=False)
    name = in_hub_cache(made, tmp_path / "hub", form, monkeypatch)
    settings = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(settings | {"mm_vision_tower": name}))
    same_as_reference(convert(str(source), tmp_path / "out"), made)


def in_hub_cache(made: tiny.Made, cache: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tower as the hub's cache keeps it, with no network; its hub id."""
    sha = 40 * "a"
    place = cache / "models--someone--a-tower"
    tiny.save_tower(made, place / "snapshots" / sha, form)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(sha)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return "someone/a-tower"


def test_weights_in_the_source_go_before_the_tower_s_folder(tmp_path: Path) -> None:
    made, other = tiny.make("llava"), tiny.make("llava", seed=1)
    source = tiny.save_merged(made, tmp_path / "src")
    tower = tiny.save_tower(other, tmp_path / "tower")
    same_as_reference(convert(str(source), tmp_path / "out", vision_tower=str(tower)), made)


@pytest.mark.supports("llava", "original layout")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_projector_alone(form: str, tmp_path: Path) -> None:
    made = tiny.make("llava")
    source = tiny.save_projector(made, tmp_path / "src")
    base = tiny.save_base(made, tmp_path / "base", form)
    tower = tiny.save_tower(made, tmp_path / "tower", form)
    same_as_reference(convert(str(source), tmp_path / "out", str(base), str(tower)), made)


@pytest.mark.parametrize(
    ("family", "form", "config"),
    [
        ("llava", "safetensors", {}),
        ("llava", "bin", {"use_rslora": True}),
        ("bunny-llama", "bin", {}),
        ("bunny-phi3", "safetensors", {}),
    ],
)
def test_lora(family: str, form: str, config: dict[str, Any], tmp_path: Path) -> None:
    made = tiny.make(family)
    expected = tiny.save_lora(made, tmp_path / "lora", form, **config)
    base, tower = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    out = convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(tower))
    same_as_reference(out, expected)
    with pytest.raises(AssertionError, match="not close"):
        same_as_reference(out, made)  # the adapter does something


def test_each_matrix_has_the_alpha_of_its_pattern(tmp_path: Path) -> None:
    tiny.save_lora(tiny.make("llava"), tmp_path / "lora", alpha_pattern={"0.self_attn.q_proj": -3}, lora_dropout=0.5)
    pairs = read_adapter(tmp_path / "lora").pairs.items()
    scales = {name.partition("layers.")[2].removesuffix(".weight"): pair.scale for name, pair in pairs}
    assert scales.pop("0.self_attn.q_proj") == -3 / 4
    assert set(scales.values()) == {10 / 4}


def test_what_a_lora_training_also_changed_takes_the_base_s_place(tmp_path: Path) -> None:
    made = tiny.make("bunny-llama")
    expected = tiny.save_lora(made, tmp_path / "lora")
    file = tmp_path / "lora" / "non_lora_trainables.bin"
    expected.tower = {name: value + 0.1 for name, value in made.tower.items()}
    tower = {f"base_model.model.model.vision_tower.vision_tower.vision_model.{n}": v for n, v in expected.tower.items()}
    torch.save(torch.load(file, weights_only=True) | tower, file)
    base, folder = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    same_as_reference(convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(folder)), expected)


def test_a_norm_that_a_lora_training_also_changed_takes_the_base_s_place(tmp_path: Path) -> None:
    made = tiny.make("llava")
    expected = tiny.save_lora(made, tmp_path / "lora")
    file = tmp_path / "lora" / "non_lora_trainables.bin"
    expected.llm["model.norm.weight"] = made.llm["model.norm.weight"] * 1.5
    norm = {"base_model.model.model.norm.weight": expected.llm["model.norm.weight"]}
    torch.save(torch.load(file, weights_only=True) | norm, file)
    base, tower = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    same_as_reference(convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(tower)), expected)


def test_of_a_tower_that_the_source_holds_only_the_settings_are_wanted(tmp_path: Path) -> None:
    made = tiny.make("llava")
    source, tower = tiny.save_merged(made, tmp_path / "src"), tiny.save_tower(made, tmp_path / "tower")
    (tower / "model.safetensors").unlink()
    same_as_reference(convert(str(source), tmp_path / "out", vision_tower=str(tower)), made)


def test_matrices_that_are_merged_in_many_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora, "MERGED_NUMBERS", 5 * tiny.HIDDEN)  # 5 rows, or 3, and a rest
    made = tiny.make("llava")
    expected = tiny.save_lora(made, tmp_path / "lora")
    base, tower = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    found = stored(convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(tower)))
    for name, value in expected.llm.items():
        torch.testing.assert_close(found[f"language_model.{name}"][: len(value)], value, atol=1e-6, rtol=0)


def test_a_source_that_was_not_trained_on_padded_pictures(tmp_path: Path) -> None:
    made = tiny.make("llava")
    del made.settings["image_aspect_ratio"]
    source, tower = tiny.save_merged(made, tmp_path / "src"), tiny.save_tower(made, tmp_path / "tower")
    same_as_reference(convert(str(source), tmp_path / "out", vision_tower=str(tower)), made, pad=False)


def test_another_layer_of_a_clip_tower(tmp_path: Path) -> None:
    made = tiny.make("llava")
    made.settings["mm_vision_select_layer"] = -1
    source, tower = tiny.save_merged(made, tmp_path / "src"), tiny.save_tower(made, tmp_path / "tower")
    out = convert(str(source), tmp_path / "out", vision_tower=str(tower))
    with pytest.raises(AssertionError, match="not close"):
        same_as_reference(out, made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_their_dtype_and_merging_rounds_once(dtype: torch.dtype, tmp_path: Path) -> None:
    made = tiny.make("llava", dtype=dtype)
    expected = tiny.save_lora(made, tmp_path / "lora")
    made.llm = {name: value.to(dtype) for name, value in made.llm.items()}
    base, tower = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    out = convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(tower))
    found = stored(out)
    for name, value in expected.llm.items():
        here = found[f"language_model.{name}"]
        assert here.dtype == dtype
        assert torch.equal(here[: len(value)], value.to(dtype)), name
    assert found["vision_tower.vision_model.post_layernorm.weight"].dtype == torch.float32


def test_a_pickled_file_may_hold_one_tensor_under_two_names(tmp_path: Path) -> None:
    made = tiny.make("llava")
    source, tower = tiny.save_merged(made, tmp_path / "src", "bin", shards=1), tiny.save_tower(made, tmp_path / "tower")
    state = torch.load(source / "pytorch_model.bin", weights_only=True)
    torch.save(state | {"lm_head.weight": state["model.embed_tokens.weight"]}, source / "pytorch_model.bin")
    found = stored(convert(str(source), tmp_path / "out", vision_tower=str(tower)))
    assert torch.equal(found["language_model.lm_head.weight"], found["language_model.model.embed_tokens.weight"])


def stored(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as reader:
            found |= {name: reader.get_tensor(name) for name in reader.keys()}
    return found


def converted(family: str, tmp_path: Path) -> Path:
    made = tiny.make(family)
    source, tower = tiny.save_merged(made, tmp_path / "src"), tiny.save_tower(made, tmp_path / "tower")
    return convert(str(source), tmp_path / "out", vision_tower=str(tower))


@pytest.mark.parametrize(("family", "rows", "image"), [("llava", 320, 307), ("bunny-llama", 261, 258)])
def test_where_the_image_token_goes(family: str, rows: int, image: int, tmp_path: Path) -> None:
    out = converted(family, tmp_path)
    found = stored(out)
    head = found["language_model.lm_head.weight"]
    config = json.loads((out / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert (len(head), config["text_config"]["vocab_size"], config["image_token_index"]) == (rows, rows, image)
    assert tokenizer.convert_tokens_to_ids("<image>") == image
    if rows == 320:  # no free row: the new ones are as unlikely as <unk>
        assert torch.equal(head[307:], head[:1].expand(13, -1))


def test_a_free_row_of_phi_3_is_the_image_token_s(tmp_path: Path) -> None:
    made = tiny.make("bunny-phi3")
    out = converted("bunny-phi3", tmp_path)
    assert torch.equal(stored(out)["language_model.lm_head.weight"], made.llm["lm_head.weight"])
    assert json.loads((out / "config.json").read_text())["text_config"]["vocab_size"] == made.text["vocab_size"]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_vrbench_takes_it(family: str, tmp_path: Path) -> None:
    made = tiny.make(family)
    found = resolve_checkpoint(str(converted(family, tmp_path)))
    vlm = load_vlm(found)
    before, after = plain.chunks(family, QUESTION)
    assert (found.family, vlm.depth, vlm.image_tokens) == ("llava", tiny.DEPTH, 4)
    assert vlm.encode(vlm.prompt(QUESTION, 1), [0]) == [*before, -1, -2, -3, -4, *after]
    end = {"llava": "</s>", "bunny-llama": "<|end_of_text|>", "bunny-phi3": "<|endoftext|>"}[family]
    assert vlm.tokenizer.convert_ids_to_tokens(vlm.eos_token_id) == end
    features = vlm.encode_images([plain.picture()])
    tower = tiny.vision_tower(family)
    tower.load_state_dict(made.tower)
    with torch.inference_mode():
        states = tower(plain.pixels(made, plain.picture()), output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(features, states[:, 1:] if family == "llava" else states, atol=1e-5, rtol=1e-5)


def test_several_turns_are_written_as_the_original_writes_them(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted("llava", tmp_path))
    turns = [
        {"role": "user", "content": "<image>\nOne?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [{"type": "text", "text": "Two?"}]},
    ]
    said = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert said == f"{plain.SYSTEM} USER: <image>\nOne? ASSISTANT: Yes.</s>USER: Two? ASSISTANT:"
    with_system = [{"role": "system", "content": "Be brief."}, *turns[:1]]
    said = tokenizer.apply_chat_template(with_system, tokenize=False, add_generation_prompt=True)
    assert said == "Be brief. USER: <image>\nOne? ASSISTANT:"


def test_generation_goes_on_from_the_settings_that_were_written(tmp_path: Path) -> None:
    out = converted("bunny-llama", tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(out, dtype=torch.float32)
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id, settings.do_sample) == (257, 257, False)
    assert model.generate(torch.tensor([[256, 40, 41]]), max_new_tokens=3, min_new_tokens=3).shape == (1, 6)


def lineage_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "vrbench.json").read_text()))


@pytest.mark.parametrize(
    ("stated", "written"), [(None, 2), (2, 2), ([2], 2), ([5, 2], [2, 5]), (7, [2, 7]), ("x", 2), ([None, "a"], 2)]
)
def test_answers_end_at_every_token_that_ends_the_original_s(stated: Any, written: Any, tmp_path: Path) -> None:
    made = tiny.make("llava")
    source = tiny.save_merged(made, tmp_path / "source")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": stated, "temperature": 0.9}))
    out = convert(str(source), tmp_path / "out", None, str(tiny.save_tower(made, tmp_path / "tower")))
    settings = json.loads((out / "generation_config.json").read_text())
    assert settings["eos_token_id"] == written
    assert "temperature" not in settings


def test_the_lineage_of_a_merged_source(tmp_path: Path) -> None:
    found = lineage_of(converted("llava", tmp_path))
    (step,) = found["steps"]
    assert (found["id"], found["depth"], found["base"]["id"]) == ("out", tiny.DEPTH, "src")
    assert (step["kind"], step["method"]) == ("converted", "merged")
    assert str(tmp_path) not in json.dumps(found)


def test_the_lineage_of_an_adapter_names_its_base_and_layers(tmp_path: Path) -> None:
    made = tiny.make("bunny-llama")
    tiny.save_lora(made, tmp_path / "lora")
    base, tower = tiny.save_base(made, tmp_path / "base"), tiny.save_tower(made, tmp_path / "tower")
    found = lineage_of(convert(str(tmp_path / "lora"), tmp_path / "out", str(base), str(tower)))
    assert found["base"]["id"] == "base"
    assert len(found["base"]["digest"]) == 64
    assert [(step["kind"], step["layers"]) for step in found["steps"]] == [("converted", "none"), ("trained", "0,2")]


def test_a_tokenizer_that_says_nothing_of_its_first_token_has_one(tmp_path: Path) -> None:
    made = tiny.make("llava")
    source, tower = tiny.save_merged(made, tmp_path / "src"), tiny.save_tower(made, tmp_path / "tower")
    (source / "tokenizer_config.json").unlink()
    (source / "added_tokens.json").write_text(json.dumps({"[PAD]": 307}))
    tokenizer = AutoTokenizer.from_pretrained(convert(str(source), tmp_path / "out", vision_tower=str(tower)))
    assert tokenizer("a [PAD]<image>")["input_ids"][0] == 1
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "<image>"]) == [307, 308]


def test_settings_beside_a_sentencepiece_model_are_kept(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted("llava", tmp_path))
    assert tokenizer.model_max_length == 2048
    assert (tokenizer.unk_token, tokenizer.pad_token) == ("<unk>", "<unk>")
