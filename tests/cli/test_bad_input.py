"""Bad input ends in one sentence and an exit code, and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import handmade
from tests.cli import DEFAULT, assert_refused, contents, merge, run
from tests.handmade import START

Spoil = Callable[[Path], object]
Q = "model.layers.0.self_attn.q_proj"


def cut(name: str, size: int) -> Spoil:
    """Keep only so many bytes of a file."""
    return lambda f: (f / name).write_bytes((f / name).read_bytes()[:size])


def write(name: str, data: bytes) -> Spoil:
    return lambda f: (f / name).write_bytes(data)


def configure(name: str, **changes: Any) -> Spoil:
    return lambda f: handmade.change_json(f / name, **changes)


def store(name: str, change: Callable[[handmade.Arrays], handmade.Arrays]) -> Spoil:
    return lambda f: handmade.change_tensors(f / name, change)


def nan(tensors: handmade.Arrays) -> handmade.Arrays:
    tensors[f"{START}{Q}.lora_A.weight"][1, 1] = np.nan
    return tensors


def wider(tensors: handmade.Arrays) -> handmade.Arrays:
    return {**tensors, f"{Q}.weight": handmade.noise(10, 9)}


def coded(tensors: handmade.Arrays) -> handmade.Arrays:
    return {**tensors, f"{Q}.weight": np.zeros((8, 8), np.int8)}


def misnamed(tensors: handmade.Arrays) -> handmade.Arrays:
    return {n.replace("self_attn", "attention") if "q_proj" in n else n: t
            for n, t in tensors.items()}  # fmt: skip


def nothing(folder: Path) -> None:
    pass


A, B = "adapter/adapter_model.safetensors", "base/model.safetensors"
CONFIG = "adapter/adapter_config.json"
CASES: dict[str, tuple[Spoil, str, tuple[str, ...]]] = {
    "no adapter folder": (
        nothing, "{f}/none --base {f}/base --out {f}/out", ("none", "no such folder", "adapter")
    ),
    "no base folder": (
        nothing, "{f}/adapter --base {f}/none --out {f}/out", ("none", "no such folder", "base")
    ),
    "adapter is a file": (
        nothing, "{f}/" + CONFIG + " --base {f}/base --out {f}/out", ("is a file", "folder")
    ),
    "base is a file": (
        nothing, "{f}/adapter --base {f}/" + B + " --out {f}/out", ("is a file", "folder")
    ),
    "no name at all": (
        nothing, "a:b --base {f}/base --out {f}/out", ("a:b", "user/repo@revision")
    ),
    "no adapter in the folder": (
        nothing, "{f}/base --base {f}/base --out {f}/out", ("no adapter of a known format", "peft")
    ),
    "the adapter as its base": (
        nothing, "{f}/adapter --base {f}/adapter --out {f}/out", ("is an adapter", "--base")
    ),
    "no base named": (
        nothing, "{f}/adapter --out {f}/out", ("does not name its base", "--base")
    ),
    "base cut short": (cut(B, 700), DEFAULT, ("model.safetensors", "cut short", "Fetch it again")),
    "base cut in its data": (cut(B, -8), DEFAULT, ("model.safetensors is cut short", "Fetch")),
    "adapter cut short": (cut(A, 4), DEFAULT, ("adapter_model.safetensors", "cut short")),
    "adapter empty": (write(A, b""), DEFAULT, ("adapter_model.safetensors", "0 bytes")),
    "adapter pickled": (
        lambda f: (f / A).rename(f / "adapter" / "adapter_model.bin"),
        DEFAULT, ("adapter_model.bin", "no file of torch.save", "Fetch"),
    ),
    "base pickled": (
        lambda f: (f / B).rename(f / "base" / "pytorch_model.bin"),
        DEFAULT, ("pytorch_model*.bin", "pickles", "transformers"),
    ),
    "config not UTF-8": (
        write(CONFIG, b'{"peft_type": "\xe4"}'), DEFAULT, ("adapter_config.json", "not UTF-8", "15")
    ),
    "config not JSON": (write(CONFIG, b"{\n"), DEFAULT, ("adapter_config.json", "not JSON")),
    "base config not UTF-8": (
        write("base/config.json", b"\xff\xfe"), DEFAULT, ("config.json", "not UTF-8")
    ),
    "another method": (
        configure(CONFIG, peft_type="IA3"), DEFAULT, ("says IA3", "a tensor of LORA")
    ),
    "base quantised": (
        configure("base/config.json", quantization_config={"quant_method": "gptq"}),
        DEFAULT, ("GPTQ", "16-bit"),
    ),
    "base quantised in name only": (
        configure("base/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        DEFAULT, ("bitsandbytes", "no weight", "quantization_config"),
    ),
    "base's quantisation is a list": (
        configure("base/config.json", quantization_config=["odd"]),
        DEFAULT, ("quantization_config", "dict"),
    ),
    "wrong base": (
        lambda f: (store(B, wider)(f), configure(CONFIG, base_model_name_or_path="org/right")(f)),
        DEFAULT, (f"{Q}.weight", "8×8", "10×9", "org/right", "--base"),
    ),
    "base in codes": (store(B, coded), DEFAULT, (f"{Q}.weight", "I8", "16-bit")),
    "half of the names wrong": (
        store(A, misnamed), DEFAULT,
        ("2 of the 4", "layers.0.attention.q_proj.weight", f"nearest: {Q}.weight", "--base"),
    ),
    "NaN in the adapter": (
        store(A, nan), DEFAULT, ("1 tensors hold NaN", "lora_A", "--allow-nonfinite")
    ),
    "OUT inside the base": (
        nothing, "{f}/adapter --base {f}/base --out {f}/base/out", ("inside one another",)
    ),
    "OUT is the adapter": (
        nothing, "{f}/adapter --base {f}/base --out {f}/adapter", ("inside one another",)
    ),
    "OUT around the inputs": (
        nothing, "{f}/adapter --base {f}/base --out {f}", ("inside one another",)
    ),
    "OUT exists": (
        lambda f: (f / "out").mkdir(), DEFAULT, ("out exists already", "Choose another --out")
    ),
    "OUT is a file": (write("out", b"mine"), DEFAULT, ("out exists already",)),
    "OUT is a broken link": (
        lambda f: (f / "out").symlink_to(f / "nowhere"), DEFAULT, ("out exists already",)
    ),
    "OUT below a file": (
        write("file", b"mine"), "{f}/adapter --base {f}/base --out {f}/file/out", ("file",)
    ),
    "OUT.partial exists": (
        lambda f: (f / "out.partial").mkdir(), DEFAULT, ("out.partial", "--resume", "delete it")
    ),
    "too many scales": (nothing, DEFAULT + " --scale 1 --scale 2", ("1 adapters and 2 scales",)),
    "scale NaN": (nothing, DEFAULT + " --scale nan", ("finite",)),
    "unknown dtype": (nothing, DEFAULT + " --dtype int4", ("int4", "bfloat16")),
    "dtype of control characters": (nothing, DEFAULT + " --dtype \x1b[2J", (r"\x1b[2J",)),
    "size of potatoes": (nothing, DEFAULT + " --max-shard-size 5potatoes", ("5potatoes", "5GB")),
    "size of nothing": (nothing, DEFAULT + " --max-shard-size 0GB", ("0GB", "512MiB")),
    "negative size": (nothing, DEFAULT + " --max-shard-size -5GB", ("-5GB",)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_merge_refuses(case: str, street: Path) -> None:
    spoil, args, words = CASES[case]
    spoil(street)
    before = contents(street)
    assert_refused(merge(street, args), *words)
    assert contents(street) == before


@pytest.mark.parametrize("case", ["adapter is a file", "config not UTF-8"])
def test_inspect_refuses(case: str, street: Path) -> None:
    spoil, args, words = CASES[case]
    spoil(street)
    assert_refused(run("inspect", args.split()[0].format(f=street)), *words)


def test_dry_run_refuses_what_a_merge_would(street: Path) -> None:
    store(B, wider)(street)
    assert_refused(merge(street, DEFAULT + " --dry-run"), "8×8", "10×9")


@pytest.mark.parametrize("out", [".", ""])
def test_out_without_a_name(out: str, street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (street / "elsewhere").mkdir()
    monkeypatch.chdir(street / "elsewhere")
    args = ("merge", street / "adapter", "--base", street / "base", "--out", out)
    assert_refused(run(*args), "--out")


@pytest.mark.parametrize("size", ["0.1B", "9" * 400])
def test_sizes_that_are_none(size: str, street: Path) -> None:
    assert_refused(merge(street, DEFAULT + f" --dry-run --max-shard-size {size}"), "no size")


def test_nan_is_merged_where_it_is_allowed(street: Path) -> None:
    store(A, nan)(street)
    assert merge(street, DEFAULT + " --allow-nonfinite --quiet").code == 0
    merged, clean = handmade.read(street / "out"), handmade.merged()
    assert np.isnan(merged[f"{Q}.weight"]).any()
    other = "model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(merged[other], clean[other])


def test_nan_is_verified_where_it_is_allowed(street: Path) -> None:
    store(A, nan)(street)
    assert merge(street, DEFAULT + " --allow-nonfinite --verify").code == 0


def test_names_from_strangers_are_escaped(street: Path) -> None:
    evil = f"{START}model.\x1b[2Jlayers\n.0.q_proj.lora_A.weight"
    store(A, lambda tensors: {**tensors, evil: handmade.noise(2, 8)})(street)
    assert_refused(merge(street), r"model.\x1b[2Jlayers\n.0.q_proj")
    configure(CONFIG, peft_type="\x1b[2J\n")(street)
    assert_refused(merge(street), r"\x1b[2J\n")
