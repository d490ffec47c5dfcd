"""Serving the site to a browser on this machine, over HTTP."""

from __future__ import annotations

import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.site.build import build

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files of the site, nothing logged, nothing cached by the browser."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""

    def end_headers(self) -> None:
        """Forbid caching, and guessing what a file is."""
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[tuple[str, ThreadingHTTPServer]]:
    """Yield a server of a folder for this machine alone, and its address; port 0 takes any that is free.

    Raises:
        VrbenchError: the port cannot be used.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except (OSError, OverflowError) as error:
        raise VrbenchError(f"port {port} cannot be used: {error}; give another one, or 0 for any") from error
    with server:
        yield f"http://{HOST}:{server.server_address[1]}/", server


def serve(
    root: str | Path,
    port: int = 0,
    open_browser: bool = True,
    started: Callable[[str], object] | None = None,
    include_path: str | Path | None = None,
    data_root: str | Path | None = None,
) -> None:
    """Build the site in a temporary folder and serve it until it is interrupted (Ctrl-C).

    Args:
        port: 0 takes any that is free.
        open_browser: whether to open it in the user's browser.
        started: called with the address once it can be opened.
        root, include_path, data_root: as for `build`.

    Raises:
        VrbenchError: as `build`; or the port cannot be used.
    """
    with tempfile.TemporaryDirectory(prefix="vrbench-site-") as folder:
        home = build(root, Path(folder) / "site", include_path, data_root)
        with served(home.parent, port) as (address, server):
            if started is not None:
                started(address)
            if open_browser:
                webbrowser.open(address)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return
