"""What is asked of the models, as token ids: prompts to go on with, and texts to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adaptertools.errors import Mismatch, Unsupported, shown
from adaptertools.verbs._smoke_kind import Kind
from adaptertools.verbs._smoke_words import PROMPTS, SENTENCES

WINDOW = 256  # tokens of one text, at most
BUDGET = 1 << 25  # logits that are kept of each model: 128 MiB
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
    "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip


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
    start = getattr(config, "decoder_start_token_id", None) or 0
    limit = max(int(getattr(text, "vocab_size", None) or 0), vocabulary or 0)
    if not limit:
        raise Unsupported(f"{shown(folders[0])} has no vocabulary. smoke tries models that read.")
    if words is None and (prompts is not None or texts is not None):
        raise Unsupported(f"{why} Prompts and texts cannot be read; leave them away.")
    asked = tuple(prompts if prompts is not None else PROMPTS) if kind.speaks else ()
    if words is None:
        begun, read = _random(kind, len(asked), limit, room, seed)
        asked = tuple(" ".join(map(str, ids)) for ids in begun)
    else:
        begun = [words(prompt)["input_ids"][: room // 2] for prompt in asked]
        read = _read(words, kind, texts if texts is not None else SENTENCES, room)
    if not all(begun):
        raise Unsupported("There is nothing in one of the prompts. Give a word at least.")
    if max((id for ids in (*begun, *read) for id in ids), default=0) >= limit:
        raise Mismatch(
            f"{shown(folders[0])}: its tokenizer gives ids beyond the {limit} of the model. "
            "The files do not belong together."
        )
    cut = tuple(_text(kind, tuple(ids), start) for ids in read if len(ids) > 1)
    if not cut:
        raise Unsupported("There is no text of at least two tokens to read. Give more text.")
    if kind.speaks:
        room = max(2, room - max(map(len, begun), default=0))
    return Script(
        kind=kind, words=words, prompts=tuple(map(tuple, begun)), asked=asked, why=why,
        texts=cut, new_tokens=min(new_tokens, room), start=start,
        width={"tokens": limit, "states": getattr(text, "hidden_size", 1)}.get(kind.gives, 1),
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
