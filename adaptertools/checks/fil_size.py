"""Is the adapter as large as an adapter is?"""

from __future__ import annotations

from collections.abc import Mapping

from adaptertools.checks import check
from adaptertools.checks._peft import Config
from adaptertools.errors import first, shown
from adaptertools.facts import File, Found, Result, Weights

_LARGE = 1_000_000_000
_WHOLE_SHARE = 0.9
_SLACK = 1_000_000  # bytes that a header or a directory may take
# Marks of the tensors that an adapter is made of; what has none is a part of the base, saved whole.
_MARKS = {"LORA": "lora_", "ADALORA": "lora_", "LOHA": "hada_", "LOKR": "lokr_"}


@check(
    "FIL006", "the weights are as large as an adapter's", level="warning",
    fix="Save only what was trained: save_embedding_layers=False, a shorter modules_to_save.",
)  # fmt: skip
def size(files: Mapping[str, File], weights: Weights, config: Config) -> Result:
    """A LoRA is a hundredth of its base. One that is larger mostly holds copies of base weights.

    PEFT saves whole embeddings where it believes that the vocabulary was resized, and a pickle
    keeps the whole storage that a slice was cut from.
    https://github.com/huggingface/peft/issues/2898
    """
    total = sum(spec.nbytes for spec in weights.tensors.values())
    held = files[weights.file].size if weights.file in files else total
    if held > 2 * total + _SLACK:
        text = f"{weights.file} has {held} bytes, its tensors {total}"
        yield Found(text=text, file=weights.file, hint="Clone the tensors before saving them.")
    if total > _LARGE:
        text = f"{weights.file} holds {total / 1e9:.1f} GB"
        yield Found(text=text, file=weights.file)
    mark = _MARKS.get(str(config.get("peft_type")), "")
    specs = weights.tensors.items() if mark else ()
    whole = {name: spec.nbytes for name, spec in specs if mark not in name}
    if total and sum(whole.values()) > _WHOLE_SHARE * total:
        largest = sorted(whole, key=lambda name: -whole[name])
        share = sum(whole.values()) / total
        text = f"{share:.0%} of the bytes are weights saved whole: {first(map(shown, largest), 3)}"
        yield Found(text=text, file=weights.file, tensor=largest[0])
