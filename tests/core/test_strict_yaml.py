"""YAML in which a key stands twice is refused wherever it is read, since the last would win in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vrbench.cli.config_file import read_config
from vrbench.core.errors import VrbenchError
from vrbench.core.io import load_yaml
from vrbench.training import recipe_files


def test_a_text_says_what_safe_yaml_says() -> None:
    text = "a: [1, x]\nb: {c: 2}\nd: null\n"
    assert load_yaml(text) == yaml.safe_load(text) == {"a": [1, "x"], "b": {"c": 2}, "d": None}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x: {a: 1, a: 2}", "a: !!python/object/apply:os.getcwd []"])
def test_a_key_given_twice_and_code_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"given twice: a|python/object"):
        load_yaml(text)


def test_options_and_recipes_are_read_so(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("limit: 1\nseed: 2\nlimit: 3\n", encoding="utf-8")
    with pytest.raises(VrbenchError, match="given twice: limit"):
        read_config(file, ["limit", "seed"])
    with pytest.raises(VrbenchError, match="given twice: limit"):
        recipe_files.load(str(file))
