"""The order in which smoke goes: settle what is asked, then run adapters, base and merged model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from adaptertools.verbs import _smoke_load as loading
from adaptertools.verbs import _smoke_quiet as quietly
from adaptertools.verbs._smoke_kind import Kind, kind
from adaptertools.verbs._smoke_model import Beside, Model
from adaptertools.verbs._smoke_run import FACTORS, Run, Sides, alone, beside
from adaptertools.verbs._smoke_script import Script, Text, fit, script
from adaptertools.verbs._smoke_subject import Subject


@dataclass(frozen=True, kw_only=True)
class Street:
    """All that is settled before the first model is loaded."""

    it: Subject
    kind: Kind
    place: str
    quant: str
    seed: int
    script: Script
    say: Callable[[str], None]

    def load(self, model: Model, adapters: Sequence[Beside] = ()) -> loading.Loaded:
        """Load one of the models; every load begins with the same dice."""
        import torch

        torch.manual_seed(self.seed)
        brought = self.it.adapters if model is self.it.base else ()
        dtype = str(model.config.get("dtype") or model.config.get("torch_dtype") or "float32")
        like = self.it.merged.packing if self.it.merged and model is self.it.base else {}
        return loading.load(
            model, self.kind, self.place, loading.packing(self.quant, dtype, like, self._whole),
            adapters=adapters,
            labels=next((a.labels for a in brought if a.labels), None),
            vocabulary=max((a.vocabulary for a in brought if a.vocabulary), default=None),
            # Beside a DoRA, PEFT decodes weights in each forward, and would misread repacked ones.
            generic=any(a.config.get("use_dora") for a in self.it.adapters),
        )  # fmt: skip

    @property
    def _whole(self) -> set[str]:
        """Modules that are never quantised at load: heads, and what adapters bring whole."""
        heads = {"classifier", "score", "qa_outputs"}
        brought = {name for a in self.it.adapters for name in a.config.get("modules_to_save") or ()}
        return brought | (heads if self.kind.gives in ("labels", "spans") else set())


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What the models did: base with adapters, base, merged model."""

    sides: Sides | None
    base: Run | None
    merged: Run | None
    texts: tuple[Text, ...]  # what all of them read

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them, in the order in which people look at them."""
        beside = self.sides.runs if self.sides else ()
        return tuple(run for run in (self.base, *beside, self.merged) if run is not None)


def settle(
    it: Subject, *, quant: str, device: str, prompts: Sequence[str] | None,
    texts: Sequence[str] | None, new_tokens: int, seed: int, say: Callable[[str], None],
) -> Street:  # fmt: skip
    """Find out the kind of model, the device and what is asked."""
    from transformers import AutoConfig

    model = it.merged or it.base
    assert model is not None
    place, found = quietly.device(device), kind(model, () if it.merged else it.adapters)
    with quietly.explained("read by transformers", model.ref):
        config: Any = AutoConfig.from_pretrained(
            model.folder, local_files_only=True, trust_remote_code=False
        )
    asked = script(
        found, config, [each.folder for each in (it.merged, *it.adapters, it.base) if each],
        prompts=prompts, texts=texts, new_tokens=new_tokens, seed=seed,
        vocabulary=max((a.vocabulary for a in it.adapters if a.vocabulary), default=None),
    )  # fmt: skip
    return Street(it=it, kind=found, place=place, quant=quant, seed=seed, script=asked, say=say)


def walk(street: Street) -> Walked:
    """Run what there is: first the adapters, whose answers all the others read along."""
    it, asked, held = street.it, street.script, 0
    sides, texts = None, fit(asked.texts, asked.width)
    if it.adapters and it.base:
        street.say("Running the base with its adapters")
        load = partial(street.load, it.base, it.adapters)
        plain = all(adapter.plain for adapter in it.adapters)
        wrong = ("twice", "opposite") if plain else tuple(FACTORS)
        sides = beside(
            _groups(it), load, asked, place=street.place, tried=wrong if it.merged else (),
            scales={f"adapter{n}": adapter.scale for n, adapter in enumerate(it.adapters, 1)},
        )  # fmt: skip
        texts, held = sides.texts, sides.held
    runs: list[Run | None] = []
    for name, model in (("base", it.base), ("merged" if sides else "model", it.merged)):
        run = None
        if model is not None:
            street.say(f"Running the {name}" + " model" * (name == "merged"))
            load = partial(street.load, model)
            run = alone(name, model.ref, load, asked, texts, place=street.place, held=held)
            held += run.held
        runs.append(run)
    return Walked(sides=sides, base=runs[0], merged=runs[1], texts=texts)


def _groups(it: Subject) -> list[tuple[str, str, list[str]]]:
    """Say which adapters run at a time: all together beside a merged model, else each in turn."""
    names = [f"adapter{number}" for number in range(1, len(it.adapters) + 1)]
    if it.merged or len(names) == 1:
        return [("adapter", " + ".join(a.ref for a in it.adapters), names)]
    return [
        (f"adapter {number}", adapter.ref, [name])
        for number, (adapter, name) in enumerate(zip(it.adapters, names, strict=True), 1)
    ]
