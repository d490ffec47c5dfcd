"""A hub for tests, served by this machine: what huggingface_hub and datasets ask of the real one, over HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

Files = Mapping[str, bytes]


@dataclass
class FakeHub:
    """Sets of data by name and by the commits that they have had, the newest last.

    Attributes:
        sets: "org/set" -> commit -> path -> content.
        gated: names of sets that nobody here may read.
        asked: "METHOD path" of every request, in order.
        url: where it is served.
    """

    sets: dict[str, dict[str, Files]]
    gated: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def downloads(self) -> list[str]:
        """Paths of the parquet files that were downloaded."""
        return [line.split("/resolve/")[1] for line in self.asked if line.startswith("GET") and ".parquet" in line]


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    """Rows as the content of a parquet file."""
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream)
    return stream.getvalue()


@contextlib.contextmanager
def served(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub on a free port of this machine."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            parts = parts[1:]
        if parts[0] != "datasets" or len(parts) < 3:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        name, rest = "/".join(parts[1:3]), parts[3:]
        if name not in self.hub.sets:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if name in self.hub.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        commits = self.hub.sets[name]
        what, revision, inside = rest[0] if rest else "", rest[1] if len(rest) > 1 else "main", "/".join(rest[2:])
        sha = list(commits)[-1] if revision == "main" else revision
        if sha not in commits:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return getattr(self, f"_{what.replace('-', '_') or 'info'}")(name, sha, commits[sha], inside)

    def _info(self, name: str, sha: str, files: Files, _: str) -> None:
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": name, "sha": sha, "private": False, "gated": False, "tags": [], "siblings": siblings})

    _revision = _info

    def _tree(self, name: str, sha: str, files: Files, inside: str) -> None:
        prefix = f"{inside}/" if inside else ""
        found = [_file(path, files) for path in files if path.startswith(prefix)]
        folders = {"/".join(p.split("/")[:n]) for p in files for n in range(1, p.count("/") + 1)}
        self._json(found + [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in sorted(folders)])

    def _paths_info(self, name: str, sha: str, files: Files, _: str) -> None:
        asked = json.loads(self.body).get("paths", [])
        found = [_file(path, files) for path in asked if path in files]
        folders = [p for p in asked if any(f.startswith(f"{p}/") for f in files)]
        self._json(found + [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders])

    def _resolve(self, name: str, sha: str, files: Files, inside: str) -> None:
        if inside not in files:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        content = files[inside]
        etag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _file(path: str, files: Files) -> dict[str, Any]:
    oid = hashlib.sha1(files[path]).hexdigest()
    return {"type": "file", "path": path, "size": len(files[path]), "oid": oid}
