"""The program that every rank runs: ``torchrun ... --module easyllm.finetune.train JOB_FILE``."""

import json
import os
import shutil
import sys
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from easyllm.core.artifact import write_whole
from easyllm.core.errors import Problem, StageFailed, UserError
from easyllm.core.launch import die_with_parent
from easyllm.core.messages import say
from easyllm.core.nodes.heartbeat import Heartbeat
from easyllm.core.nodes.meeting import meet
from easyllm.finetune.nodes import BEATS, OUTCOME, TIMEOUT_SECONDS
from easyllm.finetune.work import WEIGHTS, Outline, Work

PATIENCE = timedelta(seconds=2 * TIMEOUT_SECONDS + 60)
"""A collective that waits so long for a rank fails. The heartbeat is to find a hung rank first: it knows which one."""


def main(job_file: Path) -> None:
    """Train to the end; the first rank leaves the outcome and the trained weights beside the job file."""
    die_with_parent()
    import torch.distributed as dist

    from easyllm.core.models import quiet_libraries
    from easyllm.finetune.assembly import rank_device
    from easyllm.finetune.state import write_tensors

    quiet_libraries()
    warnings.filterwarnings("ignore", module=r"torch\.distributed\..*", category=FutureWarning)
    _outline, _store = meet(job_file, Outline.read, "finetune", say("its_base"))  # held as long as the rank lives
    work = Work.read(job_file)
    if work.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rank_device(work.device)
    dist.init_process_group("nccl" if work.device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        if dist.get_rank() == 0:  # of a run before
            job_file.with_name(OUTCOME).unlink(missing_ok=True)
            shutil.rmtree(job_file.with_name(BEATS), ignore_errors=True)
        dist.barrier()
        pulse = Heartbeat(job_file.with_name(BEATS), dist.get_rank(), dist.get_world_size(), TIMEOUT_SECONDS)
        try:
            outcome, weights = _train(work, pulse)
        finally:
            pulse.stop()
        if dist.get_rank() == 0:
            if weights is not None:
                write_tensors(job_file.with_name(WEIGHTS), weights)
            write_whole(job_file.with_name(OUTCOME), json.dumps(outcome) + "\n")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _train(work: Work, pulse: Heartbeat) -> tuple[dict[str, Any], Any]:
    """(what the first rank reports, its weights). A refusal or a diagnosis, alike everywhere, is reported too."""
    from easyllm.finetune.assembly import assemble

    try:
        ready = assemble(work, pulse)
        seconds = ready.training.run()
        weights = ready.training.weights()
    except UserError as error:
        return {"refused": [_record(problem) for problem in error.problems]}, None
    except StageFailed as error:
        if error.problem is None:
            raise
        return {"failed": [_record(error.problem)]}, None
    except KeyboardInterrupt:
        return {"stopped": True}, None
    training = ready.training
    return {
        "rows": [asdict(row) for row in training.rows], "seconds": seconds, "watch": training.watch.as_record(),
        "stopped_early": training.stopped_early, "decisions": [asdict(decision) for decision in ready.decisions],
    }, weights  # fmt: skip


def _record(problem: Problem) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(asdict(problem), default=str))
    return record


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except StageFailed as refusal:  # every rank knows it; one says it
        if os.environ.get("RANK") == "0":
            print(refusal, file=sys.stderr)
        sys.exit(1)
