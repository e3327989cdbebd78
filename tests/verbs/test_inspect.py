"""inspect says what is there: held against PEFT, safetensors and torch, and against real files."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file

import adaptertools as at
from adaptertools import schema
from adaptertools.errors import (
    AdapterToolsError,
    NotFound,
    UnknownFormat,
    Unreadable,
    Unsafe,
)
from tests import handmade
from tests.cases_models import llama
from tests.cases_recipe import lora_layers, quiet
from tests.handmade import START
from tests.kit import CASES
from tests.test_targets import expand

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL, CONFIGS = DATA / "adapters", DATA / "configs"
without_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared data folder")
WEIGHTS = "adapter_model.safetensors"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def looked(thing: Any, **options: Any) -> at.Inspection:
    """Inspect, and hold the JSON against its schema."""
    found = at.inspect(thing, **options)
    text = json.dumps(found.as_json(), allow_nan=False)
    schema.check("inspect", json.loads(text))
    return found


def written(folder: Path, tensors: handmade.Arrays | None = None, **config: Any) -> at.Inspection:
    return looked(handmade.adapter(folder / "adapter", tensors, **config))


# --- Real adapters: written down from their files, as json, safetensors and torch show them.


@without_data
def test_a_gpt2_classifier() -> None:
    found = looked(REAL / "deepbiolab__gpt2-classification-peft_peft_model")
    assert (found.dialect, found.method, found.variants) == ("peft", "LORA", ())
    assert (found.base, found.revision, found.task) == ("gpt2", None, "SEQ_CLS")
    assert (found.rank, found.alpha, found.scale) == ((8,), (32,), (4,))
    assert found.targets == (
        "transformer.h.0-11.attn.c_{attn,proj}",
        "transformer.h.0-11.mlp.c_proj",
    )
    assert found.modules == 36
    assert [(k.name, k.modules, k.weights, k.parameters, k.bytes) for k in found.kinds] == [
        ("transformer.h.*.attn.c_attn", 12, ((2304, 768),), 294912, 1179648),
        ("transformer.h.*.attn.c_proj", 12, ((768, 768),), 147456, 589824),
        ("transformer.h.*.mlp.c_proj", 12, ((768, 3072),), 368640, 1474560),
    ]
    assert (found.saved, found.biases, found.token_rows, found.others) == (
        ("score.weight",), 0, {}, ()
    )  # fmt: skip
    held = found.weights
    assert held is not None
    assert (held.file, held.pickled, held.tensors) == ("adapter_model.safetensors", False, 73)
    assert (held.parameters, held.bytes, held.dtypes) == (812544, 3250176, {"F32": 73})
    assert (found.merge.possible, found.peft_version, found.notes) == (True, None, ())


@without_data
def test_targets_that_are_not_there() -> None:
    found = looked(REAL / "gurvineet__peft-implementation_peft_model_checkpoint-best")
    other = looked(REAL / "deepbiolab__gpt2-classification-peft_peft_model")
    assert (found.targets, found.kinds, found.saved) == (other.targets, other.kinds, other.saved)
    assert found.notes == ("target_modules lists q_proj, v_proj, and no tensor is for that.",)


@without_data
def test_a_pickle_with_a_head_that_is_not_listed() -> None:
    found = looked(REAL / "sdtrklse__lightweight-fine-tuning_peft_model", tensors=True)
    assert (found.dialect, found.method, found.base) == ("peft", "LORA", "distilbert-base-uncased")
    assert (found.rank, found.alpha, found.scale) == ((8,), (32,), (4,))
    assert found.targets == ("distilbert.transformer.layer.0-5.attention.{q,v}_lin",)
    assert found.saved == ("{classifier,pre_classifier}.{bias,weight}",)
    assert found.biases == 0
    held = found.weights
    assert held is not None
    assert (held.file, held.pickled, held.tensors) == ("adapter_model.bin", True, 28)
    # 24 factors of 8·768, a head of 768² + 768 and one of 2·768 + 2
    assert held.parameters == 24 * 8 * 768 + 768 * 768 + 768 + 2 * 768 + 2
    assert found.merge.possible
    assert len(found.notes) == 2
    assert "pickle; its tensors were listed without running it" in found.notes[0]
    assert "does not list what is saved whole: classifier, pre_classifier" in found.notes[1]
    real = torch.load(REAL / found.ref / "adapter_model.bin", weights_only=True, map_location="cpu")
    assert {t.name: t.shape for t in found.tensors or ()} == {
        n: tuple(t.shape) for n, t in real.items()
    }


@without_data
def test_a_token_classifier_with_grouped_queries() -> None:
    found = looked(REAL / "branbot6__sift-opf-zh_adapter")
    assert (found.method, found.base, found.task) == ("LORA", "openai/privacy-filter", "TOKEN_CLS")
    assert (found.rank, found.alpha, found.scale) == ((16,), (32,), (2,))
    assert found.targets == ("model.layers.0-7.self_attn.{k,o,q,v}_proj",)
    assert [(kind.name.split(".")[-1], kind.weights) for kind in found.kinds] == [
        ("k_proj", ((128, 640),)), ("o_proj", ((640, 896),)),
        ("q_proj", ((896, 640),)), ("v_proj", ((128, 640),)),
    ]  # fmt: skip
    assert (found.saved, found.peft_version) == (("score.{bias,weight}",), "0.19.1")
    assert found.weights is not None
    assert (found.weights.tensors, found.weights.parameters) == (66, 589824 + 33 * 640 + 33)


@without_data
def test_lerobots_dialect_is_named_and_left_as_it_is() -> None:
    found = looked(REAL / "Inishpy__lerobot-libero")
    assert (found.dialect, found.method, found.base) == ("lerobot", None, "lerobot/smolvla_base")
    assert (found.targets, found.modules, found.rank, found.scale) == ((), 0, (), ())
    assert found.weights is not None
    assert (found.weights.tensors, found.weights.dtypes) == (606, {"F32": 303, "I64": 303})
    names = [name for pattern in found.others for name in expand(pattern)]
    assert len(names) == len(set(names)) == 606
    assert {name.rpartition(".")[2] for name in names} == {"alpha", "dropout_p"}
    assert not found.merge.possible
    assert found.notes[0] == "This is no PEFT adapter; its tensors are listed as they are."


WILD = {
    "015": ("adapterhub", None, "bert-base-multilingual-cased", (), ()),
    "018": ("mlx", "lora", "Qwen/Qwen2.5-1.5B-Instruct", (16,), (20.0,)),
    "215": ("mlx", "lora", "mlx-community/Llama-3.2-1B-Instruct-4bit", (8,), (10.0,)),
    "152": ("tunix", None, "google/gemma-3-1b-it", (32,), ()),
    "102": ("lfs", None, None, (), ()),
    "086": ("unknown", None, None, (), ()),
    "308": ("unknown", None, None, (), ()),
}


@without_data
@pytest.mark.parametrize("number", WILD)
def test_dialects_of_the_wild(number: str, tmp_path: Path) -> None:
    shutil.copy(CONFIGS / "wild" / f"{number}.json", tmp_path / "adapter_config.json")
    found = looked(tmp_path)
    said = (found.dialect, found.method, found.base, found.rank, found.scale)
    assert said == WILD[number]
    assert (found.weights, found.merge.possible, found.peft_at_least) == (None, False, None)


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


@without_data
@pytest.mark.parametrize("path", sorted((CONFIGS / "generated").glob("*/*.json")), ids=str)
def test_the_peft_that_a_config_needs(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "adapter_config.json")
    found, config = looked(tmp_path), json.loads(path.read_text("utf-8"))
    with (DATA / "peft_fields.tsv").open() as file:
        since = [version(row["first_version"]) for row in csv.DictReader(file, delimiter="\t")
                 if row["peft_type"] == config["peft_type"] and row["field"] in config]  # fmt: skip
    if config["peft_type"] == "LORAPLUS":
        assert found.peft_at_least is None
        return
    assert found.peft_at_least is not None
    assert version(found.peft_at_least) == max(since)
    assert version(found.peft_at_least) <= version(path.parent.name)


# --- What PEFT writes, of every kind.

TYPES: dict[str, dict[str, Any]] = {
    "IA3": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "LOHA": {"target_modules": ["q_proj", "v_proj"]},
    "LOKR": {"target_modules": ["q_proj"], "decompose_both": True},
    "ADALORA": {"target_modules": ["q_proj"], "total_step": 10},
    "OFT": {"target_modules": ["q_proj"], "oft_block_size": 4},
    "BOFT": {"target_modules": ["q_proj"], "boft_block_size": 4},
    "HRA": {"target_modules": ["v_proj"], "r": 4},
    "VERA": {"target_modules": ["q_proj"], "r": 4},
    "VBLORA": {"target_modules": ["q_proj"], "num_vectors": 8, "vector_length": 16, "topk": 2},
    "RANDLORA": {"target_modules": ["q_proj"], "r": 4},
    "FOURIERFT": {"target_modules": ["q_proj"], "n_frequency": 10},
    "C3A": {"target_modules": ["q_proj"], "block_size": 4},
    "SHIRA": {"target_modules": ["q_proj"], "r": 2},
    "MISS": {"target_modules": ["q_proj"], "r": 4},
    "ROAD": {"target_modules": ["q_proj"], "group_size": 8},
    "LN_TUNING": {"target_modules": ["input_layernorm"]},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4, 5]},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "P_TUNING": {"num_virtual_tokens": 3},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "LORA": {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 3}},
}
PROMPTS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")


@pytest.mark.parametrize("kind", TYPES)
def test_every_method_of_peft(kind: str, tmp_path: Path) -> None:
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[kind](task_type="CAUSAL_LM", **TYPES[kind])
    with quiet():
        model = get_peft_model(llama()(), config)
        model.save_pretrained(tmp_path)
    found = looked(tmp_path, tensors=True)
    assert (found.dialect, found.method, found.task) == ("peft", kind, "CAUSAL_LM")
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        real = {name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
                for name in file.keys()}  # noqa: SIM118  # fmt: skip
    assert {t.name: (t.dtype, t.shape) for t in found.tensors or ()} == real
    sizes = load_file(tmp_path / "adapter_model.safetensors").values()
    assert found.weights is not None
    assert found.weights.parameters == sum(tensor.numel() for tensor in sizes)
    assert found.weights.bytes == sum(tensor.nbytes for tensor in sizes)
    adapted = getattr(model.base_model, "targeted_module_names", [])
    names = sorted(n for p in found.targets for n in expand(p)) + list(found.token_rows)
    assert sorted(names) == sorted(adapted)
    assert found.merge.possible == (kind not in PROMPTS)
    if kind == "LORA":
        assert found.scale == pytest.approx((1, 8 / 3))
        return
    assert found.scale == ()  # nobody but the method knows it
    if kind in PROMPTS:
        assert kind in found.merge.why
        assert found.others == ("prompt_embeddings",)


FACTS: dict[str, dict[str, Any]] = {
    "rslora": {"variants": ("rsLoRA",), "rank": (4,), "alpha": (8,), "scale": (4,)},
    "rslora_patterns": {"rank": (4, 6), "alpha": (8,), "scale": (8 / 6**0.5, 4)},
    "alpha_fraction": {"rank": (3,), "alpha": (0.37,), "scale": (0.37 / 3,)},
    "init_gaussian": {"variants": ("init gaussian",)},
    "dora_rslora": {"variants": ("rsLoRA", "DoRA")},
    "bdlora": {"variants": ("BD-LoRA",)},
    "kasa": {"variants": ("KaSA",)},
    "lora_bias": {"variants": ("a bias on lora_B",), "biases": 0},
    "bias_all": {"variants": ("bias all",), "biases": 6},
    "bias_lora_only": {"variants": ("bias lora_only",), "biases": 2},
    "bias_all_head": {"variants": ("bias all",), "task": "SEQ_CLS"},
    "tokens": {"variants": ("trained tokens",)},
    "save_lm_head": {"saved": ("lm_head.weight",)},
}


@pytest.mark.parametrize("case", FACTS)
def test_variants(case: str, tmp_path: Path) -> None:
    CASES[case].build(tmp_path, torch.float32)
    found = looked(tmp_path / "adapter")
    for name, value in FACTS[case].items():
        assert getattr(found, name) == (pytest.approx(value) if name == "scale" else value), name


@pytest.mark.parametrize("case", ["linear_llama", "patterns", "conv_all_biased", "embedding",
                                  "multihead_attention", "dora_conv2d", "tokens"])  # fmt: skip
def test_scale_and_rank_are_those_of_peft(case: str, tmp_path: Path) -> None:
    CASES[case].build(tmp_path, torch.float32)
    found = looked(tmp_path / "adapter")
    layers = lora_layers(CASES[case].load_peft(tmp_path))
    assert found.modules == len(layers)
    assert found.rank == tuple(sorted({layer.r["default"] for layer in layers}))
    assert found.alpha == tuple(sorted({layer.lora_alpha["default"] for layer in layers}))
    scales = sorted({layer.scaling["default"] for layer in layers})
    assert found.scale == pytest.approx(scales, rel=1e-15)


# --- What a merge would do.


def test_merge_names_the_tensors_of_the_base(tmp_path: Path) -> None:
    base, adapter = handmade.base(tmp_path / "base"), handmade.adapter(tmp_path / "adapter")
    merge = looked(adapter, base=base).merge
    assert (merge.possible, merge.changed, merge.tensors) == (True, 4, 11)
    changed = handmade.merged()
    moved = {
        name for name, tensor in handmade.base_tensors().items() if (tensor != changed[name]).any()
    }
    assert {name for pattern in merge.changes for name in expand(pattern)} == moved
    assert looked(adapter).merge == type(merge)(possible=True)


def test_merge_of_an_adapter_that_does_not_fit(tmp_path: Path) -> None:
    tensors = handmade.renamed(lambda name: name.replace("self_attn", "attention"))
    base = handmade.base(tmp_path / "base")
    merge = looked(handmade.adapter(tmp_path / "adapter", tensors), base=base).merge
    assert not merge.possible
    assert "match no tensor of the base" in merge.why
    with pytest.raises(NotFound, match="none"):
        at.inspect(tmp_path / "adapter", base=tmp_path / "none")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa"}, "pissa"),
    "aLoRA": ({"alora_invocation_tokens": [1]}, "aLoRA"),
    "unknown type": ({"peft_type": "NEXTLORA"}, "NEXTLORA, which no PEFT"),
    "a path": ({"peft_type": "../../report"}, "which no PEFT"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_still_described(case: str, tmp_path: Path) -> None:
    config, why = REFUSED[case]
    found = written(tmp_path, **config)
    assert not found.merge.possible
    assert why in found.merge.why
    assert found.weights is not None
    assert (found.weights.tensors, found.weights.parameters) == (8, 160)
    assert found.ok


# --- What is wrong with it is said, and nothing is in the way of the rest.


def test_junk_in_names_and_a_rank_that_is_not_the_configs(tmp_path: Path) -> None:
    found = written(tmp_path, handmade.renamed(lambda n: "module." + n), r=5)
    assert found.targets == (
        "model.layers.0-1.mlp.down_proj", "model.layers.0-1.self_attn.q_proj"
    )  # fmt: skip
    assert any("4 modules are of another rank" in note and ": 2." in note for note in found.notes)
    assert "module was taken off 8 names." in found.notes
    assert all(kind.weights == () for kind in found.kinds)


def test_names_that_make_no_adapter(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors()
    spelled = {n.replace(f"{START}", f"{START}_orig_mod."): t for n, t in tensors.items()}
    found = written(tmp_path, tensors | spelled)
    assert any("are the same tensor once" in note for note in found.notes)
    assert (found.modules, found.rank, found.scale) == (4, (2,), ())
    assert not found.merge.possible


def test_empty_tensors_of_zero_3(tmp_path: Path) -> None:
    tensors = {n: t[:0] if "lora_B" in n else t for n, t in handmade.lora_tensors().items()}
    found = written(tmp_path, tensors)
    assert "ZeRO-3" in found.merge.why
    assert found.modules == 4


def test_two_shapes_of_one_kind(tmp_path: Path) -> None:
    tensors = handmade.lora_tensors()
    name = f"{START}model.layers.1.self_attn.q_proj.lora_B.weight"
    tensors[name] = handmade.noise(6, 2)
    [_, kind] = written(tmp_path, tensors).kinds
    assert kind.weights == ((6, 8), (8, 8))


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def pickled(folder: Path, data: Any = None) -> None:
    tensors = load_file(folder / "adapter_model.safetensors") if data is None else data
    (folder / "adapter_model.safetensors").unlink()
    torch.save(tensors, folder / "adapter_model.bin")


def linked(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.rename(folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (cut, "cut short"),
    "pointer": (lambda f: (f / WEIGHTS).write_bytes(POINTER), "Git LFS pointer"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "0 bytes"),
    "outside": (linked, "link that leaves its folder"),
    "a folder": (lambda f: ((f / "adapter_model.safetensors").unlink(),
                            (f / "adapter_model.bin").mkdir())[0], ""),
    "executes": (lambda f: pickled(f, {"a": Evil()}), "is a pickle that is not read"),
    "no pickle": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"),
                  "is a pickle that is not read"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_weights_that_cannot_be_read(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, words = FAULTS[case]
    folder = handmade.adapter(tmp_path / "adapter")
    spoil(folder)
    found = looked(folder, tensors=True, deep=True)
    assert words in found.fault
    assert found.ok == (not words)
    assert (found.method, found.rank, found.alpha, found.modules) == ("LORA", (2,), (4,), 0)
    assert not found.merge.possible
    assert any("target_modules: q_proj, down_proj" in note for note in found.notes)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_is_described_as_the_safetensors_are(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    before = looked(folder, deep=True)
    pickled(folder)
    after = looked(folder, deep=True)
    assert (after.targets, after.kinds, after.norms) == (before.targets, before.kinds, before.norms)


def test_views_in_a_pickle(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    held = load_file(folder / "adapter_model.safetensors")
    name = next(iter(held))
    pickled(folder, {**held, name: held[name].T.contiguous().T})
    found = looked(folder, deep=True)
    assert found.modules == 4
    assert sorted(norm.why == "" for norm in found.norms or ()) == [False, True, True, True]
    assert "adaptertools convert" in found.merge.why
    # One tensor under two spellings, and both are views.
    wide = {
        f"{START}x.weight": torch.ones(2, 3).T,
        f"{START}_orig_mod.x.weight": torch.ones(2, 3).T,
    }
    torch.save({**held, **wide}, folder / "adapter_model.bin")
    assert looked(folder).weights.tensors == 10


def test_no_weights(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter", target_modules=r".*\.q_proj")
    (folder / "adapter_model.safetensors").unlink()
    found = looked(folder)
    assert (found.weights, found.ok) == (None, True)
    assert r"target_modules: .*\.q_proj." in found.notes[0]


def test_weights_without_a_config(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").unlink()
    found = looked(folder)
    assert (found.dialect, found.method, found.modules) == ("none", None, 0)
    assert len([n for p in found.others for n in expand(p)]) == 8


def test_adapters_in_subfolders(tmp_path: Path) -> None:
    for step in (6, 12):
        handmade.adapter(tmp_path / f"checkpoint-{step}")
    with pytest.raises(UnknownFormat, match=r"checkpoint-12/, checkpoint-6/.*give .*checkpoint-12"):
        at.inspect(tmp_path)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "both")
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "both" / "checkpoint-6")
    assert looked(tmp_path / "both").beside == ("checkpoint-6/",)


def test_an_open_adapter(tmp_path: Path) -> None:
    folder = handmade.adapter(tmp_path / "adapter")
    found, other = looked(at.open(folder), tensors=True), looked(folder, tensors=True)
    assert found == other


BAD: dict[str, tuple[Callable[[Path], Any], type[Exception], str]] = {
    "not there": (shutil.rmtree, NotFound, "no such folder"),
    "nothing in it": (lambda f: (shutil.rmtree(f), f.mkdir()), UnknownFormat, "Found: nothing"),
    "not JSON": (lambda f: (f / "adapter_config.json").write_text("{\n oh}"), Unreadable, "line 2"),
    "not UTF-8": (lambda f: (f / "adapter_config.json").write_bytes(b"{\xff"), Unreadable, "UTF-8"),
    "a link": (lambda f: ((f / "adapter_config.json").unlink(),
                          (f / "adapter_config.json").symlink_to("/etc/hostname")), Unsafe, "link"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_folders_of_which_nothing_can_be_said(case: str, tmp_path: Path) -> None:
    spoil, kind, words = BAD[case]
    folder = handmade.adapter(tmp_path / "adapter")
    spoil(folder)
    with pytest.raises(kind, match=words) as caught:
        at.inspect(folder)
    assert str(caught.value).isprintable()


WITHIN = ["q_proj", ".*", "nblocks", "target_modules_bd_a"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["LORA", "q_proj", "pissa", "(.*)*x", 10**40]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(WITHIN), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
        "bias", "init_lora_weights", "target_modules", "modules_to_save", "use_bdlora", "revision",
        "trainable_token_indices", "target_parameters", "base_model_name_or_path", "task_type",
        "kasa_config", "peft_version", "fine_tune_type", "lora_parameters", "config", "model_name",
        "framework", "base_model", "layer_replication", "lora_bias"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4))
@settings(
    max_examples=300, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_any_config_is_described_or_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = tmp_path / "adapter"
    if not folder.exists():
        tensors = {**handmade.lora_tensors(), f"{START}score.weight": handmade.noise(3, 8)}
        handmade.adapter(folder, tensors)
    changed = {**handmade.CONFIG, **config}
    (folder / "adapter_config.json").write_text(json.dumps(changed), "utf-8")
    with suppress(AdapterToolsError):
        assert looked(folder, deep=True, tensors=True).weights
