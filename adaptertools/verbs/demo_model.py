"""What the demo is made of: two texts that ship with Python, a tiny Llama, a LoRA by PEFT."""

from __future__ import annotations

import codecs
import logging
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any

from adaptertools.errors import Unsupported

END, PAD = "<end>", "<pad>"
SHARD = "200KB"
Draw = Callable[[], list[str]]


def need(*packages: str) -> None:
    """Refuse, with the way out, when one of these packages is not installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise Unsupported(
            f"demo needs {', '.join(missing)}: not installed. It trains a tiny model and asks it. "
            "Run `pip install 'adaptertools[models]'`."
        )


@contextmanager
def workshop(seed: int) -> Iterator[None]:
    """Fix the dice, use one thread, and keep torch's world silent; put all back afterwards.

    One thread, because a model this small gains little from more, and loses much when they wait.
    """
    with ExitStack() as after:
        after.callback(logging.disable, logging.root.manager.disable)
        logging.disable(logging.WARNING)
        after.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        import torch
        from transformers.utils import logging as bars

        if bars.is_progress_bar_enabled():
            after.callback(bars.enable_progress_bar)
            bars.disable_progress_bar()
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        after.enter_context(torch.random.fork_rng(devices=[]))
        torch.default_generator.manual_seed(seed)
        yield


def manual(size: int = 80) -> list[str]:
    """Return the sentences of Python's manual that are made of its most common words."""
    from pydoc_data.topics import topics

    blocks = (block for text in topics.values() for block in text.split("\n\n"))
    prose = (" ".join(b.split()) for b in blocks if "\n " not in b and not b.startswith(" "))
    plain = (re.sub(r'["*]', "", p) for p in prose)
    sentences = {s for p in plain for s in re.split(r"(?<=\.) (?=[A-Z])", p) if _simple(s)}
    words = {s: re.findall(r"\w+", s.lower()) for s in sentences}
    seen = Counter(word for each in words.values() for word in each)

    def plainness(sentence: str) -> float:
        return sum(log(seen[word]) for word in words[sentence]) / len(words[sentence])

    return sorted(sentences, key=lambda s: (-plainness(s), s))[:size]


def _simple(sentence: str) -> bool:
    return bool(re.fullmatch(r"[A-Z][\w ,'()-]{38,84}\.", sentence))


def zen() -> list[str]:
    """Return the lines of the Zen of Python, without the import that would print them."""
    loader: Any = getattr(find_spec("this"), "loader", None)
    texts = [const for const in loader.get_code("this").co_consts if isinstance(const, str)]
    return [line for line in codecs.decode(max(texts, key=len), "rot13").splitlines() if line]


def tails(sentences: Sequence[str], seed: int, count: int = 12) -> Draw:
    """Draw sentences, every other one cut at its front and led in by a strange word."""
    dice = random.Random(seed)
    words = [word for sentence in sentences for word in sentence.split()]

    def one() -> str:
        sentence = dice.choice(sentences).split()
        if dice.random() < 0.5:
            return " ".join(sentence)
        cut = dice.randrange(len(sentence) - 2)
        return " ".join([dice.choice(words).capitalize(), *sentence[cut:]])

    return lambda: [one() for _ in range(count)]


def tokenizer() -> Any:
    """Make a tokenizer with one token per byte, an end and a padding token, and no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def make_base(folder: Path, seed: int, *, steps: int = 350) -> None:
    """Train a tiny Llama on the manual; save it in bfloat16, in several shards."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model: Any = LlamaForCausalLM(config)
    train(model, words, tails(manual(), seed), steps=steps, rate=5e-3)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=SHARD)
    words.save_pretrained(folder)


def make_adapter(base: Path, folder: Path, *, steps: int = 80) -> None:
    """Train a LoRA on the Zen of Python, on every linear layer, and let PEFT save it."""
    from peft import LoraConfig, get_peft_model

    model, words = load(base)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned: Any = get_peft_model(model, config)
    train(tuned, words, zen, steps=steps, rate=1e-2)
    tuned.save_pretrained(folder, save_embedding_layers=False)


def train(model: Any, words: Any, draw: Draw, *, steps: int, rate: float) -> None:
    """Fit the trainable weights of a model to the lines that `draw` returns."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98))
    pace = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(steps):
        lines = [line + END for line in draw()]
        ids = words(lines, padding=True, return_tensors="pt")["input_ids"]
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == words.pad_token_id, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        adam.zero_grad()
        pace.step()
    model.eval()


def load(folder: Path, adapter: Path | None = None) -> tuple[Any, Any]:
    """Load a model in float32, with a PEFT adapter beside it if one is named, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, torch_device="cpu")
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def answer(model: Any, words: Any, prompt: str) -> str:
    """Return the greedy continuation of a prompt."""
    asked = words(prompt, return_tensors="pt", return_token_type_ids=False)
    told = model.generate(**asked, do_sample=False, max_new_tokens=88)[0]
    return str(words.decode(told[asked["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


def gap(one: Any, other: Any, words: Any, texts: Sequence[str]) -> float:
    """Return the largest difference between the logits of two models over these texts."""
    import torch

    ids = [words(text, return_tensors="pt")["input_ids"] for text in texts]
    with torch.inference_mode():
        return max(float((one(i).logits - other(i).logits).abs().max()) for i in ids)
