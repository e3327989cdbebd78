"""What is asked of the models, as token ids, and what they answer: text, logits, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp
from pathlib import Path
from time import perf_counter
from typing import Any

from adaptertools.errors import Mismatch, Unreadable, Unsupported, shown
from adaptertools.verbs._smoke_kind import Kind
from adaptertools.verbs._smoke_words import PROMPTS, SENTENCES

WINDOW = 256  # tokens of one text, at most
BUDGET = 1 << 25  # logits that are kept of each model: 128 MiB
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
Outputs = list[Any]  # for each text a float32 tensor (positions, width), on the CPU


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text as ids; `decoder` is what an encoder-decoder reads, `targets` what is predicted."""

    ids: tuple[int, ...]
    decoder: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Script:
    """All that every model is asked: prompts to go on with, texts to read."""

    kind: Kind
    words: Any  # the tokenizer; None where there is none, and the ids are random
    prompts: tuple[tuple[int, ...], ...]
    texts: tuple[Text, ...]
    asked: tuple[str, ...]  # the prompts, for people
    new_tokens: int  # after each prompt, at most
    start: int  # what a decoder begins with
    width: int  # numbers that a model gives for each token
    why: str  # why the ids are random; empty where they are not


def script(
    kind: Kind, config: Any, folders: Sequence[Path], *, prompts: Sequence[str] | None,
    texts: Sequence[str] | None, new_tokens: int, seed: int, vocabulary: int | None = None,
) -> Script:  # fmt: skip
    """Put prompts and texts into ids, by the first tokenizer found; random ids where none is.

    `config` is transformers' config of the model. Raises Unsupported where words are given and
    there is no tokenizer, Mismatch where its ids are not those of the model.
    """
    words, why = _tokenizer(folders)
    text = config.get_text_config()
    room = min(WINDOW, int(getattr(text, "max_position_embeddings", None) or WINDOW + 2) - 2)
    limit = max(int(text.vocab_size), vocabulary or 0)
    if words is None and (prompts is not None or texts is not None):
        raise Unsupported(f"{why} Prompts and texts cannot be read; leave them away.")
    asked = tuple(prompts if prompts is not None else PROMPTS) if kind.speaks else ()
    if words is None:
        begun, read = _random(kind, len(asked), limit, room, seed)
        asked = tuple(" ".join(map(str, ids)) for ids in begun)
    else:
        begun = [words(prompt)["input_ids"][: room // 2] for prompt in asked]
        read = _read(words, kind, texts if texts is not None else SENTENCES, room)
    if max((id for ids in (*begun, *read) for id in ids), default=0) >= limit:
        raise Mismatch(
            f"{shown(folders[0])}: its tokenizer gives ids beyond the {limit} of the model. "
            "The files do not belong together."
        )
    if kind.speaks:
        room = max(2, room - max(map(len, begun), default=0))
    start = getattr(text, "decoder_start_token_id", None) or 0
    return Script(
        kind=kind, words=words, prompts=tuple(map(tuple, begun)), asked=asked, why=why,
        texts=tuple(_text(kind, tuple(ids), start) for ids in read if len(ids) > 1),
        new_tokens=min(new_tokens, room), start=start,
        width={"tokens": limit, "states": int(text.hidden_size)}.get(kind.gives, 1),
    )  # fmt: skip


def _tokenizer(folders: Sequence[Path]) -> tuple[Any, str]:
    """Give the tokenizer of the first folder that has one, or why there is none."""
    from transformers import AutoTokenizer

    found = (f for f in folders if any((f / name).is_file() for name in TOKENIZERS))
    folder = next(found, None)
    if folder is None:
        return None, "There is no tokenizer beside the weights."
    try:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ), ""  # fmt: skip
    except Exception as error:
        told = " ".join(str(error).split())
        return None, f"The tokenizer in {shown(folder)} could not be loaded ({shown(told)})."


def _random(
    kind: Kind, prompts: int, limit: int, room: int, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    import torch

    dice = torch.Generator().manual_seed(seed)

    def draw(count: int, length: int) -> list[list[int]]:
        rows = torch.randint(0, limit, (count, min(length, room // 2)), generator=dice).tolist()
        return [list(row) for row in rows]

    return draw(prompts, 12), draw(4, 96) if kind.gives == "tokens" else draw(16, 24)


def _read(words: Any, kind: Kind, texts: Sequence[str], room: int) -> list[list[int]]:
    """Cut what is read: one stream in windows for language models, each text alone for others."""
    if not kind.speaks:
        return [words(text, truncation=True, max_length=room)["input_ids"] for text in texts]
    stream: list[int] = words("\n\n".join(texts) if len(texts) < 9 else " ".join(texts))[
        "input_ids"
    ]
    return [stream[at : at + room] for at in range(0, len(stream), room)]


def _text(kind: Kind, ids: tuple[int, ...], start: int) -> Text:
    if kind.name == "causal":
        return Text(ids=ids, targets=ids[1:])
    if kind.name == "seq2seq":
        half = len(ids) // 2
        return Text(ids=ids[:half], decoder=(start, *ids[half:-1]), targets=ids[half:])
    return Text(ids=ids)


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


def forced(script: Script, told: Sequence[tuple[int, ...]]) -> tuple[Text, ...]:
    """Give the prompts with these answers as texts, to read along."""
    pairs = [(asked, new) for asked, new in zip(script.prompts, told, strict=True) if new]
    if script.kind.name == "seq2seq":
        return tuple(Text(ids=asked, decoder=(script.start, *new[:-1])) for asked, new in pairs)
    return tuple(Text(ids=(*asked, *new)) for asked, new in pairs)


def fit(texts: Sequence[Text], width: int) -> tuple[Text, ...]:
    """Keep as many texts as their logits fit the budget; the last one may be cut."""
    left, kept = max(64, BUDGET // width), []
    for text in texts:
        size = len(text.decoder or text.ids)
        if size > left:
            text = replace(text, ids=text.ids if text.decoder else text.ids[:left],
                           decoder=text.decoder[:left], targets=text.targets[:left])  # fmt: skip
        if left > 1:
            kept.append(text)
        left -= size
    return tuple(kept)


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
