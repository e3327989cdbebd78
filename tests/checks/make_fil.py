"""Write the examples of FIL: python -m tests.checks.make_fil."""

from pathlib import Path

from tests.checks import tiny

POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 16777216
"""


def write(folder: Path, name: str, text: str) -> None:
    """Write a text file of an example."""
    (folder / name).write_text(text, "utf-8")


def make() -> None:
    """Write them all."""
    _, bad = tiny.pair("FIL001")
    (bad / tiny.WEIGHTS_FILE).unlink()

    good, bad = tiny.pair("FIL002")
    write(good, "LICENSE", "Do as you like.\n")
    write(bad, "LICENSE", POINTER)

    _, bad = tiny.pair("FIL003")
    weights = (bad / tiny.WEIGHTS_FILE).read_bytes()
    (bad / "adapter_model copy.safetensors").write_bytes(weights)

    _, bad = tiny.pair("FIL004")
    write(bad, "trainer_state.json", '{"global_step": 300}\n')

    _, bad = tiny.pair("FIL005")
    tiny.write_json(bad / "config.json", tiny.BASE_CONFIG)

    for folder, rows in zip(tiny.pair("FIL006"), (tiny.VOCAB, 200), strict=True):
        tiny.set_config(folder, modules_to_save=["lm_head"])
        head = {"base_model.model.lm_head.weight": tiny.noise(rows, tiny.WIDTH, seed=9)}
        tiny.set_tensors(folder, lambda held, head=head: {**held, **head})

    good, bad = tiny.pair("FIL007")
    (good / "NOTICE").symlink_to("README.md")
    (bad / "NOTICE").symlink_to("../FIL007-good/README.md")

    good, bad = tiny.pair("FIL008")
    for folder in (good, bad):
        write(folder, "sayings.csv", "saying\nStill waters run deep\n")
    write(good, "README.md", f"{tiny.CARD}\nThe sayings are in sayings.csv.\n")


if __name__ == "__main__":
    make()
