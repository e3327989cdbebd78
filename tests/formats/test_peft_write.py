"""The written file is safetensors' and PEFT's: names, padding, exact targets and ranks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.numpy import load_file

from adaptertools import errors
from adaptertools.formats._peft_write import Writer, config_text, exact_targets, key, plain_config
from adaptertools.tensorfile import read_header

NAMES = st.lists(st.sampled_from(["a", "b", "q", "1", "11", "x_q"]), min_size=2, max_size=4)
MODULES = st.lists(NAMES.map(".".join), min_size=1, max_size=8, unique=True)


def test_a_file_whose_ranks_were_not_known_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    values = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones((2, 2))}
    with Writer(path, [("a", "F64", (2000, 3)), ("b", "F64", (2, 2000)), ("c", "F64", (9,))]) as w:
        for name, array in values.items():
            w.add(name, "F64", array)
    for name, array in load_file(path).items():
        assert np.array_equal(array, values[name])
    assert [*read_header(path).tensors] == ["a", "b"]
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_nothing_is_finished_where_writing_failed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(AttributeError), Writer(path, [("a", "F64", (2,))]) as writer:
        writer.add("a", "F64", None)
    with pytest.raises(errors.Unreadable):
        read_header(path)


def test_names_are_pefts() -> None:
    assert key("a.q", "lora_A") == "base_model.model.a.q.lora_A.weight"
    assert key("a.q", "lora_B.bias") == "base_model.model.a.q.lora_B.bias"
    assert key("wte", "lora_embedding_B") == "base_model.model.wte.lora_embedding_B"
    nested = key("mha.out_proj", "lora_A", nested=True)
    assert nested == "base_model.model.mha.base_layer.out_proj.lora_A.weight"


@given(modules=MODULES, ranks=st.lists(st.integers(1, 4), min_size=8, max_size=8))
def test_peft_reads_the_rank_of_every_module(modules: list[str], ranks: list[int]) -> None:
    wanted = dict(zip(modules, ranks, strict=False))
    try:
        config = json.loads(config_text(plain_config(wanted, sorted(wanted))))
    except errors.Unsupported:
        ends = [m for m in modules if any(o != m and o.endswith(f".{m}") for o in modules)]
        assert ends, "only a name that is the end of another cannot be told from it"
        return
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert config["r"] == max(wanted.values())
    for module, rank in wanted.items():
        found = get_pattern_key(config["rank_pattern"].keys(), module)
        assert config["rank_pattern"].get(found, config["r"]) == rank


@given(modules=MODULES, cut=st.integers(0, 7), short=st.booleans())
def test_targets_are_the_adapted_modules_and_no_others(
    modules: list[str], cut: int, short: bool
) -> None:
    adapted = modules[: cut % len(modules) + 1]
    last = sorted({m.rpartition(".")[2] for m in modules})
    made = exact_targets(adapted, [last if short else None], modules)
    hit = {m for m in modules if any(re.fullmatch(rf"(.*\.)?{re.escape(t)}", m) for t in made)}
    beyond = {m for m in hit - set(adapted) if any(m.endswith(f".{a}") for a in adapted)}
    assert hit - beyond == set(adapted)
    if short and set(adapted) == set(modules):
        assert set(made) <= set(last)
