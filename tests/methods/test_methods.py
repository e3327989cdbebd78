"""Every method but LoRA, on every kind of module that PEFT has it for, against PEFT in float64."""

from pathlib import Path

import pytest
import torch

import adaptertools as at
from adaptertools import plugins
from tests import kit
from tests.cases_methods import MethodCase, every

torch.set_num_threads(1)

CASES = every()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def merged(case: MethodCase, folder: Path) -> Path:
    """Merge all adapters of a case."""
    paths = [str(path) for path in case.adapters(folder)]
    at.merge(paths, base=str(folder / "base"), out=str(folder / "out"), **case.merge_options)
    return folder / "out"


@every_dtype
@every_case
def test_merge_is_what_peft_computes(case: MethodCase, dtype: torch.dtype, tmp_path: Path) -> None:
    case.build(tmp_path, dtype)
    expected, base = kit.reference(case, tmp_path), kit.read(tmp_path / "base")
    out = merged(case, tmp_path)
    rounded = {name: kit.rounded_once(tensor, dtype) for name, tensor in expected.items()}
    changed = [name for name, tensor in base.items() if not torch.equal(rounded[name], tensor)]
    assert len(changed) >= len(case.loras), "the adapter changes nothing"
    ours = kit.renamed(kit.read(out), expected, kit.base_prefix(tmp_path / "base"))
    if case.tolerance is None:
        kit.assert_within_one_ulp(ours, expected, dtype)
    else:
        kit.assert_close(ours, expected, dtype, case.tolerance)
    report = at.verify(out)
    assert not [f for f in report.findings if f.level == "error"]


def test_every_method_has_a_case() -> None:
    files = {name.upper() for name in plugins.names("methods")} - {"LORA"}
    assert files == {kind for case in CASES.values() for kind in case.peft_types}
