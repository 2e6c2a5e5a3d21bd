"""A Hugging Face hub on this machine that serves one folder as the model ``org/served``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "ab" * 20
MODEL = "/api/models/org/served"


@dataclass
class Hub:
    """Where the hub is, and the paths that it was asked for."""

    endpoint: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """Serve ``folder`` until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            hub.asked.append(self.path)

        def do_GET(self) -> None:
            code, body, headers = _answer(folder, self.path.split("?")[0])
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(folder: Path, path: str) -> tuple[int, bytes, dict[str, str]]:
    files = [file for file in folder.iterdir() if file.is_file()]
    if path in (MODEL, f"{MODEL}/revision/main", f"{MODEL}/revision/{COMMIT}"):
        about = {"_id": "1", "id": "org/served", "sha": COMMIT, "private": False, "tags": []}
        return _json({**about, "siblings": [{"rfilename": file.name} for file in files]})
    if path.startswith(f"{MODEL}/revision/"):
        return 404, b"", {"X-Error-Code": "RevisionNotFound"}
    if path.startswith(f"{MODEL}/tree/"):
        return _json(
            [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files]
        )
    wanted = folder / path.rsplit("/", 1)[-1]
    if path.startswith("/org/served/resolve/") and wanted in files:
        body = wanted.read_bytes()
        tag = hashlib.sha256(body).hexdigest()
        return 200, body, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
    if path.startswith("/org/served/"):
        return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
    return 404, b"", {"X-Error-Code": "RepoNotFound"}


def _json(content: object) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}
