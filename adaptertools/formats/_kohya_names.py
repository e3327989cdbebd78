"""kohya's flattened names: dots become underscores, so that the way back needs to be unambiguous.

Names are cut into the words that diffusers' and transformers' modules are called. Where they can be
cut in two ways, or hold other words, they are refused. Prefixes after sd-scripts' networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adaptertools.errors import Mismatch, Unsupported, first, shown

# Component -> prefix; a text encoder is `te1` where there is a second.
_PREFIXES: Mapping[str, str] = {
    "unet": "lora_unet", "transformer": "lora_unet", "text_encoder": "lora_te",
    "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3",
}  # fmt: skip
_COMPONENTS: Mapping[str, str] = {
    "lora_unet": "unet", "lora_te": "text_encoder", "lora_te1": "text_encoder",
    "lora_te2": "text_encoder_2", "lora_te3": "text_encoder_3", "lycoris": "unet",
}  # fmt: skip

# Words of module names in SD 1 and 2 as diffusers has them, and in their text encoders.
_WORDS = frozenset(
    ["down_blocks", "up_blocks", "mid_block", "attentions", "resnets", "transformer_blocks",
     "attn1", "attn2", "to_q", "to_k", "to_v", "to_out", "ff", "net", "proj", "proj_in",
     "proj_out", "conv", "conv1", "conv2", "conv_in", "conv_out", "conv_shortcut",
     "time_emb_proj", "time_embedding", "linear_1", "linear_2", "downsamplers", "upsamplers",
     "add_embedding", "norm1", "norm2", "norm3", "text_model", "encoder", "layers",
     "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "mlp", "fc1", "fc2",
     "single_transformer_blocks", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
     "proj_mlp", "attn", "ff_context"]
)  # fmt: skip
_FOREIGN = ("input_blocks_", "output_blocks_", "middle_block_", "double_blocks_", "single_blocks_")


def flattened(parts: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Give kohya's name of each module, from its component and its name in that.

    Raises Mismatch where two would be called the same.
    """
    both = any(component == "text_encoder_2" for component, _ in parts.values())
    made: dict[str, str] = {}
    for target, (component, name) in parts.items():
        prefix = "lora_te1" if both and component == "text_encoder" else _PREFIXES[component]
        flat = f"{prefix}_{name.replace('.', '_')}"
        if flat in made:
            raise Mismatch(
                f"{shown(made[flat])} and {shown(target)} are both {shown(flat)} in kohya's names."
            )
        made[flat] = target
    return {target: flat for flat, target in made.items()}


def unflattened(names: Iterable[str]) -> dict[str, str]:
    """Give component and module of each flat name, as `component.module`.

    Raises Unsupported for names of another module tree, and those that can be read in two ways.
    """
    made, odd = {}, []
    for flat in names:
        prefix = next((p for p in sorted(_COMPONENTS, key=len, reverse=True)
                       if flat.startswith(f"{p}_")), "")  # fmt: skip
        rest = flat[len(prefix) + 1 :]
        if prefix and rest.startswith(_FOREIGN):
            raise Unsupported(
                f"{shown(flat)}: this is SDXL or Flux in the names of its authors' code, which are "
                "not translated yet. Load it with diffusers and save it with save_lora_weights."
            )
        found = _cuts(rest) if prefix else []
        if len(found) == 1:
            component = _COMPONENTS[prefix]
            if component == "unet" and found[0].startswith(("transformer_", "single_")):
                component = "transformer"
            made[flat] = f"{component}.{found[0]}"
        else:
            odd.append(flat)
    if odd:
        raise Unsupported(
            f"{first(odd, 3)}: kohya's names have underscores for dots, and these cannot be read "
            "in exactly one way. Pass --base, a folder whose modules they are named after."
        )
    return made


def _cuts(flat: str) -> list[str]:
    """Give every way to cut a name into words and numbers, up to two."""
    pieces = flat.split("_")
    ways: list[list[str]] = [[] for _ in range(len(pieces) + 1)]
    ways[0] = [""]
    for stop in range(1, len(pieces) + 1):
        for start in range(max(0, stop - 4), stop):
            word = "_".join(pieces[start:stop])
            if word in _WORDS or (word.isdecimal() and len(word) < 4):
                ways[stop] += [f"{before}.{word}" if before else word for before in ways[start]]
        ways[stop] = ways[stop][:2]
    return ways[-1]
