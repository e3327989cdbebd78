"""smoke: right merges pass, wrong ones do not, quantised or not, whatever kind of model it is."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import Mismatch, Unreadable, Unsupported
from adaptertools.verbs import _smoke_load
from adaptertools.verbs.smoke import Smoke
from tests.tiny_smoke import MODELS, fold, make, quiet, stored, tune

bitsandbytes = pytest.mark.skipif(
    not _smoke_load.find_spec("bitsandbytes"), reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def street(folder: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """Give base, adapter and merged model of a kind, each made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def give(kind: str, factor: float = 1) -> tuple[Path, Path, Path]:
        if kind not in made:
            base = make(kind, folder / kind / "base", words=kind == "llama")
            made[kind] = base, tune(kind, base, folder / kind / "adapter")
        merged = folder / kind / f"times{factor:g}"
        if not merged.exists():
            fold(kind, *made[kind], merged, factor=factor)
        return *made[kind], merged

    return give


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("smoke used the network")

    monkeypatch.setattr(socket.socket, "connect", never)


def ask(thing: Path, *adapters: Path, **options: Any) -> Smoke:
    """Run smoke on little text, and hold what it gives against its schema."""
    found = at.smoke(thing, adapters=adapters, max_new_tokens=5, **options)
    schema.check("smoke", json.loads(json.dumps(found.as_json(), allow_nan=False)))
    return found


def codes(found: Smoke) -> set[str]:
    return {finding.code for finding in found.findings} - {"SMK030"}


QUANTS = [
    "none",
    pytest.param("4bit", marks=bitsandbytes),
    pytest.param("8bit", marks=bitsandbytes),
]
WRONG = {0: ("base", "SMK010"), 2: ("twice", "SMK011"), -1: ("opposite", "SMK012")}


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_right_merge_follows_the_adapter(kind: str, quant: str, street: Any) -> None:
    base, adapter, merged = street(kind)
    found = ask(merged, adapter, base=base, quant=quant)
    assert (found.ok, found.verdict, found.share.nearest) == (True, "adapter", "adapter")
    assert found.share.value == pytest.approx(1, abs=1e-4 if quant == "none" else 0.3)
    assert [row.name for row in found.rows] == ["base", "adapter", "merged"]
    assert len({row.loaded for row in found.rows}) == 1
    assert (quant == "none") == (found.rows[0].loaded == "float32")
    near, far = found.pairs[:2]
    assert (near.one, near.other, far.other) == ("adapter", "merged", "base")
    if quant != "4bit":
        assert near.kl < far.kl / 50
        assert near.top1 > far.top1


@pytest.mark.parametrize("factor", WRONG)
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_wrong_merge_does_not(kind: str, quant: str, factor: float, street: Any) -> None:
    base, adapter, merged = street(kind, factor)
    found = ask(merged, adapter, base=base, quant=quant)
    verdict, code = WRONG[factor]
    assert (found.ok, found.verdict) == (False, verdict)
    assert code in codes(found)


OTHERS = sorted(MODELS.keys() - {"llama", "opt"})


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("factor", [1, 0, 2])
def test_classifiers_encoders_and_the_others(kind: str, factor: float, street: Any) -> None:
    base, adapter, merged = street(kind, factor)
    found = ask(merged, adapter, base=base)
    assert found.ok == (factor == 1)
    # Heads that were trained whole are in the merged model whatever became of the update.
    nothing = "part" if kind in ("classifier", "tagger", "reader") else "base"
    assert found.verdict == {1: "adapter", 0: nothing, 2: "twice"}[factor]
    assert all((row.perplexity is None) == (kind != "t5") for row in found.rows)
    assert all((pair.kl is None) == (kind == "bert") for pair in found.pairs)
    assert all(len(row.answers) == (3 if kind == "t5" else 0) for row in found.rows)


def test_answers_speed_memory_and_perplexity(street: Any) -> None:
    base, adapter, merged = street("llama")
    text = "Simple is better than complex. " * 9
    found = ask(merged, adapter, base=base, prompts=["Now is"], texts=[text])
    told = {row.name: row.answers for row in found.rows}
    assert told["merged"] == told["adapter"] != told["base"]
    assert all(len(answers) == 1 and answers[0] for answers in told.values())
    assert all(row.tokens_per_second > 0 and row.peak_bytes > 2**26 for row in found.rows)
    assert found.prompts == ("Now is",)
    with quiet():
        model = MODELS["llama"][0]
        import transformers

        live = getattr(transformers, model).from_pretrained(merged).eval()
        words = transformers.AutoTokenizer.from_pretrained(base)
    ids = words(text, return_tensors="pt")["input_ids"][:, :254]
    expected = live(input_ids=ids, labels=ids).loss.exp().item()
    assert found.rows[-1].perplexity == pytest.approx(expected, rel=0.05)


def test_adapters_are_switched_in_turn(folder: Path, street: Any) -> None:
    base, one, _ = street("llama")
    two = tune("llama", base, folder / "two", seed=5)
    found = ask(one, two)
    assert (found.ok, found.verdict, found.share) == (True, "runs", None)
    assert [row.name for row in found.rows] == ["base", "adapter 1", "adapter 2"]
    assert [row.ref for row in found.rows] == [str(base), str(one), str(two)]
    assert len({row.answers for row in found.rows}) == 3
    assert all(pair.kl > 0.01 and pair.other == "base" for pair in found.pairs)
    alone = ask(two)
    assert alone.rows[1].answers == found.rows[2].answers
    assert codes(found) == set()


