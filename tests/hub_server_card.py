"""What the Hub derives from a card: metadata, tags, the library; and what it refuses in one."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.hub_server_git import Commit, Repository


def front_matter(text: str) -> Any:
    """Give the metadata of a card; ValueError where it is no YAML."""
    import yaml  # what huggingface_hub itself reads cards with

    match = re.match(r"\s*---\r?\n(.*?)(?:^|\n)---\s*(?:\r?\n|$)", text, re.DOTALL)
    try:
        return yaml.safe_load(match.group(1)) if match else None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def card_of(repo: Repository, commit: Commit) -> dict[str, Any]:
    if "README.md" not in commit.files:
        return {}
    try:
        card = front_matter(repo.store.read(commit.files["README.md"]).decode("utf-8", "replace"))
    except ValueError:
        return {}
    return json.loads(json.dumps(card, default=str)) if isinstance(card, dict) else {}


def library_of(repo: Repository, commit: Commit) -> str | None:
    return card_of(repo, commit).get("library_name") or (
        "peft" if "adapter_config.json" in commit.files else None
    )


def config_of(repo: Repository, commit: Commit) -> dict[str, Any]:
    """Give what the Hub keeps of a config: of an adapter's, the base and the task."""
    name = "adapter_config.json"
    try:
        told = json.loads(repo.store.read(commit.files[name])) if name in commit.files else {}
    except ValueError:
        return {}
    keys = ("base_model_name_or_path", "task_type")
    return {"peft": {key: told.get(key) for key in keys}} if isinstance(told, dict) and told else {}


def as_list(value: object) -> list[str]:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []


def tags_of(repo: Repository, commit: Commit) -> list[str]:
    """Give the tags by which a repository is found."""
    card, library = card_of(repo, commit), library_of(repo, commit)
    tags = [library] if library else []
    tags += ["safetensors"] if any(n.endswith(".safetensors") for n in commit.files) else []
    tags += as_list(card.get("tags"))
    relation = card.get("base_model_relation") or ("adapter" if library == "peft" else "finetune")
    for base in as_list(card.get("base_model")):
        tags += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    tags += as_list(card.get("language"))
    tags += [f"dataset:{name}" for name in as_list(card.get("datasets"))]
    tags += [f"license:{card['license']}"] if card.get("license") else []
    return list(dict.fromkeys([*tags, "region:us"]))


def judged(content: str) -> tuple[list[str], list[str]]:
    """Give the errors and the warnings the Hub has for a card."""
    try:
        card = front_matter(content)
    except ValueError as error:
        return [f"Invalid YAML: {error}"], []
    if not card:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["The metadata is not a mapping"], []
    errors = []
    for base in as_list(card.get("base_model")):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) or base.startswith((".", "-")):
            errors.append(
                f'"base_model" with value "{base}" is not valid. '
                "Use a model id from https://hf.co/models."
            )
    if card.get("base_model") == "":
        errors.append('"base_model" is not allowed to be empty')
    return errors, []
