"""The loss of a step, the mean over its answer tokens or over its micro-batches' means, however it is split."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from tests.training import small_training, test_trainer
from tests.training.conversation_samples import LATER, ONE, SEVERAL, TWO, WORDS, loaded
from tests.training.packed import CPU
from tests.training.test_frozen import recipe
from vrbench.core.errors import VrbenchError
from vrbench.models import components
from vrbench.training.conversation_batches import EncodedConversations, answer_loss, conversation_data
from vrbench.training.conversation_encoder import ConversationEncoder
from vrbench.training.conversation_sets import ConversationSet
from vrbench.training.trainer import ParameterGroup, TrainingConfig, TrainingData, fit, micro_batch_weights

BATCH, STEPS, LR = 4, 2, 1e-3
SAMPLES = [ONE, SEVERAL, TWO, WORDS, LATER]


def prepared(family: str) -> tuple[nn.Module, list[nn.Parameter], EncodedConversations]:
    """A tiny model of which the second layer's MLP is trained, and conversations with answers of many lengths."""
    model = deepcopy(loaded(family).model).requires_grad_(False)
    trained = list(components.decoder_layers(model)[1].mlp.parameters())
    for parameter in trained:
        parameter.requires_grad_(True)
    return model, trained, EncodedConversations(SAMPLES, ConversationEncoder(loaded(family), 4000))


def plain(family: str, order: Any, micro_batch: int) -> tuple[list[float], list[torch.Tensor]]:
    """Losses, and changes of weights, of the original way: the mean of the model's own loss of each micro-batch."""
    model, trained, data = prepared(family)
    before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, LR, betas=(0.9, 0.98), weight_decay=0.0)
    losses = []
    for step in order.reshape(STEPS, -1, micro_batch):
        batches = [data.collate([data[i] for i in indices]) for indices in step]
        means = [model(**{k: v for k, v in b.items() if k != "items"}, use_cache=False).loss for b in batches]
        loss = torch.stack(means).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.detach() - b for p, b in zip(trained, before, strict=True)]


def ours(
    family: str, order: Any, micro_batch: int | None, accumulate: int, packing: bool = False
) -> tuple[list[float], list[torch.Tensor]]:
    model, trained, samples = prepared(family)
    before = [p.detach().clone() for p in trained]
    data = TrainingData(samples, samples.packed if packing else samples.collate, answer_loss, order)
    config = TrainingConfig(
        "t", STEPS, BATCH, accumulate, schedule="constant", warmup=0, micro_batch=micro_batch, seed=0
    )
    losses = fit(model, data, [ParameterGroup(trained, LR)], config, CPU)
    return losses, [p.detach() - b for p, b in zip(trained, before, strict=True)]


@pytest.mark.parametrize(("family", "micro_batch"), [("llava", 1), ("llava", 2), ("llava", 4), ("mllama", 1)])
def test_it_is_the_mean_of_the_micro_batches_means_in_any_parts(family: str, micro_batch: int) -> None:
    order = np.array([0, 3, 1, 4, 2, 1, 3, 0])
    losses, expected = plain(family, order, micro_batch)
    ways = [(1, False), (2, False), (4, False), *([(2, True)] if family == "llava" else [])]
    for accumulate, packing in ways:  # a part holds several micro-batches, or one lies in several parts
        found, changes = ours(family, order, micro_batch, accumulate, packing)
        assert found == pytest.approx(losses, rel=1e-5)
        assert all((a - b).norm() < 1e-3 * b.norm() for a, b in zip(changes, expected, strict=True))
    of_tokens, _ = ours(family, order, None, 2)
    assert (of_tokens == pytest.approx(losses, rel=1e-3)) == (micro_batch == BATCH)  # then both are the same


def test_a_micro_batch_without_answers_counts_in_the_mean() -> None:
    assert micro_batch_weights(torch.tensor([1, 3, 0, 0]), 2).tolist() == [1 / 8, 1 / 8, 1 / 2, 1 / 2]


def test_fsdp_and_mllama_need_the_same_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ConversationSet([ONE, WORDS, TWO], 3, {})
    asked = recipe(steps=1)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert len(conversation_data(asked, found, loaded("llava")).order) == 3
    with pytest.raises(VrbenchError, match=r"mllama with samples of \[0, 1, 2\] images"):
        conversation_data(asked, found, loaded("mllama"))


class TestPacked:
    """Two rows of a micro-batch are in two parts, or on two devices."""

    KEYS: ClassVar[dict[str, Any]] = {"average": "micro-batches", "micro_batch": 2}

    def test_neither_parts_nor_processes_change_it(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folders = [tmp_path_factory.mktemp(name) for name in ("tokens", "whole", "parts", "two")]
        plain, whole, parts = (
            small_training.train(folder, small_training.recipe(dropout=0, save_every=0, **keys), [])
            for folder, keys in zip(folders, ({}, self.KEYS, self.KEYS | {"accumulate": 4}), strict=False)
        )
        assert whole[1] != pytest.approx(plain[1], rel=1e-3)
        expected = test_trainer.weights(whole[0]), whole[1]
        test_trainer.TestSplit.same(expected, test_trainer.weights(parts[0]), parts[1])
        test_trainer.TestSplit.run_two(
            folders[-1], {}, "accumulate=2", *(f"{key}={value}" for key, value in self.KEYS.items())
        )
        test_trainer.TestSplit.same(expected, *test_trainer.TestSplit.written(folders[-1]))
