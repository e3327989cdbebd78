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
}


def main() -> None:
    """Write them all."""
    for code, changes in EXAMPLES.items():
        _, bad = tiny.pair(code)
        text = tiny.CARD
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        (bad / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
