"""Building the site as a folder: written to a temporary folder, and moved to its place when it is complete."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import validate_output
from vrbench.leaderboard.site import board, pages, sample_pages, submission_page, vendored
from vrbench.leaderboard.site.content import BoardContent, load_content
from vrbench.leaderboard.site.pages import Frame, PageLink
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec


def build(
    root: str | Path, out: str | Path, include_path: str | Path | None = None, data_root: str | Path | None = None
) -> Path:
    """Build the site of all boards in a folder; the same boards give the same bytes.

    What was at `out` is replaced, if it is such a site or an empty folder. Interrupted at any time, `out` is the old
    site or the new one.

    Args:
        root: folder of boards, such as leaderboards/.
        out: folder of the site; a browser opens index.html in it without a server.
        include_path: folder of the task files of boards whose tasks are not this package's own.
        data_root: folder with the hub's data sets, for boards that show samples of such tasks.

    Returns:
        The path of its index.html.

    Raises:
        VrbenchError: `out` is something else; a board, submission or leaderboard.json that cannot be read or that do
            not belong together; all errors at once.
    """
    place = Path(out).absolute()
    _validate_place(place)
    specs = registry.load(include_path)
    content = load_content(Path(root), specs)
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=place.parent, prefix=f".{place.name}.", ignore_cleanup_errors=True
    ) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        _write_site(content, specs, new, data_root)
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except BaseException:
            if old.exists():
                old.rename(place)
            raise
    return place / pages.HOME


def _write_site(
    content: tuple[BoardContent, ...], specs: Mapping[str, TaskSpec], folder: Path, data_root: str | Path | None
) -> None:
    """Write every file of the site, and last the list of them."""
    frame = Frame(tuple(PageLink(each.board.title, pages.board_page(each.board.id)) for each in content))
    written: dict[str, str] = {}
    for name, text in _files(content, specs, frame, data_root):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = text if isinstance(text, bytes) else text.encode()
        path.write_bytes(data)
        written[name] = hashlib.sha256(data).hexdigest()
    (folder / pages.MANIFEST).write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _files(
    content: tuple[BoardContent, ...], specs: Mapping[str, TaskSpec], frame: Frame, data_root: str | Path | None
) -> Iterator[tuple[str, str | bytes]]:
    """Yield path within the site and content of every file, one by one."""
    for asset in files("vrbench.leaderboard.site").joinpath("assets").iterdir():
        yield f"{pages.ASSETS}/{asset.name}", asset.read_text(encoding="utf-8")
    for name, text in vendored.vendored_files().items():
        yield f"{pages.ASSETS}/{name}", text
    yield pages.HOME, board.page(content[0], frame, pages.HOME)
    for each in content:
        yield pages.board_page(each.board.id), board.page(each, frame, pages.board_page(each.board.id))
        yield from board.tables(each)
        yield from board.task_pages(each, frame, specs)
        yield from submission_page.submission_pages(each, frame)
        yield from sample_pages.files(each, frame, specs, data_root)


def _validate_place(place: Path) -> None:
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise VrbenchError(f"{str(place)!r} is not a folder; give the site another place")
    if place.is_dir() and any(place.iterdir()) and not (place / pages.MANIFEST).is_file():
        raise VrbenchError(
            f"{str(place)!r} holds other files ({pages.MANIFEST} of a site is not among them); give an empty folder, "
            "a new one, or that of an older site"
        )
    raise_errors(validate_output(place, "checkpoint"))
