"""What is fetched of a repository and what is not, and what is said where there is no adapter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from huggingface_hub.utils import filter_repo_objects

from adaptertools.errors import NotFound, Unsafe
from adaptertools.hub.choose import choose
from adaptertools.hub.repo import RemoteFile, Repo
from adaptertools.ref import Ref

NEEDED = (
    "adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE", "LICENSE.txt",
    "NOTICE", "USE_POLICY.md", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
    "spiece.model", "qwen.tiktoken", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "new_embeddings.safetensors", "additional_chat_templates/tool_use.jinja",
)  # fmt: skip
TRAINING = (
    "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth", "rng_state_0.pth",
    "scaler.pt", "trainer_state.json", "training_args.bin", "events.out.tfevents.1.host",
    "latest", "zero_to_fp32.py", "0000100_adapters.safetensors",
)  # fmt: skip
OTHER = {
    "adapter_model.bin": "pickled", "pytorch_model.bin": "whole model",
    "model.safetensors": "whole model", "model-00001-of-00002.safetensors": "whole model",
    "model.Q4_K_M.gguf": "whole model", "extra.pkl": "pickle", "data.pt": "pickle",
    "handler.py": "no part", ".gitattributes": "no part", "image.png": "no part",
    "checkpoint-6/adapter_config.json": "adapter in checkpoint-6",
    "checkpoint-6/optimizer.pt": "adapter in checkpoint-6", "runs/x": "in a folder below",
}  # fmt: skip


def held(*names: str, status: str = "") -> Repo:
    files = {name: RemoteFile(name=name, size=1, status=status) for name in names}
    return Repo(id="user/repo", commit="0" * 40, files=files)


def ref(subfolder: str | None = None) -> Ref:
    text = f"user/repo/{subfolder}" if subfolder else "user/repo"
    return Ref(text, repo="user/repo", subfolder=subfolder)


def test_an_adapter_and_nothing_else() -> None:
    chosen, left = choose(held(*NEEDED, *TRAINING, *OTHER), ref(), "adapter")
    assert sorted(chosen) == sorted(NEEDED)
    assert sorted(left) == sorted((*TRAINING, *OTHER))
    assert {left[name] for name in TRAINING} == {"state of the training run"}
    for name, why in OTHER.items():
        assert why in left[name], name


@pytest.mark.parametrize("weights", ["adapter_model.bin", "pytorch_adapter.bin"])
def test_pickled_weights_only_without_others(weights: str) -> None:
    chosen, _ = choose(held("adapter_config.json", weights, "more.bin"), ref(), "adapter")
    assert sorted(chosen) == ["adapter_config.json", weights]


def test_a_base_has_no_pickles() -> None:
    names = ("config.json", "model.safetensors.index.json", "model-1-of-2.safetensors",
             "modeling_x.py", "tokenizer.model", "more_templates/tool.jinja")  # fmt: skip
    more = ("pytorch_model.bin", "optimizer.pt", "model.gguf", "tf_model.h5", "trainer_state.json",
            "checkpoint-6/optimizer.pt", "flax_model.msgpack")  # fmt: skip
    chosen, left = choose(held(*names, *more), ref(), "base")
    assert sorted(chosen) == sorted(names)
    assert sorted(left) == sorted(more)


@pytest.mark.parametrize("config", [True, False])
def test_a_model_or_an_adapter(config: bool) -> None:
    names = ("model.safetensors", "config.json", "adapter_model.safetensors")
    chosen, _ = choose(held(*names, *["adapter_config.json"] * config), ref(), "model or adapter")
    assert ("model.safetensors" in chosen) is not config


PATTERNS: list[tuple[Sequence[str], Sequence[str]]] = [
    (["*"], []), (["*.json"], []), (["*"], ["*.json"]), (["checkpoint-6/"], []), (["*.pt"], ["o*"]),
    (["checkpoint-6\\*"], []), (["[ab]*"], ["*/*"]), (["README.md", "LICENSE"], ["l*"]),
]  # fmt: skip


@pytest.mark.parametrize(("include", "exclude"), PATTERNS, ids=str)
def test_patterns_mean_what_they_mean_to_hf(include: list[str], exclude: list[str]) -> None:
    repo = held(*NEEDED, *TRAINING, *OTHER)
    theirs = list(
        filter_repo_objects(repo.files, allow_patterns=include, ignore_patterns=exclude or None)
    )
    chosen, left = choose(repo, ref(), "adapter", include, exclude)
    assert sorted(chosen) == sorted(theirs)
    assert sorted([*chosen, *left]) == sorted(repo.files)


def test_exclude_alone_takes_away() -> None:
    chosen, left = choose(held(*NEEDED), ref(), "adapter", exclude=["*.json"])
    assert "adapter_config.json" not in chosen
    assert left["adapter_config.json"] == "excluded"
    assert "adapter_model.safetensors" in chosen


def test_a_subfolder_is_a_repository_of_its_own() -> None:
    repo = held("README.md", "c/adapter_config.json", "c/adapter_model.safetensors", "c/d/x.json")
    chosen, left = choose(repo, ref("c"), "adapter")
    assert {name: file.name for name, file in chosen.items()} == {
        "adapter_config.json": "c/adapter_config.json",
        "adapter_model.safetensors": "c/adapter_model.safetensors",
    }
    assert left == {"d/x.json": "in a folder below"}


HOSTILE = ("../evil.json", "/etc/passwd.json", "..\\evil.json", "C:\\x.json", "NUL.json",
           "a\n.json", "a/../../b.json", ".git/hooks/x.json")  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("include", [(), ("*",)], ids=["plain", "include"])
def test_hostile_names_are_never_chosen(name: str, include: Sequence[str]) -> None:
    repo = held("adapter_config.json", "adapter_model.safetensors", name)
    chosen, left = choose(repo, ref(), "adapter", include)
    assert name not in chosen
    assert name in left
    assert len(chosen) == 2


def test_of_names_that_differ_in_case_one_is_chosen() -> None:
    repo = held("adapter_config.json", "ADAPTER_CONFIG.json", "adapter_model.safetensors")
    chosen, left = choose(repo, ref(), "adapter", include=["*"])
    assert sorted(chosen) == ["adapter_config.json", "adapter_model.safetensors"]
    assert "case" in left["ADAPTER_CONFIG.json"]


NOTHING = {
    "checkpoint": (
        ["checkpoint-6/adapter_config.json"],
        r"an adapter in a folder of its own: checkpoint-6\. Give user/repo/checkpoint-6\.",
    ),
    "several": (
        ["a/adapter_config.json", "b/adapter_config.json"],
        r"2 adapters in folders of their own: a, b\. Give user/repo/a\.",
    ),
    "merged": (["config.json", "model.safetensors"], "whole model.*a base or a merged one"),
    "state": (["optimizer.pt", "trainer_state.json"], "state of a training run"),
    "card": (["README.md"], "but README.md"),
    "empty": ([], "no file at all"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_no_adapter_is_said_with_what_it_is(case: str) -> None:
    names, said = NOTHING[case]
    with pytest.raises(NotFound, match=said):
        choose(held(*names), ref(), "adapter")


def test_nothing_matches_and_no_such_folder() -> None:
    with pytest.raises(NotFound, match=r"nothing to fetch is left\. It has adapter_config.json"):
        choose(held("adapter_config.json"), ref(), "adapter", include=["*.bin"])
    with pytest.raises(NotFound, match=r"no folder checkpoint-7\. It has checkpoint-6"):
        choose(held("checkpoint-6/adapter_config.json"), ref("checkpoint-7"), "adapter")


def test_what_the_scan_complains_about_is_asked_for_by_name() -> None:
    repo = held("adapter_config.json", "adapter_model.bin", status="unsafe")
    with pytest.raises(Unsafe, match=r"scan calls it unsafe.*adapter_model.bin"):
        choose(repo, ref(), "adapter")
    chosen, _ = choose(repo, ref(), "adapter", include=["*"])
    assert "adapter_model.bin" in chosen
    fine = held("adapter_config.json", "adapter_model.bin", status="queued")
    assert len(choose(fine, ref(), "adapter")[0]) == 2
