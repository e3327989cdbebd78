"""The verb: what is run, what is skipped, where things are, and folders that are no adapters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import adaptertools as at
from adaptertools import checkpoint, errors
from adaptertools.checks import catalogue
from adaptertools.report import Finding, Report
from adaptertools.verbs import _gather
from adaptertools.verbs.validate import MOST
from tests.checks import tiny

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "adapters"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


def codes(report: Report, *levels: str) -> list[str]:
    """Give the codes that were found, each once."""
    found = [f.code for f in report.findings if not levels or f.level in levels]
    return list(dict.fromkeys(found))


def only(report: Report, code: str) -> Finding:
    """Give the one finding of a check."""
    (found,) = (f for f in report.findings if f.code == code)
    return found


def test_a_good_one(adapter: Path) -> None:
    report = at.validate(adapter)
    assert (report.verb, report.subject, report.ok) == ("validate", str(adapter), True)
    assert report.findings == ()
    assert report.facts["dialect"] == "peft"
    assert report.facts["summary"] == {"error": 0, "warning": 0, "note": 0}


def test_each_check_is_run_or_skipped_with_a_reason(adapter: Path) -> None:
    report = at.validate(adapter)
    skipped = {line.partition(": ")[0]: line.partition(": ")[2] for line in report.skipped}
    assert {*report.facts["checks_run"], *skipped} == set(catalogue())
    assert not set(report.facts["checks_run"]) & skipped.keys()
    assert skipped["WGT014"] == "no tensor data (pass --deep)"
    assert skipped["BAS007"] == "no base (pass --base)"
    assert skipped["SRV001"] == "no serving target (pass --target)"
    assert skipped["TOK001"] == "no tokenizer files"
    assert skipped["BAS005"] == "no network (pass --online)"


def test_everything_given_nothing_skipped(adapter: Path) -> None:
    tiny.base(adapter / "base")
    tiny.write_json(adapter / "tokenizer_config.json", {})
    report = at.validate(
        adapter, base=adapter / "base", deep=True, target="vllm", peft_version="0.18.0",
        online=lambda _: "ok",
    )  # fmt: skip
    assert report.skipped == ("SEC013: no repository on the Hub",)
    assert report.facts["checks_run"] == [code for code in catalogue() if code != "SEC013"]


def test_findings_are_sorted_and_counted(adapter: Path) -> None:
    tiny.set_config(adapter, r=4, revision=None, inference_mode=False)
    (adapter / "README.md").unlink()
    report = at.validate(adapter)
    order = ["error", "warning", "note"]
    keys = [(order.index(f.level), f.code) for f in report.findings]
    assert keys == sorted(keys)
    assert {level for level, _ in keys} == {0, 1, 2}
    counts = {level: sum(f.level == level for f in report.findings) for level in order}
    assert report.facts["summary"] == counts
    assert not report.ok


@pytest.mark.parametrize(
    ("select", "ignore", "run"),
    [
        (["BAS001"], [], ["BAS001"]),
        (["BAS001", "CRD002"], [], ["BAS001", "CRD002"]),
        (["CRD"], ["CRD002", "CRD005"], ["CRD001", "CRD003", "CRD004", "CRD006"]),
        (["CRD", "BAS001"], ["CRD"], ["BAS001"]),
    ],
)
def test_select_and_ignore(
    select: list[str], ignore: list[str], run: list[str], adapter: Path
) -> None:
    assert at.validate(adapter, select=select, ignore=ignore).facts["checks_run"] == run


def test_ignored_is_neither_run_nor_skipped(adapter: Path) -> None:
    report = at.validate(adapter, ignore=["WGT"])
    assert not any(code.startswith("WGT") for code in report.facts["checks_run"])
    assert not any(line.startswith("WGT") for line in report.skipped)


@pytest.mark.parametrize(
    "options",
    [
        {"select": ["ABC001"]}, {"select": ["WGT999"]}, {"ignore": ["wgt001"]}, {"ignore": [""]},
        {"severity": {"WGT001": "fatal"}}, {"severity": {"WGT": "note"}},
        {"severity": {"\x1b[31m": "note"}},
    ],
)  # fmt: skip
def test_unknown_codes_and_levels(options: dict[str, object], adapter: Path) -> None:
    with pytest.raises(errors.Unsupported) as caught:
        at.validate(adapter, **options)
    assert str(caught.value).isprintable()


def test_severity(adapter: Path) -> None:
    tiny.set_config(adapter, revision="main", r=4)
    report = at.validate(adapter, severity={"BAS004": "error", "WGT005": "note"})
    assert only(report, "BAS004").level == "error"
    assert {f.level for f in report.findings if f.code == "WGT005"} == {"note"}


def test_strict_is_about_the_config(adapter: Path) -> None:
    tiny.set_config(adapter, lora_rank=2, revision="main")
    assert only(at.validate(adapter), "CFG006").level == "warning"
    strict = at.validate(adapter, strict=True)
    assert only(strict, "CFG006").level == "error"
    assert only(strict, "BAS004").level == "warning"
    assert only(at.validate(adapter, strict=True, severity={"CFG006": "note"}), "CFG006").level == (
        "note"
    )


def test_places(adapter: Path) -> None:
    """Line and column are those of the value, as an editor counts them."""
    path = adapter / tiny.CONFIG_FILE
    tiny.set_config(adapter, target_modules=["q_proj", "v_proj", "c_attn"], revision="main")
    lines = path.read_text().splitlines()
    for code, word, pointer in (
        ("WGT007", '"c_attn"', "/target_modules/2"),
        ("BAS004", '"main"', "/revision"),
    ):
        found = only(at.validate(adapter), code)
        assert (found.file, found.pointer, found.place) == (tiny.CONFIG_FILE, pointer, pointer)
        assert lines[found.line - 1][found.column - 1 :].startswith(word)


def test_a_key_that_is_not_there_is_placed_at_its_parent(adapter: Path) -> None:
    tiny.set_config(adapter, revision=tiny.DROP)
    found = only(at.validate(adapter), "BAS004")
    assert (found.line, found.column) == (1, 1)


def test_a_tensor_has_no_line(adapter: Path) -> None:
    name = f"{tiny.START}0.self_attn.q_proj.lora_B.weight"
    tiny.set_tensors(adapter, lambda held: {n: t for n, t in held.items() if n != name})
    found = only(at.validate(adapter), "WGT004")
    assert (found.file, found.line) == (tiny.WEIGHTS_FILE, 0)
    assert found.tensor == found.place == name.replace("lora_B", "lora_A")


def test_of_very_many_the_rest_is_counted(adapter: Path) -> None:
    tiny.set_config(adapter, target_modules=[f"ghost{i}" for i in range(MOST + 50)])
    found = [f for f in at.validate(adapter).findings if f.code == "WGT007"]
    assert len(found) == MOST + 1
    assert sum("more than" in f.text for f in found) == 1


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        at.validate(tmp_path / "nothing")


def test_an_empty_folder(tmp_path: Path) -> None:
    report = at.validate(tmp_path)
    assert report.facts["dialect"] == "none"
    assert {"FIL001", "CRD001"} <= set(codes(report))
    assert any(line == "CFG004: no adapter_config.json" for line in report.skipped)


def test_a_folder_without_config(adapter: Path) -> None:
    (adapter / tiny.CONFIG_FILE).unlink()
    report = at.validate(adapter)
    assert not report.ok
    assert "WGT004" in report.facts["checks_run"]  # weights speak for themselves
    assert "WGT005: no adapter_config.json" in report.skipped


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1448\n".format("0" * 64)


def test_pointers_instead_of_files(adapter: Path) -> None:
    (adapter / tiny.WEIGHTS_FILE).write_text(POINTER)
    report = at.validate(adapter)
    assert codes(report, "error") == ["FIL002"]
    assert any(line.startswith("WGT005: ") for line in report.skipped)
    (adapter / tiny.CONFIG_FILE).write_text(POINTER)
    report = at.validate(adapter)
    assert report.facts["dialect"] == "lfs"
    assert "FIL002" in codes(report, "error")


def test_another_dialect(adapter: Path) -> None:
    tiny.write_json(adapter / tiny.CONFIG_FILE, {"fine_tune_type": "lora", "num_layers": 2})
    report = at.validate(adapter)
    assert report.facts["dialect"] == "mlx"
    assert "CFG003" in codes(report, "note")
    assert "CFG005: no config of PEFT's dialect (mlx)" in report.skipped


def test_a_link_out_of_the_folder_is_not_followed(adapter: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("---\nlicense: hf_secret\n---\n")
    (adapter / "README.md").unlink()
    (adapter / "README.md").symlink_to(secret)
    away = tmp_path / tiny.WEIGHTS_FILE
    (adapter / tiny.WEIGHTS_FILE).rename(away)
    (adapter / tiny.WEIGHTS_FILE).symlink_to(away)
    report = at.validate(adapter, deep=True)
    assert "FIL007" in codes(report, "error")
    assert "hf_secret" not in json.dumps(report.as_json())
    assert any(line.startswith("WGT005: ") and "link" in line for line in report.skipped)


def test_the_hubs_cache_is_links_and_that_is_fine(adapter: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "hub" / "blobs"
    snapshot = tmp_path / "hub" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in adapter.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert at.validate(snapshot, deep=True).findings == ()


def test_a_pipe_is_not_opened(adapter: Path) -> None:
    (adapter / tiny.WEIGHTS_FILE).unlink()
    os.mkfifo(adapter / tiny.WEIGHTS_FILE)
    os.mkfifo(adapter / "optimizer.pt")
    (adapter / "README.md").unlink()
    os.mkfifo(adapter / "README.md")
    assert not at.validate(adapter, deep=True).ok


def test_folders_that_go_round_or_deep(adapter: Path) -> None:
    (adapter / "round").symlink_to(adapter)
    deep = adapter
    for i in range(_gather.DEEPEST + 3):
        deep = deep / f"d{i}"
        deep.mkdir()
        (deep / "x.py").touch()
    files = _gather.listed(adapter)
    assert files["round"].kind == "outside"
    assert max(name.count("/") for name in files) == _gather.DEEPEST


def test_hostile_names(adapter: Path) -> None:
    (adapter / "a\n::error::b\x1b[31m.bin").write_bytes(b"x")
    (adapter / "ü\u202e.pt").write_bytes(b"")
    name = "base_model.model.a\n::set-env::b\x1b[31m.lora_A.weight"
    tiny.set_tensors(adapter, lambda held: {**held, name: tiny.noise(2, 8)})
    report = at.validate(adapter, deep=True)
    assert "WGT004" in codes(report, "error")
    for found in report.findings:
        assert found.text.isprintable()
        assert found.place.isprintable()


def test_a_damaged_base_is_an_error_of_the_call(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.AdapterToolsError):
        at.validate(adapter, base=tmp_path / "nothing")
    with pytest.raises(errors.NotFound, match="--target nobody is unknown"):
        at.validate(adapter, target="nobody")


def test_a_base_without_weights_still_has_a_config(adapter: Path, tmp_path: Path) -> None:
    base = tiny.base(tmp_path / "base", num_hidden_layers=1)
    (base / "model.safetensors").unlink()
    assert only(at.validate(adapter, base=base), "BAS007").level == "error"


def test_headers_need_no_heavy_library(adapter: Path) -> None:
    code = (
        f"import sys, adaptertools as at; at.validate({str(adapter)!r}, target='vllm')\n"
        "print([m for m in ('torch', 'numpy', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


# What was found by hand in adapters that people published: code -> how often, with --deep.
EXPECTED: dict[str, dict[str, int]] = {
    # Scores for two classes; PEFT's template as its card.
    "deepbiolab__gpt2-classification-peft_peft_model": {
        "BAS003": 1, "BAS004": 1, "CRD003": 1, "CRD004": 1, "CRD005": 1,
    },
    # The same, and two targets of another architecture.
    "gurvineet__peft-implementation_peft_model_checkpoint-best": {
        "BAS003": 1, "BAS004": 1, "CRD003": 1, "CRD004": 1, "CRD005": 1, "WGT007": 2,
    },
    # A pickle of PEFT 0.4's days; its head is saved and not listed; the card is a few words.
    "sdtrklse__lightweight-fine-tuning_peft_model": {
        "BAS003": 1, "BAS004": 1, "CRD002": 1, "CRD004": 1, "CRD005": 1, "SEC001": 1, "WGT010": 1,
    },
    # Sound; a card without front matter, and a tokenizer_config.json that nothing needs.
    "branbot6__sift-opf-zh_adapter": {
        "BAS004": 1, "CRD001": 1, "CRD002": 1, "CRD004": 1, "CRD005": 1, "TOK003": 1,
    },
    # LeRobot's: a pickle, no card, no PEFT config.
    "Inishpy__lerobot-libero": {"CFG003": 1, "CRD001": 1, "SEC001": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_real_adapters(name: str) -> None:
    if not (REAL / name).is_dir():
        pytest.skip("the real adapters are not here")
    report = at.validate(REAL / name, deep=True)
    found = [f.code for f in report.findings]
    assert {code: found.count(code) for code in sorted(set(found))} == EXPECTED[name]
    assert report.ok


def test_a_base_is_opened_once_until_it_changes(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, read, opened = tiny.base(tmp_path / "base"), checkpoint.read, []
    monkeypatch.setattr(checkpoint, "read", lambda *a: (opened.append(a), read(*a))[1])
    for _ in range(3):
        assert "BAS007" not in codes(at.validate(adapter, base=base))
    assert len(opened) == 1
    tiny.write_json(base / "config.json", {**tiny.BASE_CONFIG, "num_hidden_layers": 1})
    assert "BAS007" in codes(at.validate(adapter, base=base))
    assert len(opened) == 2
