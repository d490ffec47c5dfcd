"""Requests to the Hugging Face hub: a set's commit, and one of its splits as a parquet file.

Nothing else in vrbench that deals with data uses the network; tests replace `commit` and `download`, or serve a hub of
their own that HF_ENDPOINT names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError

BATCH = 256
"""Rows, with their images, that are in memory at a time."""

WORD_BORDER = re.compile(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

TRUE_WORDS = ("1", "ON", "YES", "TRUE")


class UnreachableError(VrbenchError):
    """The hub does not answer, so that further requests are in vain."""


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE or HF_DATASETS_OFFLINE forbids the network, as they are now."""
    return any(os.environ.get(name, "").upper() in TRUE_WORDS for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))


def cache_folder(name: str) -> Path:
    """Return where `datasets` keeps a set prepared: the set's own name in snake case, behind its owner's."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("HF_HOME", cache / "huggingface"))
    folder = Path(os.environ.get("HF_DATASETS_CACHE", home / "datasets"))
    owner, _, short = name.rpartition("/")
    snake = WORD_BORDER.sub("_", short).lower()
    return folder / (f"{owner}___{snake}" if owner else snake)


def commit(name: str, revision: str = "") -> str:
    """Return the commit hash of a revision of a data set.

    Args:
        name: "org/set".
        revision: branch, tag or commit; empty for the newest.

    Raises:
        UnreachableError: the hub does not answer.
        VrbenchError: there is no such set or revision, or it is gated.
    """
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision or None, timeout=60.0).sha)
    except Exception as error:  # many kinds, httpx's own among them
        raise _as_vrbench_error(error, name, revision) from error


def download(name: str, config: str, split: str, sha: str, to: Path) -> None:
    """Write one split of a set to a parquet file, with the columns and types that the hub has.

    Files that the set holds as parquet are copied row group by row group; other layouts go through `datasets`, and
    images that are files of their own there are embedded in the parquet file.

    Args:
        config: "default" for a set that has none.
        sha: commit to take it from.

    Raises:
        UnreachableError: the hub does not answer.
        VrbenchError: there is no such config or split, or the set is not available.
    """
    from datasets import load_dataset, load_dataset_builder
    from huggingface_hub import hf_hub_download

    chosen = None if config == "default" else config
    try:
        builder = load_dataset_builder(name, chosen, revision=sha)
        files = {str(part): list(found) for part, found in (builder.config.data_files or {}).items()}
    except Exception as error:
        raise _as_vrbench_error(error, name, sha, f"config {config}") from error
    if builder.hash != sha:  # when the hub does not answer, `datasets` takes what it has of any commit
        raise UnreachableError(f"the hub at {_endpoint()} cannot be reached for data set {name} (config {config})")
    if files and split not in files:
        raise VrbenchError(f"data set {name} (config {config}) has no split {split!r}; it has {', '.join(files)}")
    try:
        if files and all(url.endswith(".parquet") for url in files[split]):
            paths = [url.split(f"@{sha}/", 1)[1] for url in files[split]]  # cached, and resumable
            _join([Path(hf_hub_download(name, path, repo_type="dataset", revision=sha)) for path in paths], to)
        else:
            _write(load_dataset(name, chosen, split=split, revision=sha), to)
    except VrbenchError:
        raise
    except Exception as error:
        raise _as_vrbench_error(error, name, sha, f"config {config}, split {split}") from error


def _join(parts: Sequence[Path], to: Path) -> None:
    """Join parquet files of the same columns into one; a row group is in memory at a time."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(parts[0])
    with pq.ParquetWriter(to, schema) as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(number).cast(schema))


def _write(rows: Any, to: Path) -> None:
    """Write rows of any layout as parquet, with images that are files of their own embedded."""
    import pyarrow.parquet as pq
    from datasets.table import embed_table_storage

    schema = rows.features.arrow_schema
    with pq.ParquetWriter(to, schema) as writer:
        for table in rows.with_format("arrow").iter(batch_size=BATCH):
            writer.write_table(embed_table_storage(table.cast(schema)))


def _as_vrbench_error(error: Exception, name: str, revision: str, where: str = "") -> VrbenchError:
    """Return the `VrbenchError` for an exception of a library."""
    os_errors.reraise_os_error(error)
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    place = f"data set {name}" + (f" ({where})" if where else "")
    if isinstance(error, GatedRepoError):
        page = f"{_endpoint()}/datasets/{name}"
        return VrbenchError(f"{place} is gated: request access on its page, {page}, and log in with `hf auth login`")
    if isinstance(error, RepositoryNotFoundError):
        return VrbenchError(f"there is no data set {name} on the hub at {_endpoint()}, or it is private")
    if isinstance(error, RevisionNotFoundError):
        return VrbenchError(f"data set {name} has no revision {revision!r}")
    reason = " ".join((str(error).strip() or type(error).__name__).split())[:300]
    if _is_network(error):
        return UnreachableError(f"the hub at {_endpoint()} cannot be reached for {place}: {reason}")
    if "scripts are no longer supported" in reason:
        return VrbenchError(
            f"{place} is made by a script, which `datasets` does not run any more; name a revision that has data "
            f"files, such as refs/convert/parquet"
        )
    return VrbenchError(f"{place} is not available from the hub: {type(error).__name__}: {reason}")


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _is_network(error: BaseException | None) -> bool:
    """Return whether a failed connection is behind an error, directly or as its cause."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        names = {kind.__name__ for kind in type(error).__mro__}  # httpx's, by whatever name it is imported
        if isinstance(error, (ConnectionError, TimeoutError)) or names & {
            "TransportError", "NetworkError", "TimeoutException"
        }:  # fmt: skip
            return True
        error = error.__cause__ or error.__context__
    return False
