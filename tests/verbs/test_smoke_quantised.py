"""smoke and models in 4 and 8 bit: as they lie on disk, made at load, damaged, or not to be run."""

import pytest
from safetensors.torch import load_file

import adaptertools as at
from adaptertools.errors import Unreadable, Unsupported
from tests.tiny_smoke import Street, ask, bitsandbytes, codes, fold, make, stored, tune

pytestmark = bitsandbytes


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return Street(tmp_path_factory.mktemp("smoke"))


def test_dora_beside_a_quantised_base(street: Street) -> None:
    base, _, _ = street("llama")
    adapter = tune("llama", base, street.folder / "dora", use_dora=True, seed=7)
    merged = fold("llama", base, adapter, street.folder / "dora-merged")
    found = ask(merged, adapter, base=base, quant="4bit")
    assert found.verdict == "adapter"
    assert found.share.value == pytest.approx(1, abs=0.1)
    with pytest.raises(Unsupported, match="DoRA"):
        at.smoke(merged, adapters=[adapter], base=base, quant="8bit")


def test_models_that_are_quantised_on_disk(street: Street) -> None:
    base, adapter, merged = street("llama")
    packed = stored("llama", merged, street.folder / "nf4")
    found = ask(packed, adapter, base=base)
    assert found.verdict == "adapter"
    assert [row.loaded for row in found.rows] == [
        "nf4 made at load, float32", "nf4 made at load, float32", "nf4 as stored, float32",
    ]  # fmt: skip
    again = ask(packed, adapter, base=base, quant="none")
    assert [row.loaded.split()[0].rstrip(",") for row in again.rows] == ["float32"] * 2 + ["nf4"]
    below = ask(
        merged, adapter, base=stored("llama", base, street.folder / "nf4-base"), quant="8bit"
    )
    assert {row.name: row.loaded for row in below.rows}["base"] == "nf4 as stored, float32"
    assert "SMK032" in codes(below)
    assert (
        ask(stored("llama", base, street.folder / "nf4-again"), adapter, base=base).verdict
        == "base"
    )


def test_files_damaged_by_repacking_are_refused(street: Street) -> None:
    base, _, _ = street("llama")
    damaged = stored("llama", base, street.folder / "damaged", after_forward=True)
    shapes = {t.dim() for n, t in load_file(damaged / "model.safetensors").items() if "absmax" in n}
    if shapes == {1}:
        pytest.skip("this processor does not make bitsandbytes repack weights")
    with pytest.raises(Unreadable, match="saved after bitsandbytes had repacked it"):
        at.smoke(damaged)


def test_ragged_layers_are_refused_in_4_bit_where_they_would_fail(street: Street) -> None:
    from bitsandbytes.functional import has_avx512bf16

    ragged = make("llama", street.folder / "ragged", intermediate_size=100)
    assert ask(ragged, quant="8bit").ok
    if not has_avx512bf16():
        assert ask(ragged, quant="4bit").ok
        return
    with pytest.raises(Unsupported, match=r"gate_proj and 5 more \(64 to 100\) in 4") as refused:
        at.smoke(ragged, quant="4bit")
    assert "--quant 8bit" in str(refused.value)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_merge_in_4_bit_survives_by_its_rounding(kind: str, street: Street) -> None:
    folder = street.folder / f"rounded-{kind}"
    base = make(kind, folder / "made")
    packed = stored(kind, base, folder / "base")
    adapter = tune(kind, packed, folder / "adapter", size=0.01, on=base)
    at.merge(adapter, base=packed, out=folder / "kept")
    found = ask(folder / "kept")
    assert (found.ok, found.verdict) == (True, "adapter")
    assert [row.loaded for row in found.rows] == ["nf4 as stored, float32"] * 3
    at.merge(adapter, base=packed, out=folder / "lost", rounding="nearest", force=True)
    found = ask(folder / "lost")
    assert (found.ok, found.verdict) == (False, "base")
    assert found.share.value < 0.1
    at.merge(adapter, base=base, out=folder / "once", quant="8bit")
    found = ask(folder / "once")
    assert (found.ok, found.verdict) == (True, "adapter")
    assert [row.loaded.partition(",")[0] for row in found.rows] == [
        "int8 made at load", "int8 made at load", "int8 as stored",
    ]  # fmt: skip
