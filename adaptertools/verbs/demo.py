"""demo: the whole street on a tiny model that is made, tuned, merged and asked on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from adaptertools.adapter import Adapter
from adaptertools.errors import Unsafe, shown
from adaptertools.jobs import MergePlan
from adaptertools.report import Report
from adaptertools.verbs import demo_model as tiny
from adaptertools.verbs.smoke import Smoke

PROMPTS = ("Beautiful is", "Errors should", "In the face of")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the three models go on after one prompt."""

    prompt: str
    base: str
    adapter: str
    merged: str


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo made, what it found, and how the models answered."""

    folder: Path
    base: Path
    adapter: Path
    merged: Path
    inspected: Adapter
    plan: MergePlan
    report: Report
    verification: Report
    prompts: tuple[Answer, ...]
    logit_gap: float
    packed: Report  # of the merge into a base in 4 bit
    smoke: Smoke | None  # of that merged model; None where bitsandbytes is not installed
    seconds: dict[str, float]

    @property
    def ok(self) -> bool:
        """Whether both merges verified, and the merged models answer as base and adapter do."""
        smoked = self.smoke is None or self.smoke.ok
        answered = all(each.adapter == each.merged for each in self.prompts)
        return self.verification.ok and self.packed.ok and smoked and answered

    def as_json(self) -> dict[str, Any]:
        """Give the answers, the gap, the times and both reports; the plan prints itself."""
        return {
            "folder": str(self.folder),
            "ok": self.ok,
            "prompts": [asdict(each) for each in self.prompts],
            "logit_gap": self.logit_gap,
            "seconds": self.seconds,
            "merge": self.report.as_json(),
            "verify": self.verification.as_json(),
            "packed": self.packed.as_json(),
            "smoke": self.smoke.as_json() if self.smoke else None,
        }


@dataclass(frozen=True)
class _Clock:
    progress: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, line: str) -> Iterator[None]:
        self.progress(line)
        start = perf_counter()
        yield
        self.seconds[name] = perf_counter() - start


def demo(
    folder: str | Path | None = None,
    *,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Make a tiny base and a LoRA, then inspect, plan, merge, verify and ask them, offline.

    Args:
        folder: where to keep all that is made; nothing is kept where it is None.
        seed: fixes the first weights, and the order of what the models are trained on.
        progress: called with a line as each step begins.

    Raises Unsupported where torch, transformers or peft are missing, Unsafe where the folder is
    not empty.
    """
    tiny.need("torch", "transformers", "peft")
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(
                TemporaryDirectory(prefix="adaptertools-demo-", ignore_cleanup_errors=True)
            )
        return _street(_empty(Path(folder).absolute()), seed, _Clock(progress))


def _empty(folder: Path) -> Path:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise Unsafe(f"{shown(folder)}: it exists. The demo overwrites nothing; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _street(folder: Path, seed: int, clock: _Clock) -> Demo:
    from adaptertools.verbs.merge import merge
    from adaptertools.verbs.open import open_adapter
    from adaptertools.verbs.plan import plan
    from adaptertools.verbs.verify import verify

    base, adapter, merged = folder / "base", folder / "adapter", folder / "merged"
    _make(base, adapter, seed, clock)
    with clock.step("inspect", "Reading the adapter: header and config only"):
        inspected = open_adapter(adapter)
    with clock.step("plan", "Planning the merge: nothing is written"):
        planned = plan(adapter, base=base, out=merged)
    with clock.step("merge", "Merging, shard by shard"):
        report = merge(adapter, base=base, out=merged)
    with clock.step("verify", "Verifying what was written against its receipt"):
        verification = verify(merged)
    with clock.step("ask", "Asking the base, the adapter and the merged model"):
        prompts, logit_gap = _ask(base, adapter, merged, seed)
    packed, smoked = _packed_street(folder, clock)
    return Demo(
        folder=folder,
        base=base,
        adapter=adapter,
        merged=merged,
        inspected=inspected,
        plan=planned,
        report=report,
        verification=verification,
        prompts=prompts,
        logit_gap=logit_gap,
        packed=packed,
        smoke=smoked,
        seconds=clock.seconds,
    )


def _packed_street(folder: Path, clock: _Clock) -> tuple[Report, Smoke | None]:
    """Put the base into 4 bit, merge the adapter into that, and ask the result."""
    from adaptertools.verbs.merge import merge
    from adaptertools.verbs.smoke import smoke

    base, adapter = folder / "base", folder / "adapter"
    with clock.step("pack", "Putting the base into 4 bit: a merge with --scale 0 --quant 4bit"):
        merge(adapter, base=base, out=folder / "base-4bit", scale=0.0, quant="4bit")
    with clock.step("merge-4bit", "Merging into the 4-bit base, rounding so that it survives"):
        packed = folder / "base-4bit"
        report = merge(adapter, base=packed, out=folder / "merged-4bit", verify=True)
    if find_spec("bitsandbytes") is None:
        return report, None
    with clock.step("smoke", "Running base, adapter and merged model in 4 bit"):
        return report, smoke(folder / "merged-4bit", prompts=PROMPTS, max_new_tokens=40)


def _make(base: Path, adapter: Path, seed: int, clock: _Clock) -> None:
    with ExitStack() as stack:
        with clock.step("import", "Importing torch, transformers and PEFT"):
            stack.enter_context(tiny.workshop(seed))
            import peft  # noqa: F401
        with clock.step("base", "Training a tiny Llama on sentences from Python's manual"):
            tiny.make_base(base, seed)
        with clock.step("adapter", "Training a LoRA on the Zen of Python, saved by PEFT"):
            tiny.make_adapter(base, adapter)


def _ask(base: Path, adapter: Path, merged: Path, seed: int) -> tuple[tuple[Answer, ...], float]:
    with tiny.workshop(seed):
        plain, words = tiny.load(base)
        before = [tiny.answer(plain, words, prompt) for prompt in PROMPTS]
        tuned, _ = tiny.load(base, adapter)
        folded, _ = tiny.load(merged)
        answers = tuple(
            Answer(
                prompt=prompt,
                base=told,
                adapter=tiny.answer(tuned, words, prompt),
                merged=tiny.answer(folded, words, prompt),
            )
            for prompt, told in zip(PROMPTS, before, strict=True)
        )
        texts = [f"{each.prompt} {each.adapter}" for each in answers]
        return answers, tiny.gap(tuned, folded, words, texts)
