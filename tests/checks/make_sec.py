"""Write the examples of SEC: python -m tests.checks.make_sec."""

from pathlib import Path
from typing import Any

from tests import handmade_pickle as pickles
from tests.checks import tiny
from tests.checks.make_fil import write

TEMPLATE = """{%- for message in messages %}
<|{{ message['role'] }}|>
{{ message.content | trim }}
{%- endfor %}
"""


def pickled(folder: Path) -> None:
    """Put the weights into a file of torch.save."""
    held = tiny.tensors()
    items, entries = [], []
    for i, (name, array) in enumerate(held.items()):
        rows, columns = array.shape
        view = pickles.storage(str(i), array.size)
        items.append((name, pickles.tensor(view, 0, (rows, columns), (columns, 1))))
        entries.append((f"{pickles.PLACE}/data/{i}", array.tobytes()))
    raw = pickles.zipped(pickles.mapped(*items), None, entries)
    (folder / "adapter_model.bin").write_bytes(raw)
    (folder / tiny.WEIGHTS_FILE).unlink()


def both(code: str, **changes: tuple[Any, Any]) -> None:
    """Write a pair that differs in the config: key -> good value, bad value."""
    for i, folder in enumerate(tiny.pair(code)):
        tiny.set_config(folder, **{key: values[i] for key, values in changes.items()})


def make() -> None:
    """Write them all."""
    _, bad = tiny.pair("SEC001")
    pickled(bad)

    good, bad = tiny.pair("SEC002")
    pickled(good)
    called = b"cbuiltins\nprint\n" + pickles.tuple_(pickles.text("boo")) + b"R"
    raw = pickles.zipped(pickles.mapped(("alpha", called)), None)
    (bad / "training_args.bin").write_bytes(raw)

    model = {"base_model_class": "LlamaForCausalLM"}
    known = model | {"parent_library": "transformers.models.llama.modeling_llama"}
    own = model | {"parent_library": "modeling_own"}
    both("SEC003", auto_mapping=(known, own))
    both("SEC004", megatron_core=("megatron.core", "own_layers"), megatron_config=({}, {"a": 1}))
    for folder, value in zip(tiny.pair("SEC005"), (False, True), strict=True):
        tiny.write_json(folder / "tokenizer_config.json", {"trust_remote_code": value})
    both("SEC006", arrow_config=(None, {"top_k": 3}))
    _, bad = tiny.pair("SEC007")
    write(bad, "Makefile", "all:\n")
    both("SEC008", exclude_modules=(r".*\.o_proj", "(.*)*q_projX"))

    good, bad = tiny.pair("SEC009")
    write(good, "chat_template.jinja", TEMPLATE)
    write(bad, "chat_template.jinja", f"{TEMPLATE}{{{{ messages.__class__.__mro__ }}}}\n")

    _, bad = tiny.pair("SEC010")  # the key is the example of Amazon's own documentation
    write(bad, "README.md", f"{tiny.CARD}\nThe data is in S3, with key AKIAIOSFODNN7EXAMPLE.\n")

    for folder, note in zip(tiny.pair("SEC011"), ("two\nlines", "\x1b[2J"), strict=True):
        tiny.set_tensors(folder, lambda held: held, {"format": "pt", "note": note})

    _, bad = tiny.pair("SEC012")
    write(bad, "model.sig", '{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}\n')

    good, bad = tiny.pair("SEC013")
    tiny.set_options(good, scan={})
    tiny.set_options(bad, scan={"adapter_model.safetensors": "unsafe"})


if __name__ == "__main__":
    make()
