"""Models with code of their own: refused, or run where the user allows it; a side effect shows whether it was run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import dynamic_module_utils
from typer.testing import CliRunner

import vrbench
from tests import tiny
from tests.tiny import checkpoint_errors
from vrbench.checkpoints import resolve
from vrbench.cli import app
from vrbench.core.errors import VrbenchError
from vrbench.models.hf_model import HFModel
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_backbone, resolve_checkpoint

CONFIGURATION = """
import os
from pathlib import Path
from transformers import LlavaConfig

Path(os.environ["SEER_RAN"]).touch()

class SeerConfig(LlavaConfig):
    model_type = "seer"
"""
MODELING = """
from transformers import LlavaForConditionalGeneration
from .configuration_seer import SeerConfig

class SeerModel(LlavaForConditionalGeneration):
    config_class = SeerConfig
"""
AUTO = {
    "AutoConfig": "configuration_seer.SeerConfig", "AutoModelForImageTextToText": "modeling_seer.SeerModel",
}  # fmt: skip


@pytest.fixture(autouse=True)
def ran(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the folder's code makes when it is run."""
    ground = tmp_path_factory.mktemp("ground")
    monkeypatch.setenv("VRBENCH_CACHE", str(ground / "cache"))
    monkeypatch.setenv("SEER_RAN", str(ground / "ran"))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(ground / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield ground / "ran"
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.fixture
def seer(tmp_path: Path) -> Path:
    """A tiny LLaVA under another name, whose classes lie in its folder."""
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    folder = tmp_path / "seer"
    tiny.llava().save_pretrained(folder)
    words = tiny.tokenizer()
    LlavaProcessor(
        SiglipImageProcessorPil(size={"height": tiny.SIDE, "width": tiny.SIDE}), words, patch_size=tiny.SIDE // 2,
        vision_feature_select_strategy="full", image_token="<image>", chat_template=tiny.CHAT,
    ).save_pretrained(folder)  # fmt: skip
    tiny.edit_json(folder / "config.json", model_type="seer", architectures=["SeerModel"], auto_map=AUTO)
    (folder / "configuration_seer.py").write_text(CONFIGURATION)
    (folder / "modeling_seer.py").write_text(MODELING)
    return folder


def refused(folder: Path, *words: str) -> None:
    found = checkpoint_errors(str(folder), trusted=True)
    assert len(found) == 1, found
    for word in words:
        assert word in found[0], found


class TestNotAllowed:
    @pytest.mark.parametrize(
        "look",
        [
            lambda name: resolve_checkpoint(name),
            lambda name: resolve_checkpoint(name, any_model=True),
            lambda name: resolve_backbone(name),
            lambda name: vrbench.evaluate(name, "pocket_mme", limit=1),
        ],
    )
    def test_nothing_is_run_and_what_would_be_is_named(self, look: Callable[[str], Any], seer: Path, ran: Path) -> None:
        with pytest.raises(VrbenchError) as caught:
            look(str(seer))
        for word in ("'seer'", "SeerConfig in configuration_seer.py", "SeerModel in modeling_seer.py",
                     "--trust-remote-code"):  # fmt: skip
            assert word in str(caught.value)
        assert not ran.exists()

    def test_code_of_a_tokenizer_or_pictures_is_not_run_and_nobody_is_asked(
        self, seer: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def asked(*_: Any) -> None:
            raise AssertionError("the user was asked whether code may run")

        monkeypatch.setattr("builtins.input", asked)
        tiny.edit_json(seer / "config.json", model_type="llava", auto_map={})
        tiny.edit_json(
            seer / "tokenizer_config.json", tokenizer_class="SeerTokenizer",
            auto_map={"AutoTokenizer": ["configuration_seer.SeerTokenizer", None]},
        )  # fmt: skip
        (seer / "preprocessor_config.json").write_text(
            json.dumps(
                {"image_processor_type": "SeerPictures", "auto_map": {"AutoImageProcessor": "configuration_seer.P"}}
            )
        )
        try:
            load_vlm(resolve_checkpoint(str(seer)))
        except VrbenchError as error:
            assert "no tokenizer and processor" in str(error)
        assert not ran.exists()

    def test_a_generate_of_its_own_is_not_run(self, tiny_llava: Path, whole: Path, ran: Path) -> None:
        (whole / "custom_generate").mkdir()
        (whole / "custom_generate" / "generate.py").write_text(CONFIGURATION)
        vlm = load_vlm(resolve_checkpoint(str(whole)))
        vlm.model.generate(input_ids=torch.tensor([[1, 2]]), max_new_tokens=1)
        assert not ran.exists()
        assert resolve_checkpoint(str(whole)).digest == resolve_checkpoint(str(tiny_llava)).digest

    def test_inspect_names_the_code_and_runs_none_of_it(self, seer: Path, ran: Path) -> None:
        done = CliRunner().invoke(app, ["inspect", str(seer), "--trust-remote-code", "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
        assert set(told["code"]) == {"configuration_seer.py", "modeling_seer.py"}
        assert told["depth"] == tiny.DEPTH
        assert told["digest"] == resolve_checkpoint(str(seer), trusted=True, any_model=True).digest
        assert not ran.exists()


class TestAllowed:
    def test_its_answers_are_those_of_the_model_that_its_code_makes(self, seer: Path, ran: Path) -> None:
        found = resolve_checkpoint(str(seer), trusted=True)
        assert ran.exists()
        assert found.depth == tiny.DEPTH
        vlm = load_vlm(found)
        assert isinstance(vlm, HFModel)
        assert type(vlm.model).__name__ == "SeerModel"
        tokens = torch.arange(5, 15)[None]
        with torch.inference_mode():
            assert torch.equal(vlm.model(input_ids=tokens).logits, tiny.llava()(input_ids=tokens).logits)

    def test_a_run_says_which_code_was_run(self, seer: Path, tmp_path: Path) -> None:
        out = tmp_path / "runs"
        asked = ["run", "--ckpt", str(seer), "--tasks", "pocket_mme,pocket_facts", "--limit", "4", "--device", "cpu"]
        done = CliRunner().invoke(app, [*asked, "--out", str(out), "--trust-remote-code"])
        assert done.exit_code == 0, done.output
        (file,) = out.glob("seer/*/run.json")
        about = json.loads(file.read_text())["checkpoint"]
        assert about["code"] == resolve.code_files(seer)
        assert set(about["code"]) == {"configuration_seer.py", "modeling_seer.py"}

    def test_other_code_is_another_checkpoint(self, seer: Path) -> None:
        before = resolve_checkpoint(str(seer), trusted=True).digest
        (seer / "modeling_seer.py").write_text(MODELING + "# another\n")
        assert resolve_checkpoint(str(seer), trusted=True).digest != before
        (seer / "beside.py").write_text("")  # any file may be imported by another
        third = resolve_checkpoint(str(seer), trusted=True)
        assert "beside.py" in third.code

    def test_what_transformers_knows_runs_no_code_all_the_same(self, whole: Path, ran: Path) -> None:
        plain = resolve_checkpoint(str(whole)).digest
        tiny.edit_json(whole / "tokenizer_config.json", auto_map={"AutoTokenizer": ["configuration_seer.Words", None]})
        (whole / "configuration_seer.py").write_text(CONFIGURATION)
        found = resolve_checkpoint(str(whole), trusted=True)
        load_vlm(found)
        assert not ran.exists()
        assert found.code == {}
        assert plain != found.digest  # of the other settings


class TestRefusedAllTheSame:
    def test_a_file_that_is_not_there(self, seer: Path, ran: Path) -> None:
        (seer / "modeling_seer.py").unlink()
        refused(seer, "SeerModel in modeling_seer.py, which is not there")
        assert not ran.exists()

    def test_code_of_another_repository(self, seer: Path, ran: Path) -> None:
        other = AUTO | {"AutoModelForImageTextToText": "someone/seer--modeling_seer.SeerModel"}
        tiny.edit_json(seer / "config.json", auto_map=other)
        refused(seer, "modeling_seer.py of someone/seer", "no digest covers")
        assert not ran.exists()

    def test_a_model_without_a_head(self, seer: Path) -> None:
        tiny.edit_json(
            seer / "config.json", auto_map={"AutoConfig": AUTO["AutoConfig"], "AutoModel": "modeling_seer.X"}
        )
        refused(seer, "names none of AutoModelForImageTextToText, AutoModelForCausalLM")

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("raise RuntimeError('no such card')", ("fails to make the model", "no such card")),
            (
                "    def get_decoder(self):\n        return self.lm_head",
                ("which is not a decoder with a list of layers",),
            ),
            ("    generate = None", ("has no generate",)),
            ("    def forward(self, input_ids):\n        return None", ("takes no logits_to_keep",)),
        ],
    )
    def test_a_model_that_cannot_be_asked(self, code: str, words: tuple[str, ...], seer: Path) -> None:
        (seer / "modeling_seer.py").write_text(MODELING.rstrip() + "\n" + code + "\n")
        refused(seer, *words)

    def test_no_chat_template(self, seer: Path) -> None:
        for name in ("chat_template.jinja", "chat_template.json"):
            (seer / name).unlink(missing_ok=True)
        refused(seer, "no chat template")

    def test_weights_that_are_another_model_s(self, seer: Path) -> None:
        more = "    def __init__(self, config):\n        super().__init__(config)\n        import torch\n"
        more += "        self.extra = torch.nn.Linear(2, 2)\n"
        (seer / "modeling_seer.py").write_text(MODELING.rstrip() + "\n" + more)
        found = resolve_checkpoint(str(seer), trusted=True)
        with pytest.raises(VrbenchError, match=r"has no weights for 'extra\.bias' and 1 more"):
            load_vlm(found)

    def test_weights_that_the_model_has_no_place_for(self, seer: Path) -> None:
        tensors = load_file(seer / "model.safetensors")
        save_file({**tensors, "extra.weight": torch.ones(2)}, seer / "model.safetensors", {"format": "pt"})
        found = resolve_checkpoint(str(seer), trusted=True)
        with pytest.raises(VrbenchError, match=r"has weights for no 'extra\.weight'"):
            load_vlm(found)

    def test_an_adapter_on_it(self, seer: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "adapter", seer)
        refused(folder, "runs code of its own", "only the base itself")
