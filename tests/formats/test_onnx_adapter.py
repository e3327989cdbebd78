"""ONNX Runtime reads our .onnx_adapter, and a graph with it computes what PEFT's merge does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from adaptertools.errors import Unsupported
from adaptertools.formats import _onnx_adapter_file, onnx_adapter
from adaptertools.tensorfile import read as values
from tests.cases_models import gpt2, llama
from tests.checks import tiny
from tests.cli import run
from tests.stacking import made

NEEDED = "ONNX Runtime is not installed (pip install onnxruntime onnx)"
LORA: dict[str, Any] = {
    "target_modules": ["q_proj", "down_proj", "lm_head"], "r": 3, "lora_alpha": 5,
    "use_rslora": True, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"lm_head": 7},
}  # fmt: skip


def read(file: Path) -> dict[str, Any]:
    """Give what ONNX Runtime reads, copied out of its memory map."""
    ort = pytest.importorskip("onnxruntime", reason=NEEDED)
    ort.LoraAdapter().Load(str(file))  # what a session is given; it verifies the flatbuffer
    found = ort.AdapterFormat.read_adapter(str(file))
    versions = found.get_format_version(), found.get_adapter_version(), found.get_model_version()
    assert versions == (1, 1, 1)
    return {name: value.numpy().copy() for name, value in found.get_parameters().items()}


def test_onnxruntime_reads_what_each_module_does(tmp_path: Path) -> None:
    made(llama(), tmp_path / "in", **LORA)
    report = at.convert(tmp_path / "in", to="onnx_adapter", out=tmp_path / "a.onnx_adapter")
    assert len(report.facts["padded"]) == 2
    assert report.facts["exactness"] == "exact up to dtype"
    held = read(tmp_path / "a.onnx_adapter")
    assert len(held) == report.facts["tensors"] == 2 * 5
    entries = at.open(tmp_path / "in").entries
    for entry in entries:
        down, up = (held[f"{entry.target}.lora_{side}.weight"] for side in "AB")
        assert {down.dtype, up.dtype} == {np.dtype("float32")}
        assert (down.shape[1], up.shape[0]) == (3, 3)
        # PEFT's own arithmetic, in float64: alpha / sqrt(r), as the patterns have them.
        a, b = (values(entry.parts[f"lora_{side}"]).astype("float64") for side in "AB")
        rank, alpha = (2 if "down_proj" in entry.target else 3, 7 if "head" in entry.target else 5)
        np.testing.assert_allclose((down @ up).T, b @ a * alpha / rank**0.5, rtol=0, atol=1e-6)


def test_a_graph_runs_with_it(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime", reason=NEEDED)
    tiny.adapter(tmp_path / "in")
    at.convert(tmp_path / "in", to="onnx_adapter", out=tmp_path / "out", dtype="float32")
    entries = at.open(tmp_path / "in").entries
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 3
    session = ort.InferenceSession(_graph([entry.target for entry in entries]), quiet)
    adapter, options = ort.LoraAdapter(), ort.RunOptions()
    adapter.Load(str(tmp_path / "out" / onnx_adapter.NAME))
    options.add_active_adapter(adapter)
    x = tiny.noise(3, tiny.WIDTH)
    for entry, with_it, without in zip(
        entries, session.run(None, {"x": x}, options), session.run(None, {"x": x}), strict=True
    ):
        a, b = (values(entry.parts[f"lora_{side}"]).astype("float64") for side in "AB")
        assert not without.any()
        np.testing.assert_allclose(with_it, x @ (b @ a).T * tiny.ALPHA / tiny.RANK, atol=1e-7)


def _graph(targets: list[str]) -> bytes:
    """Give a model that computes x A B of each module; A and B are inputs, of any rank or none."""
    onnx = pytest.importorskip("onnx", reason=NEEDED)
    make, kind, width = onnx.helper, onnx.TensorProto.FLOAT, tiny.WIDTH
    inputs, outputs, nothing, nodes = [("x", ["n", width])], [], [], []
    for target in targets:
        a, b = (f"{target}.lora_{side}.weight" for side in "AB")
        rows = width if "q_proj" in target else width // 2
        inputs += [(a, [width, "lora_r"]), (b, ["lora_r", rows])]
        nothing += [make.make_tensor(name, kind, shape, [])
                    for name, shape in ((a, [width, 0]), (b, [0, rows]))]  # fmt: skip
        nodes += [make.make_node("MatMul", ["x", a], [f"{target}.h"]),
                  make.make_node("MatMul", [f"{target}.h", b], [f"{target}.y"])]  # fmt: skip
        outputs.append((f"{target}.y", ["n", rows]))
    ends = ([make.make_tensor_value_info(n, kind, s) for n, s in at] for at in (inputs, outputs))
    graph = make.make_graph(nodes, "updates", *ends, nothing)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves(dtype: str, tmp_path: Path) -> None:
    made(gpt2(), tmp_path / "in", target_modules=["c_attn"], r=3, lora_alpha=6, fan_in_fan_out=True)
    at.convert(tmp_path / "in", to="plain", out=tmp_path / "half", dtype=dtype)
    at.convert(tmp_path / "half", to="onnx_adapter", out=tmp_path / "out")
    held = read(tmp_path / "out" / onnx_adapter.NAME)
    assert all(name.startswith("transformer.h.") for name in held)
    wanted = {"float16": "float16", "bfloat16": "float32"}[dtype]
    assert {str(value.dtype) for value in held.values()} == {wanted}
    for entry in at.open(tmp_path / "half").entries:
        found = held[f"{entry.target}.lora_A.weight"]
        np.testing.assert_array_equal(found.T, values(entry.parts["lora_A"]))


def test_what_it_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.adapter(tmp_path / "in")
    out = tmp_path / "out"
    with pytest.raises(Unsupported, match="bfloat16: the inputs of an ONNX model"):
        at.convert(tmp_path / "in", to="onnx_adapter", out=out, dtype="bfloat16")
    with pytest.raises(Unsupported, match="has no option arch"):
        at.convert(tmp_path / "in", to="onnx_adapter", out=out, options={"arch": "llama"})
    monkeypatch.setattr(_onnx_adapter_file, "MOST", 200)
    with pytest.raises(Unsupported, match="of at most 2 GiB"):
        at.convert(tmp_path / "in", to="onnx_adapter", out=out)
    tiny.set_tensors(
        tmp_path / "in", lambda held: {n: t.astype("float64") for n, t in held.items()}
    )
    with pytest.raises(Unsupported, match="float64"):
        at.convert(tmp_path / "in", to="onnx_adapter", out=out)
    made(llama(), tmp_path / "embed", target_modules=["embed_tokens"])
    done = run("convert", tmp_path / "embed", "--to", "onnx_adapter", "--out", out)
    assert (done.code, "cannot hold factors of embeddings" in done.err) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embed", "in"]