def test_a_receipt_names_base_adapters_and_scales(folder: Path, street: Any) -> None:
    base, one, _ = street("llama")
    two = tune("llama", base, folder / "other", seed=6)
    at.merge([one, two], base=base, out=folder / "both", scale=[0.5, -0.75])
    found = ask(folder / "both")
    assert (found.ok, found.verdict, codes(found)) == (True, "adapter", set())
    assert found.share.value == pytest.approx(1, abs=1e-4)
    assert found.rows[1].ref == f"{one} + {two}"
    with pytest.raises(Mismatch, match="names 2 adapters, and 1 were given"):
        at.smoke(folder / "both", adapters=[one])


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"trainable_token_indices": [1, 2, 30]}],
    ids=lambda options: next(iter(options)),
)
def test_adapters_with_more_than_factors(options: Any, folder: Path, street: Any) -> None:
    base, _, _ = street("llama")
    name = next(iter(options))
    adapter = tune("llama", base, folder / name, **options)
    at.merge(adapter, base=base, out=folder / f"{name}-merged")
    found = ask(folder / f"{name}-merged")
    assert (found.ok, found.verdict) == (True, "adapter")
    assert found.share.value == pytest.approx(1, abs=1e-4)
    # transformers' load_adapter does not find the magnitudes; PEFT's own loader does.
    assert codes(found) == ({"SMK023"} if name == "use_dora" else set())
    at.merge(adapter, base=base, out=folder / f"{name}-half", scale=0.5)
    with pytest.raises(Unsupported, match="plain LoRA"):
        at.smoke(folder / f"{name}-half")


@bitsandbytes
def test_dora_beside_a_quantised_base(folder: Path, street: Any) -> None:
    base, _, _ = street("llama")
    adapter = tune("llama", base, folder / "dora", use_dora=True, seed=7)
    merged = fold("llama", base, adapter, folder / "dora-merged")
    found = ask(merged, adapter, base=base, quant="4bit")
    assert found.verdict == "adapter"
    assert found.share.value == pytest.approx(1, abs=0.1)
    with pytest.raises(Unsupported, match="DoRA"):
        at.smoke(merged, adapters=[adapter], base=base, quant="8bit")


@bitsandbytes
def test_models_that_are_quantised_on_disk(folder: Path, street: Any) -> None:
    base, adapter, merged = street("llama")
    packed = stored("llama", merged, folder / "nf4")
    found = ask(packed, adapter, base=base)
    assert found.verdict == "adapter"
    assert [row.loaded for row in found.rows] == [
        "nf4 made at load, float32", "nf4 made at load, float32", "nf4 as stored, float32",
    ]  # fmt: skip
    again = ask(packed, adapter, base=base, quant="none")
    assert [row.loaded.split()[0].rstrip(",") for row in again.rows] == ["float32"] * 2 + ["nf4"]
    below = ask(merged, adapter, base=stored("llama", base, folder / "nf4-base"), quant="8bit")
    assert {row.name: row.loaded for row in below.rows}["base"] == "nf4 as stored, float32"
    assert "SMK032" in codes(below)
    assert ask(stored("llama", base, folder / "nf4-again"), adapter, base=base).verdict == "base"


@bitsandbytes
def test_files_damaged_by_repacking_are_refused(folder: Path, street: Any) -> None:
    base, _, _ = street("llama")
    damaged = stored("llama", base, folder / "damaged", after_forward=True)
    shapes = {t.dim() for n, t in load_file(damaged / "model.safetensors").items() if "absmax" in n}
    if shapes == {1}:
        pytest.skip("this processor does not make bitsandbytes repack weights")
    with pytest.raises(Unreadable, match="saved after bitsandbytes had repacked it"):
        at.smoke(damaged)


@bitsandbytes
def test_ragged_layers_are_refused_in_4_bit_where_they_would_fail(folder: Path) -> None:
    from bitsandbytes.functional import has_avx512bf16

    ragged = make("llama", folder / "ragged", intermediate_size=100)
    assert ask(ragged, quant="8bit").ok
    if not has_avx512bf16():
        assert ask(ragged, quant="4bit").ok
        return
    with pytest.raises(Unsupported, match=r"gate_proj and 5 more \(64 to 100\) in 4") as refused:
        at.smoke(ragged, quant="4bit")
    assert "--quant 8bit" in str(refused.value)


def test_an_untrained_adapter_is_said_and_no_error(folder: Path, street: Any) -> None:
    base, _, _ = street("llama")
    empty = tune("llama", base, folder / "empty", size=0)
    found = ask(empty)
    assert (found.ok, codes(found)) == (True, {"SMK020"})
    at.merge(empty, base=base, out=folder / "empty-merged")
    found = ask(folder / "empty-merged")
    assert (found.ok, found.verdict, codes(found)) == (True, "unseen", {"SMK020"})


def test_a_merge_into_something_else_follows_neither(folder: Path, street: Any) -> None:
    base, adapter, _ = street("llama")
    other = make("llama", folder / "other-base", words=True, seed=9)
    merged = fold("llama", other, adapter, folder / "elsewhere")
    found = ask(merged, adapter, base=base)
    assert (found.ok, found.verdict) == (False, "neither")
