"""A battery of hostile folders: nothing runs, nothing hangs, memory stays bounded, each is found.

They are validated and inspected one after another, each in a process of its own, which reports what
that took.
"""

import json
import subprocess
import sys
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from tests import hostile
from tests.checks import tiny

VERBS = ("validate", "inspect")
SECONDS, MEGABYTES = 30, 300  # at most for one folder; the processor may be shared with others

# What runs in the other process: an ear on what Python is asked to do, and a child for each folder.
SCRIPT = """
import json, os, resource, sys, time
from pathlib import Path
heard, listening = [], False
ears = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn"}
def hear(event, args):
    if listening and (event in ears or event == "subprocess.Popen" and "-c" not in args[1]):
        heard.append(event)
sys.addaudithook(hear)
import adaptertools as at
from adaptertools.errors import AdapterToolsError
at.validate(sys.argv[2])
at.inspect(sys.argv[2])

def looked(verb, name):
    if verb == "validate":
        findings = at.validate(name).findings
        return sorted({f.code for f in findings}), [f.text for f in findings]
    try:
        found = at.inspect(name)
    except AdapterToolsError as error:
        return [], [str(error)]
    json.dumps(found.as_json())
    return [], [found.fault, *found.notes]

for name, verb in [(n, v) for n in sorted(Path(sys.argv[1]).iterdir()) for v in sys.argv[3:]]:
    if os.fork():
        status = os.wait()[1]
        if status:
            print(json.dumps({"killed": status}))
        continue
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    begin, listening = time.process_time(), True
    codes, lines = looked(verb, name)
    listening = False
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({
        "seconds": time.process_time() - begin, "peak": peak // 1024, "heard": heard,
        "codes": codes, "lines": [line for line in lines if not line.isprintable()],
    }), flush=True)
    os._exit(0)
"""


@cache
def battery(folder: Path) -> tuple[dict[tuple[str, str], Any], list[str]]:
    """Make all folders, look at them, and give what was reported by name and verb."""
    good = tiny.adapter(folder / "good")
    for i, (make, _) in enumerate(hostile.EVERY.values()):
        make(tiny.adapter(folder / "bad" / f"{i:03d}"))
    code = SCRIPT.replace("SECONDS", str(SECONDS))
    done = subprocess.run(
        [sys.executable, "-uc", code, str(folder / "bad"), str(good), *VERBS], capture_output=True,
        text=True, cwd=folder, timeout=600, env={"PYTHONPATH": str(Path(at.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    asked = product(hostile.EVERY, VERBS)
    said = dict(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))
    return said, sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", hostile.EVERY)
def test_each_is_found(name: str, folder: Path) -> None:
    said = battery(folder)[0][name, "validate"]
    assert "killed" not in said, "it took too long, or too much"
    assert hostile.EVERY[name][1] in said["codes"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", hostile.EVERY)
def test_none_runs_hangs_or_fills_the_memory(name: str, verb: str, folder: Path) -> None:
    said = battery(folder)[0][name, verb]
    assert "killed" not in said, "it took too long, or too much"
    assert said["heard"] == []
    assert said["peak"] < MEGABYTES
    assert said["lines"] == []


def test_none_ran(folder: Path) -> None:
    assert battery(folder)[1] == ["bad", "good"]


def test_there_are_enough() -> None:
    assert len(hostile.EVERY) >= 40
