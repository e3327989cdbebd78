"""What PEFT says of a method's update and of a LoRA that was written of it, in float64."""

from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from adaptertools.methods._lora_forms import LORA_FORMS
from tests import kit
from tests.cases_methods import MethodCase, every
from tests.cases_recipe import quiet

torch.set_num_threads(1)

CASES = {name: case for name, case in every().items() if len(case.loras) == 1}
NEVER = [n for n, c in CASES.items() if LORA_FORMS[c.peft_types[0]].startswith("no: ")]
# Of each method and kind of module the first case, and those whose maths has ways of its own.
OWN = ("bat", "qr", "removed", "GS", "orthogonal", "pissa", "half", "regex", "fed", "vector")
KINDS = {" ".join(name.split()[:2]): name for name in reversed(CASES)}
SOME = [n for n in CASES if n not in NEVER and (n in KINDS.values() or n.endswith(OWN))]
FIRST = [*{CASES[n].peft_types[0]: n for n in reversed(SOME)}.values()]
RANK = 3


def updates(case: MethodCase, folder: Path) -> dict[str, np.ndarray]:
    """Give what PEFT's merge adds to each tensor, in float64."""
    base = {name: tensor.double() for name, tensor in kit.read(folder / "base").items()}
    found = {n: (t - base[n]).numpy() for n, t in kit.reference(case, folder).items() if n in base}
    return {name: change for name, change in found.items() if change.any()}


def written(case: MethodCase, folder: Path, out: Path) -> dict[str, np.ndarray]:
    """Give what PEFT's merge of the written LoRA adds to each tensor, in float64."""
    base = case.load_base(folder, torch.float64)
    before = {name: tensor.clone() for name, tensor in kit.saved_tensors(base).items()}
    with quiet():
        merged = PeftModel.from_pretrained(base, out).double().merge_and_unload()
    after = kit.saved_tensors(merged)
    found = {n: (after[n].double() - t).numpy() for n, t in before.items() if n in after}
    return {name: change for name, change in found.items() if change.any()}


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def optimum(change: np.ndarray, rank: int) -> float:
    """Give the least relative error of any matrix of a rank."""
    values = np.linalg.svd(change.reshape(len(change), -1), compute_uv=False)
    return float((values[rank:] ** 2).sum() ** 0.5 / np.linalg.norm(values))
