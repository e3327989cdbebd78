"""Write the examples of the CFG checks: `python -m tests.checks.make_cfg`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checks import tiny

Change = Callable[[Path], None]

# What MLX-LM writes under the same name; shortened.
MLX = {
    "adapter_path": "adapters",
    "fine_tune_type": "lora",
    "iters": 300,
    "lora_parameters": {"dropout": 0.0, "rank": 2, "scale": 20.0},
    "model": tiny.BASE,
    "num_layers": 2,
    "train": True,
}


def said(**changes: Any) -> Change:
    """Change keys of the config."""
    return lambda folder: tiny.set_config(folder, **changes)


def edited(old: str, new: str) -> Change:
    """Change the text of the config, as an editor would."""

    def change(folder: Path) -> None:
        path = folder / tiny.CONFIG_FILE
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), "utf-8")

    return change


def read_by(version: str) -> Change:
    """Name the PEFT release that is to read it."""
    return lambda folder: tiny.set_options(folder, peft_version=version)


def mlx(folder: Path) -> None:
    """Make it look like MLX-LM's."""
    tiny.write_json(folder / tiny.CONFIG_FILE, MLX)
    (folder / tiny.WEIGHTS_FILE).rename(folder / "adapters.safetensors")


# What is done to the bad one, and to the good one where that shows something.
EXAMPLES: dict[str, tuple[Change, Change | None]] = {
    "CFG001": (edited('"r": 2,', '"r": 2, // was 4'), None),
    "CFG002": (edited('"r": 2,', '"r": 2,\n  "r": 2,'), None),
    "CFG003": (mlx, None),
    "CFG004": (said(peft_type="lora"), None),
    "CFG005": (said(use_dora="false"), said(lora_dropout=0)),
    "CFG006": (said(lora_rank=2), None),
    "CFG007": (read_by("0.13.0"), read_by("0.18.0")),
    "CFG008": (said(peft_version="0.11.0"), said(peft_version="0.18.2.dev0@UNKNOWN")),
    "CFG009": (said(lora_dropout=1.5), None),
    "CFG010": (said(rank_pattern={"o_proj": 100_000}), said(rank_pattern={"o_proj": 2944})),
    "CFG011": (said(target_modules="['q_proj', 'v_proj']"), said(target_modules=r".*\.[qv]_proj")),
    "CFG012": (said(target_modules=None), None),
    "CFG013": (
        said(layers_pattern="layers"),
        said(layers_pattern="layers", layers_to_transform=[0, 1]),
    ),
    "CFG014": (said(inference_mode=False), None),
    "CFG015": (said(init_lora_weights="pissa_niter_16"), said(init_lora_weights="gaussian")),
    "CFG016": (said(lora_alpha=400), said(lora_alpha=4, use_rslora=True)),
}


def main() -> None:
    """Write them all."""
    for code, (spoil, vary) in EXAMPLES.items():
        good, bad = tiny.pair(code)
        spoil(bad)
        if vary:
            vary(good)


if __name__ == "__main__":
    main()
