"""Stage 'tower': the vision tower learns to say what lies in each patch; the LLM has no part in it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from vrbench.models import pocket
from vrbench.train.loop import optimize
from vrbench.train.pictures import HEADS, Pictures
from vrbench.train.recipe import TrainRecipe

NOTHING_WEIGHT = 0.3  # most patches hold nothing: without it the heads would say so everywhere for long
ENCODE_BATCH = 512


class PatchHeads(nn.Module):
    """One linear head a label on the normalised patch tokens; thrown away after the stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in HEADS.items()})

    def loss(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over heads; tokens [n, patches, width], labels [n, patches, heads]."""
        tokens = self.norm(tokens)
        total = tokens.new_zeros(())
        for i, (name, classes) in enumerate(HEADS.items()):
            weight = torch.ones(classes, device=tokens.device)
            weight[0] = NOTHING_WEIGHT
            logits = self.heads[name](tokens).float()
            total = total + nn.functional.cross_entropy(logits.flatten(0, 1), labels[..., i].flatten().long(), weight)
        return total / len(HEADS)

    def accuracy(self, tokens: Tensor, labels: Tensor) -> dict[str, float]:
        """Share of the patches with something in them that each head names rightly."""
        tokens = self.norm(tokens)
        shares = {}
        for i, name in enumerate(HEADS):
            there = labels[..., i] > 0
            said = self.heads[name](tokens).argmax(-1)
            shares[name] = float((said[there] == labels[..., i][there]).float().mean())
        return shares


def new_tower() -> SiglipVisionModel:
    """A tower with random weights, in float32."""
    return SiglipVisionModel(SiglipVisionConfig(**pocket.vision_config()))


def patch_tokens(tower: nn.Module, pixels: Tensor) -> Tensor:
    """What the projector sees: the tower's last hidden state. Pixels [n, 3, side, side] in [-1, 1]."""
    return tower(pixels, output_hidden_states=True).hidden_states[-1]


def to_input(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [n, side, side, 3] to float32 [n, 3, side, side] in [-1, 1], as the image processor does it."""
    tensor = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
    return (tensor / 255 - 0.5) / 0.5


def train_tower(
    recipe: TrainRecipe, data: Pictures, extra: Pictures | None, dev: Pictures, device: torch.device
) -> tuple[SiglipVisionModel, dict[str, float]]:
    """Train a tower; returns it with the dev accuracy of each head.

    Args:
        recipe: a recipe with the section `tower`.
        data: labelled generated pictures.
        extra: labelled easy-VQA pictures, mixed in at the recipe's share.
        dev: labelled pictures of the dev split.
        device: where to train.
    """
    settings = recipe.tower
    assert settings is not None
    torch.manual_seed(recipe.seed)
    tower, heads = new_tower().to(device), PatchHeads(pocket.vision_config()["hidden_size"]).to(device)
    order = np.random.default_rng(recipe.seed)
    extras = round(settings.batch * recipe.data.easy_vqa) if extra else 0
    autocast = torch.autocast(device.type, dtype=getattr(torch, recipe.dtype), enabled=recipe.dtype != "float32")

    def batch(of: Pictures, count: int) -> tuple[Tensor, Tensor]:
        chosen = np.sort(order.choice(len(of), count, replace=count > len(of)))
        return to_input(of.pixels[chosen], device), torch.from_numpy(of.labels[chosen]).to(device)

    def loss(step: int) -> Tensor:
        parts = [batch(data, settings.batch - extras)] + ([batch(extra, extras)] if extra and extras else [])
        pixels, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        pixels = pixels + settings.noise * torch.randn_like(pixels)
        with autocast:
            return heads.loss(patch_tokens(tower, pixels), labels)

    parameters = [*tower.parameters(), *heads.parameters()]
    groups = [{"params": parameters, "lr": settings.lr, "weight_decay": settings.weight_decay}]
    optimize(groups, loss, steps=settings.steps, warmup=recipe.warmup, clip=recipe.clip, label="tower")
    with torch.inference_mode():
        tokens = encode(tower, dev.pixels, device)
        shares = heads.accuracy(tokens.float(), torch.from_numpy(dev.labels).to(device))
    return tower, shares


def encode(tower: nn.Module, pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Patch tokens of many pictures: [n, patches, width], float32 on the CPU, bfloat16 on a GPU."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tower.eval()
    parts = []
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        for start in range(0, len(pixels), ENCODE_BATCH):
            parts.append(patch_tokens(tower, to_input(pixels[start : start + ENCODE_BATCH], device)).to(dtype))
    return torch.cat(parts)
