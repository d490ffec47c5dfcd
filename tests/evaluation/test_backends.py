"""A picture goes through the tower once, whatever asks for it, as long as there is room."""

from __future__ import annotations

import os
import time

import pytest
import torch
from PIL import Image

from tests.evaluation.made import noise
from tests.tiny import llava
from vrbench.evaluation import backends
from vrbench.evaluation.backends import FEATURE_BYTES, Ahead, VisionFeatureCache
from vrbench.evaluation.requests import RequestImage, request_image
from vrbench.models.llava_model import LlavaModel


def shown(seed: str) -> RequestImage:
    return request_image(noise(seed), lambda: noise(seed))


def test_pictures_are_computed_once_for_checkpoints_with_one_tower(vlm: LlavaModel) -> None:
    other = llava(depth=2)
    other.model.vision_tower.load_state_dict(vlm.vision_tower.state_dict())
    cache = VisionFeatureCache()
    first = cache.features(vlm, [shown("a"), shown("b"), shown("a")])
    again = cache.features(LlavaModel(other, vlm.tokenizer, vlm.image_processor), [shown("b"), shown("a")])
    assert cache.computed == 2
    assert set(first) == set(again) == {shown("a").digest, shown("b").digest}
    assert all(torch.equal(first[d], again[d]) for d in first)
    alone = vlm.encode_images([noise("a")])[0]
    assert torch.allclose(first[shown("a").digest], alone, atol=1e-6)


def test_another_tower_has_features_of_its_own(vlm: LlavaModel) -> None:
    cache = VisionFeatureCache()
    ours = cache.features(vlm, [shown("a")])
    theirs = cache.features(LlavaModel(llava(seed=1), vlm.tokenizer, vlm.image_processor), [shown("a")])
    assert cache.computed == 2
    assert not torch.equal(ours[shown("a").digest], theirs[shown("a").digest])


def test_the_tower_of_a_base_is_digested_once(vlm: LlavaModel) -> None:
    again = LlavaModel(vlm.model, vlm.tokenizer, vlm.image_processor)
    cache = VisionFeatureCache()
    try:
        vlm.base_digest = again.base_digest = "base"
        for one in (vlm, again):
            cache.features(one, [shown("a")])
        assert cache.computed == 1
        assert "tower_digest" not in vars(again)
    finally:
        vlm.base_digest = ""


def test_the_least_recently_used_goes_first(vlm: LlavaModel) -> None:
    size = vlm.encode_images([noise("a")])[0].nbytes
    cache = VisionFeatureCache(budget=2 * size)
    for seed in ("a", "b", "a", "c", "a"):
        cache.features(vlm, [shown(seed)])
    assert cache.computed == 3
    cache.features(vlm, [shown("b")])
    assert cache.computed == 4


def test_a_cache_without_room_still_answers(vlm: LlavaModel) -> None:
    assert len(VisionFeatureCache(budget=0).features(vlm, [shown("a"), shown("b")])) == 2


def test_a_picture_is_known_by_its_pixels() -> None:
    same, other = noise("a"), noise("a").copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert shown("a").digest == request_image(same, lambda: same).digest
    assert shown("a").digest != request_image(other, lambda: other).digest
    flat = Image.frombytes("RGB", (24, 40), same.tobytes())
    assert request_image(flat, lambda: flat).digest != shown("a").digest


def test_pixels_are_prepared_in_other_processes_in_any_order(vlm: LlavaModel) -> None:
    ahead = Ahead(vlm, lambda seed: vlm.pixels(noise(seed)), "abc")
    assert list(ahead._prepared) == []  # no processes on a CPU
    ahead.start()
    for seed in "cab":
        assert torch.equal(ahead(seed), vlm.pixels(noise(seed)))
    assert torch.equal(ahead("a"), vlm.pixels(noise("a")))  # once more, here


@pytest.mark.parametrize("fault", ["hangs", "dies", "fails"])
def test_an_image_that_no_other_process_can_prepare_is_prepared_here(
    vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    here = os.getpid()

    def compute(seed: str) -> int:
        if seed == "b" and os.getpid() != here:
            if fault == "dies":
                os._exit(1)
            if fault == "fails":
                raise ValueError(seed)
            time.sleep(600)
        return ord(seed)

    monkeypatch.setattr(backends, "AHEAD_TIMEOUT", 2)
    ahead = Ahead(vlm, compute, "abcd")
    ahead.start()
    assert [ahead(seed) for seed in "abcd"] == [97, 98, 99, 100]
    assert "prepared in one process" in caplog.text


def test_features_on_a_gpu_take_a_share_of_what_may_be_used_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 80 * 2**30))
    cache = VisionFeatureCache()
    assert cache.plan_memory(torch.device("cpu"), 0.5) == 0.5
    assert cache.budget == FEATURE_BYTES
    assert cache.plan_memory(torch.device("cuda"), 0.5) == pytest.approx(0.475)
    assert cache.budget == 2 * 2**30
