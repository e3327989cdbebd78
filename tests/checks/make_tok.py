"""Write the examples of the TOK checks: `python -m tests.checks.make_tok`."""

from collections.abc import Mapping
from pathlib import Path

from tests.checks import tiny

EMBED = "base_model.model.model.embed_tokens.weight"


def tokenizer(folder: Path, size: int, added: Mapping[str, int]) -> None:
    """Write the tokenizer's files, so far as anything here reads them."""
    vocab = {f"t{i}": i for i in range(size)}
    listed = [{"id": number, "content": word, "special": True} for word, number in added.items()]
    whole = {"version": "1.0", "added_tokens": listed, "model": {"type": "WordLevel"}}
    whole["model"] = {"type": "WordLevel", "unk_token": "t0", "vocab": vocab}
    tiny.write_json(folder / "tokenizer.json", whole)
    tiny.write_json(folder / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})


def embeddings(folder: Path, rows: int) -> None:
    """Save embeddings along."""
    tiny.set_config(folder, modules_to_save=["embed_tokens"])
    tiny.set_tensors(folder, lambda held: {**held, EMBED: tiny.noise(rows, tiny.WIDTH)})


def main() -> None:
    """Write them all."""
    good, bad = tiny.pair("TOK001")
    for folder in (good, bad):
        tokenizer(folder, tiny.VOCAB, {"<new>": tiny.VOCAB})
        tiny.base(folder / "base")
        tiny.set_options(folder, base="base")
    embeddings(good, tiny.VOCAB + 1)

    good, bad = tiny.pair("TOK002")
    tokenizer(good, tiny.VOCAB, {"<a>": tiny.VOCAB, "<b>": tiny.VOCAB + 1})
    tokenizer(bad, tiny.VOCAB, {"<a>": tiny.VOCAB, "<b>": tiny.VOCAB + 7})

    good, bad = tiny.pair("TOK003")
    for folder in (good, bad):
        tokenizer(folder, tiny.VOCAB, {})
    embeddings(good, tiny.VOCAB)


if __name__ == "__main__":
    main()
