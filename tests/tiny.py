"""Tiny models with random weights, in the same layouts as real ones."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from vrbench.checkpoints.checkpoint import WHOLE_LLM
from vrbench.core.cache import file_digest
from vrbench.core.errors import collect_errors
from vrbench.core.io import write_atomically
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.resolve import resolve_checkpoint

DEPTH = 4
HIDDEN = 48
SIDE = 32
CHAT = (
    "{% for m in messages %}{{ '<|bot|>' if m['role'] == 'assistant' else '<|user|>' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)


class VectorMathSizes(TorchDispatchMode):
    """Records the number of elements of each call that torch on a CPU leaves to MKL's vector mathematics."""

    names = frozenset("acos asin atan cos erf erfc erfinv exp log log10 sin sqrt tan tanh trunc".split())

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__.rstrip("_") in self.names:
            self.sizes.append(args[0].numel())
        return func(*args, **(kwargs or {}))


def own_cache(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A cache for some tests alone, with the pocket models' processor in it, which takes seconds to make."""
    from vrbench.models import pocket

    made = pocket.processor_folder()
    shutil.copytree(made, folder / made.name, dirs_exist_ok=True)
    patch.setenv("VRBENCH_CACHE", str(folder))


def tokenizer() -> Any:
    """A byte-level tokenizer: one token a byte, and the special tokens after them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<image>", "<|user|>", "<|bot|>"]
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>", model_max_length=2048
    )
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    made.chat_template = CHAT
    return made


def llava(seed: int = 0, depth: int = DEPTH, hidden: int = HIDDEN) -> Any:
    """A `LlavaForConditionalGeneration` with random weights, float32; 4 image tokens a picture."""
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

    words = tokenizer()
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=hidden, intermediate_size=96, num_hidden_layers=depth,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.eos_token_id,
        initializer_range=0.2,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=SIDE // 2, vision_use_head=False,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4, vision_feature_layer=-1, vision_feature_select_strategy="full", tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval()


@cache
def scratch() -> Path:
    """A folder that is there until the process ends."""
    _FOLDERS.append(tempfile.TemporaryDirectory())
    return Path(_FOLDERS[-1].name)


_FOLDERS: list[Any] = []


def save_llava(folder: Path, seed: int = 0, depth: int = DEPTH, hidden: int = HIDDEN) -> Path:
    """Write a tiny LLaVA folder in the Hugging Face layout; returns the folder."""
    return Path(shutil.copytree(_saved_llava(seed, depth, hidden), folder, dirs_exist_ok=True))


@cache
def _saved_llava(seed: int, depth: int, hidden: int) -> Path:
    from transformers import SiglipImageProcessorPil

    folder = scratch() / f"llava {seed} {depth} {hidden}"
    llava(seed, depth, hidden).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def save_adapter(
    folder: Path, base: Path, layers: Iterable[int] = (1, 2), depth: int = DEPTH, hidden: int = HIDDEN, seed: int = 7
) -> Path:
    """Write a PEFT LoRA folder (rank 2 on q_proj and up_proj of some layers) for a tiny LLaVA; returns the folder."""
    shutil.copytree(_saved_adapter(tuple(layers), depth, hidden, seed), folder, dirs_exist_ok=True)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"BASE"', json.dumps(str(base))))
    return folder


@cache
def _saved_adapter(layers: tuple[int, ...], depth: int, hidden: int, seed: int) -> Path:
    from peft import LoraConfig, get_peft_model

    folder = scratch() / f"adapter {layers} {depth} {hidden} {seed}"
    wanted = [f"language_model.layers.{i}.{m}" for i in layers for m in ("self_attn.q_proj", "mlp.up_proj")]
    config = LoraConfig(r=2, lora_alpha=8, target_modules=wanted)
    wrapped = get_peft_model(llava(0, depth, hidden), config)
    wrapped.peft_config["default"].base_model_name_or_path = "BASE"
    torch.manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def save_delta(
    model: Any, layers: LayerSet, base: str, folder: Path, *, id_: str = "", step: LineageStep | None = None,
    method: str = "weights",
) -> Path:  # fmt: skip
    """Write the folder of a tiny model with some whole layers and the projector tuned; returns the folder."""
    from vrbench.models.components import layer_parameters, outside_parameters, projector_parameters
    from vrbench.models.resolve import resolve_checkpoint

    folder.mkdir()
    tensors = layer_parameters(model, layers) | projector_parameters(model)
    tensors |= outside_parameters(model) if method == WHOLE_LLM else {}
    save_file({n: p.detach().contiguous() for n, p in tensors.items()}, folder / "delta.safetensors", {"format": "pt"})
    below = resolve_checkpoint(base)
    about = {"kind": "trained", "layers": str(layers), "depth": below.depth, "method": method}
    trained = step.model_copy(update=about) if step else LineageStep.model_validate(about)
    mark(folder, base, below.digest, [trained], below.depth)
    edit_json(folder / "vrbench.json", family=below.family, **({"id": id_} if id_ else {}))
    return folder


def save_projector(folder: Path, hidden: int = HIDDEN, seed: int = 9) -> Path:
    """Write another projector for a tiny LLaVA into a folder; returns the file."""
    projector = llava(seed, 1, hidden).model.multi_modal_projector
    folder.mkdir(parents=True, exist_ok=True)
    save_file(projector.state_dict(), folder / "projector.safetensors")
    return folder / "projector.safetensors"


def mark(folder: Path, base_id: str, base_digest: str, steps: Iterable[LineageStep] = (), depth: int = DEPTH) -> Path:
    """Write `vrbench.json` for what lies in a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {p.name: file_digest(p) for p in sorted(folder.glob("*.safetensors"))}
    lineage = Lineage(
        id=folder.name, family="llava", depth=depth, base=BaseRef(id=base_id, digest=base_digest), steps=tuple(steps),
        weights=weights,
    )  # fmt: skip
    write_atomically(folder / "vrbench.json", lineage.model_dump_json(indent=1) + "\n")
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Change some fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def checkpoint_errors(name: str, **options: Any) -> list[str]:
    """Why a checkpoint cannot be resolved; empty when it can."""
    errors: list[str] = []
    with collect_errors(errors):
        resolve_checkpoint(name, **options)
    return errors
