"""How exact a merge says it is, against torch in float64; and the range that it keeps to."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools import rounding
from tests import kit
from tests import tiny_llama as tiny
from tests.kit import CASES
from tests.tiny_llama import Tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
# One case per kind of update.
KINDS = (
    "linear_llama",
    "conv1d_gpt2",
    "conv2d_3x3",
    "dora_linear",
    "dora_gpt2",
    "lora_bias",
    "tokens",
    "two_scaled",
    "one_scaled",
)


def said(out: Path) -> dict[str, dict[str, Any]]:
    """What the receipt says of each tensor that got an update."""
    edits = json.loads((out / "adaptertools.json").read_text())["edits"]
    return {edit["tensor"]: edit["rounding"] for edit in edits if edit["updates"]}


def check(told: dict[str, Any], base: torch.Tensor, stored: torch.Tensor, exact: Any) -> None:
    """Hold the figures of one tensor against the files; `exact` is float64."""
    error = (stored.double() - exact).abs()
    assert told["max_error"] == pytest.approx(error.max().item(), rel=1e-3)
    assert told["mean_error"] == pytest.approx(error.mean().item(), rel=1e-3)
    assert told["swallowed"] == pytest.approx((stored == base).double().mean().item())
    moved = (exact - base.double()).norm() / base.double().norm()
    assert told["update_norm"] == pytest.approx(moved.item(), rel=1e-4)
    assert told["measured"] == base.numel()


@every_dtype
@pytest.mark.parametrize("name", KINDS)
def test_figures_are_those_of_the_files(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    CASES[name].build(tmp_path, dtype)
    exact = kit.reference(CASES[name], tmp_path)
    out = tiny.merge_case(CASES[name], tmp_path)
    base, stored, told = kit.read(tmp_path / "base"), kit.read(out), said(out)
    assert told
    for tensor, figures in told.items():
        check(figures, base[tensor], stored[tensor], exact[tensor])


def small_update(folder: Path, share: float) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Merge a LoRA of a given size into a base in bfloat16."""
    tensors = tiny.llama(dtype=torch.bfloat16)
    base = tiny.save_base(folder / "base", tensors)
    pairs = tiny.factors(tensors, tiny.linears(tensors), share=share)
    adapter = tiny.save_lora(folder / "adapter", base, pairs)
    at.merge(adapter, base=base, out=folder / "out")
    return folder / "out", said(folder / "out")


@pytest.mark.parametrize(
    ("share", "least", "most"), [(1e-4, 0.9, 1), (1e-3, 0.5, 0.99), (1, 0, 0.05)]
)
def test_small_updates_are_said_to_be_swallowed(
    share: float, least: float, most: float, tmp_path: Path
) -> None:
    out, told = small_update(tmp_path, share)
    base, stored = tiny.read(tmp_path / "base"), tiny.read(out)
    for tensor, figures in told.items():
        same = (stored[tensor] == base[tensor]).double().mean().item()
        assert figures["swallowed"] == pytest.approx(same)
        assert least <= same <= most
        assert figures["update_norm"] == pytest.approx(share, rel=1e-3)


def test_an_update_of_zero_swallows_nothing(tmp_path: Path) -> None:
    _, told = small_update(tmp_path, 0)
    for figures in told.values():
        assert (figures["swallowed"], figures["update_norm"], figures["max_error"]) == (0, 0, 0)


def test_large_tensors_are_sampled_evenly(tmp_path: Path) -> None:
    weight = tiny.noise(2048, 2048, seed=0)
    name = "model.layers.0.mlp.down_proj"
    base = tiny.save_base(tmp_path / "base", {f"{name}.weight": weight})
    pairs = tiny.factors({f"{name}.weight": weight}, [name], rank=2)
    adapter = tiny.save_lora(tmp_path / "adapter", base, pairs)
    at.merge(adapter, base=base, out=tmp_path / "out")
    told = said(tmp_path / "out")[f"{name}.weight"]
    assert rounding.SAMPLED <= told["measured"] < weight.numel()
    a, b = (factor.double() for factor in pairs[name])
    exact, stored = weight.double() + b @ a, tiny.read(tmp_path / "out")[f"{name}.weight"]
    error = (stored.double() - exact).abs()
    assert told["mean_error"] == pytest.approx(error.mean().item(), rel=0.02)
    assert told["max_error"] <= error.max().item() * (1 + 1e-6)
    assert told["update_norm"] == pytest.approx(((b @ a).norm() / weight.norm()).item(), rel=0.02)


def test_the_report_sums_up(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, torch.bfloat16)
    facts = at.merge(adapter, base=base, out=tmp_path / "out").facts
    told = said(tmp_path / "out").values()
    assert facts["max_error"] == max(figures["max_error"] for figures in told)
    assert facts["swallowed"] == max(figures["swallowed"] for figures in told)
    assert facts["update_norm"]["max"] == max(figures["update_norm"] for figures in told)
    assert {r.pop("tensor"): r for r in facts["rounding"]} == said(tmp_path / "out")


WIDE = "model.layers.0.self_attn.q_proj"


