"""A picture goes through the tower once, whatever asks for it, as long as there is room."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from PIL import Image

from tests.evaluation.made import noise
from tests.tiny import llava
from vrbench.evaluation import prefetch
from vrbench.evaluation.prefetch import Prefetcher
from vrbench.evaluation.requests import RequestImage, request_image
from vrbench.evaluation.vision_features import FEATURE_BYTES, VisionFeatureCache
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
        vlm.tower_origin = again.tower_origin = "base"
        for one in (vlm, again):
            cache.features(one, [shown("a")])
        assert cache.computed == 1
        assert "tower_digest" not in vars(again)
    finally:
        vlm.tower_origin = ""


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


def test_an_image_that_is_dropped_before_it_is_read_again_is_loaded_again(vlm: LlavaModel) -> None:
    images = [shown(seed) for seed in "abcdef"]
    cache = VisionFeatureCache(budget=3 * cache_bytes(vlm))
    for _ in range(2):
        with cache.loading(vlm, images):
            found = [next(iter(cache.features(vlm, [image]).values())) for image in images]
    assert all(
        torch.allclose(one, vlm.encode_images([noise(s)])[0], atol=1e-6) for one, s in zip(found, "abcdef", strict=True)
    )


def cache_bytes(vlm: LlavaModel) -> int:
    """Bytes of the features of one image."""
    return vlm.encode_images([noise("a")])[0].nbytes


def test_a_picture_is_known_by_its_pixels() -> None:
    same, other = noise("a"), noise("a").copy()
    other.putpixel((0, 0), (1, 2, 3))
    assert shown("a").digest == request_image(same, lambda: same).digest
    assert shown("a").digest != request_image(other, lambda: other).digest
    flat = Image.frombytes("RGB", (24, 40), same.tobytes())
    assert request_image(flat, lambda: flat).digest != shown("a").digest


def test_pixels_are_prepared_in_threads_in_any_order(vlm: LlavaModel) -> None:
    threads: dict[str, list[int]] = {}

    def compute(seed: str) -> torch.Tensor:
        threads.setdefault(seed, []).append(threading.get_ident())
        return vlm.pixels(noise(seed))

    with Prefetcher(vlm, compute, "abcde", limit=2) as ahead:
        assert not threads  # no threads on a CPU
        ahead.start()
        for seed in "caebd":
            assert torch.equal(ahead(seed), vlm.pixels(noise(seed)))
        assert torch.equal(ahead("a"), vlm.pixels(noise("a")))  # once more, here
    here = threading.get_ident()
    assert {seed: len(of) for seed, of in threads.items()} == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 1}
    assert here not in threads["b"] + threads["a"][:1] and threads["a"][1] == threads["c"][0] == here


def test_an_image_s_error_comes_when_it_is_read(vlm: LlavaModel) -> None:
    def compute(seed: str) -> str:
        if seed == "b":
            raise ValueError(seed)
        return seed

    with Prefetcher(vlm, compute, "abc") as ahead:
        ahead.start()
        assert ahead("a") == "a"
        with pytest.raises(ValueError, match="b"):
            ahead("b")
        assert ahead("c") == "c"


def test_what_is_left_when_a_block_ends_is_not_computed(vlm: LlavaModel) -> None:
    computed, go = [], threading.Event()

    def compute(seed: int) -> int:
        go.wait(10)
        computed.append(seed)
        return seed

    with Prefetcher(vlm, compute, range(100)) as ahead:
        ahead.start()
    go.set()
    time.sleep(0.1)
    assert len(computed) <= prefetch.THREADS


def test_features_on_a_gpu_take_a_share_of_what_may_be_used_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (0, 80 * 2**30))
    cache = VisionFeatureCache()
    assert cache.plan_memory(torch.device("cpu"), 0.5) == 0.5
    assert cache.budget == FEATURE_BYTES
    assert cache.plan_memory(torch.device("cuda"), 0.5) == pytest.approx(0.475)
    assert cache.budget == 2 * 2**30
