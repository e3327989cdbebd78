"""The parts of an image pipeline that an adapter may be of, by names in diffusers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from adaptertools.errors import Unsupported, first

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")

# What a module's name begins with -> the part of a pipeline whose module it is.
_TELLS: Mapping[re.Pattern[str], str] = {
    re.compile(r"^(?:down_blocks|up_blocks|mid_block|conv_in|conv_out|time_embedding)\b"): "unet",
    re.compile(r"^(?:single_)?transformer_blocks\.\d"): "transformer",
    re.compile(r"^(?:text_model\.)?encoder\.layers\.\d"): "text_encoder",
}


def of(target: str) -> tuple[str, str]:
    """Take a module's name apart into the component and the name in it; empty where not known."""
    head, _, rest = target.partition(".")
    if head in COMPONENTS and rest:
        return head, rest
    return next((c for pattern, c in _TELLS.items() if pattern.search(target)), ""), target


def parted(targets: Iterable[str], asked: str = "") -> dict[str, tuple[str, str]]:
    """Give component and name in it of every module; `asked` is for those that do not tell.

    Raises Unsupported where neither says, and for a component that diffusers does not have.
    """
    if asked and asked not in COMPONENTS:
        raise Unsupported(
            f"component={asked}: diffusers has no such part. Known: {', '.join(COMPONENTS)}."
        )
    found = {target: of(target) for target in targets}
    found = {t: (component or asked, name) for t, (component, name) in found.items()}
    if unknown := [t for t, (component, _) in found.items() if not component]:
        raise Unsupported(
            f"{first(unknown, 3)}: of which part of an image pipeline is this? Pass -o "
            f"component=NAME, one of {', '.join(COMPONENTS)}."
        )
    return found
