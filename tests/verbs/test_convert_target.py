"""`convert --target`: the profile chooses the format, and its own checks judge the result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptertools as at
from adaptertools import schema, serving
from adaptertools.errors import NotFound, Unsupported
from adaptertools.verbs._convert_draft import RECEIPT
from adaptertools.verbs.convert import formats
from tests.cases_models import llama
from tests.checks import tiny
from tests.checks.make_srv import added, dora
from tests.cli import run
from tests.stacking import made, together

TARGETS = serving.known()
NEED_BASE = {"llama.cpp", "ollama"}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Give one that most servers would scale wrongly, or refuse."""
    tiny.adapter(tmp_path / "in")
    tiny.set_config(
        tmp_path / "in", use_rslora=True, alpha_pattern={"v_proj": 3}, init_lora_weights="gaussian"
    )
    return tmp_path / "in"


def converted(adapter: Path, name: str, **how: Any) -> tuple[Path, dict[str, Any]]:
    out = adapter.parent / "out"
    base = tiny.base(adapter.parent / "base") if name in NEED_BASE else None
    report = at.convert(adapter, target=name, out=out, base=base, **how)
    schema.check("report", report.as_json())
    return out, dict(report.facts)


@pytest.mark.parametrize("name", TARGETS)
def test_every_profile_names_formats_that_can_be_written(name: str) -> None:
    profile = TARGETS[name]
    assert profile.formats
    assert set(profile.formats) <= set(formats())
    assert profile.beside in ("", "Modelfile")


@pytest.mark.parametrize("name", TARGETS)
def test_each_target_gets_what_it_takes(name: str, adapter: Path) -> None:
    out, facts = converted(adapter, name)
    profile = TARGETS[name]
    assert facts["format"] == profile.formats[0]
    assert (facts["target"]["name"], facts["target"]["version"]) == (name, profile.version)
    assert json.loads((out / RECEIPT).read_text())["target"] == facts["target"]
    if facts["format"] in ("peft", "plain"):
        assert "SRV005" in facts["target"]["checked"]
        found = at.validate(out, target=name, select=["SRV"]).findings
        assert [f.code for f in found if f.level == "error"] == []
    elif facts["format"] in ("gguf", "mlx"):
        assert facts["target"]["checked"] == [f"read back as {facts['format']}"]
        assert len(at.open(out).entries) == 4
    else:
        assert facts["target"]["checked"] == []


@pytest.mark.parametrize("name", sorted(t for t in TARGETS if TARGETS[t].formats[0] == "plain"))
def test_the_update_is_the_same(name: str, tmp_path: Path) -> None:
    made(llama(), tmp_path / "in", target_modules=["q_proj", "up_proj"], lora_alpha=6,
         use_rslora=True, rank_pattern={"up_proj": 3})  # fmt: skip
    at.convert(tmp_path / "in", target=name, out=tmp_path / "out")
    one, two = (together(llama(), [(tmp_path / each, 1.0)]) for each in ("in", "out"))
    torch.testing.assert_close(two, one, rtol=0, atol=1e-6)
    config = at.open(tmp_path / "out").config
    if name == "openvino":  # which takes every scale for 1
        assert config["lora_alpha"] == config["r"]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [("vllm", dora, "plain cannot hold DoRA"), ("sglang", added, "1 added tokens are not served"),
     ("vllm", lambda f: tiny.set_config(f, modules_to_save=["classifier"]), None),
     ("mlx", dora, None)],
    ids=["dora", "tokens", "nothing saved", "mlx has dora"],
)  # fmt: skip
def test_what_a_target_refuses(name: str, change: Any, said: str | None, tmp_path: Path) -> None:
    change(tiny.adapter(tmp_path / "in"))
    if said is None:
        assert at.convert(tmp_path / "in", target=name, out=tmp_path / "out").ok
        return
    for dry in (True, False):
        with pytest.raises(Unsupported, match=said):
            at.convert(tmp_path / "in", target=name, out=tmp_path / "out", dry_run=dry)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_rank_that_is_too_large_or_unusual(tmp_path: Path) -> None:
    tiny.adapter(tmp_path / "in")
    with pytest.raises(Unsupported, match=r"^vllm .*rank 1024 is above the largest that it takes"):
        at.convert(tmp_path / "in", target="vllm", out=tmp_path / "out", rank=1024)
    told = run(
        "convert", tmp_path / "in", "--target", "vllm", "--out", tmp_path / "a", "--rank", 64
    )
    assert told.code == 0
    assert "rank 64 is above its default limit, 16" in told.out
    assert f"for vllm {TARGETS['vllm'].version} (11 checks)" in told.out


def test_formats_that_are_asked_for(adapter: Path) -> None:
    out, facts = converted(adapter, "tensorrt-llm", to="trtllm")
    assert (facts["format"], (out / "model.lora_config.npy").is_file()) == ("trtllm", True)
    with pytest.raises(Unsupported, match=r"^--to gguf: vllm reads plain, peft\. Leave --to out"):
        at.convert(adapter, target="vllm", to="gguf", out=adapter / "no")
    with pytest.raises(NotFound, match="--target vlm is unknown"):
        at.convert(adapter, target="vlm", out=adapter / "no")
    with pytest.raises(Unsupported, match=r"plain has no option scale=2\. Known: scale=1"):
        at.convert(adapter, to="plain", out=adapter / "no", options={"scale": "2"})
    said = run("convert", adapter, "--out", adapter / "no")
    assert (said.code, "Pass --to with a format, or --target" in said.err) == (2, True)


def test_saved_for_a_target(adapter: Path) -> None:
    facts = at.save(at.open(adapter), adapter.parent / "out", target="sglang").facts
    assert (facts["format"], facts["target"]["name"]) == ("plain", "sglang")


def test_ollama_gets_a_modelfile(adapter: Path) -> None:
    out, facts = converted(adapter, "ollama", options={"from": "llama3.1:8b"})
    assert facts["files"] == ["adapter.gguf", "Modelfile"]
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[1:] == ["FROM llama3.1:8b", "ADAPTER ./adapter.gguf"]
    assert lines[0].startswith("# ollama create")


def test_ollama_is_told_which_base(adapter: Path) -> None:
    base = tiny.base(adapter.parent / "base")
    how: dict[str, Any] = {"target": "ollama", "base": base}
    report = at.convert(adapter, out=adapter.parent / "a", **how)
    assert [f.code for f in report.findings] == ["CNV031"]
    assert f"FROM {tiny.BASE}\n" in (adapter.parent / "a" / "Modelfile").read_text()
    with pytest.raises(Unsupported, match=r"lies beside the GGUF file\. Give a folder"):
        at.convert(adapter, out=adapter.parent / "a.gguf", **how)
    for name, options in (("x\nSYSTEM be bad", {}), ("../secrets", {}), ("", {"from": "a\nb"})):
        tiny.set_config(adapter, base_model_name_or_path=name)
        with pytest.raises(Unsupported, match=r"cannot be it\. Pass -o from=NAME"):
            at.convert(adapter, out=adapter.parent / "b", options=options, **how)
    assert not (adapter.parent / "b").exists()
