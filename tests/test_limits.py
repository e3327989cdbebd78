"""However large or strange a header is: bounded memory and time, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import adaptertools as at
from tests.checks import tiny
from tests.handmade import whole

MEGABYTES, SECONDS, LARGEST = 300, 10, 15_000_000
EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
SCRIPT = """
import json, os, resource, sys
if os.fork():  # the peak of what started this one is not that of its child
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
import adaptertools as at
from adaptertools.cli import app
from adaptertools.errors import AdapterToolsError
from adaptertools.tensorheader import read_header
said = ""
try:
    if sys.argv[1] == "read":
        read_header(sys.argv[2], int(sys.argv[3]))
    else:
        app(sys.argv[1:], standalone_mode=False)
except AdapterToolsError as error:
    said = str(error)
except SystemExit:
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
seconds = used.ru_utime + used.ru_stime
print(json.dumps({"peak": used.ru_maxrss // 1024, "seconds": seconds, "said": said}),
      file=sys.stderr)
"""


def run(*words: object) -> tuple[str, str]:
    """Run a verb, hold it to the limits, and give what it wrote and what it raised."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)], capture_output=True, text=True,
        timeout=300, env={"PYTHONPATH": str(Path(at.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    used = json.loads(done.stderr.splitlines()[-1])
    assert used["peak"] < MEGABYTES
    assert used["seconds"] < SECONDS
    return done.stdout, used["said"]


def filled(entry: Callable[[int], str], size: int) -> bytes:
    """Write a header of many entries."""
    count = size // (len(entry(1_000_000)) + 1)
    return ("{" + ",".join(map(entry, range(count))) + "}").encode()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an adapter of 100,000 tensors, more than any that was published."""
    folder = tiny.adapter(tmp_path_factory.mktemp("large") / "adapter")
    start = "base_model.model.model.layers"
    names = [
        f"{start}.{layer}.mlp.experts.{expert}.up_proj.lora_{side}.weight"
        for layer in range(100)
        for expert in range(500)
        for side in "AB"
    ]
    header = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * i, 16 * i + 16]}
        for i, name in enumerate(names)
    }
    raw = whole(json.dumps(header, separators=(",", ":")).encode(), bytes(16 * len(names)))
    assert 12_000_000 < len(raw) - 16 * len(names) < LARGEST
    (folder / tiny.WEIGHTS_FILE).write_bytes(raw)
    return folder


@pytest.mark.parametrize("options", [(), ("--json", "--tensors")], ids=["words", "JSON"])
def test_inspect(options: tuple[str, ...], large: Path) -> None:
    text, _ = run("inspect", large, *options)
    assert "layers.0-99.mlp.experts.0-499.up_proj" in text
    assert len(text.splitlines()) < 100 or len(json.loads(text)["tensors"]) == 100_000


def test_validate(large: Path) -> None:
    text, _ = run("validate", large, "--isolated", "--json")
    assert "WGT001" in json.loads(text)["adapters"][0]["checks_run"]


HEADERS: dict[str, tuple[bytes, str]] = {
    "lists": (b'{"a":[' + b"[]," * 4_900_000 + b"[]]}", "more lists"),
    "objects": (b'{"a":[' + b"{}," * 4_900_000 + b"{}]}", "more lists"),
    "words": (b'{"a":[' + b'"ab",' * 2_900_000 + b'""]}', "more lists"),
    "notes": (
        b'{"__metadata__":{":":"",' + b",".join(b'"%x":""' % i for i in range(1_300_000)) + b"}}",
        "more lists",
    ),
    "fewer notes": (
        b'{"__metadata__":{":":"",' + b",".join(b'"%x":""' % i for i in range(780_000)) + b"}}",
        "",
    ),
    "wide letters": ('{"__metadata__":{"a":"\U0001f600'.encode() + b"x" * 14_900_000 + b'"}}', ""),
    "a long name": (f'{{"{"a." * 7_000_000}":{EMPTY}}}'.encode(), "14000000 letters"),
    "long names": (filled(lambda i: f'"{"a." * 150}{i}":{EMPTY}', 14_000_000), "letters"),
    "long shapes": (
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 1_000_000 + b'0],"data_offsets":[0,0]}}', "",
    ),
    "endless shapes": (
        b'{"a":{"dtype":"F32","shape":[' + b"4611686018427387904," * 500_000
        + b'0],"data_offsets":[0,0]}}',
        "more elements than can be counted",
    ),
    "over the limit": (filled(lambda i: f'"tensor{i}":{EMPTY}', 16_000_000), "enough for any"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str, tmp_path: Path) -> None:
    raw, expected = HEADERS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole(raw))
    _, said = run("read", path, LARGEST)
    assert expected in said
    assert bool(expected) == bool(said)
    assert len(said) < 2000


@pytest.mark.parametrize("verb", ["inspect", "validate"])
def test_such_headers_in_an_adapter(verb: str, tmp_path: Path) -> None:
    folder = tiny.adapter(tmp_path / "adapter")
    (folder / tiny.WEIGHTS_FILE).write_bytes(whole(HEADERS["lists"][0]))
    text, _ = run(verb, folder)
    assert HEADERS["lists"][1] in text


def test_tensors_of_short_names_are_no_lists_too_many(tmp_path: Path) -> None:
    """The limit is for headers that hold something else: these are 140,000 tensors."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole(filled(lambda i: f'"t{i}":{EMPTY}', 8_500_000)))
    assert run("read", path, LARGEST)[1] == ""
