"""A server of ours that speaks the API of the Hugging Face Hub, so that nothing is sent anywhere."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


class Fake(BaseHTTPRequestHandler):
    """As much of the Hub as uploading and downloading small files takes; `server.files` is the one repository.

    `server.refuses`: whether it lets nobody write. `server.made`: what the repository was created with. `server.seen`:
    every path that was asked for. `server.holds`: the repository that something was committed to.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, body=b"", status=200, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def repo(self):
        return re.match(r"(?:/api/models)?((?:/[\w.-]+){2})", self.path)[1]

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        if self.server.refuses and "/api/models/" in self.path:
            self.answer({"error": "You are not allowed to write here"}, 403)
        elif self.path.endswith("/repos/create"):
            self.server.made = json.loads(body)
            repo = f"{self.server.made.get('organization') or 'you'}/{self.server.made['name']}"
            self.answer({"url": f"{self.server.address}/{repo}", "name": repo})
        elif "/preupload/" in self.path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in asked]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            self.server.holds = self.repo
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}{self.repo}/commit/{COMMIT}", "commitOid": COMMIT})
        else:  # the check of the card's front matter
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.server.seen.append(self.path)
        name = self.path.rpartition("/")[2]
        if not f"{self.path.removeprefix('/api/models')}/".startswith(f"{self.server.holds}/"):
            self.answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"}.items())
        elif "/resolve/" in self.path and name in self.server.files:
            data = self.server.files[name]
            etag = hashlib.sha256(data).hexdigest()
            self.answer(data, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}.items())
        elif "/api/models/" in self.path:
            listed = [{"rfilename": file} for file in self.server.files]
            tree = [{"type": "file", "path": f, "size": len(d), "oid": "0"} for f, d in self.server.files.items()]
            self.answer(tree if "/tree/" in self.path else {"id": self.repo[1:], "sha": COMMIT, "siblings": listed})
        else:
            self.answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"}.items())

    do_HEAD = do_GET


@contextmanager
def fake_hub(monkeypatch, cache):
    """Serve one repository, and let the Hub's own client use it and a cache of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.files, server.seen, server.refuses, server.made, server.holds = {}, [], False, None, ""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
