"""The pocket family: SmolLM2-135M behind a small SigLIP-shaped tower, as a `LlavaForConditionalGeneration`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints import llava_shapes, smollm2
from vrbench.checkpoints.checkpoint import PROJECTOR, TOWER
from vrbench.core.cache import COMPLETE_MARKER, cached_folder, file_digest
from vrbench.core.device import select_cpu_kernels
from vrbench.core.io import digest_of

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

FORMAT = 2  # of the folder that `assemble` makes; raise it when what is written changes
IMAGE_SIDE, PATCH = 128, 16
IMAGE_TOKENS = (IMAGE_SIDE // PATCH) ** 2


def llava_config() -> LlavaConfig:
    """Return the whole model's config: every patch of the tower's last layer becomes one image token."""
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=llava_shapes.POCKET_VISION, text_config=smollm2.text_config(),
        image_token_index=smollm2.IMAGE_TOKEN_ID, image_seq_length=IMAGE_TOKENS, vision_feature_layer=-1,
        vision_feature_select_strategy="full", projector_hidden_act="gelu", tie_word_embeddings=True,
    )  # fmt: skip


def assemble(weights: Path) -> Path:
    """Return the folder of the whole base model in the Hugging Face layout, made in the cache on first use.

    Args:
        weights: folder with tower.safetensors and projector.safetensors.

    Raises:
        VrbenchError: the LLM's file is missing or is another one.
    """
    key = digest_of([FORMAT, smollm2.SHA256, file_digest(weights / TOWER), file_digest(weights / PROJECTOR)])

    def make(folder: Path) -> None:
        model = new_llava()
        _load_component(model.model.vision_tower, weights / TOWER)
        _load_component(model.model.multi_modal_projector, weights / PROJECTOR)
        model.save_pretrained(folder)
        ignore = shutil.ignore_patterns(COMPLETE_MARKER)
        shutil.copytree(processor_folder(), folder, dirs_exist_ok=True, ignore=ignore)

    return cached_folder(f"pocket-base-{key[:16]}", make)


def new_llava() -> LlavaForConditionalGeneration:
    """Return a float32 model on the CPU with the LLM's weights and a random tower and projector."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlavaForConditionalGeneration

    select_cpu_kernels()
    model = LlavaForConditionalGeneration(llava_config()).to(torch.float32)
    weights = load_file(smollm2.backbone_folder() / "model.safetensors")
    weights = {name.removeprefix("model."): value for name, value in weights.items()}
    model.model.language_model.load_state_dict(weights, strict=True)
    model.tie_weights()
    model.generation_config.pad_token_id = 2
    model.generation_config.eos_token_id = 2
    return model


def _load_component(module: Any, file: Path) -> None:
    from safetensors.torch import load_file

    module.load_state_dict({name: value.float() for name, value in load_file(file).items()}, strict=True)


def processor_folder() -> Path:
    """Return a folder in the cache with tokenizer and image processor alone, made on first use."""

    def make(folder: Path) -> None:
        smollm2.checked_gguf()
        save_processor(folder)

    return cached_folder(f"pocket-processor-{smollm2.SHA256[:12]}-v{FORMAT}", make)


def save_processor(folder: Path) -> None:
    """Write the tokenizer with "<image>", and the image processor's settings, beside a pocket model."""
    from gguf import GGUFReader
    from transformers import LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    smollm2.write_tokenizer(GGUFReader(smollm2.gguf_file()), folder, image_token=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    image_processor = SiglipImageProcessorPil(size={"height": IMAGE_SIDE, "width": IMAGE_SIDE})
    processor = LlavaProcessor(
        image_processor=image_processor, tokenizer=tokenizer, patch_size=PATCH, image_token="<image>",
        vision_feature_select_strategy="full", num_additional_image_tokens=0, chat_template=smollm2.CHAT_TEMPLATE,
    )  # fmt: skip
    processor.save_pretrained(folder)
