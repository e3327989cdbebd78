"""BAS011: what can be told of a base's identity, and what cannot."""

import pytest

from adaptertools.checks import catalogue
from adaptertools.facts import Base
from adaptertools.tensorfile import TensorSpec

ONE, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
CACHE = f"/cache/huggingface/hub/models--org--base/snapshots/{ONE}"


def found(ref: str, named: object, revision: object = None, file: str = "") -> list[str]:
    """Give the pointers of what is found."""
    tensors = {"w": TensorSpec("w", "F32", (1,), file, 0, 4)} if file else None
    base = Base(ref=ref, config={}, tensors=tensors)
    config = {"base_model_name_or_path": named, "revision": revision}
    return [each.pointer for each in catalogue()["BAS011"].run(config=config, base=base)]


@pytest.mark.parametrize("named", ["org/base", "ORG/Base", "base", None, 7, "", "./base", "/a/b"])
@pytest.mark.parametrize("ref", [CACHE, "org/base", f"org/base@{ONE}", "hf://org/base"])
def test_the_same_or_nobody_knows(ref: str, named: object) -> None:
    for revision in (None, "main", ONE, 7, "0123"):
        assert found(ref, named, revision) == []


@pytest.mark.parametrize("ref", [CACHE, "org/base", f"org/base@{ONE}"])
def test_another_base(ref: str) -> None:
    assert found(ref, "org/other", ONE) == ["/base_model_name_or_path"]
    assert found("elsewhere", "org/other", file=f"{CACHE}/model.safetensors") == [
        "/base_model_name_or_path"
    ]


@pytest.mark.parametrize("ref", [CACHE, f"org/base@{ONE}"])
def test_another_commit(ref: str) -> None:
    assert found(ref, "org/base", OTHER) == ["/revision"]


def test_a_folder_says_nothing_of_itself() -> None:
    for ref in (".", "/nowhere/base", "~/base", f"/snapshots/{ONE}"):
        assert found(ref, "org/other", OTHER) == []


def test_models_without_an_owner() -> None:
    cache = f"models--gpt2/snapshots/{ONE}"
    assert found(cache, "openai-community/gpt2") == []
    assert found(cache, "gpt2") == []
    assert found(cache, "distilgpt2") == ["/base_model_name_or_path"]
