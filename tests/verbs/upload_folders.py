"""Folders that somebody may want to upload, good and bad."""

from pathlib import Path

from tests.checks import tiny
from tests.verbs.test_convert import adapter as pickled

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def plain(folder: Path) -> None:
    tiny.adapter(folder)


def bare(folder: Path) -> None:
    tiny.adapter(folder).joinpath(CARD).unlink()


def littered(folder: Path) -> None:
    tiny.adapter(folder)
    for name in ("optimizer.pt", "checkpoint-6/adapter_config.json", ".env", "notes.txt", "x.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"{}")
    (folder / "LICENSE").write_text("free")


def local(folder: Path) -> None:
    tiny.adapter(folder)
    tiny.set_config(folder, base_model_name_or_path="/data/me/llama")
    card = (folder / CARD).read_text().replace(tiny.BASE, "/data/me/llama")
    (folder / CARD).write_text(card)


def nameless(folder: Path) -> None:
    tiny.adapter(folder)
    tiny.set_config(folder, base_model_name_or_path=None)


def broken(folder: Path) -> None:
    tiny.adapter(folder)
    tiny.set_tensors(folder, lambda held: {n: t for n, t in held.items() if "lora_B" not in n})


def torchy(folder: Path) -> None:
    pickled(folder)


def inner(folder: Path) -> None:
    tiny.adapter(folder / "checkpoint-6")


def whole(folder: Path) -> None:
    tiny.base(folder)


def weights_only(folder: Path) -> None:
    tiny.adapter(folder).joinpath(CONFIG).unlink()


def mlx(folder: Path) -> None:
    folder.mkdir()
    (folder / CONFIG).write_text('{"fine_tune_type": "lora", "lora_layers": 4}')
    (folder / "adapters.safetensors").write_bytes(b"")


def odd_card(folder: Path) -> None:
    plain(folder)
    (folder / CARD).write_text("---\ntags: [a\n---\n")


def weird_card(folder: Path) -> None:
    plain(folder)
    (folder / CARD).write_text(
        "---\nlicense: mit\nbase_model:\n- example-org/tiny-llama\n- a/b/c\n---\n"
    )
