"""Keys of items."""

from __future__ import annotations

import pytest

from vrbench.core.errors import VrbenchError
from vrbench.tasks import item_keys, registry
from vrbench.tasks.item_keys import identify
from vrbench.tasks.scoring import ItemKey


def test_a_key_is_a_column_or_an_expression_over_columns() -> None:
    row = {"index": 2_000_017, "category": "OCR"}
    assert item_keys.evaluate("index", row) == "2000017"
    assert item_keys.evaluate("{{index % 1000000}}", row) == "17"
    assert item_keys.evaluate("{{category}} {{index}}", row) == "OCR 2000017"


def test_a_column_that_is_not_there_is_no_empty_text() -> None:
    with pytest.raises(KeyError):
        item_keys.evaluate("a", {})
    with pytest.raises(VrbenchError, match=r"key '\{\{a\}\}' cannot be computed: 'a' is undefined"):
        item_keys.evaluate("{{a}}", {})
    with pytest.raises(VrbenchError, match="cannot be computed"):
        item_keys.evaluate("{{a.b}}", {"a": None})
    with pytest.raises(VrbenchError, match="cannot be computed"):
        item_keys.evaluate("{{a | int % b}}", {"a": "1", "b": 0})


def test_an_expression_reaches_nothing_but_the_columns() -> None:
    with pytest.raises(VrbenchError, match="unsafe"):
        item_keys.evaluate("{{a.__class__.__mro__[1].__subclasses__()}}", {"a": 1})


def test_the_columns_that_keys_and_templates_name_are_known() -> None:
    assert item_keys.columns(["index", "{{index % 3}} {{category}}"]) == {"index", "category"}
    assert item_keys.columns([]) == set()
    assert item_keys.variables("{% for c in choices %}{{c}}{% endfor %}{{question}} or answer") == {
        "choices",
        "question",
    }


def test_a_broken_template_is_told() -> None:
    with pytest.raises(VrbenchError, match=r"template '\{\{question' cannot be read"):
        item_keys.columns(["{{question"])


def test_an_item_knows_what_it_shares() -> None:
    specs = registry.load()
    row = {"index": 3_000_017, "category": "color"}
    found = identify(specs["pocket_mmbench"], row, "default", 5)
    assert found == ItemKey(id="3000017", cluster="17", group="color", unit="17")
    found = identify(specs["mmlu"], {"subject": "anatomy"}, "anatomy", 5)
    assert found == ItemKey(id="anatomy/5", cluster="anatomy", group="anatomy", unit="anatomy/5")
    found = identify(specs["mme"], {"category": "OCR", "question_id": "OCR/1.png"}, "default", 3)
    assert found == ItemKey(id="3", cluster="OCR/1.png", group="OCR", unit="OCR OCR/1.png")
    assert identify(specs["piqa"], {}, "default", 8) == ItemKey("8", "8", "", "8")
