"""Keys of items: the name of a column, or a jinja expression over columns such as "{{index % 1000000}}"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vrbench.core.errors import VrbenchError


def evaluate(key: str, row: Mapping[str, Any]) -> str:
    """The value of a key for an item, as text.

    Raises:
        VrbenchError: the expression cannot be computed over the item, such as a part of a column that is empty.
    """
    if "{{" in key:
        from jinja2 import TemplateError

        from vrbench.core import jinja_sandbox

        try:
            return jinja_sandbox.item_sandbox().from_string(key).render(**row)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise VrbenchError(f"key {key!r} cannot be computed: {error}") from error
    return str(row[key])


def columns(keys: Iterable[str]) -> set[str]:
    """Columns that keys name."""
    return set().union(*(variables(key) if "{{" in key else {key} for key in keys))


def variables(text: str) -> set[str]:
    """Columns that a jinja template names.

    Raises:
        VrbenchError: it is no jinja template.
    """
    from jinja2 import TemplateSyntaxError, meta

    from vrbench.core import jinja_sandbox

    try:
        return set(meta.find_undeclared_variables(jinja_sandbox.item_sandbox().parse(text)))
    except TemplateSyntaxError as error:
        raise VrbenchError(f"template {text!r} cannot be read: {error}") from error
