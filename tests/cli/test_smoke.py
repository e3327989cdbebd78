"""`adaptertools smoke`: exit codes, words, JSON, quiet stderr, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from adaptertools import schema
from adaptertools.verbs import _smoke_quiet
from tests.cli import assert_refused, run
from tests.tiny_smoke import config, fold, make, quiet, tune

SHORT = ("--max-new-tokens", "4")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a base, an adapter, and a right and a wrong merge."""
    folder = tmp_path_factory.mktemp("made")
    base = make("llama", folder / "base", words=True)
    adapter = tune("llama", base, folder / "adapter")
    fold("llama", base, adapter, folder / "right")
    fold("llama", base, adapter, folder / "twice", factor=2)
    return folder


def test_a_right_merge_exits_0(made: Path) -> None:
    done = run("smoke", made / "right", "--adapter", made / "adapter", *SHORT)
    assert done.code == 0, done.err
    assert done.out.startswith(f"{made / 'right'}: follows the adapter: 100.0% ")
    for words in ("tokens/s", "perplexity", "float32", "adapter to merged", "same first choice",
                  "Why does bread rise"):  # fmt: skip
        assert words in done.out
    assert done.err.splitlines() == [
        "Importing torch and transformers", "Running the base with its adapters",
        "Running the base", "Running the merged model",
    ]  # fmt: skip


def test_a_wrong_merge_exits_1(made: Path) -> None:
    args = ("smoke", made / "twice", "--adapter", made / "adapter", *SHORT)
    done = run(*args, "--quiet")
    assert (done.code, done.err) == (1, "")
    assert "OVERDOES the adapter" in done.out
    assert "SMK011 merged: " in done.out
    assert "check alpha, rank and rsLoRA" in done.out
    done = run(*args, "--json", "--quiet")
    assert (done.code, done.err) == (1, "")
    value = json.loads(done.out)
    schema.check("smoke", value)
    assert (value["ok"], value["verdict"]) == (False, "twice")


def test_quiet_says_nothing_where_all_is_well(made: Path) -> None:
    done = run("smoke", made / "right", "--adapter", made / "adapter", "-q", *SHORT)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_prompts_and_text_are_read(made: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("One paragraph.\n\n\nAnd another one, of more words.\n")
    args = ("--prompt", "First", "--prompt", "Second\x1b[31m", "--text", tmp_path / "text")
    done = run("smoke", made / "base", *args, *SHORT, "--json", "-q")
    value = json.loads(done.out)
    schema.check("smoke", value)
    assert value["prompts"] == ["First", "Second\x1b[31m"]
    assert len(value["rows"][0]["answers"]) == 2
    done = run("smoke", made / "base", *args, *SHORT)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "SMK031" in done.out


def test_an_adapter_is_compared_with_the_base_it_names(made: Path) -> None:
    done = run("smoke", made / "adapter", *SHORT, "--json", "-q")
    value = json.loads(done.out)
    assert [row["name"] for row in value["rows"]] == ["base", "adapter"]
    assert (value["verdict"], value["share"], value["device"]) == ("runs", None, "cpu")


def test_nan_is_found(made: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(made / "right", tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    for more in ((), ("--adapter", made / "adapter")):
        done = run("smoke", tmp_path / "nan", *more, *SHORT, "--json", "-q")
        assert done.code == 1
        value = json.loads(done.out, parse_constant=lambda name: pytest.fail(name))
        schema.check("smoke", value)
        assert "SMK001" in {finding["code"] for finding in value["findings"]}


def test_missing_weights_are_found(made: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(made / "right", tmp_path / "hole")
    weights = load_file(tmp_path / "hole" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "hole" / "model.safetensors", {"format": "pt"})
    done = run("smoke", tmp_path / "hole", *SHORT)
    assert done.code == 1
    assert "SMK002 model: Its files lack model.layers.1.mlp.up_proj.weight" in done.out


def edited(folder: Path, copy: Path, name: str = "adapter_config.json", **changes: object) -> Path:
    """Copy a folder, and change its config; None takes a key away."""
    shutil.copytree(folder, copy)
    value = json.loads((copy / name).read_text()) | changes
    kept = {key: each for key, each in value.items() if each is not None}
    (copy / name).write_text(json.dumps(kept))
    return copy


def test_bad_input_is_refused_in_one_sentence(made: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    adapter, base = made / "adapter", made / "base"
    homeless = edited(adapter, tmp_path / "homeless", base_model_name_or_path=None)
    strange = edited(base, tmp_path / "strange", "config.json", architectures=["OwnForCausalLM"],
                     model_type="own")  # fmt: skip
    foreign = edited(adapter, tmp_path / "foreign", peft_type=None)
    pickled = edited(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    mixed = edited(base, tmp_path / "mixed", "config.json")
    shutil.copy(adapter / "adapter_config.json", mixed)
    cut = edited(base, tmp_path / "cut", "config.json")
    (cut / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:999])
    with quiet():
        other = make("llama", tmp_path / "other", words=True, hidden_size=128)
    refused = {
        (tmp_path / "nothing",): "no such folder",
        (tmp_path / "empty",): "neither a model nor an adapter",
        (homeless,): "Pass it as --base",
        (strange,): "names OwnForCausalLM of type own",
        (foreign,): "names no peft_type",
        (pickled,): "a pickle",
        (mixed,): "both a model and an adapter",
        (cut,): "could not be loaded by transformers",
        (adapter, "--base", adapter): "is an adapter; the base was expected",
        (adapter, "--base", other): "could not be loaded beside its base",
        (made / "right", "--adapter", base): "adapter_config.json: no such file",
        (base, "--text", tmp_path / "none"): "--text names a file",
        (base, "--text", base / "model.safetensors"): "is not text in UTF-8",
    }
    for args, words in refused.items():
        assert_refused(run("smoke", *args, *SHORT, "-q"), words)


def test_words_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    base = make("opt", tmp_path / "base")
    assert_refused(run("smoke", base, "--prompt", "Hello", "-q"), "no tokenizer")


def test_a_tokenizer_of_another_model_is_refused(made: Path, tmp_path: Path) -> None:
    base = make("llama", tmp_path / "base")
    shutil.copy(made / "base" / "tokenizer.json", base)
    shutil.copy(made / "base" / "tokenizer_config.json", base)
    assert config("llama").vocab_size == 96
    assert_refused(run("smoke", base, "-q"), "beyond the 96 of the model")


def test_what_is_not_installed_is_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _smoke_quiet.find_spec
    for package, args in {"peft": (made / "adapter",), "torch": (made / "base",),
                          "bitsandbytes": (made / "base", "--quant", "8bit")}.items():  # fmt: skip
        monkeypatch.setattr(
            _smoke_quiet, "find_spec", lambda n, p=package: None if n == p else real(n)
        )
        extra = "quant" if package == "bitsandbytes" else "models"
        assert_refused(run("smoke", *args, "-q"), package, f"adaptertools[{extra}]")


@pytest.mark.parametrize(
    "args", [(), ("a", "b"), ("a", "--quant", "3bit"), ("a", "--max-new-tokens", "0")]
)
def test_usage_errors_exit_2(args: tuple[str, ...]) -> None:
    done = run("smoke", *args)
    assert (done.code, done.out) == (2, "")
