"""Methods that multiply or replace the weight: what does not fit is refused in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsupported
from tests import handmade

Q = f"{handmade.START}model.layers.0.self_attn.q_proj"
noise = handmade.noise

WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[AdapterToolsError], str]] = {
    "ia3 of another width": (
        {"peft_type": "IA3", "feedforward_modules": []}, {"ia3_l": noise(9, 1)},
        Mismatch, r"ia3_l is \[9, 1\]",
    ),
    "beft without a bias": (
        {"peft_type": "BEFT"}, {"beft_bias": noise(1, 8)}, Mismatch, "no bias there to add it to",
    ),
    "oft before 0.14": (
        {"peft_type": "OFT"}, {"oft_R.weight": noise(2, 6)}, Unsupported, "has no oft_block_size",
    ),
    "oft before 0.16": (
        {"peft_type": "OFT", "oft_block_size": 4}, {"oft_r": noise(2, 4, 4), "oft_s": noise(8, 1)},
        Unsupported, "has an oft_r or oft_s",
    ),
    "oft of another width": (
        {"peft_type": "OFT", "oft_block_size": 4}, {"oft_R.weight": noise(3, 6)},
        Mismatch, "no blocks of the 8 inputs",
    ),
    "oft of no triangle": (
        {"peft_type": "OFT", "oft_block_size": 4}, {"oft_R.weight": noise(2, 5)},
        Mismatch, "no blocks of the 8 inputs",
    ),
    "boft of another width": (
        {"peft_type": "BOFT"}, {"boft_R": noise(1, 3, 4, 4), "boft_s": noise(8, 1)},
        Mismatch, "no blocks of the 8 inputs",
    ),
    "boft without s": (
        {"peft_type": "BOFT"}, {"boft_R": noise(1, 2, 4, 4)}, Unreadable, "has no boft_s",
    ),
    "hra of another width": (
        {"peft_type": "HRA"}, {"hra_u": noise(7, 2)}, Mismatch, r"hra_u is \[7, 2\]",
    ),
    "road of an odd group": (
        {"peft_type": "ROAD", "group_size": 3},
        {"road_theta": noise(4), "road_alpha": noise(4)}, Unsupported, "group_size is 3",
    ),
    "road of another variant": (
        {"peft_type": "ROAD", "variant": "road_3"},
        {"road_theta": noise(4), "road_alpha": noise(4)}, Unsupported, "variant is road_3",
    ),
    "road of too large a group": (
        {"peft_type": "ROAD"}, {"road_theta": noise(4), "road_alpha": noise(4)},
        Mismatch, "has 8 outputs, which are no groups of 64",
    ),
    "road of another length": (
        {"peft_type": "ROAD", "group_size": 4}, {"road_theta": noise(4), "road_alpha": noise(8)},
        Mismatch, r"road_alpha is \[8\]",
    ),
    "hira without B": ({"peft_type": "HIRA"}, {"hira_A": noise(2, 8)}, Unreadable, "has no hira_B"),
    "hira of another width": (
        {"peft_type": "HIRA"}, {"hira_A": noise(2, 7), "hira_B": noise(8, 2)},
        Mismatch, "the update is 8×7, the weight is 8×8",
    ),
    "hira of two ranks": (
        {"peft_type": "HIRA"}, {"hira_A": noise(2, 8), "hira_B": noise(8, 3)},
        Mismatch, r"hira_B is \[8, 3\]",
    ),
    "glora with a bias path": (
        {"peft_type": "GLORA"},
        {"glora_A.X": noise(1), "glora_B.X": noise(1), "glora_C.X": noise(8, 1),
         "glora_D.X": noise(1), "glora_E.X": noise(1)},
        Mismatch, "has a glora_C, and the base has no bias there",
    ),
    "glora without E": (
        {"peft_type": "GLORA"},
        {f"glora_{x}.zeros": np.zeros((8, 8), "f4") for x in "ABCD"}, Unreadable, "has no glora_E",
    ),
    "glora of zeros that are none": (
        {"peft_type": "GLORA"}, {"glora_A.zeros": noise(8, 8)}, Unsupported, "is not zero",
    ),
    "deft of an unknown way": (
        {"peft_type": "DEFT", "decomposition_method": "svd"}, {"deft_P": noise(8, 2)},
        Unsupported, "decomposition_method is svd",
    ),
    "deft without R": (
        {"peft_type": "DEFT"}, {"deft_P": noise(8, 2)}, Unreadable, "has no deft_R",
    ),
    "peanut of an unknown act": (
        {"peft_type": "PEANUT", "act_fn": "xielu"},
        {"peanut_A.weight": noise(2, 8), "peanut_B.weight": noise(8, 2)},
        Unsupported, "act_fn is xielu",
    ),
    "peanut of another depth": (
        {"peft_type": "PEANUT", "depth": 0},
        {"peanut_A.weight": noise(2, 8), "peanut_B.weight": noise(8, 2),
         "peanut_encoders.0.weight": noise(2, 2), "peanut_decoders.0.weight": noise(2, 2)},
        Unreadable, "2 more layers than the depth of 0",
    ),
    "a tensor nobody knows": (
        {"peft_type": "HRA"}, {"hra_u": noise(8, 2), "hra_v": noise(8, 2)},
        Unsupported, "HRA has no tensor of that name",
    ),
    "codes for floats": (
        {"peft_type": "HRA"}, {"hra_u": noise(8, 2).astype("i4")}, Unsupported, "stored as I32",
    ),
}  # fmt: skip


def refused(folder: Path, error: type[AdapterToolsError], words: str) -> None:
    """Hold that a merge is refused in these words, and leaves nothing."""
    with pytest.raises(error, match=words):
        at.merge(str(folder / "adapter"), base=str(folder / "base"), out=str(folder / "out"))
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    config, tensors, error, words = WRONG[name]
    handmade.base(tmp_path / "base")
    handmade.adapter(
        tmp_path / "adapter", {f"{Q}.{n}": t for n, t in tensors.items()}, r=None, lora_alpha=None,
        **config,
    )  # fmt: skip
    refused(tmp_path, error, words)
