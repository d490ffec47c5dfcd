"""A base that several checkpoints share: each is what it is when it is loaded alone, and the base stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.models.test_load import layered
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models import hf_folder, load
from vrbench.models.base_weights import BaseCache
from vrbench.models.load import first_loaded, load_vlm
from vrbench.models.resolve import resolve_checkpoint


@pytest.fixture(scope="module")
def folders(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and folders that change it in every way, and another base with its adapter."""
    made = tmp_path_factory.mktemp("folders")
    half = tiny.save_llava(made / "half")
    tiny.llava().to(torch.float16).save_pretrained(half)
    pruned = LineageStep(kind="pruned", layers="1", depth=tiny.DEPTH)
    found = {"base": half, "adapter": tiny.save_adapter(made / "adapter", half)}
    found["pruned"] = layered(made / "pruned", half, pruned, depth=tiny.DEPTH - 1)
    found["delta"] = tiny.save_delta(tiny.llava(4), LayerSet.of([0, 2], tiny.DEPTH), str(half), made / "delta")
    tiny.save_projector(made / "projector")
    found["projector"] = layered(made / "projector", half)
    found["chain"] = layered(made / "chain", found["adapter"], pruned, depth=tiny.DEPTH - 1)
    found["other"] = tiny.save_llava(made / "other", seed=5)
    found["adapter again"] = tiny.save_adapter(made / "again", half, layers=(0, 1), seed=3)
    return found


def load_all(folders: dict[str, Path], dtype: str) -> dict[str, dict[str, torch.Tensor]]:
    """Name -> the weights of each checkpoint, loaded one after the other with one cache."""
    bases, found = BaseCache(), {}
    checkpoints = {name: resolve_checkpoint(str(folder)) for name, folder in folders.items()}
    names = list(checkpoints)
    for number, name in enumerate(names):
        bases.expected = [first_loaded(checkpoints[later]).digest for later in names[number + 1 :]]
        found[name] = load_vlm(checkpoints[name], dtype=dtype, bases=bases).model.state_dict()
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_checkpoint_is_what_it_is_alone(folders: dict[str, Path], dtype: str) -> None:
    for name, weights in load_all(folders, dtype).items():
        checkpoint = resolve_checkpoint(str(folders[name]))
        exact = load_vlm(checkpoint).model.to(getattr(torch, dtype)).state_dict()  # rounded once, at the end
        assert same(weights, exact), name
        if dtype != "float32":  # which is what `exact` is
            assert same(weights, load_vlm(checkpoint, dtype=dtype).model.state_dict()), name


def test_a_base_is_read_once_while_others_of_it_follow(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(load, "_load_whole", _counting(load._load_whole, read))
    load_all(folders, "float32")
    assert [Path(name).name for name in read] == ["half", "other", "half"]


def _counting(function, calls):  # type: ignore[no-untyped-def]
    def counting(checkpoint, *arguments):  # type: ignore[no-untyped-def]
        calls.append(checkpoint.id)
        return function(checkpoint, *arguments)

    return counting


def test_unchanged_weights_are_shared_and_not_copied(folders: dict[str, Path]) -> None:
    found = load_all({name: folders[name] for name in ("base", "adapter", "pruned")}, "float32")
    base, adapter, pruned = found.values()
    addresses = {tensor.data_ptr() for tensor in base.values()}
    changed = [name for name, tensor in adapter.items() if tensor.data_ptr() not in addresses and tensor.dim() > 1]
    assert changed and all("language_model.layers" in name for name in changed)
    assert all(tensor.data_ptr() in addresses for name, tensor in pruned.items() if "embed_tokens" in name)


def test_an_error_in_one_checkpoint_leaves_the_base_as_it_was(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = (resolve_checkpoint(str(folders[name])) for name in ("base", "adapter"))
    bases = BaseCache()
    bases.expected = [base.digest]
    with monkeypatch.context() as patch:
        patch.setattr(load, "apply_overlay", _failing(load.apply_overlay))
        with pytest.raises(VrbenchError, match="made to fail"):
            load_vlm(adapter, bases=bases)
    bases.expected = []
    assert same(load_vlm(base, bases=bases).model.state_dict(), load_vlm(base).model.state_dict())


def _failing(function):  # type: ignore[no-untyped-def]
    def failing(*arguments):  # type: ignore[no-untyped-def]
        function(*arguments)
        raise VrbenchError("made to fail")

    return failing


def test_the_last_checkpoint_of_a_base_takes_it_without_a_copy(folders: dict[str, Path]) -> None:
    bases = BaseCache()
    load_vlm(resolve_checkpoint(str(folders["base"])), bases=bases)
    assert bases._kept is None


def test_a_weight_that_is_not_what_the_file_holds_is_refused(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = hf_folder.load

    def changed(folder: Path, dtype: torch.dtype) -> object:
        model, *parts = read(folder, dtype)
        with torch.no_grad():
            model.get_decoder().layers[1].self_attn.q_proj.weight += 1
        return model, *parts

    monkeypatch.setattr(hf_folder, "load", changed)
    with pytest.raises(RuntimeError, match="is not what its file holds"):
        load_vlm(resolve_checkpoint(str(folders["adapter"])), dtype="bfloat16")
