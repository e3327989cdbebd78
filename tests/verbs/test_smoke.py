"""smoke: right merges pass, wrong ones do not, quantised or not, whatever kind of model it is."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from adaptertools.errors import Unsafe
from adaptertools.verbs._smoke_model import Model
from tests.tiny_smoke import MODELS, Street, ask, bitsandbytes, codes, fold, make, quiet


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Street:
    return Street(tmp_path_factory.mktemp("smoke"))


QUANTS = [
    "none",
    pytest.param("4bit", marks=bitsandbytes),
    pytest.param("8bit", marks=bitsandbytes),
]
WRONG = {0: ("base", "SMK010"), 2: ("twice", "SMK011"), -1: ("opposite", "SMK012")}


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_a_right_merge_follows_the_adapter(kind: str, quant: str, street: Street) -> None:
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


@pytest.mark.parametrize(
    ("kind", "quant", "factor"),
    [
        *[("llama", "none", factor) for factor in WRONG],
        *[pytest.param("opt", "4bit", factor, marks=bitsandbytes) for factor in (0, 2)],
        *[pytest.param("llama", "8bit", factor, marks=bitsandbytes) for factor in (0, 2)],
    ],
)
def test_a_wrong_merge_does_not(kind: str, quant: str, factor: float, street: Street) -> None:
    base, adapter, merged = street(kind, factor)
    found = ask(merged, adapter, base=base, quant=quant)
    verdict, code = WRONG[factor]
    assert (found.ok, found.verdict) == (False, verdict)
    assert code in codes(found)


OTHERS = sorted(MODELS.keys() - {"llama", "opt"})


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("factor", [1, 0, 2])
def test_classifiers_encoders_and_the_others(kind: str, factor: float, street: Street) -> None:
    base, adapter, merged = street(kind, factor)
    found = ask(merged, adapter, base=base)
    assert found.ok == (factor == 1)
    # Heads that were trained whole are in the merged model whatever became of the update.
    nothing = "part" if kind in ("classifier", "tagger", "reader") else "base"
    assert found.verdict == {1: "adapter", 0: nothing, 2: "twice"}[factor]
    assert all((row.perplexity is None) == (kind != "t5") for row in found.rows)
    assert all((pair.kl is None) == (kind == "bert") for pair in found.pairs)
    assert all(len(row.answers) == (3 if kind == "t5" else 0) for row in found.rows)


def test_answers_speed_memory_and_perplexity(street: Street) -> None:
    base, adapter, merged = street("llama")
    text = "Simple is better than complex. " * 9
    found = ask(merged, adapter, base=base, prompts=["Now is"], texts=[text])
    told = {row.name: row.answers for row in found.rows}
    assert told["merged"] == told["adapter"] != told["base"]
    assert all(len(answers) == 1 and answers[0] for answers in told.values())
    assert all(row.tokens_per_second > 0 and row.peak_bytes > 2**26 for row in found.rows)
    assert found.prompts == ("Now is",)
    with quiet():
        live = transformers.LlamaForCausalLM.from_pretrained(merged).eval()
        words = transformers.AutoTokenizer.from_pretrained(base)
    ids = words(text, return_tensors="pt")["input_ids"][:, :254]
    expected = live(input_ids=ids, labels=ids).loss.exp().item()
    assert found.rows[-1].perplexity == pytest.approx(expected, rel=0.05)


def test_a_merge_into_something_else_follows_neither(street: Street) -> None:
    base, adapter, _ = street("llama")
    other = make("llama", street.folder / "other-base", words=True, seed=9)
    merged = fold("llama", other, adapter, street.folder / "elsewhere")
    found = ask(merged, adapter, base=base)
    assert (found.ok, found.verdict) == (False, "neither")


@pytest.mark.parametrize(
    "said",
    [
        {"_attn_implementation": "evil/kernel"}, {"attn_implementation": "paged|evil/kernel@v1:f"},
        {"text_config": {"_attn_implementation": "evil/kernel"}},
        {"attn_implementation": {"text_config": "evil/kernel"}},
    ],
)  # fmt: skip
def test_a_kernel_of_the_hub_is_not_run(said: dict[str, Any], tmp_path: Path) -> None:
    """Transformers fetches what such a name means, and imports it."""
    with pytest.raises(Unsafe, match=r"names the kernel .*evil/kernel"):
        Model(ref="m", folder=tmp_path, config={"model_type": "llama", **said})
    Model(ref="m", folder=tmp_path, config={"_attn_implementation": "sdpa", "name": "a/b"})
