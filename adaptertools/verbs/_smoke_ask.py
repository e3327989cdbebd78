"""What the models answer: how they go on, their logits or hidden states, their perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from time import perf_counter
from typing import Any

from adaptertools.errors import Unreadable
from adaptertools.verbs._smoke_kind import Kind
from adaptertools.verbs._smoke_script import Script, Text

Outputs = list[Any]  # for each text a float32 tensor (positions, width), on the CPU


def answer(model: Any, script: Script) -> tuple[list[tuple[int, ...]], float]:
    """Go on with every prompt, greedily; give the new ids and how many come in a second."""
    if not script.prompts:
        return [], 0.0
    _generate(model, script, script.prompts[0], 1)  # the first one pays for what is set up once
    start = perf_counter()
    told = [_generate(model, script, ids, script.new_tokens) for ids in script.prompts]
    return told, sum(map(len, told)) / max(perf_counter() - start, 1e-9)


def _generate(model: Any, script: Script, ids: tuple[int, ...], count: int) -> tuple[int, ...]:
    import torch

    asked = torch.tensor([ids], device=model.device)
    end = model.generation_config.eos_token_id
    pad = model.generation_config.pad_token_id
    out = model.generate(
        input_ids=asked, attention_mask=torch.ones_like(asked), max_new_tokens=count,
        do_sample=False, num_beams=1,
        pad_token_id=pad if pad is not None else (end[0] if isinstance(end, list) else end) or 0,
    )[0].tolist()  # fmt: skip
    return tuple(out[1:] if script.kind.name == "seq2seq" else out[len(ids) :])


def said(script: Script, ids: Sequence[int]) -> str:
    """Write an answer as people read it."""
    if script.words is None:
        return " ".join(map(str, ids))
    return str(script.words.decode(list(ids), skip_special_tokens=True)).strip()


def read(model: Any, kind: Kind, texts: Sequence[Text]) -> Outputs:
    """Give what a model makes of texts: logits, or the last hidden states."""
    return [_forward(model, kind, text) for text in texts]


def _forward(model: Any, kind: Kind, text: Text) -> Any:
    import torch

    ids = torch.tensor([text.ids], device=model.device)
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if text.decoder:
        asked["decoder_input_ids"] = torch.tensor([text.decoder], device=model.device)
    elif kind.gives == "states" and model.config.is_encoder_decoder:
        asked["decoder_input_ids"] = ids
    out = model(**asked)
    if kind.gives == "spans":
        return torch.cat([out.start_logits, out.end_logits]).float().cpu()
    found = out.last_hidden_state if kind.gives == "states" else out.logits
    if found.dim() == 3:
        found = found[0]
    if found.dim() != 2:
        raise Unreadable(f"The model gave {tuple(found.shape)} where logits were expected.")
    return found.float().cpu()


def perplexity(outputs: Outputs, texts: Sequence[Text]) -> float | None:
    """Give the perplexity over the texts that have targets; None where none has."""
    import torch

    loss, count = 0.0, 0
    for output, text in zip(outputs, texts, strict=True):
        if text.targets:
            goal = torch.tensor(text.targets[: len(output)])
            loss += float(
                torch.nn.functional.cross_entropy(output[: len(goal)], goal, reduction="sum")
            )
            count += len(goal)
    return exp(min(loss / count, 700.0)) if count else None
