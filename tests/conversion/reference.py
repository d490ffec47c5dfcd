"""The original models written out plainly: their prompts, their pixels and their forward pass, in float32."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from tests.conversion.sources import SIDE, Made, text_config, vision_tower
from tests.conversion.tokenizers import original_words

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def chunks(family: str, question: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the picture, each tokenized on its own, as the original code does it."""
    words = original_words(family)
    before, after = f"{SYSTEM} USER: <image>\n{question} ASSISTANT:".split("<image>")
    ids = words(after)["input_ids"]
    return list(words(before)["input_ids"]), list(ids[1:] if ids[0] == words.bos_token_id else ids)


def picture() -> Image.Image:
    """A picture that is not a square."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def pixels(made: Made, image: Image.Image, pad: bool = True) -> torch.Tensor:
    """Pixel values as the original code makes them, with PIL and numpy alone: [1, 3, SIDE, SIDE]."""
    mean, std = (CLIP_MEAN, CLIP_STD) if made.is_clip else ((0.5,) * 3, (0.5,) * 3)
    if pad:
        side = max(image.size)
        square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in mean))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if made.is_clip:  # the shorter edge, then the middle
        factor = SIDE / min(image.size)
        image = image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BICUBIC)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        image = image.crop((left, top, left + SIDE, top + SIDE))
    else:
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    values = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(((values - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1).copy())[None]


@torch.inference_mode()
def reference_logits(made: Made, before: list[int], after: list[int], pixel_values: torch.Tensor) -> torch.Tensor:
    """The model written out: tower, projector, splice, decoder, head; [tokens, vocabulary] in float32."""
    from transformers import LlamaModel, Phi3Model

    tower = vision_tower(made.family)
    tower.load_state_dict(made.tower, strict=True)
    features = tower(pixel_values, output_hidden_states=True).hidden_states[-2]
    if made.is_clip:
        features = features[:, 1:]
    hidden = torch.nn.functional.gelu(features @ made.projector["0.weight"].T + made.projector["0.bias"])
    image = hidden @ made.projector["2.weight"].T + made.projector["2.bias"]
    embedding = made.llm["model.embed_tokens.weight"]
    spliced = torch.cat([embedding[before], image[0], embedding[after]])[None]
    decoder = (Phi3Model if made.family == "bunny-phi3" else LlamaModel)(text_config(made.family, made.text)).eval()
    inner = {n.removeprefix("model."): v for n, v in made.llm.items() if n.startswith("model.")}
    decoder.load_state_dict(inner, strict=True)
    states = decoder(inputs_embeds=spliced, use_cache=False).last_hidden_state[0]
    return states @ made.llm["lm_head.weight"].T
