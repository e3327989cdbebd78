"""Which Auto class loads a model, and what can be asked of it: words, labels or hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptertools.errors import Unsupported, shown
from adaptertools.verbs._smoke_model import Beside, Model


@dataclass(frozen=True)
class Kind:
    """One family of models: the Auto class, transformers' table of it, and what it gives."""

    name: str
    auto: str
    table: str
    task: str  # what PEFT calls it
    gives: str  # "tokens", "labels", "spans" or "states"

    @property
    def speaks(self) -> bool:
        """Whether it generates text."""
        return self.name in ("causal", "seq2seq")


_FOR = "MODEL_FOR_{}_MAPPING_NAMES"
# In this order: some classes are in several tables.
KINDS = (
    Kind("causal", "AutoModelForCausalLM", _FOR.format("CAUSAL_LM"), "CAUSAL_LM", "tokens"),
    Kind("seq2seq", "AutoModelForSeq2SeqLM", _FOR.format("SEQ_TO_SEQ_CAUSAL_LM"), "SEQ_2_SEQ_LM",
         "tokens"),
    Kind("causal", "AutoModelForImageTextToText", _FOR.format("IMAGE_TEXT_TO_TEXT"), "", "tokens"),
    Kind("masked", "AutoModelForMaskedLM", _FOR.format("MASKED_LM"), "", "tokens"),
    Kind("sequence", "AutoModelForSequenceClassification", _FOR.format("SEQUENCE_CLASSIFICATION"),
         "SEQ_CLS", "labels"),
    Kind("token", "AutoModelForTokenClassification", _FOR.format("TOKEN_CLASSIFICATION"),
         "TOKEN_CLS", "labels"),
    Kind("question", "AutoModelForQuestionAnswering", _FOR.format("QUESTION_ANSWERING"),
         "QUESTION_ANS", "spans"),
    Kind("hidden", "AutoModel", "MODEL_MAPPING_NAMES", "FEATURE_EXTRACTION", "states"),
)  # fmt: skip


def kind(model: Model, adapters: Sequence[Beside] = ()) -> Kind:
    """Say what kind of model to load: what its config names, or the task of the adapters.

    An adapter trained for another task than the base's own brings the head along. Raises
    Unsupported for classes that transformers does not ship: their code is never run.
    """
    own = _of(model)
    tasks = {a.config.get("task_type") for a in adapters} - {None}
    wanted = next((each for each in KINDS if each.task in tasks), own)
    if wanted is None:
        named = next(iter(model.config.get("architectures") or ()), "no architecture")
        raise Unsupported(
            f"{shown(model.ref)}: its config.json names {shown(named)} of type "
            f"{shown(model.config.get('model_type'))}, which this transformers cannot load with "
            "text. smoke tries language models, classifiers and encoders, and runs no code "
            "that comes with a model."
        )
    return own if own and own.speaks and wanted.speaks else wanted


def _of(model: Model) -> Kind | None:
    from transformers.models.auto import modeling_auto

    tables = [(each, _classes(getattr(modeling_auto, each.table, {}))) for each in KINDS]
    kept = str(model.config.get("model_type"))
    named = model.config.get("architectures") or ()
    for name in named:
        for each, classes in tables:
            if name in classes.get(kept, ()):
                return each
    if named:
        return None
    return next((each for each, classes in tables if kept in classes), None)


def _classes(table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        key: (value,) if isinstance(value, str) else tuple(value) for key, value in table.items()
    }
