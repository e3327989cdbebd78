"""Opens the store of an address, and says in one sentence what a store's driver complains about."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adaptertools.errors import AdapterToolsError, HubError, NotFound, Unsupported, shown
from adaptertools.hub.faults import clean

# Scheme -> driver, our extra that brings it, and where its password comes from.
_AMAZON = ("s3fs", "s3", "Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
           "AWS_ENDPOINT_URL for another store than Amazon's; FSSPEC_S3_ANON=true for a public "
           "bucket.")  # fmt: skip
_GOOGLE = ("gcsfs", "gcs", "Run `gcloud auth application-default login`, or set "
           "GOOGLE_APPLICATION_CREDENTIALS.")  # fmt: skip
_AZURE = ("adlfs", "azure", "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or "
          "AZURE_STORAGE_CONNECTION_STRING.")  # fmt: skip
_DRIVERS = {"s3": _AMAZON, "s3a": _AMAZON, "gs": _GOOGLE, "gcs": _GOOGLE, "az": _AZURE,
            "abfs": _AZURE, "abfss": _AZURE, "adl": _AZURE, "oci": ("ocifs", "", ""),
            "oss": ("ossfs", "", "")}  # fmt: skip
_REFUSED = (
    "Credential",
    "Permission",
    "Forbidden",
    "Unauthorized",
    "Auth",
    "Token",
    "AccessDenied",
)
_ABSENT = ("FileNotFoundError", "NoSuchBucket", "NoSuchKey", "ResourceNotFoundError")


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn every error of a driver into NotFound or HubError, with what helps."""
    try:
        yield
    except AdapterToolsError:
        raise
    except Exception as error:
        raise _explain(error, url) from error


def opened(url: str) -> tuple[Any, str]:
    """Give the file system of an address and the folder in it.

    Raises Unsupported where the store's driver is not installed, NotFound for no such store.
    """
    import fsspec

    scheme = url.partition("://")[0]
    driver, extra, _ = _DRIVERS.get(scheme, ("", "", ""))
    try:
        with explained(url):
            files, root = fsspec.url_to_fs(url)
    except (HubError, NotFound) as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        command = f"pip install 'adaptertools[{extra}]'" if extra else f"pip install {driver}"
        raise Unsupported(
            f"{shown(url)}: {scheme}:// needs {driver or 'a driver'}, which is not installed. "
            f"Run `{command}`."
        ) from error.__cause__
    return files, str(root).rstrip("/")


def ticking(progress: Callable[[int], object] | None) -> Any:
    """Give what a driver reports its progress to."""
    from fsspec.callbacks import Callback

    class Ticks(Callback):  # type: ignore[misc,unused-ignore]
        def relative_update(self, inc: int = 1) -> None:
            if progress:
                progress(inc)

    return Ticks()


def _explain(error: Exception, url: str) -> AdapterToolsError:
    names = [kind.__name__ for kind in type(error).__mro__]
    detail = clean(error) or names[0]
    where = shown(url)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{where}: no space left ({error.strerror}). Free some; start again.")
    if any(name in _ABSENT for name in names):
        return NotFound(
            f"{where}: there is no such folder or file (or bucket). Look at the address."
        )
    if any(part in name for part in _REFUSED for name in names):
        hint = _DRIVERS.get(url.partition("://")[0], ("", "", "Look at its permissions."))[2]
        return HubError(f"{where}: the store did not allow it ({detail}). {hint}".rstrip())
    return HubError(f"{where}: the store failed ({names[0]}: {detail}). Try again.")
