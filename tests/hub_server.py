"""A small stand-in for the Hugging Face Hub's HTTP interface, as huggingface_hub calls it: git-like, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class HubServer:
    """Repositories of commits, and every request that came."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        """Method, path, Authorization."""
        self.created: list[dict[str, Any]] = []
        self.branches: list[str] = []
        self.commits: list[tuple[str, str, list[str]]] = []
        """Branch, message, paths added; deletions as -path."""
        self.files: dict[str, dict[str, bytes]] = {}
        """Branch -> path -> content."""
        self.stored: dict[str, bytes] = {}
        """Large files by sha256."""
        self.refuse: tuple[str, ...] = ()
        """Parts of paths that are answered with 403."""
        self.delay_s = 0.0
        """How long a commit takes."""
        self.url = ""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """The stand-in, serving at its ``url``."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(self.path.partition("?")[0])
            hub.requests.append((self.command, path, self.headers.get("Authorization", "")))
            refused = any(part in path for part in hub.refuse)
            code, answer = (403, {"error": "refused"}) if refused else respond(hub, self.command, path, body)
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(hub: HubServer, method: str, path: str, body: bytes) -> tuple[int, Any]:
    if path == "/api/repos/create":
        wish = json.loads(body)
        hub.created.append(wish)
        return 200, {"url": f"{hub.url}/{wish['organization'] or 'me'}/{wish['name']}"}
    if path == "/api/whoami-v2":
        return 200, {"name": "me", "type": "user", "orgs": []}
    if path == "/api/validate-yaml":
        return 200, {"errors": [], "warnings": []}
    if "/branch/" in path:
        hub.branches.append(path.rpartition("/")[2])
        return 200, {}
    if "/preupload/" in path:
        files = json.loads(body)["files"]
        mode = {True: "lfs", False: "regular"}
        return 200, {
            "files": [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in files
            ]
        }
    if path.endswith("/info/lfs/objects/batch"):
        asked = json.loads(body)
        return 200, {
            "transfer": "basic",
            "objects": [
                {**item, "actions": {"upload": {"href": f"{hub.url}/storage/{item['oid']}", "header": {}}}}
                for item in asked["objects"]
            ],
        }
    if method == "PUT" and path.startswith("/storage/"):
        hub.stored[path.rpartition("/")[2]] = body
        return 200, {}
    if "/tree/" in path:
        tree = hub.files.get(path.partition("/tree/")[2].split("/")[0], {})
        return 200, [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in tree.items()
        ]
    if "/commit/" in path:
        time.sleep(hub.delay_s)
        return commit(hub, path.partition("/commit/")[2], body)
    return 404, {"error": f"{method} {path}"}


def commit(hub: HubServer, branch: str, body: bytes) -> tuple[int, Any]:
    message, changed = "", []
    tree = hub.files.setdefault(branch, {})
    for line in map(json.loads, body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            message = value["summary"]
        elif line["key"] == "deletedFile":
            tree.pop(value["path"])
            changed.append("-" + value["path"])
        elif line["key"] == "lfsFile":
            tree[value["path"]] = hub.stored[value["oid"]]
            assert hashlib.sha256(tree[value["path"]]).hexdigest() == value["oid"]
            changed.append(value["path"])
        else:
            tree[value["path"]] = base64.b64decode(value["content"])
            changed.append(value["path"])
    hub.commits.append((branch, message, sorted(changed)))
    return 200, {"commitUrl": f"{hub.url}/me/x/commit/{'0' * 40}", "commitOid": "0" * 40, "pullRequestUrl": None}
