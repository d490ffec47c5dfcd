"""Item keys: the name of a column, or a jinja expression over columns such as "{{index % 1000000}}"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.tasks.scoring import ItemKey
from vrbench.tasks.spec import TaskSpec


def identify(spec: TaskSpec, row: Mapping[str, Any], config: str, position: int) -> ItemKey:
    """Return id, cluster, group and unit of an item.

    Args:
        row: its columns; images may be left out.
        position: its place in the whole split, which is its id where the task names no id column.
    """
    row = {"config": config, **row}
    prefix = f"{config}/" if len(spec.data.configs) > 1 else ""
    item = prefix + (str(position) if spec.id_column is None else evaluate(spec.id_column, row))
    return ItemKey(
        id=item,
        cluster=item if spec.cluster is None else evaluate(spec.cluster, row),
        unit=item if spec.unit is None else evaluate(spec.unit, row),
        group=prefix.rstrip("/") if spec.group is None else evaluate(spec.group, row),
    )


def evaluate(key: str, row: Mapping[str, Any]) -> str:
    """Return the value of a key for an item, as text.

    Raises:
        VrbenchError: the expression cannot be computed over the item, such as a part of a column that is empty.
    """
    if "{{" in key:
        from jinja2 import TemplateError

        try:
            return _sandbox().from_string(key).render(**row)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise VrbenchError(f"key {key!r} cannot be computed: {error}") from error
    return str(row[key])


def columns(keys: Iterable[str]) -> set[str]:
    """Return the columns that keys name."""
    return set().union(*(variables(key) if "{{" in key else {key} for key in keys))


def variables(text: str) -> set[str]:
    """Return the columns that a jinja template names.

    Raises:
        VrbenchError: it is not a jinja template.
    """
    from jinja2 import TemplateSyntaxError, meta

    try:
        return set(meta.find_undeclared_variables(_sandbox().parse(text)))
    except TemplateSyntaxError as error:
        raise VrbenchError(f"template {text!r} cannot be read: {error}") from error


def _sandbox() -> Any:
    from vrbench.core import jinja_sandbox

    return jinja_sandbox.item_sandbox()
