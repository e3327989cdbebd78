"""adapter_config.json: scales and patterns, configs that are none, and those of the wild."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import adaptertools as at
from adaptertools.errors import AdapterToolsError, Unreadable, Unsafe
from adaptertools.formats import peft
from adaptertools.methods import _lora_config, lora
from tests import handmade

DATA = Path(os.environ.get("ADAPTERTOOLS_DATA", Path(__file__).parents[3] / "shared" / "data"))
WILD = sorted(DATA.glob("configs/wild/*.json"))
GENERATED = sorted(DATA.glob("configs/generated/*/*.json"))
without_data = pytest.mark.skipif(
    not WILD, reason=f"no configs in {DATA}/configs (set ADAPTERTOOLS_DATA)"
)


def opened(folder: Path, **config: Any) -> at.Adapter:
    """Write the LoRA with another config, and open it."""
    return at.open(handmade.adapter(folder / "adapter", **config))


@pytest.mark.parametrize("rslora", [False, True])
def test_scale(rslora: bool, tmp_path: Path) -> None:
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3.5}}
    adapter = opened(tmp_path, r=2, lora_alpha=5, use_rslora=rslora, **patterns)
    divisor = 2**0.5 if rslora else 2
    for entry in adapter.entries:
        alpha = 3.5 if entry.target == "model.layers.1.mlp.down_proj" else 5
        assert entry.scale == alpha / divisor


@pytest.mark.parametrize(
    "config", [{"peft_type": "OFT", "r": 0}, {"peft_type": "IA3", "r": None, "lora_alpha": None}]
)
def test_methods_without_a_rank_are_opened(config: dict[str, Any], tmp_path: Path) -> None:
    name = f"{handmade.START}model.layers.0.mlp.{config['peft_type'].lower()}_x.weight"
    folder = handmade.adapter(tmp_path / "adapter", {name: handmade.noise(8)}, **config)
    adapter = at.open(folder)
    assert (adapter.targets, adapter.rank) == (("mlp",), 0)


NO_RANKS: list[Any] = [0, -1, 2.5, "2", True, None, [], 1e400]


@pytest.mark.parametrize("rank", NO_RANKS, ids=str)
def test_no_rank(rank: Any, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"rank|number"):
        opened(tmp_path, rank_pattern={"q_proj": rank})


@pytest.mark.parametrize("alpha", ["16", None, True, float("nan"), float("inf"), [1]], ids=str)
def test_no_alpha(alpha: Any, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no number"):
        opened(tmp_path, alpha_pattern={"q_proj": alpha})


DANGEROUS = [r"(a+)+", r"(.*)*b", r"((a|b)*)+", r"(x+x+)+y", r".*.*.*.*q", "(a){1,99}", "a" * 501]


@pytest.mark.parametrize("pattern", DANGEROUS)
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_patterns_that_could_run_for_ever(key: str, pattern: str, tmp_path: Path) -> None:
    with pytest.raises(Unsafe, match=f"{key}.*for ever"):
        opened(tmp_path, **{key: {pattern: 2}})


SLOW = ["(a|aa)" * 40 + "b", "a?" * 40 + "b", "a{0,60}" * 8 + "b"]


@pytest.mark.parametrize("pattern", SLOW)
def test_other_patterns_that_could_run_for_ever(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(Unsafe):
        opened(tmp_path, rank_pattern={pattern: 2})


def test_patterns_are_not_matched_with_endless_names(tmp_path: Path) -> None:
    tensors = handmade.renamed(lambda name: name.replace("layers", "x" * 400))
    with pytest.raises(Unsafe):
        at.open(handmade.adapter(tmp_path / "a", tensors, rank_pattern={".*.*.*y": 2}))


@pytest.mark.parametrize("pattern", ["(", "[a", "?", "(?P<a"])
def test_patterns_that_are_none(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="is no pattern"):
        opened(tmp_path, rank_pattern={pattern: 2})


BAD_CONFIGS: dict[str, tuple[bytes, str]] = {
    "not UTF-8": (b'{"peft_type": "LORA", "x": "\xff"}', "not UTF-8 text: byte 28"),
    "UTF-16": ('{"peft_type": "LORA"}'.encode("utf-16"), "not UTF-8"),
    "with a mark": (b'\xef\xbb\xbf{"peft_type": "LORA"}', "not JSON"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\n", "not JSON"),
    "empty": (b"", "not JSON"),
    "too deep": (b"[" * 100_000, "not JSON"),
    "endless number": (b'{"peft_type": "LORA", "r": ' + b"9" * 5000 + b"}", "not JSON"),
    "a list": (b'["LORA"]', "no peft_type"),
    "another's": (b'{"fine_tune_type": "lora", "num_layers": 4}', "no peft_type"),
    "a type that is no name": (b'{"peft_type": ["LORA"]}', "no peft_type"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_config_that_is_none(case: str, tmp_path: Path) -> None:
    raw, message = BAD_CONFIGS[case]
    folder = handmade.adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").write_bytes(raw)
    with pytest.raises(Unreadable, match=rf"adapter_config\.json.*{message}") as caught:
        at.open(folder)
    assert str(caught.value).isprintable()


@without_data
@pytest.mark.parametrize("path", [*WILD, *GENERATED], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_configs_of_the_wild(path: Path) -> None:
    said = refusal(path)
    assert said.isprintable()
    if not said:
        assert peft.read_config(path) == json.loads(path.read_text("utf-8"))


def refusal(path: Path) -> str:
    """Read a config; give what was said against it, empty where it was read."""
    try:
        peft.read_config(path)
    except AdapterToolsError as error:
        return str(error)
    return ""


@without_data
@pytest.mark.parametrize("path", GENERATED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_configs_that_peft_wrote_are_read(path: Path) -> None:
    config = peft.read_config(path)
    assert config["peft_type"] == path.stem.removesuffix("PLUS")
    if config["peft_type"] == "LORA":
        lora.check(config)


ODD: list[Any] = [5, -1, 1.5, True, "x", [1], ["x"], [[1]], {"a": 1}, 10**400, 1e400, None]


def failure(adapter: Path, base: Path) -> AdapterToolsError | None:
    """Plan a merge; give the refusal, None where there was none. Anything else is a crash."""
    try:
        at.plan(adapter, base=base, out=adapter.with_name("out")).as_json()
    except AdapterToolsError as error:
        return error
    return None


KEYS = sorted(_lora_config._KNOWN | _lora_config._REFUSED.keys() | {"surplus"})


@pytest.mark.parametrize("key", KEYS)
def test_values_of_a_wrong_kind_are_explained(key: str, tmp_path: Path) -> None:
    base = handmade.base(tmp_path / "base")
    tensors = handmade.lora_tensors()
    tensors[f"{handmade.START}lm_head.weight"] = handmade.noise(12, 8)
    for i, value in enumerate(ODD):
        adapter = handmade.adapter(tmp_path / f"{i}", tensors, **{key: value})
        assert str(failure(adapter, base)).isprintable()


def test_modules_to_save_as_a_string(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="modules_to_save"):
        opened(tmp_path, modules_to_save="lm_head")
