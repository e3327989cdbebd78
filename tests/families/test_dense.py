"""LoRA on all linear layers of every family without experts: equal to PEFT's merge.

PEFT merges in float64 and saves with transformers, which is asked for the layout that the base has.
"""

from __future__ import annotations

import pytest
import torch

from . import made as judge
from .made import Made
from .seeing import SEEING
from .text import TEXT

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=judge.rows((*TEXT, *SEEING), torch.float32))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return judge.make(request.param, tmp_path_factory.mktemp("family"))


def test_every_tensor_is_what_peft_computes(made: Made) -> None:
    judge.equals_peft(made)


def test_the_layout_on_disk_stays(made: Made) -> None:
    judge.keeps_the_layout(made)


def test_it_loads_completely_and_runs_as_the_adapter_does(made: Made) -> None:
    judge.runs_alike(made)


def test_verify_finds_every_edit_right_and_one_wrong_element(made: Made) -> None:
    judge.verifies(made)
