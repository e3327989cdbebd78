"""Convert gives the file that torch and safetensors would give, and leaves nothing half done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import NotFound, Unreadable, Unsafe, Unsupported
from adaptertools.tensorfile import read_header
from adaptertools.verbs.convert import convert
from tests import handmade_pickle as p
from tests.checks import tiny
from tests.cli import run
from tests.hostile import RUN
from tests.test_picklefile import DATA, DTYPES, REAL

WEIGHTS, PICKLED, CONFIG = (
    "adapter_model.safetensors", "adapter_model.bin", "adapter_config.json",
)  # fmt: skip


def expected(pickled: Path, folder: Path) -> bytes:
    """Let torch load the pickle, and safetensors write it."""
    held = torch.load(pickled, "cpu", weights_only=True)
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in held.items()}
    save_file(whole, folder / "expected.safetensors", {"format": "pt"})
    return (folder / "expected.safetensors").read_bytes()


def adapter(folder: Path, tensors: object | None = None) -> Path:
    """Write the tiny adapter as torch.save does."""
    tiny.adapter(folder)
    held = load_file(folder / WEIGHTS) if tensors is None else tensors
    (folder / WEIGHTS).unlink()
    torch.save(held, folder / PICKLED)
    return folder


def codes(report: at.Report) -> list[str]:
    return [finding.code for finding in report.findings]


@pytest.mark.parametrize("path", REAL or [None], ids=lambda f: f.parent.name if f else "none")
def test_real_adapters(path: Path | None, tmp_path: Path) -> None:
    if path is None:
        pytest.skip(f"real adapters are not there: {DATA} (set ADAPTERTOOLS_DATA)")
    report = convert(path.parent, out=tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected(path, tmp_path)
    config = path.with_name(CONFIG).read_bytes()
    assert (tmp_path / "out" / CONFIG).read_bytes() == config
    assert ("CNV001" in codes(report)) == (b"peft_type" not in config)


def test_the_tiny_adapter(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    report = at.convert(folder, to="peft", out=tmp_path / "deep" / "out")
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]
    assert (report.ok, report.verb, codes(report)) == (True, "convert", [])
    assert report.facts["copied"] == ["README.md", CONFIG]
    written = at.open(tmp_path / "deep" / "out")
    assert written.config == tiny.CONFIG
    assert report.facts["tensors"] == len(written.tensors) == 8
    assert report.facts["bytes"] == written.nbytes
    assert read_header(tmp_path / "deep" / "out" / WEIGHTS).metadata == {"format": "pt"}


def test_a_pickle_is_an_adapter_where_it_lies(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    convert(folder, out=tmp_path / "out")
    pickled, plain = at.open(folder), at.open(tmp_path / "out")
    assert [e.target for e in pickled.entries] == [e.target for e in plain.entries]
    base = tiny.base(tmp_path / "base")
    at.merge(pickled, base=base, out=tmp_path / "one", verify=True)
    at.merge(plain, base=base, out=tmp_path / "two")
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_every_dtype_and_view(tmp_path: Path) -> None:
    whole = torch.arange(120.0).reshape(4, 5, 6)
    held = {f"{i}.{dtype}": whole[0].to(dtype) for i, dtype in enumerate(DTYPES)}
    held |= {f"turned {dtype}": whole.transpose(0, 2).to(dtype) for dtype in DTYPES}
    held |= {"view": whole[1:, ::2, 1], "turned": whole.transpose(0, 2), "shared": whole}
    held |= {"tied": whole, "empty": whole[:0], "scalar": whole[1, 2, 3], 'é\n"\\\x7f': whole[3]}
    folder = adapter(tmp_path / "adapter", held)
    report = convert(folder, out=tmp_path / "out")
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected(folder / PICKLED, tmp_path)
    assert codes(report) == ["CNV002", "CNV003"]


def test_views_are_written_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("adaptertools.formats._bin._CHUNK", 100)
    whole = torch.randn(30, 7, dtype=torch.float64)
    folder = adapter(tmp_path / "adapter", {"a": whole.T, "b": whole[::3, 2:], "c": whole})
    done: list[int] = []
    convert(folder, out=tmp_path / "out", progress=done.append)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == expected(folder / PICKLED, tmp_path)
    assert sum(done) == 8 * (210 + 50 + 210)
    assert len(done) > 20


def test_a_pickle_of_any_name(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    (folder / PICKLED).rename(folder / "last.bin")
    with pytest.raises(NotFound, match=r"adapter_model\.bin"):
        convert(folder, out=tmp_path / "out")
    convert(folder / "last.bin", out=tmp_path / "out")
    assert at.open(tmp_path / "out").rank == tiny.RANK


def test_other_files(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    (tmp_path / "secret.model").write_text("secret")
    for name in ("tokenizer_config.json", "LICENSE", "own.py", "optimizer.pt", "config.json"):
        (folder / name).write_text("{}")
    (folder / "tokenizer.model").symlink_to("../secret.model")
    (folder / "NOTICE").symlink_to("LICENSE")
    report = convert(folder, out=tmp_path / "out")
    kept = ["LICENSE", "NOTICE", "README.md", CONFIG, "tokenizer_config.json"]
    assert report.facts["copied"] == kept
    receipt = "adaptertools.convert.json"
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted([*kept, WEIGHTS, receipt])
    assert not (tmp_path / "out" / "NOTICE").is_symlink()
    assert codes(report) == ["CNV004"]
    assert "own.py" in report.findings[0].text


def linked(folder: Path) -> None:
    (folder / PICKLED).rename(folder.parent / "elsewhere.bin")
    (folder / PICKLED).symlink_to(folder.parent / "elsewhere.bin")


def spread(folder: Path) -> None:
    view = p.tensor(shape=[1000, 1000, 100], stride=[0, 0, 0])
    (folder / PICKLED).write_bytes(p.zipped(p.mapped(("a", view))))


def put(raw: bytes) -> object:
    return lambda folder: (folder / PICKLED).write_bytes(raw)


REFUSED = {
    "a command": (put(p.zipped(p.mapped(("a", RUN)))), Unsafe, "names posix.system"),
    "cut short": (put(p.zipped()[:200]), Unreadable, "cut short"),
    "more than tensors": (put(p.zipped(p.mapped(("epoch", b"K\3")))), Unreadable, "epoch is no"),
    "a tensor called __metadata__": (
        put(p.zipped(p.mapped(("__metadata__", p.tensor())))), Unreadable, "__metadata__"),
    "a name twice": (
        put(p.zipped(p.mapped(("a", p.tensor()), ("a", p.tensor())))), Unreadable, "one name"),
    "spread out": (spread, Unsafe, "would become 400000000"),
    "a link that leaves": (linked, Unsafe, "leaves its folder"),
    "no config": (lambda f: (f / CONFIG).unlink(), NotFound, CONFIG),
    "no weights": (lambda f: (f / PICKLED).unlink(), NotFound, PICKLED),
    "safetensors": (lambda f: (f / WEIGHTS).touch(), Unsupported, "nothing to convert"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, tmp_path: Path) -> None:
    change, kind, why = REFUSED[case]
    folder = adapter(tmp_path / "adapter")
    change(folder)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=why):
        convert(folder, out=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_exists(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "left.partial").mkdir()
    for out in ("adapter", "link", "left"):
        with pytest.raises(Unsafe, match=r"exists already|earlier run"):
            convert(folder, out=tmp_path / out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "left.partial", "link"]


def test_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")

    def full(count: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        convert(folder, out=tmp_path / "out", progress=full)
    assert os.listdir(tmp_path) == ["adapter"]


def test_other_formats(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"--to punch-cards: .* Known: .*peft, plain"):
        convert(adapter(tmp_path / "adapter"), to="punch-cards", out=tmp_path / "out")


def test_command(tmp_path: Path) -> None:
    folder, out = adapter(tmp_path / "adapter"), tmp_path / "out"
    done = run("convert", folder / PICKLED, "--to", "peft", "--out", out)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{out}: 8 tensors, 448 B, with README.md, {CONFIG}\n"
    again = run("convert", folder, "--to", "peft", "--out", out)
    assert (again.code, again.out) == (1, "")
    assert "exists already" in again.err
    told = run("convert", folder, "--to", "peft", "--out", tmp_path / "two", "--json")
    assert json.loads(told.out)["facts"]["tensors"] == 8
    assert run("convert", folder, "--to", "peft", "--out", tmp_path / "three", "-q").out == ""
    other = run("convert", folder, "--to", "punch-cards", "--out", tmp_path / "four")
    assert other.code == 2
    assert "peft" in other.err


def test_it_needs_no_torch(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "adapter")
    code = (
        f"import adaptertools as at, sys; at.convert({str(folder)!r}, out={str(tmp_path / 'o')!r})"
        "; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    root = Path(at.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