def out_of_range(folder: Path) -> tuple[Path, Path, Tensors]:
    """A base in float16 whose largest value is near its end, and an update that crosses it."""
    tensors = tiny.llama(layers=1, dtype=torch.float16)
    tensors[f"{WIDE}.weight"][3, 5] = 65000
    base = tiny.save_base(folder / "base", tensors)
    pairs = {WIDE: (torch.ones(1, 32), torch.full((32, 1), 1000.0))}
    return base, tiny.save_lora(folder / "adapter", base, pairs), tensors


def refused(folder: Path, adapter: Path, base: Path, match: str, **options: Any) -> None:
    before = tiny.contents(folder)
    with pytest.raises(at.errors.Unsupported, match=match):
        at.merge(adapter, base=base, out=folder / "out", **options)
    assert tiny.contents(folder) == before
    assert not list(folder.glob("out*"))


def test_leaving_the_range_of_float16_is_refused(tmp_path: Path) -> None:
    base, adapter, _ = out_of_range(tmp_path)
    refused(tmp_path, adapter, base, rf"{WIDE}\.weight: .*F16")


def test_leaving_the_range_is_written_where_asked(tmp_path: Path) -> None:
    base, adapter, tensors = out_of_range(tmp_path)
    at.merge(adapter, base=base, out=tmp_path / "out", allow_nonfinite=True)
    stored = tiny.read(tmp_path / "out")[f"{WIDE}.weight"]
    assert torch.equal(stored, (tensors[f"{WIDE}.weight"].float() + 1000).half())
    assert stored.isinf().sum() == 1


def test_a_dtype_too_narrow_for_an_untouched_tensor_is_refused(tmp_path: Path) -> None:
    tensors = tiny.llama(layers=1, dtype=torch.bfloat16)
    tensors["model.norm.weight"][7] = 70000
    base = tiny.save_base(tmp_path / "base", tensors)
    adapter = tiny.save_lora(tmp_path / "adapter", base, tiny.factors(tensors, [WIDE]))
    refused(tmp_path, adapter, base, r"model\.norm\.weight: .*F16", dtype="float16")


def test_a_value_at_the_end_of_the_range_stays(tmp_path: Path) -> None:
    tensors = tiny.llama(layers=1, dtype=torch.float16)
    tensors[f"{WIDE}.weight"][3, 5] = 65504
    base = tiny.save_base(tmp_path / "base", tensors)
    pairs = {WIDE: (torch.ones(1, 32), torch.full((32, 1), 15.0))}
    at.merge(tiny.save_lora(tmp_path / "adapter", base, pairs), base=base, out=tmp_path / "out")
    assert tiny.read(tmp_path / "out")[f"{WIDE}.weight"][3, 5] == 65504


def broken_base(folder: Path) -> tuple[Path, Path]:
    """A base with a NaN in a weight that the adapter changes."""
    tensors = tiny.llama(layers=1)
    tensors[f"{WIDE}.weight"][3, 5] = torch.nan
    base = tiny.save_base(folder / "base", tensors)
    sound = tiny.llama(layers=1)
    return base, tiny.save_lora(folder / "adapter", base, tiny.factors(sound, [WIDE]))


def test_a_base_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    base, adapter = broken_base(tmp_path)
    refused(tmp_path, adapter, base, rf"{WIDE}\.weight: .*not finite")


def test_what_was_allowed_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    base, adapter, _ = out_of_range(tmp_path)
    at.merge(adapter, base=base, out=tmp_path / "out", allow_nonfinite=True, verify=True)


NOT_FINITE = {"nan": torch.nan, "inf": torch.inf}
BROKEN = [
    pytest.param("linear_llama", "nan"),
    pytest.param("dora_linear", "nan"),
    pytest.param("dora_linear", "inf"),
    pytest.param("dora_gpt2", "nan"),
    pytest.param("dora_gpt2", "inf"),
    pytest.param("tokens", "inf"),
    pytest.param("kasa", "nan"),
]


def broken_case(folder: Path, name: str, value: str) -> str:
    """Build a case whose base is not finite in a weight that is changed; gives the weight."""
    CASES[name].build(folder, torch.float32)
    path = folder / "base" / "model.safetensors"
    tensors = load_file(path)
    wanted = "embed_tokens.weight" if name == "tokens" else ("q_proj.weight", "c_attn.weight")
    weight = next(n for n in tensors if n.endswith(wanted))
    tensors[weight][2, 3] = NOT_FINITE[value]
    save_file(tensors, path, {"format": "pt"})
    return weight


@pytest.mark.parametrize(("name", "value"), BROKEN)
def test_every_kind_of_update_minds_what_is_not_finite(
    name: str, value: str, tmp_path: Path
) -> None:
    weight = broken_case(tmp_path, name, value)
    with pytest.raises(at.errors.AdapterToolsError, match=weight):
        tiny.merge_case(CASES[name], tmp_path)
    assert not list(tmp_path.glob("out*"))
    out = tiny.merge_case(CASES[name], tmp_path, allow_nonfinite=True)
    assert not tiny.read(out)[weight].isfinite().all()
    assert at.verify(out).ok


def test_the_receipt_is_json_also_with_infinities(tmp_path: Path) -> None:
    def never(name: str) -> None:
        raise AssertionError(name)

    base, adapter, _ = out_of_range(tmp_path)
    at.merge(adapter, base=base, out=tmp_path / "out", allow_nonfinite=True)
    json.loads((tmp_path / "out" / "adaptertools.json").read_text(), parse_constant=never)
