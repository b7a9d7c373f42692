"""As much of the Hugging Face hub as pushing and fetching a model takes, in memory, on this machine."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    def __init__(self):
        self.files: dict[str, dict[str, bytes]] = {}  # by repository and name
        self.requests: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def answer(self, status, body=b"", **headers):
                hub.requests.append(f"{self.command} {self.path}")
                self.send_response(status)
                for name, value in {"Content-Length": len(body), **headers}.items():
                    self.send_header(name.replace("_", "-"), str(value))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def json(self, value):
                self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

            def body(self):
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))

            def do_HEAD(self):
                self.do_GET()

            def do_GET(self):
                match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/[^/]+/(.+)", self.path)
                content = hub.files.get(match[1], {}).get(match[2]) if match else None
                if content is None:
                    missing = match is None or match[1] not in hub.files
                    self.answer(404, X_Error_Code="RepoNotFound" if missing else "EntryNotFound")
                else:
                    etag = hashlib.sha256(content).hexdigest()
                    self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit="a" * 40)

            def do_POST(self):
                body = self.body()
                repo = re.match(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/", self.path)
                if self.path == "/api/repos/create":
                    given = json.loads(body)
                    name = f"{given.get('organization') or 'jane'}/{given['name']}"
                    hub.files.setdefault(name, {})
                    self.json({"url": f"{hub.address}/{name}", "name": name})
                elif repo and repo[2] == "preupload":
                    names = [file["path"] for file in json.loads(body)["files"]]
                    plain = {"uploadMode": "regular", "shouldIgnore": False}
                    self.json({"files": [{"path": name, **plain} for name in names]})
                elif repo:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            hub.files[repo[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    self.json({"commitOid": "a" * 40, "commitUrl": f"{hub.address}/{repo[1]}/commit/{'a' * 40}"})
                elif self.path == "/api/validate-yaml":
                    self.json({"errors": [], "warnings": []})
                else:
                    self.answer(404)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
