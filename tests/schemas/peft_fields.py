"""The fields of PEFT's config classes, read from its sources without importing them."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Field:
    """One field of a config class, as its source has it; `factory:dict` is a default too."""

    name: str
    annotation: str
    default: str


@dataclass(frozen=True)
class Peft:
    """What one PEFT release says of its configs."""

    version: str
    types: dict[str, str]  # LORA -> LoraConfig
    classes: dict[str, tuple[Field, ...]]  # every dataclass, with what it inherits
    literals: dict[str, str]  # TaskType -> "Literal['SEQ_CLS', …]"; enums and named literals


def installed() -> Path | None:
    """Find the sources of the installed PEFT."""
    spec = importlib.util.find_spec("peft")
    return Path(next(iter(spec.submodule_search_locations or []))) if spec else None


def read(root: Path) -> Peft:
    """Read every config class below a folder of PEFT's sources."""
    files = [root / "config.py", root / "utils" / "peft_types.py"]
    files += [*sorted(root.glob("tuners/*.py")), *sorted(root.glob("tuners/*/config.py"))]
    body = [node for path in files for node in ast.parse(path.read_text("utf-8")).body]
    nodes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    classes = {
        name: tuple(fields(name, nodes).values())
        for name, node in nodes.items()
        if any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    }
    return Peft(version(root), registered(root), classes, literals(body))


def version(root: Path) -> str:
    """Read __version__ from a folder of sources."""
    for node in ast.parse((root / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise ValueError(f"{root} does not say its version.")


def fields(name: str, nodes: dict[str, ast.ClassDef]) -> dict[str, Field]:
    """Give the fields of a dataclass in the order of its __init__, inherited ones first."""
    found: dict[str, Field] = {}
    for base in reversed(nodes[name].bases):
        if ast.unparse(base) in nodes:
            found |= fields(ast.unparse(base), nodes)
    for node in nodes[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            key = node.target.id
            found[key] = Field(key, ast.unparse(node.annotation), default(node.value))
    return found


def default(node: ast.expr | None) -> str:
    """Give the default of a field: `field(default=None, …)` has None, as `= None` has."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("field"):
        given = {k.arg: k.value for k in node.keywords}
        if "default_factory" in given:
            return f"factory:{ast.unparse(given['default_factory'])}"
        node = given.get("default")
    return "" if node is None else ast.unparse(node)


def literals(body: list[ast.stmt]) -> dict[str, str]:
    """Find the enums of strings, and every `Name = Literal[…]`."""
    found = {}
    for node in body:
        if isinstance(node, ast.ClassDef) and any("Enum" in ast.unparse(b) for b in node.bases):
            values = [ast.unparse(p.value) for p in node.body if isinstance(p, ast.Assign)]
            found[node.name] = f"Literal[{', '.join(values)}]"
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal["):
            found[ast.unparse(node.targets[0])] = ast.unparse(node.value)
    return found


def registered(root: Path) -> dict[str, str]:
    """Give the config class of every method that PEFT registers."""
    found = {}
    for path in sorted(root.glob("tuners/*/__init__.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
                given = {k.arg: k.value for k in node.keywords}
                kind = str(ast.literal_eval(given["name"])).upper()
                found[kind] = ast.unparse(given["config_cls"])
    return found
