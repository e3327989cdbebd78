"""The only door to huggingface_hub: a reference becomes a local folder."""

from __future__ import annotations

from pathlib import Path

from adaptertools.errors import HubError, NotFound, shown
from adaptertools.ref import Ref, parse

# What merging needs; never pickles, optimizer states or other frameworks' weights.
WANTED = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.tiktoken",
    "LICENSE*",
    "*.md",
    "*.py",
)


def local(ref: str | Path | Ref, kind: str) -> Path:
    """Give the folder of an adapter or a base, fetching it from the Hub where it is not on disk.

    Raises NotFound where there is no such folder or repository, HubError where the Hub refuses.
    """
    ref = ref if isinstance(ref, Ref) else parse(ref)
    if ref.path is None:
        return _fetch(ref)
    if not ref.path.exists():
        raise NotFound(f"{shown(ref.path)}: no such folder. The {kind} was expected here.")
    if not ref.path.is_dir():
        raise NotFound(
            f"{shown(ref.path)} is a file; the {kind} was expected in a folder. "
            "Give the folder that holds it."
        )
    return ref.path


def _fetch(ref: Ref) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            str(ref.repo), revision=ref.revision, allow_patterns=list(WANTED)
        )
    except (
        errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError
    ) as error:  # fmt: skip
        raise NotFound(
            f"{shown(ref.text)}: no such repository or revision on the Hub, or it is private. "
            "`hf auth login` if it is yours."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.HfHubHTTPError, OSError) as error:
        raise HubError(
            f"{shown(ref.text)} is not a folder here and could not be fetched from the Hub: "
            f"{shown(error)}. Give a local path, or see `hf download {shown(ref.repo)}`."
        ) from error
    return Path(folder, ref.subfolder) if ref.subfolder else Path(folder)


def standing(repo: str) -> str:
    """Ask the Hub about a model's repository: "ok", "missing", "gated" or "moved: its name now".

    Raises HubError where the Hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        found = HfApi().model_info(repo, timeout=10)
    except GatedRepoError:
        return "gated"
    except RepositoryNotFoundError:
        return "missing"
    except Exception as error:
        raise HubError(
            f"The Hub could not be asked about {shown(repo)}: {shown(error)}. "
            "Leave --online out, or look at the network."
        ) from None
    if found.gated:
        return "gated"
    return "ok" if found.id.lower() == repo.lower() else f"moved: {found.id}"
