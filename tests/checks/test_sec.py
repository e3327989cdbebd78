"""The finer points of the SEC checks: what they say, and what they leave alone."""

from __future__ import annotations

import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.auto import check_import_allowlist, get_default_import_allowlist

import adaptertools as at
from adaptertools.checks import _regex, sec_config
from adaptertools.checks._regex import TooSlow, matching, plain, work
from adaptertools.report import Finding
from tests import handmade_pickle as p
from tests.checks import tiny
from tests.checks.make_fil import POINTER
from tests.checks.make_sec import TEMPLATE, pickled
from tests.checks.test_fil import found, put, said
from tests.hostile import RUN
from tests.test_picklefile import DATA

WILD = sorted((DATA / "configs" / "wild").glob("*.json"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def with_config(folder: Path, code: str, **changes: Any) -> list[Finding]:
    tiny.set_config(folder, **changes)
    return found(folder, code)


def test_a_pickle_of_tensors_is_a_warning(adapter: Path) -> None:
    pickled(adapter)
    (finding,) = found(adapter, "SEC001")
    assert (finding.level, finding.file) == ("warning", "adapter_model.bin")
    assert "torch.FloatStorage" in finding.text
    assert "convert" in finding.hint
    assert found(adapter, "SEC002") == []


def test_what_torch_saves_beside_an_adapter(adapter: Path) -> None:
    torch.save({"lr": 0.1, "state": {0: {"exp_avg": torch.ones(2)}}}, adapter / "optimizer.pt")
    torch.save({"numpy": np.random.get_state()}, adapter / "rng_state.pth")
    assert sorted(levels(found(adapter, "SEC001"))) == ["error", "warning"]
    (finding,) = found(adapter, "SEC002")
    assert (finding.file, "numpy." in finding.text) == ("rng_state.pth", True)


def test_every_strange_name_is_told(adapter: Path) -> None:
    more = b"csubprocess\nrun\n"
    (adapter / "a.bin").write_bytes(p.zipped(p.mapped(("a", RUN), ("b", more))))
    (text,) = said(adapter, "SEC002")
    assert text.count("posix.system") == 1
    assert "also names subprocess.run" in text


def test_a_pointer_is_no_pickle(adapter: Path) -> None:
    put(adapter, "adapter_model.bin", text=POINTER)
    assert found(adapter, "SEC001") == found(adapter, "SEC002") == []


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["notes.txt", "adapter_model.safetensors", "vocab.json"])
def test_pickles_under_other_names(protocol: int, name: str, adapter: Path) -> None:
    import pickle

    (adapter / name).write_bytes(pickle.dumps({"a": [1, 2]}, protocol))
    (finding,) = found(adapter, "SEC001")
    assert (finding.level, finding.file) == ("error", name)


def test_arrays_of_objects(adapter: Path) -> None:
    np.save(adapter / "a.npy", np.array([{}, 1], object), allow_pickle=True)
    np.save(adapter / "b.npy", np.array([(1, {})], [("n", "i4"), ("o", "O")]), allow_pickle=True)
    np.save(adapter / "c.npy", np.ones(3))
    assert {finding.file for finding in found(adapter, "SEC001")} == {"a.npy", "b.npy"}


@settings(deadline=None, max_examples=300)
@given(st.integers(2, 2**24), st.binary(max_size=20))
def test_a_safetensors_header_is_no_pickle(length: int, more: bytes) -> None:
    from adaptertools.checks.sec_pickle import _HEAD

    assert not _HEAD.match(length.to_bytes(8, "little") + b'{"' + more)


def test_imports_are_as_peft_allows(adapter: Path) -> None:
    allowed = get_default_import_allowlist()
    names = [*allowed, *(f"{a}.x" for a in allowed), *(f"{a}x" for a in allowed), "os", "",
             "transformers_modules.a", "peft.peft_model", "megatron.core", "TRANSFORMERS",
             "."]  # fmt: skip
    for name in names:
        mapping = {"base_model_class": "A", "parent_library": name}
        refused = levels(with_config(adapter, "SEC003", auto_mapping=mapping)) == ["error"]
        assert refused != check_import_allowlist(allowed, name), name
    assert set(sec_config._IMPORTED) == set(allowed)


@pytest.mark.parametrize("value", [[], "transformers", {}, {"parent_library": None}])
def test_a_mapping_of_nothing(value: object, adapter: Path) -> None:
    assert levels(with_config(adapter, "SEC003", auto_mapping=value)) == ["warning"]


@pytest.mark.parametrize(
    ("core", "config", "expected"),
    [("megatron.core", {"a": 1}, []), (None, {"a": 1}, []), ("os", {"a": 1}, ["error"]),
     ("os", None, ["warning"]), ("megatron", {"a": 1}, ["error"]), (["os"], {"a": 1}, ["error"]),
     ("megatronx.core", {"a": 1}, ["error"])],
)  # fmt: skip
def test_megatron(core: object, config: object, expected: list[str], adapter: Path) -> None:
    found_ = with_config(adapter, "SEC004", megatron_core=core, megatron_config=config)
    assert levels(found_) == expected


@pytest.mark.parametrize(
    ("value", "pointer"),
    [({"tokenizer_kwargs": {"trust_remote_code": True}}, "/tokenizer_kwargs/trust_remote_code"),
     ({"a": [{"b/c": {"trust_remote_code": "no"}}]}, "/a/0/b~1c/trust_remote_code"),
     ({"auto_map": {"AutoModel": "own.Own"}}, "/auto_map"),
     ({"_attn_implementation_internal": "a/b"}, "/_attn_implementation_internal"),
     ({"attn_implementation": "user/kernel"}, "/attn_implementation"),
     ({"attn_implementation": {"text": "user/kernel@main"}}, "/attn_implementation"),
     ({"experts_implementation": "grouped_mm", "attn_implementation": "sdpa"}, ""),
     ({"trust_remote_code": False, "_attn_implementation_internal": None}, "")],
)  # fmt: skip
def test_remote_code(value: dict[str, Any], pointer: str, adapter: Path) -> None:
    findings = with_config(adapter, "SEC005", **value)
    assert [finding.pointer for finding in findings] == [pointer] * bool(pointer)


def test_remote_code_beside(adapter: Path) -> None:
    text = '{\n "model_type": "llama",\n "_attn_implementation_internal": "a/b"\n}'
    put(adapter, "config.json", text=text)
    (finding,) = found(adapter, "SEC005")
    assert (finding.file, finding.line) == ("config.json", 3)


def test_remote_code_of_mlx(adapter: Path) -> None:
    value = {"fine_tune_type": "lora", "trust_remote_code": True}
    tiny.write_json(adapter / tiny.CONFIG_FILE, value)
    assert len(found(adapter, "SEC005")) == 1


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [({"shadow_model": "org/other"}, "/shadow_model"), ({"shadow_model": "mirror"}, ""),
     ({"adapters": {"0": "org/other"}}, "/adapters"), ({"arrow_config": {}}, ""),
     ({"prompt_tuning_init_state_dict_path": "a.bin"}, "/prompt_tuning_init_state_dict_path"),
     ({"tokenizer_name_or_path": "org/other"}, "/tokenizer_name_or_path"),
     ({"tokenizer_name_or_path": tiny.BASE}, ""),
     ({"corda_config": {"cache_file": "a.pt"}}, "/corda_config/cache_file"),
     ({"lora_ga_config": {"cache_file": None}}, "")],
)  # fmt: skip
def test_fetched(changes: dict[str, Any], pointer: str, adapter: Path) -> None:
    findings = with_config(adapter, "SEC006", **changes)
    assert [finding.pointer for finding in findings] == [pointer] * bool(pointer)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [("a.py", "", ["error"]), ("sub/a.so", "", ["error"]), ("a.sh", "", ["warning"]),
     ("a.pth", "/a/b\nimport os\n", ["error"]), ("a.pth", "/a/b\n", []), ("pyproject.md", "", []),
     ("config.json", '{"auto_map": {"AutoModel": "own.Own"}}', ["error"]),
     ("config.json", '{"auto_map": {}}', []), ("config.json", "[[[", [])],
)  # fmt: skip
def test_code(name: str, text: str, expected: list[str], adapter: Path) -> None:
    put(adapter, name, text=text)
    assert levels(found(adapter, "SEC007")) == expected


