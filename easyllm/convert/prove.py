"""The proof: Megatron's model and transformers' say the same, or the first place where they part is named."""

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from easyllm.convert import stock
from easyllm.convert.answer import NAME, Question, logits_file, rounded, trace_file
from easyllm.convert.plan import ANSWER, TOLERANCE
from easyllm.convert.stock import Stock
from easyllm.convert.trace import first_parting, load_trace, module_of
from easyllm.core.errors import StageFailed, failed
from easyllm.core.families.mapping import rules
from easyllm.core.launch import run_ranks
from easyllm.core.megatron.architecture import Architecture
from easyllm.core.messages import say
from easyllm.core.parity import Parity, compare
from easyllm.core.progress import note

NAMES = (NAME, stock.NAME)
EXACT = "float32"
ROUNDINGS = 8
"""Where numbers are rounded to 16 bits the two sides round at other places, and each leaves its own fp32 logits: so
they may be apart by this many times what rounding moves Megatron's. Of tiny random models of every family, in bf16 and
fp16, they were by 2.1 times at the most."""
JOB_FILE = "question.json"


@dataclass(frozen=True)
class Proof:
    """Both sides said the same."""

    exact: Parity
    """In fp32."""
    stored: Parity | None
    """In the dtype of the files, where that is another."""

    def as_record(self) -> dict[str, Any]:
        """That of fp32, with ``stored`` beside it."""
        return self.exact.as_record() | ({"stored": self.stored.as_record()} if self.stored else {})


def prove(
    checkpoint: Path, a: Architecture, hf: Stock, prompts: list[list[int]], scratch: Path, into: str | None = None
) -> Proof:
    """Megatron's ``checkpoint`` against ``hf``; StageFailed PARITY-001 to -006 where they do not say the same.

    Neither model is ever in memory: of each side one tensor at a time is, once for every dtype. ``into``
    is the dtype that was converted into, where it is not the one that is stored. ``scratch`` is made,
    and gone when they agree.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    hf = replace(hf, weights=rounded(hf.weights, into))
    dtypes = [EXACT, *{hf.dtype()} - {EXACT}]
    question = Question(str(checkpoint), a.as_record(), prompts, dtypes, str(scratch), rounded=into)
    ask(question)
    proof = judge(question, hf)
    shutil.rmtree(scratch)
    return proof


def ask(question: Question) -> None:
    """Megatron's answer, as files in ``question.out``."""
    job_file = Path(question.out) / JOB_FILE
    question.write(job_file)
    run_ranks(ANSWER, [str(job_file)], 1)


def judge(question: Question, hf: Stock) -> Proof:
    """Megatron's answer against ``hf``'s."""
    exact, worst = compared(question, hf)
    if not exact.holds:
        asked = on_the_way_to(worst, question)
        ask(asked)
        raise parted(asked, hf, exact)
    note(say("parity_holds", stage="convert", **exact.as_record()))
    stored = [_stored(question, hf, dtype) for dtype in question.dtypes if dtype != EXACT]
    for parity in stored:
        note(say("parity_holds", stage="convert", **parity.as_record()))
    return Proof(exact, stored[0] if stored else None)


def compared(question: Question, hf: Stock) -> tuple[Parity, list[int]]:
    """The report in fp32, and the ids up to the position where the two are furthest apart."""
    file = logits_file(Path(question.out), EXACT)
    theirs = hf.logits(question.prompts, EXACT)
    parity = compare(read(file), theirs.values(), NAMES, TOLERANCE, relative=True, top1_required=False)
    apart = [(a - b).abs().amax(-1) for a, b in zip(read(file), theirs.values(), strict=True)]
    prompt = max(range(len(apart)), key=lambda i: float(apart[i].max()))
    return parity, question.prompts[prompt][: int(apart[prompt].argmax()) + 1]


def on_the_way_to(ids: list[int], question: Question) -> Question:
    """Asks for what each module makes of the last two of ``ids``: of two, because a wrong bias moves both alike."""
    last = (max(len(ids) - 2, 0), len(ids))
    return replace(question, prompts=[ids], dtypes=[EXACT], trace=last)


def parted(question: Question, hf: Stock, parity: Parity) -> StageFailed:
    """What fails, with the first place where the two sides part on the way that ``question`` asked for."""
    assert question.trace
    a, [ids] = Architecture.from_record(question.architecture), question.prompts
    modules = {module_of(name) for rule in rules(a) for name in rule.hf}
    theirs = hf.trace(ids, modules, slice(*question.trace), EXACT)
    found = first_parting(load_trace(trace_file(Path(question.out))), theirs, a, TOLERANCE)
    if found is None:
        return failed("PARITY-001", **asdict(parity))
    code = "PARITY-005" if found.before else "PARITY-004"
    return failed(code, **asdict(parity), megatron=found.megatron, hf=found.hf, share=found.difference)


def _stored(question: Question, hf: Stock, dtype: str) -> Parity:
    exact, rounded = (logits_file(Path(question.out), name) for name in (EXACT, dtype))
    moved = max(float((a - b.float()).abs().max()) for a, b in zip(read(exact), read(rounded), strict=True))
    theirs = hf.logits(question.prompts, dtype)
    return compare(read(rounded), theirs.values(), NAMES, ROUNDINGS * moved, top1_required=False).require()


def read(file: Path) -> Iterator[torch.Tensor]:
    """The prompts' logits in order, one in memory at a time."""
    with safe_open(file, "pt") as logits:
        for name in sorted(logits.keys(), key=int):
            yield logits.get_tensor(name)
