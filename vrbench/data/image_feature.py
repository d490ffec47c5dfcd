"""The feature of `datasets` whose images open as everywhere else; importing it imports `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetInfo, Features, Image

from vrbench.data.image_columns import content_of
from vrbench.data.images import open_image


class OpenedImage(Image):
    """`datasets.Image`, decoded by `open_image`."""

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The image of {bytes, path}; a path is of a file that `datasets` itself has put on this machine."""
        if not isinstance(value, Mapping):
            return super().decode_example(value, token_per_repo_id)
        return open_image(content_of(value))


def opening(rows: Dataset) -> Dataset:
    """The same rows, whose images, also in lists, decode by `open_image`."""
    features = Features({name: _opened(kind) for name, kind in rows.features.items()})
    return Dataset(rows.data, DatasetInfo(features=features), rows.split, rows._indices)


def _opened(kind: Any) -> Any:
    if isinstance(kind, Image):
        return OpenedImage()
    if isinstance(kind, dict):
        return {name: _opened(part) for name, part in kind.items()}
    if isinstance(kind, list):
        return [_opened(kind[0])]
    inner = getattr(kind, "feature", None)
    return kind if inner is None else type(kind)(_opened(inner))
