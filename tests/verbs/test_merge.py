"""merge: whoever runs the jobs, the bytes are the same; what is not changed is not touched."""

import builtins
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import adaptertools as at
from adaptertools.errors import Mismatch, Unreadable, Unsafe, Unsupported
from adaptertools.tensorfile import read_header
from tests import kit
from tests import tiny_llama as tiny
from tests.kit import CASES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
INDEX = "model.safetensors.index.json"


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        found |= {n: data[s.start : s.stop] for n, s in read_header(path).tensors.items()}
    return found


# Who runs the jobs


@pytest.fixture(scope="module")
def several_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in four shards, some of whose weights take several tiles; merged at `out`."""
    folder = tmp_path_factory.mktemp("tiles")
    tensors = tiny.llama(layers=1, hidden=512, mlp=2048, dtype=torch.bfloat16)
    base = tiny.save_base(folder / "base", tensors, shards=4)
    pairs = tiny.factors(tensors, tiny.linears(tensors), rank=5)
    more = _magnitudes(tensors, pairs)
    tiny.save_lora(folder / "adapter", base, pairs, use_dora=True, more=more)
    at.merge(folder / "adapter", base=base, out=folder / "out")
    return folder


def _magnitudes(tensors: tiny.Tensors, pairs: tiny.Factors) -> tiny.Tensors:
    return {
        f"base_model.model.{module}.lora_magnitude_vector": (
            tensors[f"{module}.weight"].float().norm(dim=1) * 1.1
        )
        for module in pairs
    }


@contextmanager
def processes(how: str) -> Iterator[Callable[..., list[Any]]]:
    """Give the `map` of a pool of two processes."""
    with multiprocessing.get_context(how).Pool(2) as pool:
        yield lambda job, jobs: pool.map_async(job, jobs).get(60)


@contextmanager
def threads() -> Iterator[Callable[..., Iterable[Any]]]:
    """Give the `map` of a pool of two threads."""
    with ThreadPoolExecutor(2) as pool:
        yield pool.map


STARTS = [how for how in ("fork", "spawn") if how in multiprocessing.get_all_start_methods()]
ENGINES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "builtin": lambda: nullcontext(builtins.map),
    "threads": threads,
    **{how: lambda how=how: processes(how) for how in STARTS},
}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bytes(
    workers: int, several_tiles: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    at.merge(several_tiles / "adapter", base=several_tiles / "base", out=out, max_workers=workers)
    assert tiny.contents(out) == tiny.contents(several_tiles / "out")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_any_map_gives_the_same_bytes(
    engine: Callable[[], AbstractContextManager[Any]], several_tiles: Path, tmp_path: Path
) -> None:
    with engine() as each:
        report = at.merge(
            several_tiles / "adapter", base=several_tiles / "base", out=tmp_path / "out", map=each
        )
    assert report.facts["edits"] == 7
    assert tiny.contents(tmp_path / "out") == tiny.contents(several_tiles / "out")


def test_a_failure_in_another_process_is_raised_here(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, shards=3)
    plan = at.plan(adapter, base=base, out=tmp_path / "out")
    for path in base.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:600])
    with processes("spawn") as each, pytest.raises((OSError, Unreadable), match="ended"):
        at.merge(plan, map=each)
    assert not list(tmp_path.glob("out*"))


# Which values are written


@every_dtype
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_dtype_is_one_rounding_of_the_sum(
    stored: torch.dtype, dtype: torch.dtype, tmp_path: Path
) -> None:
    CASES["linear_llama"].build(tmp_path, stored)
    expected = kit.reference(CASES["linear_llama"], tmp_path)
    name = str(dtype).removeprefix("torch.")
    out = tiny.merge_case(CASES["linear_llama"], tmp_path, dtype=name)
    ours = kit.read(out)
    kit.assert_within_one_ulp(ours, expected, dtype)
    for same, tensor in kit.read(tmp_path / "base").items():
        if torch.equal(tensor.double(), expected[same]):
            assert torch.equal(ours[same], tensor.to(dtype)), same
    assert json.loads((out / "config.json").read_text())["dtype"] == name


def test_dtype_rounds_once_also_next_to_a_tie(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    base = tiny.save_base(tmp_path / "base", {f"{name}.weight": torch.ones(2, 2)})
    pairs = {name: (torch.ones(1, 2), torch.full((2, 1), 2**-8) + 2**-31)}
    assert pairs[name][1][0] == 2**-8 + 2**-31
    adapter = tiny.save_lora(tmp_path / "adapter", base, pairs)
    at.merge(adapter, base=base, out=tmp_path / "out", dtype="bfloat16")
    assert tiny.read(tmp_path / "out")[f"{name}.weight"][0, 0] == 1 + 2**-7


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_config_keeps_its_own_key_for_the_dtype(key: str, tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    config = {k: v for k, v in tiny.CONFIG.items() if k != "dtype"}
    nested = {"model_type": "llama", key: "float32"}
    (base / "config.json").write_text(json.dumps({**config, key: "float32", "text_config": nested}))
    at.merge(adapter, base=base, out=tmp_path / "out", dtype="bf16")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said == {**config, key: "bfloat16", "text_config": {**nested, key: "bfloat16"}}


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    with pytest.raises(Unsupported, match=r"float12.*bfloat16"):
        at.merge(adapter, base=base, out=tmp_path / "out", dtype="float12")


@every_dtype
def test_an_untrained_adapter_gives_the_base(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = tiny.llama(dtype=dtype)
    base = tiny.save_base(tmp_path / "base", tensors, shards=2)
    pairs = tiny.factors(tensors, tiny.linears(tensors), share=0)
    adapter = tiny.save_lora(tmp_path / "adapter", base, pairs)
    report = at.merge(adapter, base=base, out=tmp_path / "out")
    for path in base.glob("model*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert "MRG030" in {finding.code for finding in report.findings}


def test_scale_multiplies_the_update(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    for scale, name in ((0, "zero"), (0.5, "half"), (1, "whole"), (-2, "minus")):
        at.merge(adapter, base=base, out=tmp_path / name, scale=scale)
    start, whole = tiny.read(base), tiny.read(tmp_path / "whole")
    assert weights(tmp_path / "zero") == weights(base)
    for scale, name in ((0.5, "half"), (-2, "minus")):
        for tensor, ours in tiny.read(tmp_path / name).items():
            wanted = start[tensor] + scale * (whole[tensor].double() - start[tensor])
            torch.testing.assert_close(ours.double(), wanted, rtol=0, atol=1e-6)


def test_rank_above_what_kasa_can_take_away_is_refused(tmp_path: Path) -> None:
    tensors, name = tiny.llama(layers=1), "model.layers.0.self_attn.q_proj"
    base = tiny.save_base(tmp_path / "base", tensors)
    pairs = tiny.factors(tensors, [name], rank=40)
    more = {f"base_model.model.{name}.lora_diag": torch.ones(40)}
    adapter = tiny.save_lora(tmp_path / "adapter", base, pairs, kasa_config={"beta": 1}, more=more)
    with pytest.raises(at.errors.AdapterToolsError, match=r"rank|singular"):
        at.merge(adapter, base=base, out=tmp_path / "out")


# What is not changed is not touched


def odd_base(folder: Path) -> Path:
    """A base with dtypes that no arithmetic here knows, and metadata of its own."""
    base = tiny.save_base(folder / "base", tiny.llama(layers=1))
    data = {n: ("F32", list(t.shape), t.numpy().tobytes()) for n, t in tiny.read(base).items()}
    odd = {"mtp.weight": ("I8", [3, 5], bytes(range(15))), "scale": ("F8_E8M0", [1], b"\x7f")}
    eight = {"experts.weight": ("F8_E4M3", [2, 4], bytes(range(120, 128)))}
    tiny.raw_safetensors(
        base / "model.safetensors", odd | data | eight, {"format": "pt", "note": "ours: é"}
    )
    return base


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """`base` with unknown tensors, and `adapter`."""
    base = odd_base(tmp_path)
    tensors = tiny.llama(layers=1)
    tiny.save_lora(tmp_path / "adapter", base, tiny.factors(tensors, tiny.linears(tensors)))
    return tmp_path


def test_unknown_tensors_and_metadata_stay(odd: Path) -> None:
    at.merge(odd / "adapter", base=odd / "base", out=odd / "out")
    before, after = (read_header(odd / d / "model.safetensors") for d in ("base", "out"))
    assert after.raw == before.raw
    old, new = weights(odd / "base"), weights(odd / "out")
    assert {n for n in old if old[n] != new[n]} == {n for n in old if n.endswith("_proj.weight")}


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"max_shard_size": "9KB"}], ids=str)
def test_unknown_tensors_stay_in_another_layout(odd: Path, options: dict[str, str]) -> None:
    at.merge(odd / "adapter", base=odd / "base", out=odd / "out", **options)
    old, new = weights(odd / "base"), weights(odd / "out")
    assert old.keys() == new.keys()
    for name in ("mtp.weight", "scale", "experts.weight"):
        assert new[name] == old[name]
    assert at.verify(odd / "out").ok


def test_metadata_stays_where_the_header_changes(odd: Path) -> None:
    at.merge(odd / "adapter", base=odd / "base", out=odd / "out", dtype="bfloat16")
    header = read_header(odd / "out" / "model.safetensors")
    assert header.metadata == {"format": "pt", "note": "ours: é"}


def test_untouched_shards_and_the_index_are_copies(tmp_path: Path) -> None:
    tensors = tiny.llama(layers=3, dtype=torch.bfloat16)
    base = tiny.save_base(tmp_path / "base", tensors, shards=5)
    pairs = tiny.factors(tensors, ["model.layers.0.mlp.up_proj"])
    at.merge(tiny.save_lora(tmp_path / "adapter", base, pairs), base=base, out=tmp_path / "out")
    old, new = tiny.contents(base), tiny.contents(tmp_path / "out")
    changed = {name for name in old if old[name] != new[name]}
    assert len(changed) == 1
    assert changed < {path.name for path in base.glob("*.safetensors")}
    assert {n for n, b in weights(base).items() if weights(tmp_path / "out")[n] != b} == {
        "model.layers.0.mlp.up_proj.weight"
    }


def test_inputs_stay_as_they_are(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, shards=2)
    before = tiny.contents(tmp_path)
    at.merge(adapter, base=base, out=tmp_path / "out", verify=True)
    shutil.rmtree(tmp_path / "out")
    assert tiny.contents(tmp_path) == before


# Shards


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("size", ["5KB", "20kb", "0.03MiB", "1GB"])
def test_shards_of_another_size_hold_the_same(shards: int, size: str, tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, shards=shards)
    at.merge(adapter, base=base, out=tmp_path / "plain")
    at.merge(adapter, base=base, out=tmp_path / "out", max_shard_size=size)
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")
    most = {"5KB": 5_000, "20kb": 20_000, "0.03MiB": int(0.03 * 2**20), "1GB": 10**9}[size]
    check_shards(tmp_path / "out", most)


def check_shards(folder: Path, most: int) -> None:
    """Hold shards against the size that was asked for, and the index against the shards."""
    where = {}
    for path in folder.glob("*.safetensors"):
        sizes = [spec.nbytes for spec in read_header(path).tensors.values()]
        assert sum(sizes) <= most or len(sizes) == 1
        where |= dict.fromkeys(read_header(path).tensors, path.name)
    if not (folder / INDEX).exists():
        assert set(where.values()) == {"model.safetensors"}
        return
    index = json.loads((folder / INDEX).read_text())
    assert index["weight_map"] == where
    assert index["metadata"]["total_size"] == sum(len(b) for b in weights(folder).values())


@pytest.mark.parametrize("shard_size", ["15KB", "1GB"])
def test_transformers_loads_other_shards(shard_size: str, tmp_path: Path) -> None:
    case = CASES["linear_llama_sharded"]
    case.build(tmp_path, torch.float32)
    out = tiny.merge_case(case, tmp_path, max_shard_size=shard_size)
    info = kit.loading_info(case, out)
    assert not any(info.values()), info
    kit.assert_same_logits(
        kit.merged_logits(case, out), kit.unmerged_logits(case, tmp_path), torch.float32
    )


def test_safetensors_itself_reads_every_shard(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, torch.bfloat16, shards=2)
    at.merge(adapter, base=base, out=tmp_path / "out", max_shard_size="7KB", dtype="float16")
    for path in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("size", ["", "5 parsecs", "-1GB", "0GB", "GB"])
def test_a_size_that_is_none_is_refused(size: str, tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    with pytest.raises(Unreadable, match="max-shard-size"):
        at.merge(adapter, base=base, out=tmp_path / "out", max_shard_size=size)


# Several adapters


def two(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, list[Path]]:
    """A base and two LoRAs that share some modules."""
    tensors = tiny.llama(dtype=dtype)
    base = tiny.save_base(folder / "base", tensors, shards=2)
    modules = tiny.linears(tensors)
    ones = tiny.factors(tensors, modules[:9], rank=3, seed=1)
    others = tiny.factors(tensors, modules[4:], rank=6, seed=2)
    return base, [
        tiny.save_lora(folder / "one", base, ones),
        tiny.save_lora(folder / "two", base, others),
    ]


def test_the_order_of_additive_adapters_does_not_matter(tmp_path: Path) -> None:
    base, both = two(tmp_path)
    at.merge(both, base=base, out=tmp_path / "there", scale=[0.7, 0.3])
    report = at.merge(both[::-1], base=base, out=tmp_path / "back", scale=[0.3, 0.7])
    there, back = tiny.read(tmp_path / "there"), tiny.read(tmp_path / "back")
    for name, tensor in there.items():
        assert kit.ulp_distance(tensor, back[name]).max() <= 1
    assert not report.findings


def test_order_is_said_to_matter_where_it_does(tmp_path: Path) -> None:
    case = CASES["two_dora"]
    case.build(tmp_path, torch.float32)
    plan = at.plan(case.adapters(tmp_path), base=tmp_path / "base", out=tmp_path / "out")
    assert "MRG006" in {finding.code for finding in plan.findings}


@pytest.mark.parametrize("scale", [[1.0], [1.0, 2.0, 3.0], 0.5, [], [1.0, float("nan")]], ids=str)
def test_each_adapter_needs_one_finite_scale(scale: Any, tmp_path: Path) -> None:
    base, both = two(tmp_path)
    with pytest.raises(Mismatch, match="scale"):
        at.merge(both, base=base, out=tmp_path / "out", scale=scale)
    assert not list(tmp_path.glob("out*"))


def saving(folder: Path, base: Path, head: torch.Tensor) -> Path:
    """An adapter that saves a head of its own."""
    tensors = tiny.read(base)
    pairs = tiny.factors(tensors, tiny.linears(tensors)[:1])
    more = {"base_model.model.lm_head.weight": head}
    return tiny.save_lora(folder, base, pairs, more=more, modules_to_save=["lm_head"])


def test_two_heads_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    base = tiny.save_base(tmp_path / "base", tiny.llama())
    heads = [tiny.noise(96, 32, seed=seed) for seed in (1, 2, 1)]
    a, b, c = (saving(tmp_path / str(i), base, head) for i, head in enumerate(heads))
    with pytest.raises(Unsupported, match=r"lm_head\.weight"):
        at.merge([a, b], base=base, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    at.merge([a, c], base=base, out=tmp_path / "out")
    assert torch.equal(tiny.read(tmp_path / "out")["lm_head.weight"], heads[0])


# Where it is written


def test_an_existing_output_is_refused(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("folder", "file", "nowhere"):
        with pytest.raises(Unsafe, match="exists"):
            at.merge(adapter, base=base, out=tmp_path / name)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "out", ["base", "base/out", "base/a/b", "adapter/out", ".", "link/out", "base/../base/out"]
)
def test_an_output_inside_or_around_an_input_is_refused(out: str, tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    (tmp_path / "link").symlink_to(base)
    before = tiny.contents(tmp_path)
    with pytest.raises(Unsafe):
        at.merge(adapter, base=base, out=tmp_path / out)
    assert tiny.contents(tmp_path) == before


def test_the_current_folder_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = tiny.small(tmp_path / "inputs")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(Unsafe, match="exists"):
        at.merge(adapter, base=base, out=".")


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    at.merge(adapter, base=base, out=tmp_path / "a" / "b" / "out")
    assert at.verify(tmp_path / "a" / "b" / "out").ok


def test_a_plan_is_run_as_it_is(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    plan = at.plan(adapter, base=base, out=tmp_path / "out", scale=0.5)
    assert at.merge(plan).facts["digest"] == plan.digest
    at.merge(adapter, base=base, out=tmp_path / "again", scale=0.5)
    assert tiny.contents(tmp_path / "out") == tiny.contents(tmp_path / "again")


@pytest.mark.parametrize(
    "option", [{"out": "other"}, {"scale": 2.0}, {"dtype": "float16"}], ids=str
)
def test_what_a_plan_cannot_take_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    plan = at.plan(adapter, base=base, out=tmp_path / "out")
    with pytest.raises((TypeError, at.errors.AdapterToolsError)):
        at.merge(plan, **option)


def test_not_enough_room_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = tiny.small(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="1,000 are free"):
        at.merge(adapter, base=base, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


# What is said of it


def test_the_receipt_holds_every_edit(tmp_path: Path) -> None:
    base, both = two(tmp_path, torch.bfloat16)
    plan = at.plan(both, base=base, out=tmp_path / "out")
    at.merge(plan)
    receipt = json.loads((tmp_path / "out" / "adaptertools.json").read_text())
    assert [edit["tensor"] for edit in receipt["edits"]] == [edit.name for edit in plan.edits]
    for edit in receipt["edits"]:
        assert len(edit["updates"]) in (1, 2)
        assert edit["rounding"].keys() == {
            "max_error", "mean_error", "swallowed", "update_norm", "measured", "retention"
        }  # fmt: skip
    assert receipt["digest"] == plan.digest
    assert len(receipt["base"]["headers_sha256"]) == 64
    assert [len(adapter["sha256"]) for adapter in receipt["adapters"]] == [64, 64]
    assert receipt["options"] == dict(plan.options)


def test_two_merges_give_the_same_files_whatever_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, both = two(tmp_path, torch.bfloat16)
    at.merge(both, base=base, out=tmp_path / "out")
    monkeypatch.setattr("time.time", lambda: 4e9)
    at.merge(both, base=base, out=tmp_path / "later")
    assert tiny.contents(tmp_path / "out") == tiny.contents(tmp_path / "later")


def test_verify_sees_what_went_wrong_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(plan: at.MergePlan, folder: Path) -> None:
        path = folder / plan.jobs[0].file
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    base, adapter = tiny.small(tmp_path)
    assert at.merge(adapter, base=base, out=tmp_path / "right", verify=True).facts["verified"] == {
        "tensors": 19, "probed": 14, "equal": 5, "wrong": 0
    }  # fmt: skip
    monkeypatch.setattr("adaptertools.verbs.merge.write_files", damage)
    with pytest.raises(Unreadable, match=r"lm_head\.weight|norm"):
        at.merge(adapter, base=base, out=tmp_path / "out", verify=True)
    assert not list(tmp_path.glob("out*"))


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path, shards=3)
    counts: list[int] = []
    at.merge(adapter, base=base, out=tmp_path / "out", progress=counts.append)
    assert sum(counts) == sum(t.nbytes for t in tiny.read(base).values())


def test_values_that_are_not_finite_in_the_adapter_are_refused(tmp_path: Path) -> None:
    base, adapter = tiny.small(tmp_path)
    held = load_file(adapter / "adapter_model.safetensors")
    name = next(iter(held))
    held[name][0, 0] = torch.nan
    save_file(held, adapter / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(Unreadable, match="NaN"):
        at.merge(adapter, base=base, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
    at.merge(adapter, base=base, out=tmp_path / "out", allow_nonfinite=True)
    assert any(tensor.isnan().any() for tensor in tiny.read(tmp_path / "out").values())
