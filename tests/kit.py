"""Oracle kit: tiny bases with PEFT-made adapters, PEFT's own result in float64, exact comparison.

case = CASES["linear_llama"]
case.build(folder, torch.bfloat16)              # writes folder/base and folder/adapter
expected = reference(case, folder)              # float64, by the names of the base's files
assert_within_one_ulp(read(folder / "out"), expected, torch.bfloat16)
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from tests.cases_plain import PLAIN
from tests.cases_real import REAL as REAL_CASES
from tests.cases_recipe import INPUTS, Case, Tensors, quiet
from tests.cases_saved import WHOLE
from tests.cases_tied import TIED
from tests.cases_variants import VARIANTS

CASES: dict[str, Case] = {case.name: case for case in (*PLAIN, *VARIANTS, *WHOLE, *TIED)}
REAL: dict[str, Case] = {case.name: case for case in REAL_CASES}

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def read(folder: Path) -> Tensors:
    """Read all safetensors files of a checkpoint."""
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        part = load_file(path)
        assert not tensors.keys() & part.keys(), f"{path.name} repeats tensors of another shard"
        tensors |= part
    return tensors


def reference(case: Case, folder: Path) -> Tensors:
    """Merge with PEFT in float64; what its model class does not load stays as it is in the base."""
    base = {name: tensor.double() for name, tensor in read(folder / "base").items()}
    with quiet():
        model = case.load_peft(folder)
        assert all(p.dtype == torch.float64 for p in model.parameters()), "PEFT left float64"
        merged = model.merge_and_unload()
        result = saved_tensors(merged)
    return base | renamed(result, base, base_prefix(folder / "base"))


def saved_tensors(model: nn.Module) -> Tensors:
    """Return a model's tensors under the names that its checkpoint would have."""
    if not hasattr(model, "save_pretrained"):
        return dict(model.state_dict())
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return read(Path(folder))


def renamed(tensors: Tensors, names: Any, prefix: str) -> Tensors:
    """Rename tensors to those of `names` that differ by the prefix of the base model only."""

    def name_of(name: str) -> str:
        spellings = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))
        return next((spelling for spelling in spellings if spelling in names), name)

    return {name_of(name): tensor for name, tensor in tensors.items()}


def base_prefix(folder: Path) -> str:
    """Return the prefix that a checkpoint's model class puts before its body, such as `bert`."""
    config = json.loads((folder / "config.json").read_text())
    cls = getattr(transformers, config["architectures"][0], None)
    return getattr(cls, "base_model_prefix", "")


def ulp_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Count the representable values between a and b, both of the same floating-point type."""
    assert a.dtype == b.dtype, f"{a.dtype} is compared with {b.dtype}"
    return (_rank(a) - _rank(b)).abs()


def rounded_once(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 values to `dtype`; torch goes through float32, so that step rounds to odd."""
    single = exact.float()
    if dtype == torch.float32:
        return single
    beyond = single.double().abs() > exact.abs()
    inexact = single.double() != exact
    odd = (single.view(torch.int32) - beyond.int()) | inexact.int()
    return torch.where(exact.isfinite(), odd.view(torch.float32), single).to(dtype)


def _rank(values: torch.Tensor) -> torch.Tensor:
    """Number the floats in their order; both zeros are 0."""
    kind = BITS[values.dtype]
    bits = values.contiguous().view(kind).long()
    return torch.where(bits < 0, torch.iinfo(kind).min - bits, bits)


def assert_within_one_ulp(ours: Tensors, expected: Tensors, dtype: torch.dtype) -> None:
    """Fail unless names, shapes and types agree, and elements are at most one step off."""
    check_names(ours, expected)
    failures = [
        message
        for name in sorted(expected)
        if (message := _compare(name, ours[name], expected[name], dtype))
    ]
    assert not failures, "\n".join(
        [f"{len(failures)} of {len(expected)} tensors differ:", *failures]
    )


def check_names(ours: Tensors, expected: Tensors) -> None:
    """Fail unless both hold the same names, and name the others."""
    missing, extra = sorted(expected.keys() - ours.keys()), sorted(ours.keys() - expected.keys())
    assert (missing, extra) == ([], []), f"missing tensors: {missing}; extra tensors: {extra}"


def _compare(
    name: str, ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype
) -> str | None:
    found, wanted = (ours.dtype, tuple(ours.shape)), (dtype, tuple(expected.shape))
    if found != wanted:
        return f"{name}: stored as {found}, expected {wanted}"
    if not (expected.isfinite().all() and ours.isfinite().all()):
        return f"{name}: holds values that are not finite"
    rounded = rounded_once(expected, dtype)
    if torch.equal(ours, rounded):
        return None
    distance = ulp_distance(ours, rounded)
    if distance.max() <= 1:
        return None
    at = tuple(int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
    return (
        f"{name}{list(at)}: {ours[at].item()!r} is {distance[at]} ulp from {rounded[at].item()!r},"
        f" exactly {expected[at].item()!r};"
        f" {int((distance > 1).sum())} of {distance.numel()} elements are wrong"
    )


def assert_close(ours: Tensors, expected: Tensors, dtype: torch.dtype, tolerance: float) -> None:
    """Compare where the oracle is inexact: errors relative to each tensor's largest value."""
    check_names(ours, expected)
    for name, tensor in expected.items():
        assert ours[name].dtype == dtype, f"{name}: stored as {ours[name].dtype}, expected {dtype}"
        bound = (tolerance + torch.finfo(dtype).eps) * tensor.abs().max().item()
        worst = (ours[name].double() - tensor).abs().max().item()
        assert worst <= bound, f"{name}: an element is off by {worst:.3g}, allowed are {bound:.3g}"


def unmerged_logits(case: Case, folder: Path) -> torch.Tensor:
    """Run PEFT's unmerged model in float64."""
    with quiet():
        return forward_logits(case.load_peft(folder))


def merged_logits(case: Case, folder: Path) -> torch.Tensor:
    """Run a merged checkpoint in float64, loaded as anyone would load it."""
    with quiet():
        return forward_logits(case.auto.from_pretrained(folder, dtype=torch.float64).eval())


def loading_info(case: Case, folder: Path, **options: Any) -> dict[str, set[str]]:
    """Load a checkpoint and return which keys were missing, unexpected, or of another shape."""
    with quiet():
        model, info = case.auto.from_pretrained(folder, output_loading_info=True, **options)
    prefix = f"{model.base_model_prefix}."
    return {kind: {str(key).removeprefix(prefix) for key in keys} for kind, keys in info.items()}


def forward_logits(model: nn.Module) -> torch.Tensor:
    """Return the logits, or the hidden states of a model without head."""
    inputs = {name: torch.tensor(values) for name, values in INPUTS.items()}
    with torch.no_grad():
        output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


def assert_same_logits(
    ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype, tolerance: float | None = None
) -> None:
    """Compare logits; what rounding the stored weights once may move them is allowed."""
    assert ours.shape == expected.shape, f"{tuple(ours.shape)} logits, not {tuple(expected.shape)}"
    relative = max(tolerance or 0, {torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype])
    bound = relative * expected.abs().max().item()
    worst = (ours - expected).abs().max().item()
    assert worst <= bound, f"logits are off by {worst:.3g}; rounding explains at most {bound:.3g}"
