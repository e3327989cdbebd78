"""Everything that can go wrong on purpose.

AdapterToolsError
├── NotFound      (LookupError)          no such repo, revision, file, tensor
├── Unreadable    (ValueError)           damaged, or not what its name says
│   ├── UnknownFormat                    lists the formats tried
│   └── UnknownMethod                    did-you-mean, and the list
├── Mismatch      (ValueError)           adapter and base do not fit: name, shape, dtype, revision
├── Unsupported   (NotImplementedError)  understood, cannot be done: why, and what to do instead
├── Unsafe        (PermissionError)      refused: pickle, remote code, a path leaving its folder
└── HubError      (OSError)              network or permission, with the `hf` command that helps

Sentence shape: what, where: found, expected. Why. Next step. To add one: subclass the nearest
leaf and the standard error it replaces; keep it picklable (jobs cross process boundaries).
"""

from __future__ import annotations

from collections.abc import Iterable


class AdapterToolsError(Exception):
    """Any refusal or failure that adaptertools explains."""

    def __str__(self) -> str:
        # OSError and LookupError subclasses would otherwise show an errno or quotes.
        return str(self.args[0]) if self.args else self.__class__.__name__


class NotFound(AdapterToolsError, LookupError):
    """No such repository, revision, file or tensor."""


class Unreadable(AdapterToolsError, ValueError):
    """Damaged, or not what its name says."""


class UnknownFormat(Unreadable):
    """No reader recognises the files."""


class UnknownMethod(Unreadable):
    """The adapter names a method that adaptertools does not know."""


class Mismatch(AdapterToolsError, ValueError):
    """Adapter and base do not fit."""


class Unsupported(AdapterToolsError, NotImplementedError):
    """Understood, and cannot be done."""


class Unsafe(AdapterToolsError, PermissionError):
    """Refused, because following it could do harm."""


class HubError(AdapterToolsError, OSError):
    """The Hub could not be reached or did not allow it."""


def shown(name: object, limit: int = 200) -> str:
    """Escape a name from a stranger's file so that it can be printed on one line."""
    text = str(name)
    safe = text
    if not text.isprintable():
        safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."


def first(names: Iterable[object], count: int = 5) -> str:
    """List the first few names, and say how many more there are."""
    every = [shown(n) for n in names]
    more = f" and {len(every) - count} more" if len(every) > count else ""
    return ", ".join(every[:count]) + more
