"""A small Hugging Face Hub on loopback, for tests: real git ids, LFS on a second port, faults.

    with Hub() as hub:
        hub.add("user/repo", {"adapter_config.json": b"{}"})
        hub.fault("reset", path="adapter_model.safetensors", after=1000, times=1)
        done = hub.run(tmp_path, "download", "user/repo")

The second port (the "CDN") turns away every request that carries an Authorization header, and
`hub.leaks` keeps them. See hub_server_faults.py for the faults.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests import (
    hub_server_files,
    hub_server_pulls,
    hub_server_read,
    hub_server_write,
)
from tests.hub_server_access import User, find_route
from tests.hub_server_faults import Fault, Faults
from tests.hub_server_git import Commit, Entry, Repository, Store
from tests.hub_server_wire import Answer, Call, Handler, Refused, Request

ROOMS = (hub_server_files, hub_server_pulls, hub_server_read, hub_server_write)  # their routes
ROOT = Path(__file__).parent.parent
TOKEN = "hf_opensesame"  # of "user", who may write to user/ and org/
READER = "hf_lookdonttouch"  # of "user" too, but it may only read
STRANGER = "hf_passingthrough"  # of "stranger", who may write to stranger/ only


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that broke: they were meant to."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            sys.stderr.write(f"hub_server: {error!r}\n")


class Hub:
    """The server, what it holds and what was asked of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.repos: dict[tuple[str, str], Repository] = {}
        self.moved: dict[tuple[str, str], str] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.users = {
            TOKEN: User("user"),
            READER: User("user", "read"),
            STRANGER: User("stranger", orgs=()),
        }
        self.requests: list[Request] = []
        self.faults = Faults()
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.watch: Callable[[Request], None] = lambda request: None
        self.mangle: Callable[[str, bytes], bytes] = lambda path, data: data
        self.resolve_cache = True  # small files are answered with a 307
        self.bare_401 = True  # strangers hear nothing of what is missing or private
        self.ignores_parent = False  # as some hubs do
        self.xet = False  # advertised, and nobody there
        self.part_size = 0  # LFS in parts of so many bytes
        self.page = 1000

    def __enter__(self) -> Self:
        self.servers = [self.open("hub"), self.open("cdn")]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.endpoint = f"http://127.0.0.1:{self.servers[0].server_port}"
        self.cdn = f"http://127.0.0.1:{self.servers[1].server_port}/cdn"
        return self

    def open(self, origin: str) -> Server:
        kind = type(f"Handler_{origin}", (Handler,), {"hub": self, "origin": origin})
        server = Server(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(
        self, repo_id: str, files: Mapping[str, bytes], *, kind: str = "model", **settings: Any
    ) -> Repository:
        """Make a repository of one commit. Settings: those of hub_server_git.Repository."""
        repo = Repository(repo_id, self.store, kind, **settings)
        repo.write({name: self.store.add(name, data) for name, data in files.items()})
        self.repos[f"{kind}s", repo_id] = repo
        return repo

    def repo(self, repo_id: str, kinds: str = "models") -> Repository:
        return self.repos[kinds, repo_id]

    def update(
        self, repo_id: str, files: Mapping[str, bytes | None], ref: str = "refs/heads/main"
    ) -> Commit:
        """Add a commit that changes some files; None takes one away."""
        repo = self.repo(repo_id)
        old = repo.commits[repo.refs[ref]]
        now: dict[str, Entry] = {k: v for k, v in old.files.items() if k not in files}
        now |= {k: self.store.add(k, data) for k, data in files.items() if data is not None}
        return repo.write(now, ref, (old.id,), "update")

    def move(self, old: str, new: str, kinds: str = "models") -> None:
        """Give a repository a new name; the old one redirects."""
        self.repos[kinds, new] = self.repos.pop((kinds, old))
        self.repos[kinds, new].id = new
        self.moved.pop((kinds, new), None)
        self.moved[kinds, old] = new

    def fault(self, name: str, path: str = "*", **limits: Any) -> Fault:
        """Let something go wrong from now on. Limits: those of hub_server_faults.Fault."""
        fault = Fault(name, path, **limits)
        self.faults.all.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.all.clear()

    @property
    def leaks(self) -> list[Request]:
        """Give the requests that brought a token to the second origin."""
        return [one for one in self.requests if one.origin == "cdn" and one.authorization]

    def route(self, call: Call) -> Answer:
        """Answer a request as if nothing went wrong."""
        try:
            if (call.origin == "cdn") is not (call.parts[0] == "cdn"):
                raise Refused(404, "Not on this origin")
            if call.origin == "cdn" and "Authorization" in call.headers:
                raise Refused(400, "Only one auth mechanism allowed")
            function, taken = find_route(call)
            return function(call, *taken)
        except Refused as refused:
            return refused.answer
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return Refused(400, f"Malformed request: {error!r}").answer

    def env(self, folder: Path, token: str | None = TOKEN, **more: str) -> dict[str, str]:
        """Give a client's environment: this hub, a home below `folder`, short time-outs."""
        drop = ("HF_", "HUGGING", "TRANSFORMERS_")
        env = {
            name: value for name, value in os.environ.items()
            if not name.startswith(drop) and not name.lower().endswith("_proxy")
        }  # fmt: skip
        env |= {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_HUB_ETAG_TIMEOUT": "5", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        if token:
            env["HF_TOKEN"] = token
        return {name: value for name, value in (env | more).items() if value}

    def start(
        self, folder: Path, *command: str, token: str | None = TOKEN, **env: str
    ) -> subprocess.Popen[str]:
        """Start python with some arguments, as a client of this hub."""
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, *command], env=self.env(folder, token, **env), cwd=folder, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def client(
        self, folder: Path, *command: str, timeout: float = 100, **env: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run python with some arguments, as a client of this hub, to its end."""
        with self.start(folder, *command, **env) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def run(self, folder: Path, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run `adaptertools COMMAND` as a client of this hub."""
        return self.client(folder, "-m", "adaptertools", *map(str, command), **more)

    def call(
        self, folder: Path, code: str, *arguments: str, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run some lines of Python as a client of this hub."""
        return self.client(folder, "-c", code, *map(str, arguments), **more)
