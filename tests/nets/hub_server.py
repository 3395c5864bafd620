"""A Hugging Face hub on 127.0.0.1: just enough of its file protocol to download a model repository.

`with serve(folder) as hub:` serves the files {owner}/{name}/{file} of a folder. Point HF_ENDPOINT at hub.url
in a process that has not yet imported huggingface_hub; hub.requests lists what was asked for.
"""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = hashlib.sha1(b"the only commit").hexdigest()  # every repository has this one, on the branch `main`


class Missing(Exception):
    """A 404. huggingface_hub picks its exception by the X-Error-Code, not by the status."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def repository(root, owner, name):
    folder = root / owner / name
    if not folder.is_dir():
        raise Missing("RepoNotFound", f"no repository {owner}/{name}")
    return folder


def inside(folder, path, revision):
    """A file or folder of a repository at a revision."""
    if revision not in ("main", COMMIT):
        raise Missing("RevisionNotFound", f"no revision {revision}")
    found = folder.joinpath(*path)
    if ".." in path or not found.exists():
        raise Missing("EntryNotFound", f"no {'/'.join(path)} in this repository")
    return found


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def checksum(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def model_info(folder, repo_id):
    siblings = [{"rfilename": path.relative_to(folder).as_posix()} for path in files_of(folder)]
    return {"id": repo_id, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


def tree(folder, start):
    """Every file below `start`: more than a listing that is not recursive has, which these clients allow."""
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": checksum(path),
        }
        for path in files_of(start)
    ]


def answer(root, path):
    """The body of the answer to GET `path`, as (content type, bytes)."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    if parts[:2] == ["api", "models"] and len(parts) >= 4:
        owner, name, *rest = parts[2:]
        folder = repository(root, owner, name)
        if not rest or (rest[0] == "revision" and len(rest) == 2):
            inside(folder, [], rest[1] if rest else "main")
            reply = model_info(folder, f"{owner}/{name}")
        elif rest[0] == "tree" and len(rest) >= 2:
            below = "/".join(rest[2:]).split("/") if rest[2:] else []
            reply = tree(folder, inside(folder, below, rest[1]))
        else:
            raise Missing("EntryNotFound", f"this hub has no {path}")
        return "application/json", json.dumps(reply).encode()
    if len(parts) >= 5 and parts[2] == "resolve":
        owner, name, _, revision, *file = parts
        found = inside(repository(root, owner, name), file, revision)
        if found.is_file():
            return "application/octet-stream", found.read_bytes()
    raise Missing("EntryNotFound", f"this hub has no {path}")


class Hub(ThreadingHTTPServer):
    daemon_threads = True  # a connection that a client keeps open must not hold up the end of a test

    def __init__(self, root):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = Path(root)
        self.requests = []  # (method, path, status) in order
        self.url = f"http://127.0.0.1:{self.server_port}"

    def answered(self, method, status=200):
        """The paths that were asked for with this method and answered so."""
        return [path for asked, path, replied in self.requests if (asked, replied) == (method, status)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep connections open, as the hub does

    def do_GET(self):
        path = urlsplit(self.path).path
        headers = {"X-Repo-Commit": COMMIT}
        try:
            kind, body = answer(self.server.root, path)
            status = 200
            headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        except Missing as error:
            kind, body = "text/plain", str(error).encode()
            status = 404
            headers.update({"X-Error-Code": error.code, "X-Error-Message": str(error)})
            if error.code != "EntryNotFound":
                del headers["X-Repo-Commit"]
        self.server.requests.append((self.command, path, status))
        self.send_response(status)
        for key, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        """Nothing on stderr: the requests are kept in Hub.requests."""


@contextmanager
def serve(root):
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
