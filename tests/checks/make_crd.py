"""Write the examples of the CRD checks: `python -m tests.checks.make_crd`."""

from tests.checks import tiny

# Lines of the good card, and what stands there in the bad one.
EXAMPLES = {
    "CRD001": {"library_name: peft\n": ""},
    "CRD002": {f"base_model: {tiny.BASE}\n": "base_model: example-org/other-llama\n"},
    "CRD003": {"A LoRA": "- **Language:** [More Information Needed]\n" * 5 + "A LoRA"},
    "CRD004": {"license: apache-2.0\n": ""},
    "CRD005": {
        "language: en\n": "",
        "pipeline_tag: text-generation\n": "",
        "datasets:\n- example-org/sayings\n": "",
    },
    "CRD006": {"A LoRA": f"| lora_alpha | {8 * tiny.ALPHA} |\n\nA LoRA"},
}
# What the good one has beside the good card.
GOOD = {"CRD006": {"A LoRA": f"- **LoRA alpha (α):** {tiny.ALPHA}\n- lora_r: 2\n\nA LoRA"}}


def main() -> None:
    """Write them all."""
    for code, changes in EXAMPLES.items():
        good, bad = tiny.pair(code)
        for folder, changed in ((good, GOOD.get(code, {})), (bad, changes)):
            text = tiny.CARD
            for old, new in changed.items():
                assert old in text
                text = text.replace(old, new, 1)
            (folder / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