def test_weights_are_no_path_file(adapter: Path) -> None:
    torch.save({"import": torch.ones(1)}, adapter / "a.pth")
    assert found(adapter, "SEC007") == []


ENDLESS = ["(.*)*q_projX", "(a+)+$", "((a*)b?)*c", "(?:x+y?){10,}", "(?=(a+)+)b", "(?>(a+)+)b"]
SLOW = ["(a|a)*b", "(?:x?){50}x{50}", ".*" * 12 + "X", "(?i)" + "[\0-\U0010ffff]" * 400]
FAST = [
    "q_proj", "model.layers.0.q_proj", r".*\.(q|k|v)_proj", r"model\.layers\.\d+\..*", "[qkv]_proj",
    r"^(?!.*vision).*\.(?:q_proj|k_proj)$", ".{,30}q", "(ab){3}", "(?:q_proj|v_proj)",
    ".*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|v_proj|o_proj).*?",
]  # fmt: skip


@pytest.mark.parametrize("pattern", ENDLESS)
def test_repeats_of_repeats(pattern: str, adapter: Path) -> None:
    assert work(pattern).endless
    with pytest.raises(TooSlow):
        matching([pattern], ["a"])
    assert levels(with_config(adapter, "SEC008", target_modules=pattern)) == ["error"]


