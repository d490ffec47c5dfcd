"""Folders that cannot be run or operated on say why in one sentence, before a weight is loaded."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from tests import tiny, tiny_families
from tests.tiny import checkpoint_errors
from vrbench.checkpoints import validation
from vrbench.models import hf_folder
from vrbench.models.resolve import resolve_checkpoint


def told(folder: Path | str, *words: str) -> None:
    """The folder has exactly one fault, and its sentence has these words; no weight is loaded to find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors.torch, "load_file", lambda *_: pytest.fail("a weight was loaded"))
        found = checkpoint_errors(str(folder))
    assert len(found) == 1, found
    for word in words:
        assert word in found[0], found


def test_a_good_folder_has_none(tiny_llava: Path) -> None:
    assert validation.validate_folder(tiny_llava) == []


def test_generation_settings_that_no_harness_can_follow(whole: Path) -> None:
    (whole / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.2, "stop_strings": ["###"]}))
    told(whole, str(whole / "generation_config.json"), "stop_strings is ['###']", "set it to null")


class TestQuantised:
    @pytest.mark.parametrize(
        ("said", "words"),
        [
            ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits"),
            ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq, 4 bits"),
            ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bits"),
            ({"quant_method": "fp8"}, "(fp8)"),
        ],
    )
    def test_a_config_that_says_so(self, whole: Path, said: dict[str, Any], words: str) -> None:
        tiny.edit_json(whole / "config.json", quantization_config=said)
        told(whole, "quantized", words, "neither run, pruned nor tuned", "bfloat16")

    def test_the_llm_s_part_of_the_config(self, whole: Path) -> None:
        text = json.loads((whole / "config.json").read_text())["text_config"]
        tiny.edit_json(whole / "config.json", text_config=text | {"quantization_config": {"quant_method": "gptq"}})
        told(whole, "config.json, text_config, says", "gptq")

    def test_a_file_beside_it(self, whole: Path) -> None:
        (whole / "quantize_config.json").write_text('{"bits": 8}')
        told(whole, "quantize_config.json", "8 bits")

    @pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int32, torch.int8])
    def test_packed_weights_that_nobody_told_of(self, whole: Path, dtype: torch.dtype) -> None:
        def pack(tensors: dict[str, torch.Tensor]) -> None:
            for name in [n for n in tensors if n.endswith("q_proj.weight") and "language_model" in n]:
                tensors[name] = tensors[name].to(dtype)

        rewrite(whole, pack)
        stored = {torch.float8_e4m3fn: "F8_E4M3", torch.uint8: "U8", torch.int32: "I32", torch.int8: "I8"}[dtype]
        told(whole, "has quantized weights", "q_proj.weight", f"stored as {stored} and 3 more")

    def test_gptq_s_names(self, whole: Path) -> None:
        def pack(tensors: dict[str, torch.Tensor]) -> None:
            name = next(n for n in tensors if n.endswith("q_proj.weight"))
            tensors[name.replace("weight", "qweight")] = tensors.pop(name).to(torch.int32)

        rewrite(whole, pack)
        told(whole, "has quantized weights", "q_proj.qweight")

    def test_whole_numbers_that_are_no_weights_are_left_alone(self, whole: Path) -> None:
        def add(tensors: dict[str, torch.Tensor]) -> None:
            tensors["model.vision_tower.embeddings.position_ids"] = torch.arange(4)[None]

        rewrite(whole, add)
        assert checkpoint_errors(str(whole)) == []

    def test_a_quantized_base_is_told_for_its_adapter(self, whole: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "adapter", whole)
        tiny.edit_json(whole / "config.json", quantization_config={"quant_method": "gptq"})
        told(folder, "quantized")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


