"""Running one model at a time: load, generate, read, measure, and let go of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any

from adaptertools.verbs import _smoke_ask as ask
from adaptertools.verbs._smoke_ask import Outputs
from adaptertools.verbs._smoke_load import Loaded
from adaptertools.verbs._smoke_peak import watched
from adaptertools.verbs._smoke_quiet import explained
from adaptertools.verbs._smoke_script import Script, Text, fit, forced

Load = Callable[[], Loaded]
# What a wrong merge could look like: name -> what the update is multiplied by. With "whole" only
# the modules are left that an adapter brings whole; "update", the reverse, is tried besides.
FACTORS = {"whole": 0.0, "twice": 2.0, "opposite": -1.0}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one model did."""

    name: str
    ref: str
    loaded: Loaded  # without the model
    told: Sequence[tuple[int, ...]]
    speed: float  # tokens a second: generated, or read where the model does not generate
    peak: int | None  # bytes
    outputs: Outputs  # for each text

    @property
    def held(self) -> int:
        """Bytes that its outputs take."""
        return _bytes(self.outputs)


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What the base did with each of its adapters, and what was tried besides."""

    runs: tuple[Run, ...]
    texts: tuple[Text, ...]  # those of the script, and what the adapters went on with
    others: dict[str, Outputs] = field(default_factory=dict)  # with FACTORS, and "update"
    off: Outputs = field(default_factory=list)  # of the first text, the adapters switched off
    back: bool = True  # whether switching back gives the first adapter again

    @property
    def held(self) -> int:
        """Bytes that its outputs take."""
        return sum(map(_bytes, (*(r.outputs for r in self.runs), *self.others.values(), self.off)))


def alone(
    name: str, ref: str, load: Load, script: Script, texts: Sequence[Text], *, place: str,
    held: int = 0,
) -> Run:  # fmt: skip
    """Run a model by itself, on these texts."""
    with watched(place, held) as peak:
        loaded = load()
        with explained("run", ref):
            told, speed = ask.answer(loaded.model, script)
            ask.read(loaded.model, script.kind, script.texts[:1])
    with explained("run", ref):
        outputs, pace = _read(loaded.model, script, texts)
    return Run(
        name=name, ref=ref, loaded=replace(loaded, model=None), told=told, speed=speed or pace,
        peak=peak.bytes, outputs=outputs,
    )  # fmt: skip


def beside(
    groups: Sequence[tuple[str, str, list[str]]], load: Load, script: Script, *, place: str,
    scales: Mapping[str, float], tried: Sequence[str],
) -> Sides:  # fmt: skip
    """Run the base with each group of its adapters in turn: (name, ref, adapters).

    `scales` multiply their updates; `tried` are the FACTORS to run the first group with besides.
    """
    with watched(place) as peak:
        loaded = load()
        model = loaded.model
        for scaling in _scalings(model):
            scaling.update({n: scaling[n] * scales[n] for n in scaling.keys() & scales.keys()})
        answers = []
        for _, ref, names in groups:
            with explained("run", ref):
                model.set_adapter(names)
                answers.append(ask.answer(model, script))
                ask.read(model, script.kind, script.texts[:1])
    along = [text for told, _ in answers for text in forced(script, told)]
    kept = fit([*along, *script.texts], script.width)
    runs = []
    for (name, ref, names), (told, speed) in zip(groups, answers, strict=True):
        with explained("run", ref):
            model.set_adapter(names)
            outputs, pace = _read(model, script, kept)
        runs.append(Run(name=name, ref=ref, loaded=replace(loaded, model=None), told=told,
                        speed=speed or pace, peak=peak.bytes, outputs=outputs))  # fmt: skip
    with explained("run", groups[0][1]):
        return _switched(model, script, kept, groups[0][2], tuple(runs), tried)


def _switched(
    model: Any, script: Script, texts: tuple[Text, ...], names: list[str], runs: tuple[Run, ...],
    tried: Sequence[str],
) -> Sides:  # fmt: skip
    """Switch the adapters off and on again, and try what wrong merges would make of them."""
    import torch

    switch(model, on=False)
    off = ask.read(model, script.kind, texts[:1])
    switch(model, on=True)
    model.set_adapter(names)
    again = ask.read(model, script.kind, texts[:1])[0]
    before = runs[0].outputs[0]
    back = bool(torch.dist(again, before) <= 1e-3 * before.norm())
    read = partial(ask.read, model, script.kind, texts)
    others = {name: _scaled(model, names, FACTORS[name], read) for name in tried}
    if "whole" in others and (whole := _whole(model)):
        for module in whole:
            module.enable_adapters(False)
        others["update"] = read()
    others = {name: outputs for name, outputs in others.items() if outputs}
    return Sides(runs=runs, texts=texts, others=others, off=off, back=back)


def switch(model: Any, *, on: bool) -> None:
    """Switch all adapters on or off; transformers 5 forgets to switch saved modules on again."""
    (model.enable_adapters if on else model.disable_adapters)()
    for module in _whole(model):
        module.enable_adapters(on)


def _whole(model: Any) -> list[Any]:
    """Give what stands in for modules of which an adapter brings the whole, or rows."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    return [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]


def _scalings(model: Any) -> list[dict[str, float]]:
    """Give what the updates of each layer are multiplied by, by adapter; to be changed in place."""
    found = (getattr(module, "scaling", None) for module in model.modules())
    return [scaling for scaling in found if isinstance(scaling, dict)]


def _scaled(
    model: Any, names: Sequence[str], factor: float, read: Callable[[], Outputs]
) -> Outputs:
    """Read with the update of some adapters multiplied; give nothing where they have none."""
    held = [(s, dict(s)) for s in _scalings(model) if not s.keys().isdisjoint(names)]
    for scaling, before in held:
        scaling.update({name: before[name] * factor for name in names if name in before})
    outputs = read() if held else []
    for scaling, before in held:
        scaling.update(before)
    return outputs


def _read(model: Any, script: Script, texts: Sequence[Text]) -> tuple[Outputs, float]:
    start = perf_counter()
    outputs = ask.read(model, script.kind, texts)
    count = sum(len(text.ids) + len(text.decoder) for text in texts)
    return outputs, count / max(perf_counter() - start, 1e-9)


def _bytes(outputs: Outputs) -> int:
    return sum(4 * output.numel() for output in outputs)
