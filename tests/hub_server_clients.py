"""Many clients of one loopback hub at once: one process loads everything and forks for each.

Loading costs a second and a fork some milliseconds, so every fault can have a command line of its
own. Waiting is cut short there: sleeps last a twentieth, and chunks are small, so that transfers
are resumed in the middle of small files.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import Hub, Request

CODE = r"""
import json, os, sys, time, traceback
from pathlib import Path

folder, at_once = Path(sys.argv[1]), int(sys.argv[2])
jobs = json.loads(Path(sys.argv[3]).read_text())
os.environ["HF_HUB_VERBOSITY"] = "error"  # as the command line has it, read at import
real_sleep = time.sleep
time.sleep = lambda seconds: real_sleep(seconds / 20)
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
from adaptertools.cli import COMMANDS, main
from importlib import import_module
import adaptertools
for name in {command[0] for command in jobs.values()} & set(COMMANDS):
    import_module(f"adaptertools.cli.{name}")
    getattr(adaptertools, name)
import huggingface_hub.hf_api, huggingface_hub.file_download, huggingface_hub.repocard
import adaptertools.hub.client as client
client.TIMEOUT, client.SLOW = 3.0, 6.0

def child(name, command):
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}.{ending}", os.O_WRONLY | os.O_CREAT, 0o600), number)
    (folder / f"{name}.pid.partial").write_text(str(os.getpid()))
    (folder / f"{name}.pid.partial").replace(folder / f"{name}.pid")
    if os.environ.get("HF_TOKEN"):
        os.environ["HF_TOKEN"] += f"-{name}"  # by which the hub tells clients apart
    sys.argv = ["adaptertools", *command]
    code = 99
    try:
        main()
    except SystemExit as done:
        code = done.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

running, codes, todo = {}, {}, list(jobs.items())
while todo or running:
    while todo and len(running) < at_once:
        name, command = todo.pop(0)
        number = os.fork()
        if not number:
            child(name, command)
        running[number] = name
    number, status = os.wait()
    codes[running.pop(number)] = os.waitstatus_to_exitcode(status)
print(json.dumps(codes))
"""


@dataclass(frozen=True)
class Done:
    """How a client ended."""

    code: int
    out: str
    err: str


def fan(
    hub: Hub, folder: Path, jobs: Mapping[str, Sequence[object]], at_once: int = 8, **more: Any
) -> dict[str, Done]:
    """Run `adaptertools COMMAND` for each job; give how each ended, by the job's name."""
    if not hasattr(os, "fork"):
        pytest.skip("clients are forked, and this system cannot")
    room = room_of(folder)
    room.mkdir(parents=True, exist_ok=True)
    table = room / "jobs.json"
    table.write_text(json.dumps({name: list(map(str, words)) for name, words in jobs.items()}))
    done = hub.call(folder, CODE, str(room), str(at_once), str(table), **more)
    assert done.returncode == 0, done.stderr[-3000:]
    codes = json.loads(done.stdout)
    return {name: Done(codes[name], read(room, name, "out"), read(room, name, "err"))
            for name in jobs}  # fmt: skip


def room_of(folder: Path) -> Path:
    return folder / "fan"


def read(room: Path, name: str, ending: str) -> str:
    return (room / f"{name}.{ending}").read_text("utf-8", "replace")


def kill(folder: Path, name: str) -> None:
    """End a running client of `fan` as a power cut would."""
    os.kill(int((room_of(folder) / f"{name}.pid").read_text()), signal.SIGKILL)


class Killer:
    """Ends clients at their n-th request, before it is served."""

    def __init__(self, folder: Path, at: Mapping[str, int]) -> None:
        self.folder = folder
        self.left = {name: number + 1 for name, number in at.items()}

    def __call__(self, request: Request) -> None:
        for name in {request.client, *request.path.split("/")} & self.left.keys():
            self.left[name] -= 1
            if self.left[name] == 0:
                kill(self.folder, name)
