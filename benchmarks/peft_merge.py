"""The PEFT side of the benchmark: merge an adapter as PEFT does, or compare a merge with that."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors import safe_open


def merge(adapter: Path, base: Path, out: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(out)


def files_of(directory: Path) -> dict[str, Path]:
    """The file that holds each tensor of a checkpoint."""
    files: dict[str, Path] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            files.update(dict.fromkeys(file.keys(), path))
    return files


def load(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def steps(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """How many bfloat16 values apart the elements are (0.0 and -0.0 are none apart)."""

    def rank(tensor: torch.Tensor) -> torch.Tensor:
        bits = tensor.view(torch.int16).int()
        return torch.where(bits < 0, -(bits & 0x7FFF), bits)

    return (rank(left) - rank(right)).abs()


def compare(left: Path, right: Path) -> None:
    """Print how far two bfloat16 checkpoints differ, tensor by tensor and in all."""
    ours, theirs = files_of(left), files_of(right)
    common = sorted(ours.keys() & theirs.keys())
    total = differing = beyond = tensors = most = 0
    farthest = 0.0
    for name in common:
        a, b = load(ours[name], name), load(theirs[name], name)
        if (a.dtype, a.shape) != (b.dtype, b.shape) or a.dtype != torch.bfloat16:
            print(f"  {name}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}")
            continue
        apart = steps(a, b)
        count = int(apart.count_nonzero())
        total += a.numel()
        if count:
            tensors += 1
            differing += count
            beyond += int((apart > 1).count_nonzero())
            most = max(most, int(apart.max()))
            farthest = max(farthest, float((a.float() - b.float()).abs().max()))
    print(
        f"{differing} of {total} elements differ, in {tensors} of {len(common)} tensors; "
        f"{beyond} by more than 1 bf16 ulp, at most {most} ulps, {farthest:.3g} in value"
    )
    for name in sorted(ours.keys() ^ theirs.keys()):
        print(f"  {name}: only in {left if name in ours else right}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    merging = commands.add_parser("merge")
    merging.add_argument("adapter", type=Path)
    merging.add_argument("--base", type=Path, required=True)
    merging.add_argument("--out", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("left", type=Path)
    comparing.add_argument("right", type=Path)
    args = parser.parse_args()
    if args.command == "merge":
        merge(args.adapter, args.base, args.out)
    else:
        compare(args.left, args.right)


if __name__ == "__main__":
    main()
