"""What the file of a fused-expert adapter leaves open: which way square ones lie, how B is packed.

It is told by the release that the config names, or by what the user says; where neither is sure, a
finding says so.
"""

from __future__ import annotations

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsupported, shown
from adaptertools.methods import _experts
from adaptertools.report import Finding


def square(
    adapter: Adapter, parameter: str, in_out: bool, seen: set[bool], findings: list[Finding]
) -> bool:
    """Tell the orientation of a parameter whose matrices are square."""
    if len(seen) == 1:
        return next(iter(seen))
    version = adapter.config.get("peft_version")
    turned = None if seen else _experts.turned(version, in_out)
    if turned is None:
        why = "other parameters of the file were wrapped in both ways" if seen else (
            f"peft_version, {shown(version)}, is no release that says so"
        )  # fmt: skip
        raise Unsupported(
            f"{shown(parameter)} is square, so its shape does not say which side of it lora_A is "
            f"on, and {why}. Set peft_version in adapter_config.json to the release that trained "
            "it: 0.18.1, 0.19.0 or 0.19.1 and later."
        )
    if version is None and not in_out:
        text = "and names no peft_version, which PEFT writes since 0.18. It is read as PEFT 0.17 "
        text += "wrote it; if a newer one or another tool did, set peft_version to 0.21.2."
        findings.append(_doubt(adapter, f"has square parameters {text}"))
    elif in_out and turned != _experts.turned(version, in_out=False):
        other = "0.21.2" if version == "0.19.0" else "0.19.0"
        text = f"has square parameters, read as PEFT {shown(version)} wrote them with transformers "
        text += "5. With an older one it wrote them the other way round; if that is so, set "
        text += f"peft_version in adapter_config.json to {other}, which has them read so."
        findings.append(_doubt(adapter, text))
    return turned


def rank_major(
    adapter: Adapter, parameter: str, packing: str | None, findings: list[Finding]
) -> bool:
    """Tell how the columns of lora_B are packed: as asked, as the file says, or as PEFT does."""
    asked = None if packing is None else packing == "peft"
    try:
        said = _experts.packing(adapter.config, parameter)
    except Unsupported:
        if asked is None:
            raise
        said = asked
    if asked is not None:
        if said not in (None, asked):
            findings.append(_doubt(adapter, f"says otherwise than --expert-packing {packing}."))
        return asked
    auto = adapter.config.get("auto_mapping")
    if said is None and isinstance(auto, dict) and auto.get("unsloth_fixed"):
        findings.append(
            _doubt(
                adapter,
                "was trained with Unsloth and does not say how it packs the experts of lora_B; "
                "before 2026.9.6 Unsloth packed most models expert by expert, which has the same "
                "shapes. It is merged as PEFT reads it. If it was trained before, pass "
                "--expert-packing expert-major.",
            )
        )
    return said is not False


def _doubt(adapter: Adapter, text: str) -> Finding:
    return Finding(code="MRG051", level="warning", place=adapter.ref, text=f"The adapter {text}")