class TestFormats:
    def test_both_whole(self, whole: Path) -> None:
        (whole / "pytorch_model.bin").write_bytes(b"x")
        told(whole, "complete weights twice", "model.safetensors and pytorch_model.bin", "may differ")

    def test_both_whole_and_sharded(self, whole: Path) -> None:
        index(whole, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
        for number in (1, 2):
            (whole / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"x")
        told(whole, "complete weights twice", "pytorch_model.bin.index.json")

    def test_what_is_left_of_the_other_format_is_not_used(self, whole: Path) -> None:
        index(whole, "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
        (whole / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")
        assert checkpoint_errors(str(whole)) == []
        assert validation.unused_weights(whole) == ["pytorch_model-00001-of-00002.bin"]

    def test_other_pickles_are_no_weights(self, whole: Path) -> None:
        (whole / "training_args.bin").write_bytes(b"x")
        assert checkpoint_errors(str(whole)) == []
        assert validation.unused_weights(whole) == []

    def test_pickles_only(self, whole: Path) -> None:
        (whole / "model.safetensors").rename(whole / "pytorch_model.bin")
        told(whole, "has no weights", "pytorch_model.bin would have to be converted first: `vrbench convert`")


def index(folder: Path, *files: str) -> None:
    text = json.dumps({"weight_map": {str(number): file for number, file in enumerate(files)}})
    (folder / "pytorch_model.bin.index.json").write_text(text)


class TestImageToken:
    def test_a_tokenizer_without_it(self, whole: Path) -> None:
        wanted = json.loads((whole / "config.json").read_text())["image_token_index"]
        fast = json.loads((whole / "tokenizer.json").read_text())
        fast["added_tokens"] = [t for t in fast["added_tokens"] if t["id"] != wanted]
        fast["model"]["vocab"] = {w: i for w, i in fast["model"]["vocab"].items() if i != wanted}
        (whole / "tokenizer.json").write_text(json.dumps(fast))
        settings = json.loads((whole / "tokenizer_config.json").read_text())
        settings.get("added_tokens_decoder", {}).pop(str(wanted), None)
        (whole / "tokenizer_config.json").write_text(json.dumps(settings))
        told(whole, "tokenizer.json has no token", str(wanted), "image token")

    def test_a_config_that_means_another(self, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", image_token_index=32000)
        told(whole, "has no token 32000")

    def test_one_that_is_only_in_the_settings_counts(self, whole: Path) -> None:
        image = json.loads((whole / "config.json").read_text())["image_token_index"]
        fast = json.loads((whole / "tokenizer.json").read_text())
        tiny.edit_json(whole / "tokenizer.json", added_tokens=[t for t in fast["added_tokens"] if t["id"] != image])
        assert "has no token" in validation.validate_folder(whole)[0]
        tiny.edit_json(whole / "tokenizer_config.json", added_tokens_decoder={str(image): {"content": "<image>"}})
        assert validation.validate_folder(whole) == []

    def test_no_tokenizer_at_all(self, whole: Path) -> None:
        for name in validation.TOKENIZERS:
            (whole / name).unlink(missing_ok=True)
        (whole / "tekken.json").write_text("{}")
        told(whole, "has no tokenizer", "tekken.json is not read")


class TestTokensBeyondTheEmbedding:
    """The tiny LLaVA has tokens 0 to 260, and an embedding of 261 rows."""

    def test_a_token_that_was_added_to_the_tokenizer_alone(self, whole: Path) -> None:
        from transformers import AutoTokenizer

        words = AutoTokenizer.from_pretrained(whole)
        words.add_tokens(["the", "dog"])
        words.save_pretrained(whole)
        told(
            whole, "tokenizer.json", "has token 'the' with id 261 (and 1 more, up to 262)",
            "the embedding has 261 rows, for ids 0 to 260", "remove the token, or resize the embedding",
        )  # fmt: skip

    def test_one_in_a_file_of_its_own(self, whole: Path) -> None:
        (whole / "added_tokens.json").write_text('{"<pad>": 300}')
        told(whole, "added_tokens.json has token '<pad>' with id 300")

    def test_one_that_is_only_named(self, whole: Path) -> None:
        tiny.edit_json(whole / "tokenizer_config.json", pad_token="<pad>")
        told(whole, "its tokenizer gives '<pad>' the id 261", "the embedding has 261 rows")

    @pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
    @pytest.mark.parametrize(("key", "value"), [("bos_token_id", 261), ("eos_token_id", [257, 400])])
    def test_an_id_in_the_settings(self, whole: Path, file: str, key: str, value: Any) -> None:
        tiny.edit_json(whole / file, **{key: value})
        told(whole, f"{file} has {key} {value!r}; the embedding has 261 rows", "set it to the id of an existing token")

    def test_a_padding_token_counts_for_the_decoder_alone(self, whole: Path) -> None:
        for file in ("config.json", "generation_config.json"):  # as transformers wrote it for SmolVLM
            tiny.edit_json(whole / file, pad_token_id=128002)
        assert validation.validate_folder(whole) == []
        text = json.loads((whole / "config.json").read_text())["text_config"] | {"pad_token_id": 261}
        tiny.edit_json(whole / "config.json", text_config=text)
        assert len(found := validation.validate_folder(whole)) == 1
        assert "config.json, text_config, has pad_token_id 261; the embedding has 261 rows" in found[0]

    def test_an_image_mark_that_is_another_token_than_the_config_s(self, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", image_token_index=259)
        told(whole, "an image is written as '<image>', which is token 258", "config.json names token 259")


class TestTiedWeights:
    """Which of a head and an embedding may be missing is what transformers itself makes of the config's two flags."""

    @pytest.fixture(scope="class", params=["llava", "mistral3", "mllama"])
    def stored(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("tied") / request.param
        if request.param == "llava":
            return tiny.save_llava(folder)
        return tiny_families.save(request.param, folder)

    @pytest.mark.parametrize(
        ("top", "inner", "head"),
        [
            *((top, inner, False) for top in (True, False, None) for inner in (True, False)), (True, True, True),
            (None, None, False), (False, False, True),
        ],
    )  # fmt: skip
    def test_as_transformers_has_it(
        self, stored: Path, tmp_path: Path, top: bool | None, inner: bool | None, head: bool
    ) -> None:
        from transformers import AutoModelForImageTextToText

        folder = Path(shutil.copytree(stored, tmp_path / "whole"))
        config = json.loads((folder / "config.json").read_text())
        for part, said in ((config, top), (config["text_config"], inner)):
            part.pop("tie_word_embeddings", None)
            part |= {} if said is None else {"tie_word_embeddings": said}
        (folder / "config.json").write_text(json.dumps(config))
        rewrite(folder, lambda tensors: own_head(tensors, head))
        _, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
        found = hf_folder.validate_weights(folder)
        assert bool(found) == bool(info["missing_keys"]), (found, info)
        assert all("lacks 'lm_head.weight'" in fault for fault in found)
        assert all("at the top level" in fault or "a head of its own" in fault for fault in found)


def own_head(tensors: dict[str, torch.Tensor], is_there: bool) -> None:
    """See that a head is stored that is not the embedding, or none."""
    heads = [name for name in tensors if "lm_head" in name]
    for name in heads if not is_there else ():
        del tensors[name]
    if is_there and not heads:
        first = next(name for name in tensors if name.endswith("embed_tokens.weight"))
        prefix = first.partition("model.embed")[0] if first.startswith("language_model") else ""
        tensors[f"{prefix}lm_head.weight"] = torch.ones_like(tensors[first])


class TestFiles:
    def test_shards_without_their_index(self, whole: Path) -> None:
        (whole / "model.safetensors").rename(whole / "model-00001-of-00002.safetensors")
        told(whole, "has shards (model-00001-of-00002.safetensors, ...) and no model.safetensors.index.json")

    def test_an_index_beside_a_single_file(self, whole: Path) -> None:
        (whole / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
        told(whole, "has model.safetensors and model.safetensors.index.json, which names other files")

    def test_a_file_in_the_place_of_its_folder(self, whole: Path) -> None:
        told(whole / "model.safetensors", "it is a file; name the folder that contains it")

    def test_weights_without_a_config_and_a_broken_setting_are_told_together(self, whole: Path) -> None:
        (whole / "config.json").unlink()
        (whole / "generation_config.json").write_text("[")
        assert len(checkpoint_errors(str(whole))) == 2


class TestProcessors:
    @pytest.mark.parametrize(
        ("family", "words"),
        [
            ("llava_next", ("processor_config.json lacks patch_size, vision_feature_select_strategy",)),
            ("idefics3", ("its processor has image_seq_len 169", "image tokens 4")),
            ("mistral3", ("its processor has patch_size 16", "vision_config.patch_size 8")),
        ],
    )
    def test_settings_that_are_missing(self, family: str, words: tuple[str, ...], tmp_path: Path) -> None:
        folder = tiny_families.save(family, tmp_path / family)
        assert checkpoint_errors(str(folder)) == []
        (folder / "processor_config.json").unlink()
        found = checkpoint_errors(str(folder))
        assert all(word in found[0] for word in words), found

    def test_settings_that_older_versions_left_out(self, tmp_path: Path) -> None:
        folder = tiny_families.save("llava_next", tmp_path / "llava_next")
        settings: dict[str, Any] = {"patch_size": 8, "vision_feature_select_strategy": "default"}
        for written, word in ((settings, "write num_additional_image_tokens 1"), ({}, "it needs patch_size 8")):
            (folder / "processor_config.json").write_text(json.dumps(written))
            assert word in str(found := checkpoint_errors(str(folder))), found
            assert len(found) == 1
            assert "num_additional_image_tokens 1" in found[0]
        (folder / "processor_config.json").write_text(json.dumps(settings | {"num_additional_image_tokens": 1}))
        assert checkpoint_errors(str(folder)) == []

    def test_a_llava_whose_tower_gives_no_fixed_number_of_tokens(self, whole: Path) -> None:
        tower = json.loads((whole / "config.json").read_text())["vision_config"] | {"model_type": "pixtral"}
        tiny.edit_json(whole / "config.json", vision_config=tower)
        told(whole, "a vision tower of type 'pixtral'", "its own number of tokens")


class TestOwnCode:
    MAP: dict[str, Any] = {  # noqa: RUF012
        "AutoConfig": "configuration_seer.SeerConfig", "AutoModel": "someone/seer--modeling_seer.SeerModel",
    }  # fmt: skip

    def test_it_is_refused_with_what_would_be_run(self, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", model_type="seer", auto_map=self.MAP)
        tiny.edit_json(whole / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_seer.Words", None]})
        told(
            whole, "model_type 'seer'", "SeerConfig in configuration_seer.py", "Words in tokenization_seer.py",
            "SeerModel in modeling_seer.py of someone/seer", "runs no code that comes with a checkpoint",
        )  # fmt: skip

    @pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
    def test_what_transformers_knows_needs_none_and_runs_none(self, whole: Path, where: str) -> None:
        from vrbench.models.load import load_vlm

        (whole / "configuration_seer.py").write_text("raise SystemExit('it was run')\n")
        (whole / "modeling_seer.py").write_text("raise SystemExit('it was run')\n")
        (whole / "tokenization_seer.py").write_text("raise SystemExit('it was run')\n")
        local = {
            "AutoConfig": "configuration_seer.SeerConfig", "AutoModelForImageTextToText": "modeling_seer.SeerModel",
            "AutoTokenizer": ["tokenization_seer.Words", None],
        }  # fmt: skip
        tiny.edit_json(whole / where, auto_map=local)
        assert load_vlm(resolve_checkpoint(str(whole))).depth == tiny.DEPTH


class TestWhatTransformersWouldLoadUnasked:
    def test_an_adapter_in_the_folder_of_a_whole_model(self, whole: Path, tmp_path: Path) -> None:
        tiny.save_adapter(whole, tiny.save_llava(tmp_path / "other", seed=5))
        told(whole, "holds a complete model and an adapter", "a folder of its own")

    def test_other_weights_that_the_config_names(self, whole: Path) -> None:
        def empty(tensors: dict[str, torch.Tensor]) -> None:
            for tensor in tensors.values():
                tensor.zero_()

        kept = (whole / "model.safetensors").read_bytes()
        rewrite(whole, empty)
        (whole / "model.safetensors").rename(whole / "empty.safetensors")
        (whole / "model.safetensors").write_bytes(kept)
        tiny.edit_json(whole / "config.json", transformers_weights="empty.safetensors")
        told(whole, "transformers_weights 'empty.safetensors'", "remove that key")


class TestBrokenSettings:
    @pytest.mark.parametrize("file", ["generation_config.json", "preprocessor_config.json", "tokenizer.json"])
    @pytest.mark.parametrize("content", ["[]", "{", "\xff", "[" * 100_000])
    def test_no_json_object(self, whole: Path, file: str, content: str) -> None:
        (whole / file).write_text(content, encoding="latin-1")
        told(whole, f"{file} cannot be read as a JSON object")

    @pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "chat_template.jinja"])
    def test_a_byte_order_mark_that_transformers_does_not_read(self, whole: Path, file: str) -> None:
        content = (whole / file).read_bytes()
        (whole / file).write_bytes(codecs.BOM_UTF8 + content)
        told(whole, f"{file} begins with a byte order mark, which transformers does not read")
        if file == "tokenizer.json":
            (whole / file).write_bytes(content.decode().encode("utf-16"))
            told(whole, f"{file} is UTF-16, which transformers does not read; save it as UTF-8")

    @pytest.mark.parametrize(
        "said", [{"added_tokens": None}, {"added_tokens": [1]}, {"model": {"vocab": {"a": [1]}}}, {"model": None}]
    )
    def test_a_tokenizer_that_says_nonsense_is_told_and_no_fault_of_ours(
        self, whole: Path, said: dict[str, Any]
    ) -> None:
        tiny.edit_json(whole / "tokenizer.json", **said)
        tiny.edit_json(whole / "tokenizer_config.json", added_tokens_decoder={"x": 1})
        for name in ("added_tokens.json", "vocab.json"):
            (whole / name).unlink(missing_ok=True)
        found = checkpoint_errors(str(whole))
        assert not found or "token" in found[0]

    def test_what_reads_prompts_is_looked_at_before_weights(self, whole: Path) -> None:
        tiny.edit_json(whole / "tokenizer_config.json", added_tokens_decoder={"7": 1})
        told(whole, "has no readable tokenizer")

    def test_a_tokenizer_that_ends_nothing(self, whole: Path) -> None:
        tiny.edit_json(whole / "tokenizer_config.json", eos_token=None)
        told(whole, "has no eos_token, which ends an answer")

    def test_no_settings_for_images(self, whole: Path) -> None:
        (whole / "preprocessor_config.json").unlink()
        told(whole, "has no preprocessor_config.json, which says how images are resized; copy it from the model")

    @pytest.mark.parametrize(
        ("section", "change"),
        [
            ("", {"image_token_index": "258"}), ("text_config", {"rms_norm_eps": "1e-5"}),
            ("text_config", {"num_attention_heads": "4"}), ("text_config", {"vocab_size": "261"}),
            ("text_config", {"rope_parameters": {"rope_type": "default", "rope_theta": "10000"}}),
            ("text_config", {"num_hidden_layers": "4"}), ("vision_config", {"hidden_size": "32"}),
            ("", {"vision_feature_layer": "-1"}), ("text_config", {"pad_token_id": "7"}),
        ],
    )  # fmt: skip
    def test_text_for_a_number(self, whole: Path, section: str, change: dict[str, Any]) -> None:
        config = json.loads((whole / "config.json").read_text())
        changed = {section: config[section] | change} if section else change
        tiny.edit_json(whole / "config.json", **changed)
        told(whole, "config.json", next(iter(change)))

    @pytest.mark.parametrize("depth", ["abc", {"a": 1}, [3], 2.5, -1, True])
    def test_a_depth_that_is_none(self, whole: Path, depth: Any) -> None:
        text = json.loads((whole / "config.json").read_text())["text_config"]
        tiny.edit_json(whole / "config.json", text_config=text | {"num_hidden_layers": depth})
        told(whole, "num_hidden_layers", repr(depth), "whole number above 0")

    def test_a_setting_of_another_type(self, whole: Path) -> None:
        text = json.loads((whole / "config.json").read_text())["text_config"]
        tiny.edit_json(whole / "config.json", text_config=text | {"hidden_size": "wide"})
        told(whole, "describes no model that can be built", "hidden_size")

    def test_a_config_too_deep_to_be_read(self, whole: Path) -> None:
        (whole / "config.json").write_text("[" * 100_000)
        told(whole, "config.json is not JSON")

    @pytest.mark.parametrize("index", [[], {"weight_map": []}, {"weight_map": {"a": 3}}, {"weight_map": None}])
    def test_an_index_of_the_other_format(self, whole: Path, index: Any) -> None:
        (whole / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        assert checkpoint_errors(str(whole)) == []  # it is not read


def test_every_fault_comes_at_once(whole: Path) -> None:
    tiny.edit_json(whole / "config.json", quantization_config={"quant_method": "gptq"}, image_token_index=32000)
    (whole / "pytorch_model.bin").write_bytes(b"x")
    content = (whole / "model.safetensors").read_bytes()
    assert len(checkpoint_errors(str(whole))) == 3
    (whole / "model.safetensors").write_bytes(content[:-4])
    found = checkpoint_errors(str(whole))
    assert ["truncated" in fault for fault in found].count(True) == 1


def test_a_hub_id_offline_says_that_the_network_is_off() -> None:
    told("someone/seer-7b", "no checkpoint 'someone/seer-7b'", "not in the hub's cache", "the network is off")
