"""The peers of the quantised benchmark: bitsandbytes' kernels alone, and PEFT's merge in memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import torch
from safetensors import safe_open


def kernels(base: Path, threads: int) -> None:
    """Print the seconds that quantising and dequantising every linear weight takes, and no more."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    torch.set_num_threads(threads)
    quantise = dequantise = 0.0
    weights = 0
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in file.keys() if name.endswith("_proj.weight")):  # noqa: SIM118
                weight = file.get_tensor(name).clone()
                start = perf_counter()
                packed, state = quantize_4bit(weight, quant_type="nf4")
                middle = perf_counter()
                dequantize_4bit(packed, state)
                quantise += middle - start
                dequantise += perf_counter() - middle
                weights += weight.numel()
    said = {"weights": weights, "quantise_s": quantise, "dequantise_s": dequantise}
    print(json.dumps(said))


def merge(base: Path, adapter: Path, threads: int, plain: bool) -> None:
    """Load a model in 4 bit, merge in memory; nothing is saved, because transformers 5 cannot."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(threads)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    more = {"quantization_config": how} if plain else {}
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", **more)
    start = perf_counter()
    PeftModel.from_pretrained(model, adapter).merge_and_unload()
    print(json.dumps({"merge_s": perf_counter() - start}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["kernels", "peft-16", "peft-nf4"])
    parser.add_argument("base", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.what == "kernels":
        kernels(args.base, args.threads)
    else:
        merge(args.base, args.adapter, args.threads, args.what == "peft-16")


if __name__ == "__main__":
    main()