@pytest.mark.parametrize("pattern", SLOW, ids=range(len(SLOW)))
def test_what_the_screen_does_not_see_is_stopped(pattern: str, adapter: Path) -> None:
    assert not work(pattern).endless
    begin = time.process_time()
    with pytest.raises(TooSlow):
        matching([pattern], ["a" * 40, "x" * 50, "base_model.model.layers.0.q_projX" * 3])
    assert time.process_time() - begin < 1, "it runs elsewhere"
    assert levels(with_config(adapter, "SEC008", exclude_modules=pattern)) == ["error"]


@pytest.mark.parametrize("pattern", FAST)
def test_expressions_that_people_write(pattern: str, adapter: Path) -> None:
    assert with_config(adapter, "SEC008", target_modules=pattern) == []
    names = ["model.layers.10.self_attn.q_proj", "language.mlp.q_proj", "q_proj", "abababc", ""]
    for how in ("fullmatch", "match", "search"):
        expected = {name for name in names if getattr(re, how)(pattern, name)}
        assert matching([pattern], names, how) == [expected]


def test_many_at_once() -> None:
    assert matching(["a", ".*b[x]?", "(?i)C"], ["a", "ab", "c"]) == [{"a"}, {"ab"}, {"c"}]
    assert matching([], ["a"]) == []
    assert matching(["a"], []) == [set()]


@pytest.mark.parametrize(
    "pattern", ["[a-", "(", "*a", "(?<=a*)b", "(?P<1>a)", "a{9999999999}", "(" * 3000]
)
def test_broken_expressions(pattern: str, adapter: Path) -> None:
    with pytest.raises((re.error, OverflowError, RecursionError)):
        re.compile(pattern)
    assert work(pattern).broken
    with pytest.raises(re.error):
        matching([pattern], ["a"])
    assert with_config(adapter, "SEC008", target_modules=pattern) == [], "CFG011 says so"


@settings(deadline=None, max_examples=400)
@given(st.text("ab.*+?()[]{}|\\^$<=!:P0129,-", max_size=12))
def test_what_is_broken_is_what_python_refuses(pattern: str) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except (re.error, OverflowError):
        assert work(pattern).broken
    else:
        assert not work(pattern).broken


@pytest.mark.parametrize(
    ("changes", "pointer", "level"),
    [({"rank_pattern": {"a/b(q+)+": 1}}, "/rank_pattern/a~1b(q+)+", "error"),
     ({"alpha_pattern": {"(q+)+": 1}}, "/alpha_pattern/(q+)+", "error"),
     ({"layers_pattern": "(q+)+"}, "/layers_pattern", "error"),
     ({"layers_pattern": ["a", "(q+)+"]}, "/layers_pattern/1", "error"),
     ({"modules_to_save": ["(q+)+"]}, "/modules_to_save/0", "error"),
     ({"exclude_modules": "(?:q|kk)*"}, "/exclude_modules", "warning"),
     ({"exclude_modules": "".join(f"(?:x{i})?" for i in range(60))}, "/exclude_modules", "warning"),
     ({"exclude_modules": "a" * 5000 + "?"}, "/exclude_modules", "warning"),
     ({"target_modules": ["(q+)+"]}, "", "")],  # PEFT compares these as they are
)  # fmt: skip
def test_places_and_levels(
    changes: dict[str, Any], pointer: str, level: str, adapter: Path
) -> None:  # fmt: skip
    findings = with_config(adapter, "SEC008", **changes)
    assert [(f.pointer, f.level) for f in findings] == [(pointer, level)] * bool(pointer)


