"""A real little corpus for the tests of pretrain and convert: prose that every CPython carries, a BPE, .bin/.idx."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from easyllm.core.artifact import Manifest, list_outputs, read_manifest
from easyllm.core.digest import of_value
from easyllm.core.inputs import Input
from easyllm.core.stage import Job
from easyllm.pretrain.config import PretrainConfig

REPOSITORY = Path(__file__).parents[1]
EOD = "<|endoftext|>"


def make_corpus(directory: Path, vocabulary: int = 1000, documents: int | None = None) -> Path:
    """A corpus artifact as the corpus stage publishes it: tokens.bin/.idx, tokenizer/, manifest."""
    from pydoc_data.topics import topics

    texts = [topics[name] for name in sorted(topics)][:documents]
    directory.mkdir(parents=True)
    ids, size, eod = _tokenise(texts, vocabulary, directory / "tokenizer")
    _write_indexed(ids, eod, size, directory / "tokens")
    records = {
        "ledger": {"tokenizer_size": size, "special": {EOD: eod}, "eod_id": eod, "dtype": "uint16"},
        "tokens": {
            "documents": len(ids),
            "tokens": sum(len(i) + 1 for i in ids),
            "dtype": "uint16",
            "sources": [
                {"name": None, "weight": 1.0, "train": "tokens", "valid": None, "test": None,
                 "documents": {"train": len(ids)}, "tokens": {"train": sum(len(i) + 1 for i in ids)}},
            ],
        },
    }  # fmt: skip
    write_manifest(directory, "corpus", "corpus", records)
    return directory


def _tokenise(texts: list[str], vocabulary: int, out: Path) -> tuple[list[list[int]], int, int]:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOD).save_pretrained(out)
    encoded = [e.ids for e in tokenizer.encode_batch(texts)]
    return encoded, tokenizer.get_vocab_size(), tokenizer.token_to_id(EOD)


def _write_indexed(ids: list[list[int]], eod: int, size: int, prefix: Path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(size))
    for document in ids:
        builder.add_item(torch.tensor([*document, eod]))
        builder.end_document()
    builder.finalize(f"{prefix}.idx")


def write_manifest(directory: Path, kind: str, stage: str, records: dict[str, Any]) -> None:
    outputs = list_outputs(directory)
    manifest = Manifest(kind, stage, "test", "-", of_value(outputs), {}, {}, outputs, {}, 0, records=records)
    (directory / "manifest.json").write_text(manifest.as_json(), "utf-8")


def artifact_input(role: str, path: Path) -> Input:
    manifest = read_manifest(path)
    assert manifest is not None
    return Input(role, str(path), "artifact", path=path, manifest=manifest, digest=manifest.digest)


def pretrain_config(**changes: Any) -> dict[str, Any]:
    """A small llama over two ranks; ``changes`` are top-level keys."""
    return {
        "model": {"family": "llama", "layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "ffn_hidden": 96},
        "sequence_tokens": 32,
        "batch": {"global_samples": 8, "micro_samples": 2},
        "ranks": 2,
        "steps": 8,
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 2},
        "checkpoint_every_steps": 4,
        "device": "cpu",
    } | changes


def pretrain_job(corpus: Path | None, out: Path, seed: int = 1234, **changes: Any) -> Job[PretrainConfig]:
    """The job that the pipeline would make of ``pretrain_config(**changes)``; no corpus means it has not run."""
    out.mkdir(parents=True, exist_ok=True)
    found = artifact_input("corpus", corpus) if corpus else Input("corpus", "corpus", "artifact", stage="corpus")
    return Job(
        stage="pretrain",
        config=PretrainConfig.model_validate(pretrain_config(**changes)),
        inputs={"corpus": found},
        seed=seed,
        recipe="test",
        run_dir=out.parent,
        cache_dir=out.parent / ".cache",
        out=out,
    )


def pretrain(corpus: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """Run the stage for real; gives its metrics, and leaves a checkpoint artifact at ``out``."""
    from easyllm.pretrain.run import run

    result = run(pretrain_job(corpus, out, **changes))
    write_manifest(out, result.kind, "pretrain", result.records)
    return result.metrics


def run_python(code: str, **env: str) -> str:
    """stdout of a fresh Python that runs ``code``: Megatron and its CPU shim belong to a process of their own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | env
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def last_json(text: str) -> Any:
    """The JSON document on the last line of ``text``."""
    return json.loads(text.strip().splitlines()[-1])


RUNS: dict[str, dict[str, Any]] = {
    "llama": {
        "model": pretrain_config()["model"] | {"dropout": 0.1},
        "steps": 60,
        "checkpoint_every_steps": 20,
        "parallel": {"pipeline": 2},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 4, "distributed": True},
        "validation": {"share": 0.1, "every_steps": 20, "samples": 16},
    },
    "zero": {
        "engine": "deepspeed",
        "deepspeed": {"zero_stage": 2},
        "model": pretrain_config()["model"] | {"dropout": 0.1},
        "steps": 60,
        "checkpoint_every_steps": 20,
    },
    "zero-3": {"engine": "deepspeed", "deepspeed": {"zero_stage": 3}, "parallel": {"tensor": 2}},
    "one-rank": {"ranks": 1, "peak_tflops": 0.1},
    "data-parallel": {},
    "tensor-parallel": {"parallel": {"tensor": 2}},
    "stopped": {
        "steps": 40,
        "checkpoint_every_steps": 5,
        "keep_every_steps": 20,
        "parallel": {"tensor": 2},
    },
    "gpt2": {
        "model": {"family": "gpt2", "layers": 2, "hidden": 64, "heads": 4, "dropout": 0.1},
        "parallel": {"tensor": 2, "sequence": True},
        "precision": "bf16",
    },
}
"""Training runs that several tests look at, each run once; changes to ``pretrain_config``."""


def shared_corpus(base: Path) -> Path:
    """The corpus below ``base``, made once."""
    path = base / "tiny-megatron" / "corpus"
    return path if path.exists() else make_corpus(path)


def trained(base: Path, name: str) -> Path:
    """The checkpoint artifact of one of ``RUNS``, trained once below ``base``."""
    path = base / "tiny-megatron" / name
    if not (path / "manifest.json").exists():
        pretrain(shared_corpus(base), path, **RUNS[name])
    return path


def drawn_by_tensorboard(directory: Path, name: str = "loss/train") -> dict[int, float]:
    """{step: value} of one curve as TensorBoard shows it: a file that begins at a step forgets what was after it."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    curve: dict[int, float] = {}
    for path in sorted(directory.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4  # the length and its checksum, the event, its checksum
            if event.session_log.status == SessionLog.START:
                curve = {step: value for step, value in curve.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == name:
                    assert event.step not in curve, "drawn twice"
                    curve[event.step] = value.simple_value
    return curve
