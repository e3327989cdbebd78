"""Packed bases that other people's code makes: transformers with bitsandbytes, on the CPU.

base = SHAPES["llama"](folder / "base", torch.bfloat16)       # 16-bit, saved by transformers
theirs = quantise_at_load(base, nf4)                           # a model; look at it before it runs
packed = save_packed(base, folder / "packed", nf4)             # what people call x-bnb-4bit
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import adaptertools as at
from tests.cases_models import ENCODER, TOKENS, build
from tests.cases_recipe import INPUTS, quiet, randomise
from tests.kit import read

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is the oracle")

Tensors = dict[str, torch.Tensor]
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
SIDES = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "SCB", "weight_format")


@dataclass(frozen=True)
class Kind:
    """A model: how it is made, loaded and adapted. Widths are what every CPU can run in 4 bits."""

    make: Callable[[], torch.nn.Module]
    auto: Any
    targets: tuple[str, ...]
    task: str | None = "CAUSAL_LM"

    def save(self, folder: Path, dtype: torch.dtype, shard_size: str = "5GB") -> Path:
        """Write a 16-bit base."""
        with quiet():
            self.make().to(dtype).save_pretrained(folder, max_shard_size=shard_size)
        return folder

    def load(self, folder: Path, **options: Any) -> Any:
        """Load as anyone would."""
        with quiet(), unbothered():
            return self.auto.from_pretrained(folder, **options).eval()

    def auto_load(self, folder: Path) -> tuple[Any, dict[str, Any]]:
        """Load as anyone would; gives the model and what was missing or left over."""
        with quiet(), unbothered():
            model, info = self.auto.from_pretrained(folder, output_loading_info=True)
        return model.eval(), info

    def adapt(self, base: Path, folder: Path, zero: bool = False, **more: Any) -> Path:
        """Let PEFT write an adapter of random values, or one that was never trained."""
        with quiet():
            model = self.auto.from_pretrained(base, dtype=torch.float32)
            fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "task_type": self.task}
            fields |= {"target_modules": [*self.targets]} | more
            config = LoraConfig(base_model_name_or_path=str(base), **fields)
            peft = get_peft_model(model, config)
            randomise(peft, 0)
            peft.save_pretrained(folder)
        if zero:
            scale_update(folder, 0.0)
        return folder


def scale_update(adapter: Path, factor: float) -> Path:
    """Multiply an adapter's update by a factor, through its B."""
    file = adapter / "adapter_model.safetensors"
    tensors = {n: t * factor if "lora_B" in n else t for n, t in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return adapter


DECODER: dict[str, Any] = {
    **TOKENS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def _opt(width: int) -> Callable[[], torch.nn.Module]:
    shape = {k: v for k, v in ENCODER.items() if k != "intermediate_size"}
    shape |= {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": width}
    return partial(build, OPTForCausalLM, OPTConfig, **shape)


_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OPT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
_BERT = {**ENCODER, "hidden_size": 64, "intermediate_size": 128}
_GPT2 = {**TOKENS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}

KINDS: Mapping[str, Kind] = {
    "llama": Kind(
        partial(build, LlamaForCausalLM, LlamaConfig, tie_word_embeddings=False, **DECODER),
        AutoModelForCausalLM, _LINEAR,
    ),
    "opt": Kind(_opt(64), AutoModelForCausalLM, _OPT),
    "opt_projected": Kind(_opt(128), AutoModelForCausalLM, (*_OPT, "project_in", "project_out")),
    "gpt2": Kind(
        partial(build, GPT2LMHeadModel, GPT2Config, **_GPT2),
        AutoModelForCausalLM, ("c_attn", "c_proj", "c_fc"),
    ),
    "bert": Kind(
        partial(build, BertModel, BertConfig, **_BERT), AutoModel,
        ("query", "key", "value", "dense"), None,
    ),
    "qwen2": Kind(
        partial(build, Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=True, **DECODER),
        AutoModelForCausalLM, _LINEAR,
    ),
    "mixtral": Kind(
        partial(build, MixtralForCausalLM, MixtralConfig, num_local_experts=4, **DECODER),
        AutoModelForCausalLM, ("q_proj", "o_proj"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Packing:
    """A packing, as the merge is asked for it and as bitsandbytes is."""

    quant: str
    double: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What merge takes."""
        return {"quant": self.quant} | ({"double_quant": True} if self.double else {})

    def config(self, dtype: torch.dtype) -> BitsAndBytesConfig:
        """What transformers takes; 4-bit layers compute in the model's own dtype."""
        if self.quant == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=self.quant,
            bnb_4bit_use_double_quant=self.double, bnb_4bit_compute_dtype=dtype,
        )  # fmt: skip


PACKINGS: Mapping[str, Packing] = {
    "nf4": Packing("nf4"), "nf4_double": Packing("nf4", True), "fp4": Packing("fp4"),
    "fp4_double": Packing("fp4", True), "int8": Packing("int8"),
}  # fmt: skip


@contextmanager
def unbothered() -> Iterator[None]:
    """Let other libraries warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dtype_of(folder: Path) -> torch.dtype:
    """The dtype that a checkpoint says it has."""
    config = json.loads((folder / "config.json").read_text())
    found = getattr(torch, config.get("dtype") or config["torch_dtype"])
    assert isinstance(found, torch.dtype)
    return found


def packed_in_part(kind: Kind, base: Path, out: Path, *skip: str, **more: Any) -> Path:
    """Save a base in nf4, some of its linear layers in 16 bit."""
    dtype = dtype_of(base)
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*skip] or None, **more,
    )  # fmt: skip
    model = kind.load(base, quantization_config=config, device_map="cpu")
    with quiet():
        model.save_pretrained(out)
    return out


def save_fp8(base: Path, out: Path, block: tuple[int, int], static: bool = False) -> Path:
    """Write a base in float8 with scales by block, as DeepSeek and Qwen do; by torch."""
    tensors: Tensors = {}
    for name, weight in read(base).items():
        if not name.endswith("_proj.weight"):
            tensors[name] = weight
            continue
        high, wide = (size // step for size, step in zip(weight.shape, block, strict=True))
        tops = weight.float().reshape(high, block[0], wide, block[1]).abs().amax((1, 3)) / 448
        spread = tops.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
        tensors[name] = (weight.float() / spread).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = tops
        if static:
            tensors[name.replace(".weight", ".activation_scale")] = torch.tensor(0.3)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8", "weight_block_size": [*block], "modules_to_not_convert": ["lm_head"],
        "activation_scheme": "static" if static else "dynamic",
    }  # fmt: skip
    out.mkdir()
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def decoded_fp8(folder: Path, block: tuple[int, int]) -> Tensors:
    """What such a base is worth, by torch."""
    stored = read(folder)
    found = {n: t.double() for n, t in stored.items() if not n.endswith(("_inv", "_scale"))}
    for name in (n for n in stored if f"{n}_scale_inv" in stored):
        tops = stored[f"{name}_scale_inv"].double()
        found[name] *= tops.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return found


def quantise_at_load(kind: Kind, folder: Path, packing: Packing) -> Any:
    """Load a 16-bit checkpoint in fewer bits. After its first forward pass it may be damaged."""
    dtype = dtype_of(folder)
    return kind.load(
        folder, dtype=dtype, quantization_config=packing.config(dtype), device_map="cpu"
    )


def save_packed(kind: Kind, folder: Path, out: Path, packing: Packing, **config: Any) -> Path:
    """Save what transformers makes of a 16-bit checkpoint in fewer bits."""
    model = quantise_at_load(kind, folder, packing)
    with quiet():
        model.save_pretrained(out)
    if config:
        change(out / "config.json", config)
    return out


def change(path: Path, keys: Mapping[str, Any]) -> None:
    """Change keys of quantization_config in a config.json; None takes one out."""
    said = json.loads(path.read_text())
    said["quantization_config"].update(keys)
    said["quantization_config"] = {
        k: v for k, v in said["quantization_config"].items() if v is not None or k not in keys
    }
    path.write_text(json.dumps(said))


def logits(model: Any) -> torch.Tensor:
    """Run a model; gives float32."""
    inputs = {name: torch.tensor(values) for name, values in INPUTS.items()}
    with torch.no_grad(), unbothered(), quiet():
        output = model(**inputs)
    return (output.logits if "logits" in output else output.last_hidden_state).float()


def dequantised(folder: Path) -> Tensors:
    """Every tensor of a folder in float64, bitsandbytes' weights decoded by bitsandbytes.

    Its kernel for rows that end in blocks differs on some CPUs, so each weight goes in as one row.
    """
    import bitsandbytes.functional as F  # noqa: N812

    stored, found = read(folder), {}
    for name, tensor in stored.items():
        module = name.removesuffix(".weight")
        mark = next((n for n in stored if n.startswith(f"{name}.quant_state.")), None)
        if mark is not None:
            parts = {
                n.removeprefix(f"{name}."): t for n, t in stored.items()
                if n.startswith(f"{name}.")
            }  # fmt: skip
            state = F.QuantState.from_dict(parts, torch.device("cpu"))
            shape, state.dtype = state.shape, torch.float32
            state.shape = torch.Size((1, shape.numel()))
            flat = tensor.view(torch.uint8).reshape(-1, 1)
            found[name] = F.dequantize_4bit(flat, state).reshape(shape).double()
        elif f"{module}.SCB" in stored and name.endswith(".weight"):
            found[name] = F.int8_vectorwise_dequant(tensor, stored[f"{module}.SCB"]).double()
        elif tensor.is_floating_point() and not name.endswith(SIDES):
            found[name] = tensor.double()
    return found


def same_state(ours: Any, theirs: Any) -> list[str]:
    """Name the tensors of two models' states that differ in dtype, shape or any bit."""
    a, b = ours.state_dict(), theirs.state_dict()
    odd = sorted(a.keys() ^ b.keys())
    return odd + [n for n in a.keys() & b.keys() if not identical(a[n], b[n])]


def identical(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors are equal in dtype, shape and every bit."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    one, two = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b))
    return torch.equal(one, two)


def side(tensors: Tensors) -> Tensors:
    """The tensors that lie beside codes."""
    return {n: t for n, t in tensors.items() if n.endswith(SIDES) or ".quant_state." in n}


def merge(adapters: Any, base: Path, out: Path, **options: Any) -> Path:
    """Merge, and let verify look at the result."""
    at.merge(adapters, base=base, out=out, **options)
    report = at.verify(out)
    assert report.ok, report.findings
    return out


def loaded(kind: str, folder: Path) -> Any:
    """Load a folder as anyone would; nothing may be missing or left over."""
    model, info = KINDS[kind].auto_load(folder)
    assert not any(info.values()), info
    return model


def config_of(folder: Path) -> dict[str, Any]:
    """Read a config.json."""
    said: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return said


def assert_same_files(ours: Path, theirs: Path) -> None:
    """Compare stored tensors bit by bit; spaces behind a quant_state are no part of it."""
    one, two = read(ours), read(theirs)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        if ".quant_state." in name:
            a, b = (bytes(t.tolist()).rstrip() for t in (tensor, two[name]))
            assert a == b
        else:
            assert identical(tensor, two[name]), name


def packed_weights(folder: Path) -> set[str]:
    """Name the weights of a folder that bitsandbytes has packed."""
    stored = read(folder)
    four = {n.partition(".quant_state.")[0] for n in stored if ".quant_state." in n}
    return four | {f"{n.removesuffix('.SCB')}.weight" for n in stored if n.endswith(".SCB")}


def decoded(kind: Kind, packed: Path, folder: Path) -> Path:
    """Save a packed model as it is decoded by bitsandbytes, in float64 and packed no more."""
    config = json.loads((packed / "config.json").read_text())
    config.pop("quantization_config", None)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float64"}))
    values = dequantised(packed)
    if config["model_type"] == "gpt2":
        values |= {n: values[n].T for n in packed_weights(packed)}
    tensors = {n: t.contiguous().clone() for n, t in values.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def peft_merged(kind: Kind, base: Path, adapters: list[Path], scales: list[float]) -> Tensors:
    """Merge with PEFT in float64; gives the tensors under the base's own names."""
    from peft import PeftModel

    from tests.cases_recipe import lora_layers
    from tests.kit import base_prefix, renamed, saved_tensors

    with quiet(), unbothered():
        model = kind.auto.from_pretrained(base, dtype=torch.float64)
        peft = PeftModel.from_pretrained(model, adapters[0], adapter_name="a0")
        for i, path in enumerate(adapters[1:], 1):
            peft.load_adapter(path, adapter_name=f"a{i}")
        names = [f"a{i}" for i in range(len(adapters))]
        peft.base_model.set_adapter(names)
        for name, scale in zip(names, scales, strict=True):
            for layer in lora_layers(peft):
                layer.set_scale(name, scale)
        merged = peft.double().merge_and_unload()
        return renamed(saved_tensors(merged), read(base), base_prefix(base))


class Streets:
    """Bases and adapters that several tests share, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.peft: dict[tuple[str, str], Tensors] = {}

    def base(self, kind: str, dtype: str = "BF16", shard_size: str = "5GB") -> Path:
        """A 16-bit base."""
        path = self.folder / f"{kind}-{dtype}-{shard_size}"
        return path if path.exists() else KINDS[kind].save(path, DTYPES[dtype], shard_size)

    def adapter(self, kind: str, name: str = "lora", **how: Any) -> Path:
        """An adapter; `how` says what `Kind.adapt` is told the first time a name is used."""
        path = self.folder / f"{kind}-adapter-{name}"
        return path if path.exists() else KINDS[kind].adapt(self.base(kind), path, **how)

    def small(self, kind: str, share: float = 0.1) -> Path:
        """The adapter with a smaller update; whole, it is about a fifth of the weights."""
        path = self.folder / f"{kind}-adapter-{share}"
        if not path.exists():
            scale_update(KINDS[kind].adapt(self.base(kind), path), share)
        return path

    def packed(self, kind: str, packing: str, dtype: str = "BF16") -> Path:
        """A packed base as transformers saves it."""
        path = self.folder / f"{kind}-{dtype}-{packing}"
        if path.exists():
            return path
        return save_packed(KINDS[kind], self.base(kind, dtype), path, PACKINGS[packing])

    def plain(self, kind: str, dtype: str = "BF16") -> Path:
        """The adapter merged in 16 bit, without packing: what transformers packs at load."""
        path = self.folder / f"{kind}-{dtype}-merged"
        if not path.exists():
            at.merge(self.adapter(kind), base=self.base(kind, dtype), out=path)
        return path

    def unpacked(self, kind: str, packing: str) -> Path:
        """The adapter merged into a packed base, to 16 bit."""
        path = self.folder / f"{kind}-{packing}-merged"
        if not path.exists():
            at.merge(self.adapter(kind), base=self.packed(kind, packing), out=path, quant="none")
        return path

    def expected(self, kind: str, packing: str) -> Tensors:
        """The adapter merged by PEFT into what a packed base is decoded to."""
        if (kind, packing) not in self.peft:
            merged = peft_merged(
                KINDS[kind], self.decoded(kind, packing), [self.adapter(kind)], [1.0]
            )
            self.peft[kind, packing] = merged
        return self.peft[kind, packing]

    def decoded(self, kind: str, packing: str) -> Path:
        """That one decoded, in float64."""
        path = self.folder / f"{kind}-{packing}-decoded"
        return path if path.exists() else decoded(KINDS[kind], self.packed(kind, packing), path)
