"""YAML without surprises: no tags that run code, and no key given twice, of which the last would win in silence."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml


def load(text: str) -> Any:
    """What a text of YAML says.

    Raises:
        yaml.YAMLError: it is not YAML, or gives a key twice.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen at run time, for speed
    """A safe loader (no tags that run code) that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = sorted(key for key, times in keys.items() if times > 1)
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(twice)}", node.start_mark)
        return dict(super().construct_mapping(node, deep))