def test_many_expressions_take_bounded_time(adapter: Path) -> None:
    slow = {f"{SLOW[2]}{i}": 1 for i in range(200)}
    fast = {f".*[a]{{{i},{i}}}.*": 1 for i in range(200)}
    begin = time.monotonic()
    findings = with_config(adapter, "SEC008", rank_pattern=slow | fast)
    assert levels(findings) == ["error", "warning"]
    assert findings[1].text.startswith("399 expressions")
    long = {"x?" * 2000 + str(i): 1 for i in range(200)}
    findings = with_config(adapter, "SEC008", rank_pattern=long)
    assert any("the rest is not read" in finding.text for finding in findings)
    assert time.monotonic() - begin < 60


@pytest.mark.skipif(not WILD, reason=f"no configs there: {DATA} (set ADAPTERTOOLS_DATA)")
def test_expressions_of_real_configs() -> None:
    seen = 0
    for path in WILD:
        value = json.loads(path.read_bytes()) if path.read_bytes()[:1] == b"{" else None
        pattern = value.get("target_modules") if isinstance(value, dict) else None
        if isinstance(pattern, str) and not plain(pattern):
            seen += 1
            assert work(pattern).height < 2
    assert seen


@pytest.mark.parametrize(
    "reach",
    ["{{ ''.__class__ }}", "{{ x['__class__'] }}", "{{ x|attr('a') }}", "{{ x |  attr('a') }}",
     "{% import 'a' as b %}", "{%- include 'a' %}", "{% from 'a' import b %}", "{{ x._secret }}",
     "{{ x[ '_secret'] }}", r"{{ x['\x5f\x5fclass\x5f\x5f'] }}", "{% extends 'a' %}",
     "{# don't #}{{ x.__class__ }}", "{% raw %}{{ ' {% endraw %}{{ x.__class__ }}",
     '{{ "}}" }}{{ x.__class__ }}', "{{ x. \n__class__ }}"],
)  # fmt: skip
def test_templates_that_reach(reach: str, adapter: Path) -> None:
    put(adapter, "chat_template.jinja", text=TEMPLATE + reach)
    assert len(found(adapter, "SEC009")) == 1


def test_where_templates_stand(adapter: Path) -> None:
    bad = "{{ x.__class__ }}"
    two = {"chat_template": [{"name": "default", "template": "x"}, {"name": "b", "template": bad}]}
    tiny.write_json(adapter / "tokenizer_config.json", two)
    (finding,) = found(adapter, "SEC009")
    assert (finding.file, finding.pointer) == ("tokenizer_config.json", "/chat_template")
    tiny.write_json(adapter / "tokenizer_config.json", {"chat_template": 7})
    assert found(adapter, "SEC009") == []
    put(adapter, "additional_chat_templates/tool.jinja", text=bad)
    put(adapter, "chat_template.json", text=json.dumps({"chat_template": bad}))
    assert len(found(adapter, "SEC009")) == 2
    put(adapter, "chat_template.jinja", text="x" * 300_000)
    assert "too long" in "".join(said(adapter, "SEC009"))


def test_a_template_that_only_formats(adapter: Path) -> None:
    text = """{%- set ns = namespace(found=false, is_first=true, system_prompt='') -%}
{%- if tools is not none %}{{- bos_token + '[AVAILABLE_TOOLS] ' + tools | tojson }}{%- endif %}
{%- for m in messages %}{%- if loop.first and m['role'] == 'system' %}{% set ns.a_b = m.content %}
{%- elif m.content is string %}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1].lstrip('\\n') }}
<|start_header_id|>{{ raise_exception("e.g. never_mind") }}{%- endif %}{%- endfor %}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(' ') }}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %} {# from here, import #}"""
    put(adapter, "chat_template.jinja", text=text)
    assert found(adapter, "SEC009") == []


