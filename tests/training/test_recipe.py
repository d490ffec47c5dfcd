"""Recipes: read, changed, refused with the nearest name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vrbench import pocket as pocket_weights
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import select_layers
from vrbench.training import TrainRecipe, load, names
from vrbench.training.recipe import ConversationFile


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(load("pocket-region").text())
    return path


def test_the_package_ships_one_for_each_published_checkpoint() -> None:
    assert {load(name).makes for name in names()} >= {"pocket/base", "pocket/full", "pocket/region", "pocket/top"}


def test_those_that_are_compared_differ_in_their_layers_alone() -> None:
    kinds = [load(f"pocket-{name}").model_dump(mode="json") for name in ("full", "region", "top")]
    layers = [kind["tune"].pop("layers") for kind in kinds]
    for kind in kinds:
        kind.pop("name"), kind.pop("makes")
    assert kinds[0] == kinds[1] == kinds[2]
    assert [len(select_layers(text, 30)) for text in layers] == [30, 8, 8]


def test_a_file_is_read_as_a_shipped_one(file: Path) -> None:
    assert load(str(file)) == load("pocket-region")
    assert TrainRecipe.model_validate(yaml.safe_load(load("pocket-base").text())) == load("pocket-base")


def test_values_can_be_changed_and_change_the_digest() -> None:
    plain = load("pocket-region")
    changed = load("pocket-region", {"tune.steps": "20", "tune.layers": "0-3", "seed": "7", "tune.lr": "1.0e-4"})
    assert changed.tune is not None
    assert (changed.tune.steps, changed.tune.layers, changed.seed, changed.tune.lr) == (20, "0-3", 7, 1e-4)
    assert changed.digest != plain.digest == load("pocket-region").digest


def test_a_misspelt_name_or_key_is_answered_with_the_nearest() -> None:
    with pytest.raises(VrbenchError, match=r"'pocket-regoin'.* mean 'pocket-region'"):
        load("pocket-regoin")
    with pytest.raises(VrbenchError, match=r"'xyz'; .*pocket-attention, pocket-base, "):
        load("xyz")
    with pytest.raises(VrbenchError, match=r"'tune\.stepps'.* mean 'steps'"):
        load("pocket-full", {"tune.stepps": "3"})
    with pytest.raises(VrbenchError, match=r"'wormup'.* mean 'warmup'"):
        load("pocket-full", {"wormup": "0.1"})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(MultipleErrors) as told:
        load("pocket-full", {"tune.steps": "0", "data.scenes": "many", "dtype": "int8"})
    for words in ("tune.steps is 0", "data.scenes is 'many'", "dtype is 'int8'"):
        assert sum(words in fault for fault in told.value.messages) == 1


def test_a_value_is_no_section() -> None:
    with pytest.raises(VrbenchError, match="'seed' is a value"):
        load("pocket-full", {"seed.x": "1"})


@pytest.mark.parametrize("gone", [("tower",), ("align",), ("tower", "align")])
def test_a_recipe_is_of_one_kind(tmp_path: Path, gone: tuple[str, ...]) -> None:
    raw = yaml.safe_load(load("pocket-base").text())
    for section in gone:
        raw.pop(section)
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(VrbenchError, match="either 'tower' and 'align', or 'tune'"):
        load(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- a", "mapping")])
def test_what_cannot_be_read_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(VrbenchError, match=message):
        load(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tune.epochs": "1", "tune.steps": "2"}, "steps or epochs"),
        ({"tune.accumulate": "5"}, "tune.batch is 64.* tune.accumulate = 5"),
        ({"tune.rank": "null"}, "tune.rank and tune.alpha are needed for tuning 'lora'"),
        ({"tune.tuning": "weights", "tune.modules": "attention"}, "tune.modules is 'attention'.* 'lora'"),
        ({"tune.tuning": "weights", "tune.dora": "true"}, "tune.dora is True, which needs tuning 'lora'"),
        ({"tune.tuning": "weights", "tune.quantize": "nf4"}, "tune.quantize is 'nf4', which needs tuning 'lora'"),
        (
            {"tune.layers": "none", "tune.dora": "true"},
            "tune.dora is True, which needs tuning 'lora' of layers, or tower",
        ),
        ({"tune.packing": "true", "tune.neftune": "5"}, "tune.neftune does not go with tune.packing"),
        ({"tune.attention": "flash_attention_2"}, "flash_attention_2', which has no mask for the questions"),
        ({"tune.attention": "flash_attention_3", "dtype": "float32"}, "does not compute in dtype float32"),
        ({"tune.packing": "true"}, "tune.packing is for conversations"),
        ({"tune.tower": "lora"}, "tune.tower is 'lora' and tune.lr_tower None; a trained tower needs a rate"),
        ({"tune.tower": "lora", "tune.lr_tower": "1"}, "tune.tower needs conversations"),
        ({"tune.neftune": "0"}, "tune.neftune is 0"),
        ({"tune.layers": "none", "tune.lr_projector": "0"}, "nothing would be trained"),
        ({"tune.layers": "none", "tune.sampling": "2"}, "'none'.* tune.sampling"),
        ({"tune.average": "micro-batches"}, "needs tune.micro_batch"),
        ({"tune.micro_batch": "8"}, "tune.micro_batch is 8, which needs tune.average = micro-batches"),
        ({"tune.average": "micro-batches", "tune.micro_batch": "5"}, "not a multiple of tune.micro_batch = 5"),
        ({"tune.sampling": "lisa:2"}, "tune.sampling is 'lisa:2', which needs tuning 'weights'"),
        ({"tune.sampling": "liza:2"}, "tune.sampling is 'liza:2'; write .* 'lisa:2' or 'layer-sampling:2'"),
        ({"tune.sampling": "0"}, "tune.sampling is 0; write"),
        ({"tune.every": "5"}, "tune.every is 5, which needs tune.sampling"),
        ({"tune.schedule": "cosin"}, "tune.schedule is 'cosin'"),
        ({"data.shar": "0.5"}, r"'data\.shar'.* mean 'share'"),
        ({"stage": "heel"}, "stage is 'heel'"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes: dict[str, str], fault: str) -> None:
    with pytest.raises(VrbenchError, match=fault):
        load("pocket-full", changes)


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_compilation_is_set_by_the_words_that_help_names(word: str) -> None:
    """YAML reads on and off as true and false."""
    made = load("pocket-full", {"tune.compile": word})
    assert made.tune is not None and made.tune.compile == word
    assert TrainRecipe.model_validate(yaml.safe_load(made.text())) == made


def test_a_number_alone_is_layer_sampling() -> None:
    """As recipes of before have it; the digests are those of before."""
    number, named, lisa = (
        load("pocket-weights", {"tune.sampling": given}) for given in ("8", "layer-sampling:8", "lisa:8")
    )
    assert number == named and number.tune is not None and lisa.tune is not None
    assert number.digest_content()["tune"]["sampling"] == 8 and lisa.digest != number.digest
    assert [(t.layers_at_a_time, t.is_lisa) for t in (number.tune, lisa.tune)] == [(8, False), (8, True)]


def test_a_section_tells_all_its_faults() -> None:
    with pytest.raises(MultipleErrors) as told:
        load("pocket-full", {"tune.accumulate": "5", "tune.rank": "null", "data.share": "2"})
    assert len(told.value.messages) == 3


def test_one_way_to_say_how_long_takes_the_place_of_the_other() -> None:
    changed = load("pocket-full", {"tune.epochs": "0.5"}).tune
    assert changed is not None and (changed.steps, changed.epochs) == (None, 0.5)
    assert changed.steps_for(1000, extra=6) == 9  # half of 1000 pictures, 58 of them a step


def test_another_kind_of_data_takes_the_place_of_the_pictures() -> None:
    changed = load("pocket-full", {"data.conversations": "a.json", "data.images": "b", "data.length": "64"}).data
    assert isinstance(changed, ConversationFile) and (changed.images, changed.length) == ("b", 64)


def test_keys_that_came_later_leave_old_digests_as_they_were() -> None:
    """The published weights' lineages hold the digests of the recipes that they were made by."""
    for name in ("base", "full", "region", "top"):
        folder = Path(pocket_weights.__file__).parent / "weights" / name
        steps = json.loads((folder / "vrbench.json").read_text())["steps"]
        assert {step["recipe_digest"] for step in steps} == {load(str(folder / "recipe.yaml")).digest}
    assert load("pocket-full", {"tune.schedule": "linear"}).digest != load("pocket-full").digest
