"""From drafts to jobs, with a look ahead at what packing will do to the adapter."""

from __future__ import annotations

from adaptertools.checkpoint import Checkpoint
from adaptertools.errors import Unsupported, first
from adaptertools.jobs import FileJob, ShardJob
from adaptertools.rounding import Rounding
from adaptertools.verbs import _survival
from adaptertools.verbs._drafts import Assembly
from adaptertools.verbs._options import Options
from adaptertools.verbs._quantise import leave_plain
from adaptertools.verbs._shards import shard_jobs


def lay_out(
    it: Assembly, base: Checkpoint, options: Options
) -> tuple[list[ShardJob], FileJob | None, list[Rounding]]:
    """Give the jobs, the index file if there is one, and what was foreseen of packed tensors.

    Raises Unsupported where nearest rounding would lose the adapter.
    """
    jobs, index = shard_jobs(base, it.drafts, options.code, options.size)
    edits = [edit for job in jobs for edit in job.edits]
    foreseen = _survival.foreseen(edits)
    least = options.min_retention
    if least is not None and not any(edit.repack for edit in edits):
        raise Unsupported(
            "--min-retention is for packed weights, and none is packed in the output."
        )
    weak = {r.tensor for r in foreseen if r.retention and r.retention.kept < (least or 0)}
    if weak:
        names = [name for name, draft in it.drafts.items() if name in weak and draft.repack]
        leave_plain(it, names)
        it.say(
            "MRG044",
            f"{len(names)} modules stay in 16 bit, where less than {least:.0%} of their update "
            f"would be kept: {first(names, 3)}. They are listed in config.json.",
        )
        jobs, index = shard_jobs(base, it.drafts, options.code, options.size)
        edits = [edit for job in jobs for edit in job.edits]
        foreseen = [r for r in foreseen if r.tensor not in weak]
    _survival.check_nearest(foreseen, edits, options.force)
    _survival.check_cut(foreseen, edits, options.force)
    if text := _survival.advice(edits, options.rounding):
        it.say("MRG040", text)
    return jobs, index, foreseen
