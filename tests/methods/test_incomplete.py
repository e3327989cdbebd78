"""Files that are not whole, or of another base, are refused in a sentence before any is written."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Mismatch, Unreadable, Unsafe, Unsupported
from tests import cases_methods_framed, cases_methods_sparse
from tests.cases_methods import MethodCase, edited, every

torch.set_num_threads(1)

TABLES = (*cases_methods_sparse.METHODS, *cases_methods_framed.METHODS)
OURS = sorted({group[0].peft_types[0] for group in TABLES})
CASES = every()
every_method = pytest.mark.parametrize("case", [CASES[f"{m} linear"] for m in OURS], ids=OURS)
MODULE = "base_model.model.model.layers.0.self_attn.k_proj."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


def made(case: MethodCase, built: dict[str, Path], factory: pytest.TempPathFactory) -> Path:
    if case.name not in built:
        built[case.name] = factory.mktemp("built")
        case.build(built[case.name], torch.float32)
    return built[case.name]


def plan(folder: Path, tensors: dict[str, torch.Tensor], out: Path) -> at.MergePlan:
    """Plan with other tensors under the same config."""
    adapter = out / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(
        (folder / "adapter/adapter_config.json").read_text()
    )
    save_file(tensors, adapter / "adapter_model.safetensors")
    return at.plan(adapter, base=folder / "base", out=out / "out")


@every_method
def test_each_tensor_is_needed(
    case: MethodCase, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made(case, built, tmp_path_factory)
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    shared = [n for n in tensors if not n.startswith("base_model.model.")]
    own = [n for n in tensors if n.startswith(MODULE)]
    assert own
    for name in [*own, *shared]:
        if len(own) == 1 or ".frod_s_size" in name:
            continue  # the module would not be in the file at all; a size says nothing
        left = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(AdapterToolsError) as caught:
            plan(folder, left, tmp_path_factory.mktemp("less"))
        assert re.search(r"(has no|lacks|there is no|weights say otherwise)", str(caught.value)), (
            name
        )


@every_method
def test_a_base_of_another_shape(
    case: MethodCase, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made(case, built, tmp_path_factory)
    out = tmp_path_factory.mktemp("other")
    base = load_file(folder / "base/model.safetensors")
    name = MODULE.removeprefix("base_model.model.") + "weight"
    base[name] = base[name][:3, :5].contiguous()
    (out / "base").mkdir()
    save_file(base, out / "base/model.safetensors", {"format": "pt"})
    (out / "base/config.json").write_text((folder / "base/config.json").read_text())
    with pytest.raises(Mismatch, match=r"k_proj"):
        at.plan(folder / "adapter", base=out / "base", out=out / "out")
    assert not (out / "out").exists()


@every_method
def test_config_of_another_method(
    case: MethodCase, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made(case, built, tmp_path_factory)
    out = tmp_path_factory.mktemp("mixed")
    (out / "adapter").mkdir()
    file = "adapter/adapter_model.safetensors"
    (out / file).write_bytes((folder / file).read_bytes())
    (out / "adapter/adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    kind = case.peft_types[0]
    with pytest.raises(AdapterToolsError, match=rf"IA3.*({kind}|tensor)"):
        at.plan(out / "adapter", base=folder / "base", out=out / "out")


LACKING = {
    "FOURIERFT": ("random_loc_seed", "scaling"),
    "WAVEFT": ("random_loc_seed", "scaling"),
    "GRALORA": ("alpha",),
    "TINYLORA": ("weight_tying",),
    "PSOFT": ("r",),
}


@pytest.mark.parametrize(("method", "key"), [(m, k) for m, keys in LACKING.items() for k in keys])
def test_config_without_what_the_fold_needs(
    method: str, key: str, built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = made(CASES[f"{method} linear"], built, tmp_path_factory)
    out = tmp_path_factory.mktemp("lacking")
    adapter = out / "adapter"
    adapter.mkdir()
    for file in (folder / "adapter").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    edited(adapter, **{key: None})
    with pytest.raises(
        Unreadable, match=rf"adapter_config\.json has no {key}, a number that {method}"
    ):
        at.plan(adapter, base=folder / "base", out=out / "out")


REFUSED = {
    "wavelets without numbers": ("WAVEFT", {"wavelet_family": "db17"}, "wavelet_family is db17"),
    "frames not saved": ("FROD", {"save_projection": False}, "save_projection to false.*frames"),
    "a start of no release": ("PSOFT", {"ab_svd_init": "x"}, "ab_svd_init is x"),
    "entries by order in 16 bit": ("SUPERTUNING", {}, "in BF16 many are equal"),
}


@pytest.mark.parametrize("said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_known_is_refused(
    said: tuple[str, dict[str, object], str], tmp_path: Path
) -> None:
    method, config, why = said
    kind = torch.bfloat16 if method == "SUPERTUNING" else torch.float32
    case = CASES[f"{method} linear"]
    case.build(tmp_path, kind)
    if method == "SUPERTUNING":
        edited(tmp_path / "adapter", save_precomputed_indices=False)
        file = tmp_path / "adapter/adapter_model.safetensors"
        left = {n: t for n, t in load_file(file).items() if "indices" not in n}
        save_file(left, file)
    edited(tmp_path / "adapter", **config)
    with pytest.raises(Unsupported, match=why):
        at.plan(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


UNNAMED = {
    "all linear layers": ({"target_modules": "all-linear"}, Unsupported, "all-linear, which only"),
    "no targets": ({"target_modules": None}, Unsupported, "target_modules is None"),
    "some layers": ({"layers_to_transform": [0]}, Unsupported, "narrows them by layers_to_trans"),
    "no such module": ({"target_modules": ["x_proj"]}, Mismatch, r"\['x_proj'\]\. Pass the right"),
    "a pattern without end": ({"target_modules": "(a+)+" * 9}, Unsafe, "could run for ever"),
    "no seed": ({"proj_seed": None}, Unreadable, "has no proj_seed"),
    "indices that are gone": ({"save_indices": True}, Unreadable, "has no unilora_indices_A"),
}


@pytest.mark.parametrize("said", UNNAMED.values(), ids=UNNAMED)
def test_a_file_that_names_no_modules(
    said: tuple[dict[str, object], type[AdapterToolsError], str], tmp_path: Path
) -> None:
    config, kind, why = said
    CASES["UNILORA linear dealt"].build(tmp_path, torch.float32)
    edited(tmp_path / "adapter", **config)
    with pytest.raises(kind, match=why):
        at.plan(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
