"""What cards and training configs say of rank and alpha, in the ways that people write it."""

from pathlib import Path

import pytest

import adaptertools as at
from tests.checks import tiny

SAYS_16 = (
    "lora_alpha: 16", "lora_alpha=16", "LoRA alpha: 16", "- **LoRA Alpha**: 16", "Lora-Alpha 16",
    "| lora_alpha | 16 | scale |", "|lora_alpha|16|", "* LoRA alpha (α): `16`", '"lora_alpha": 16,',
    "`lora_alpha` = 16.0", "lora_alpha:\n  16\n", "LoRA alpha = 16 (twice the rank)",
    "<li>lora_alpha: 16</li>",
)  # fmt: skip
SAYS_NOTHING = (
    "lora_alpha: 16-64", "LoRA alpha: 16 to 64", "lora_alpha 16, 32", "lora_alpha: 2x",
    "lora_alpha", "lora_alpha: 2 * rank", "lora_alpha: {alpha}",
    "| r | lora_alpha | epochs |\n| 8 | 16 | 3 |",
    "alpha: 16", "xlora_alpha: 16", "lora_alpha: 1.2.3", "lora_alpha: 16a3", "lora_alpha: -1",
    "LoRA alpha or 16", "lora_alpha: 16 or 32", "lora_alpha" + " " * 50 + "16",
)  # fmt: skip


def found(folder: Path) -> list[tuple[str, str, int, str]]:
    """Give what CRD006 says: level, file, line and text."""
    report = at.validate(folder, select=["CRD006"])
    assert report.skipped == ()
    return [(f.level, f.file, f.line, f.text) for f in report.findings]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.adapter(tmp_path / "adapter")


def say(folder: Path, text: str, name: str = "README.md") -> None:
    """Write it in the second line of a file."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(f"# Sayings\n{text}\n", "utf-8")


@pytest.mark.parametrize("text", SAYS_16)
def test_another_alpha_is_told(text: str, folder: Path) -> None:
    say(folder, text)
    ((level, file, line, words),) = found(folder)
    assert (level, file, line) == ("warning", "README.md", 2)
    assert words.startswith("README.md says lora_alpha 16")
    assert words.endswith("the config 4.")
    tiny.set_config(folder, lora_alpha=16)
    assert found(folder) == []
    tiny.set_config(folder, lora_alpha=16.0)
    assert found(folder) == []


@pytest.mark.parametrize("text", SAYS_NOTHING)
def test_what_tells_no_number_is_held_to_nothing(text: str, folder: Path) -> None:
    say(folder, text)
    assert found(folder) == []


def test_one_of_several_is_enough(folder: Path) -> None:
    say(folder, "lora_alpha: 16\nlora_alpha: 4\n")
    assert found(folder) == []


@pytest.mark.parametrize("text", ["lora_r: 8", "LoRA rank: 8", "| Lora Dim | 8 |", '"r": 8,'])
def test_another_rank(text: str, folder: Path) -> None:
    say(folder, text, "config.yaml")
    assert [words for *_, words in found(folder)] == ["config.yaml says r 8, the config 2."]


def test_rslora(folder: Path) -> None:
    say(folder, "use_rslora: true", "train.yml")
    assert [words for *_, words in found(folder)] == [
        "train.yml says use_rslora True, the config False."
    ]
    tiny.set_config(folder, use_rslora=True)
    assert found(folder) == []


def test_a_checkpoint_beside_it(folder: Path) -> None:
    say(folder, '{"lora_alpha": 4, "r": 2}', "checkpoint-9/adapter_config.json")
    assert found(folder) == []
    tiny.set_config(folder, lora_alpha=8)
    (told,) = found(folder)
    assert told[:3] == ("warning", "checkpoint-9/adapter_config.json", 2)


def test_other_methods_and_odd_values(folder: Path) -> None:
    say(folder, "lora_alpha: 16")
    for odd in (None, "16", [16], 10**45):
        tiny.set_config(folder, lora_alpha=odd)
        assert len(found(folder)) == (odd == 10**45)
    tiny.set_config(folder, lora_alpha=4, peft_type="LOHA")
    assert found(folder) == []


def test_a_long_text_takes_no_long_time(folder: Path) -> None:
    for text in ("lora_alpha: 1" * 15_000, "lora_alpha:" + ":" * 190_000, "lora_alpha 1a" * 15_000):
        say(folder, text)
        found(folder)
