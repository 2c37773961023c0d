"""What making the corpus will take, from the size of the files and a sample of their heads."""

from itertools import islice

from easyllm.core.artifact import Decision
from easyllm.core.errors import UserError
from easyllm.core.stage import Job, Plan
from easyllm.corpus.config import CorpusConfig
from easyllm.corpus.documents import documents

SAMPLE_DOCUMENTS = 200
SAMPLE_FILES = 20
BYTES_PER_TOKEN = 4
"""Rule of thumb for byte-level BPE on prose; the corpus' own report has the real figure."""


def plan(job: Job[CorpusConfig]) -> Plan:
    files = job.inputs["input"].files
    size = sum(file.stat().st_size for file in files)
    count, text_bytes, read_bytes = _sample(job)
    share = size / read_bytes if read_bytes else 0.0
    tokens = int(text_bytes * share / BYTES_PER_TOKEN + count * share)
    train = job.config.tokenizer.train
    tokenizer = Decision(
        "tokenizer",
        f"byte-level BPE, {train.vocab_size:,} ids, learned here" if train else job.config.tokenizer.model,
        "bytes leave no text unknown, in any language" if train else "the recipe names it",
    )
    wide = train is None or train.vocab_size > 1 << 16
    figures = {
        "files": len(files),
        "bytes": size,
        "documents (estimate)": int(count * share),
        "tokens (estimate)": tokens,
    }
    return Plan(figures=figures, decisions=[tokenizer], disk_bytes=tokens * (4 if wide else 2) + (16 << 20))


def _sample(job: Job[CorpusConfig]) -> tuple[int, int, int]:
    """(documents, bytes of text, bytes of file) of the heads of the first files."""
    count = text_bytes = read_bytes = 0
    for file in job.inputs["input"].files[:SAMPLE_FILES]:
        position = 0
        try:
            for document in islice(documents(file, job.config.text_key, job.stage), SAMPLE_DOCUMENTS):
                count += 1
                text_bytes += len(document.text.encode())
                position = document.position
        except UserError:
            continue  # checks name the fault; a plan is made of what can be read
        # The position of a short sample runs ahead by the read buffer, never past the file.
        read_bytes += position
    return count, text_bytes, read_bytes
