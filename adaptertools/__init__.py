"""What happens to an adapter after training: inspect, plan, merge, verify. On files, exactly.

    import adaptertools as at

    a = at.open("adapter/")                                # config and header only
    plan = at.plan(a, base="model/", out="merged")         # print it, dump it, check it
    at.merge(a, base="model/", out="merged", verify=True)  # a Report
    at.verify("merged")

The rooms, each answering one question (imports only go down):

    cli        what did the user say, what do they see?
    verbs      in what order?
    formats    how is an adapter spelled on disk?        methods   what does it do to one weight?
    layouts    which tensors hold the module it names?
    adapter  checkpoint  jobs  runner  probe  report     the nouns
    tensorfile  update  hub  schema                      bytes, algebra, network, schemas
    ref  errors  plugins  version

Nothing here imports torch; numpy comes in when the first tensor is read.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from adaptertools.version import VERSION

if TYPE_CHECKING:
    from adaptertools import errors
    from adaptertools.adapter import Adapter
    from adaptertools.jobs import MergePlan
    from adaptertools.report import Finding, Report
    from adaptertools.verbs._compare_parts import Comparison
    from adaptertools.verbs.compare import compare
    from adaptertools.verbs.convert import convert
    from adaptertools.verbs.demo import demo
    from adaptertools.verbs.download import download
    from adaptertools.verbs.extract import extract
    from adaptertools.verbs.inspect import Inspection, inspect
    from adaptertools.verbs.merge import merge
    from adaptertools.verbs.open import open_adapter as open
    from adaptertools.verbs.plan import plan
    from adaptertools.verbs.resize import resize
    from adaptertools.verbs.save import save
    from adaptertools.verbs.search import search
    from adaptertools.verbs.smoke import smoke
    from adaptertools.verbs.stack import stack
    from adaptertools.verbs.upload import upload
    from adaptertools.verbs.validate import validate
    from adaptertools.verbs.verify import verify

__version__ = VERSION

# Public name -> module and attribute; imported on first use.
_NAMES = {
    "Adapter": ("adapter", "Adapter"),
    "Comparison": ("verbs._compare_parts", "Comparison"),
    "Finding": ("report", "Finding"),
    "Inspection": ("verbs.inspect", "Inspection"),
    "MergePlan": ("jobs", "MergePlan"),
    "Report": ("report", "Report"),
    "compare": ("verbs.compare", "compare"),
    "convert": ("verbs.convert", "convert"),
    "demo": ("verbs.demo", "demo"),
    "download": ("verbs.download", "download"),
    "errors": ("errors", ""),
    "extract": ("verbs.extract", "extract"),
    "inspect": ("verbs.inspect", "inspect"),
    "merge": ("verbs.merge", "merge"),
    "open": ("verbs.open", "open_adapter"),
    "plan": ("verbs.plan", "plan"),
    "resize": ("verbs.resize", "resize"),
    "save": ("verbs.save", "save"),
    "search": ("verbs.search", "search"),
    "smoke": ("verbs.smoke", "smoke"),
    "stack": ("verbs.stack", "stack"),
    "upload": ("verbs.upload", "upload"),
    "validate": ("verbs.validate", "validate"),
    "verify": ("verbs.verify", "verify"),
}

__all__ = [
    "Adapter", "Comparison", "Finding", "Inspection", "MergePlan", "Report", "__version__",
    "compare", "convert", "demo", "download", "errors", "extract", "inspect", "merge", "open",
    "plan", "resize", "save", "search", "smoke", "stack", "upload", "validate", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _NAMES[name]
    found = import_module(f"adaptertools.{module}")
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(__all__)