TAIL = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0iL3oR6u"
SECRETS = {
    "Hugging Face": "hf" + "_" + TAIL[:34], "OpenAI": "sk" + "-proj-" + TAIL,
    "AWS": "AKIA" + "IOSFODNN7EXAMPLE", "GitHub": "ghp" + "_" + TAIL[:36],
    "Google": "AIza" + TAIL[:35], "Slack": "xoxb" + "-1234567890-" + TAIL,
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "home": "/ho" + "me/ada/data", "home on macOS": "/Us" + "ers/ada/data",
    "home on Windows": "C:\\Us" + "ers\\ada\\data",
}  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("file", ["train.yaml", "sub/a.json", "README.md", ".env"])
def test_secrets(name: str, file: str, adapter: Path) -> None:
    put(adapter, file, text=f"first line\n  key: '{SECRETS[name]}/x'\nagain {SECRETS[name]}/x\n")
    (finding,) = found(adapter, "SEC010")
    assert (finding.file, finding.line, finding.column) == (file, 2, 9)
    assert finding.level == "error"
    shown = name.startswith("home")
    assert (SECRETS[name] in finding.text) == (shown and "Windows" not in name) or shown


def test_a_secret_is_not_repeated(adapter: Path) -> None:
    put(adapter, "a.txt", text=SECRETS["Hugging Face"])
    (text,) = said(adapter, "SEC010")
    assert SECRETS["Hugging Face"] not in text


@pytest.mark.parametrize(
    "text",
    ["hf" + "_" + "x" * 34, "sk" + "-learn-estimators-are-fitted-here", "task-1234567890" * 4,
     "https://a.b/ho" + "me/ada/x", "the /ho" + "me/ folder", "BEGIN PUBLIC KEY", "~/data",
     "hf" + "_hub_download"],
)  # fmt: skip
def test_what_is_no_secret(text: str, adapter: Path) -> None:
    put(adapter, "a.txt", text=text)
    assert found(adapter, "SEC010") == []


def test_vocabularies_and_large_files_are_not_read(adapter: Path) -> None:
    put(adapter, "tokenizer.json", "vocab.txt", text=SECRETS["GitHub"])
    put(adapter, "a.txt", text=SECRETS["GitHub"] + " " * 1_000_000)
    assert found(adapter, "SEC010") == []


def test_searching_for_secrets_takes_bounded_time(adapter: Path) -> None:
    for i, part in enumerate(
        ("-----BEGIN ", "A1 ", "sk-", "/ho" + "me/a", "C:\\Users\\a ", "hf_a1")
    ):
        put(adapter, f"{i}.txt", text=part * (900_000 // len(part)))
    begin = time.process_time()
    found(adapter, "SEC010")
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    ("name", "odd"),
    [("a\x1b[2J", True), ("a\u202eb", True), ("a\u200bb", True), ("::set-env name=a::b", True),
     ("##[error] a", True), ("a::b", False), ("\u00e9\u4e2d", False)],
)  # fmt: skip
def test_names_that_steer(name: str, odd: bool, adapter: Path) -> None:
    tiny.set_tensors(adapter, lambda held: held | {name: tiny.noise(1)})
    findings = found(adapter, "SEC011")
    assert len(findings) == odd
    assert all(finding.text.isprintable() for finding in findings)
    tiny.set_tensors(adapter, lambda held: tiny.tensors(), {"format": "pt", name: "x"})
    assert len(found(adapter, "SEC011")) == odd
    tiny.set_tensors(adapter, lambda held: held, {})
    put(adapter, f"{name}.md")
    assert len(found(adapter, "SEC011")) == odd


def test_file_names_are_looked_at_without_weights(adapter: Path) -> None:
    (adapter / tiny.WEIGHTS_FILE).write_bytes(b"")
    put(adapter, "a\x1b.md")
    assert len(found(adapter, "SEC011")) == 1


def test_signatures_are_a_note(adapter: Path) -> None:
    put(adapter, "model.sig", "sub/a.sigstore.json", "a.significant.md")
    assert levels(found(adapter, "SEC012")) == ["note"] * 2
    assert at.validate(adapter, select=["SEC012"]).ok


def test_the_worker_is_stopped_by_the_clock_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_regex, "_WAIT", 0.3)
    monkeypatch.setattr(_regex, "_WORKER", "import time; time.sleep(60)")
    with pytest.raises(TooSlow):
        matching(["[a]*"], ["a"])
