"""Serving on one thread: tokens per CPU-second and first-token times of ``easyllm serve`` and of its peers.

    python benchmarks/serve.py --model DIR [--fastapi DIR] [--streams 1,4,8] [--rounds 3] [--tokens 48]

DIR is SmolLM2-135M-Instruct as transformers saves it (a run of any recipe leaves it in its cache folder); the other is
a folder with what transformers serve needs and easyllm does not: ``pip install --target DIR --no-deps fastapi
annotated-doc opentelemetry-api importlib-metadata zipp``. fp32, one thread. Every contender is a server process of its
own, all are up at once, and one at a time is asked:

* easyllm serve, the embedded engine;
* transformers serve --continuous-batching, the peer that the ratios are to;
* easyllm serve, engine llama.cpp, on a GGUF in f32 that is made here from DIR by llama.cpp's converter;
* llama.cpp's own server on the same file, as xllamacpp starts it.

A round asks each contender in turn, the first of them another one each time. With n streams, n clients ask at the same
moment through /v1/chat/completions, greedy and streamed; each asks two questions, one after the other. A question is
never asked twice, so that no cache of whole prompts can answer, and is the same for all contenders of a round.

Counted are the CPU seconds of the server and its children from the first request to the last byte, and the tokens of
the texts that came, by the model's own tokenizer, so that all are counted alike. First-token times are those of all
requests of all rounds, as the client sees them. The wall clock is that of a machine with whatever else ran on it.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from measuring import ENVIRONMENT, MEGA, machine, versions

from easyllm.core.addresses import direct_opener
from easyllm.serve.address import free_port

PEER = "transformers serve --continuous-batching"
TOTAL_TOKENS, MOST_STREAMS, QUESTIONS = 512, 8, 2
START_SECONDS = 1200
TOPICS = (
    "how a lighthouse works", "the history of the bicycle", "why the sea is salty", "how bread is baked",
    "what a compiler does", "how bees find flowers", "the rules of chess", "how rivers shape the land",
)  # fmt: skip


@dataclass
class Contender:
    """A server that is up."""

    name: str
    url: str
    model: str
    """What it calls the model."""
    process: psutil.Process
    log: Path

    def wait(self) -> None:
        """Until it can be asked."""
        end = time.monotonic() + START_SECONDS
        while not healthy(self.url):
            if self.process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > end:
                raise SystemExit(f"{self.name} did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.2)

    def cpu_seconds(self) -> float:
        members = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in members)

    def resident(self) -> int:
        return sum(member.memory_info().rss for member in (self.process, *self.process.children(recursive=True)))


@dataclass
class Figures:
    """What one contender did with one number of streams, over all rounds."""

    speeds: list[float] = field(default_factory=list)
    """Tokens per CPU-second, one a round."""
    wall: list[float] = field(default_factory=list)
    """Tokens per second, one a round."""
    first: list[float] = field(default_factory=list)
    """Seconds to the first text, one a request."""
    texts: dict[str, str] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--streams", default="1,4,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--skip", nargs="*", default=[], choices=["embedded", "transformers", "llama.cpp", "plain"])
    parser.add_argument("--fastapi", default="", help="folder with FastAPI, for transformers serve")
    options = parser.parse_args()
    ENVIRONMENT["PYTHONPATH"] = os.pathsep.join(filter(None, (ENVIRONMENT.get("PYTHONPATH"), options.fastapi)))
    streams = [int(number) for number in options.streams.split(",")]
    print(machine(versions("torch", "transformers", "xllamacpp")), flush=True)
    with tempfile.TemporaryDirectory() as work, ExitStack() as stack:
        contenders = list(started(options.model.absolute(), Path(work), options.skip, stack))
        for contender in contenders:
            contender.wait()
            asyncio.run(ask_all(contender, ["Say hello."], 8))  # reads the weights and builds what is built once
        found = measured(contenders, streams, options)
        memory = {contender.name: contender.resident() for contender in contenders}
    for count in streams:
        table(count, options, {name: figures[count] for name, figures in found.items()}, memory)


def started(model: Path, work: Path, skip: list[str], stack: ExitStack) -> Iterator[Contender]:
    """The contenders; they load side by side."""
    server = [
        sys.executable, "-m", "easyllm.serve.server", "--model", str(model), "--name", "bench", "--port", "0",
        "--max-total-tokens", str(TOTAL_TOKENS), "--max-input-tokens", str(TOTAL_TOKENS - 1),
        "--max-concurrent-requests", str(MOST_STREAMS), "--drain-seconds", "5",
    ]  # fmt: skip
    if "embedded" not in skip:
        yield stack.enter_context(running("easyllm serve, embedded", server, "bench", work))
    if "transformers" not in skip:
        blocks = MOST_STREAMS * TOTAL_TOKENS // 64
        port = free_port()
        command = [
            sys.executable, "-m", "transformers.cli.transformers", "serve", "--continuous-batching", "--cb-block-size",
            "64", "--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "512", "--dtype", "float32", "--device",
            "cpu", "--host", "127.0.0.1", "--port", str(port), str(model),
        ]  # fmt: skip
        yield stack.enter_context(running(PEER, command, str(model), work, f"http://127.0.0.1:{port}"))
    if {"llama.cpp", "plain"} <= set(skip):
        return
    gguf = in_gguf(model, work)
    if "llama.cpp" not in skip:
        command = [*server, "--gguf", str(gguf)]
        yield stack.enter_context(running("easyllm serve, llama.cpp f32", command, "bench", work))
    if "plain" not in skip:
        command = [sys.executable, __file__, "--plain", str(gguf)]
        yield stack.enter_context(running("llama.cpp's server, f32", command, "bench", work))


def in_gguf(model: Path, work: Path) -> Path:
    """The model as a GGUF in f32."""
    from easyllm.core.chat import load_tokenizer
    from easyllm.export.gguf_files import convert
    from easyllm.export.gguf_parity import ends_of

    path = work / "model-f32.gguf"
    generation = model / "generation_config.json"
    _, ends = ends_of(load_tokenizer(model), json.loads(generation.read_text("utf-8")) if generation.is_file() else {})
    outtype: Any = "f32"  # the converter's word; an export has no use for it
    convert(model, path, outtype, ends)
    return path


@contextmanager
def running(name: str, command: list[str], model: str, work: Path, url: str = "") -> Iterator[Contender]:
    """The server of ``command``, which is on its way; without ``url`` its first line on stdout says where."""
    log = work / f"{len(list(work.iterdir()))}.log"
    environment = ENVIRONMENT | {"HF_HUB_OFFLINE": "1", "MKL_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        url = url or process.stdout.readline().strip()
        yield Contender(name, url, model, psutil.Process(process.pid), log)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(url: str) -> bool:
    try:
        with direct_opener().open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def measured(
    contenders: list[Contender], streams: list[int], options: argparse.Namespace
) -> dict[str, dict[int, Figures]]:
    """Figures by contender and number of streams."""
    found = {contender.name: {count: Figures() for count in streams} for contender in contenders}
    for number in range(options.rounds):
        for count in streams:
            asked = [question(number, count, place) for place in range(count * QUESTIONS)]
            turn = number % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                note(found[contender.name][count], contender, asked, count, options)
                print(f"round {number + 1}, {count} streams, {contender.name}: "
                      f"{found[contender.name][count].speeds[-1]:.1f} tokens per CPU-second, load "
                      f"{os.getloadavg()[0]:.1f}", file=sys.stderr)  # fmt: skip
    return found


def question(number: int, count: int, place: int) -> str:
    topic = TOPICS[place % len(TOPICS)]
    return f"Lesson {number * 1000 + count * 100 + place}. Write a long and detailed text for a school book on {topic}."


def note(figures: Figures, contender: Contender, asked: list[str], count: int, options: argparse.Namespace) -> None:
    from easyllm.core.chat import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    cpu, wall = contender.cpu_seconds(), time.perf_counter()
    answers = asyncio.run(ask_all(contender, asked, options.tokens, count))
    cpu, wall = contender.cpu_seconds() - cpu, time.perf_counter() - wall
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text, _ in answers)
    figures.speeds.append(tokens / cpu)
    figures.wall.append(tokens / wall)
    figures.first += [seconds for _, seconds in answers]
    figures.texts |= dict(zip(asked, (text for text, _ in answers), strict=True))


async def ask_all(contender: Contender, asked: list[str], tokens: int, count: int = 1) -> list[tuple[str, float]]:
    """(text, seconds to its beginning) of each question, ``count`` of them at a time."""
    answers: dict[str, tuple[str, float]] = {}

    async def one_stream(questions: list[str]) -> None:
        for text in questions:
            # A connection each: llama.cpp's own server closes one after a stream without saying so.
            async with httpx.AsyncClient(trust_env=False, timeout=600) as client:
                answers[text] = await ask(client, contender, text, tokens)

    await asyncio.gather(*[one_stream(asked[start::count]) for start in range(count)])
    return [answers[text] for text in asked]


async def ask(client: httpx.AsyncClient, contender: Contender, text: str, tokens: int) -> tuple[str, float]:
    body = {
        "model": contender.model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens,
        "temperature": 0, "stream": True,
    }  # fmt: skip
    began, first, said = time.perf_counter(), None, ""
    async with client.stream("POST", f"{contender.url}/v1/chat/completions", json=body) as answer:
        if answer.status_code != httpx.codes.OK:
            raise SystemExit(f"{contender.name}: {answer.status_code} {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            piece = text_of(line)
            if piece:
                first = first or time.perf_counter() - began
                said += piece
    if first is None:
        raise SystemExit(f"{contender.name} said nothing to {text!r}")
    return said, first


def text_of(line: str) -> str:
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return ""
    choices = json.loads(line.removeprefix("data:")).get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


def table(count: int, options: argparse.Namespace, found: dict[str, Figures], memory: dict[str, int]) -> None:
    """One row a contender."""
    asked = count * QUESTIONS
    print(f"\n{count} streams, {asked} requests a round of at most {options.tokens} tokens, median of "
          f"{options.rounds} rounds\n")  # fmt: skip
    print("| | tokens per CPU-second | to transformers serve | first token, median s | p95 s | tokens per second "
          "| same texts | resident, MB |")  # fmt: skip
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    peer = found.get(PEER)
    for name, figures in found.items():
        # Paired: each round's ratio, then their median, so that a slow minute counts against all of them.
        ratios = [mine / theirs for mine, theirs in zip(figures.speeds, peer.speeds, strict=True)] if peer else []
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        same = sum(text == peer.texts[asked] for asked, text in figures.texts.items()) if peer else 0
        print(f"| {name} | {statistics.median(figures.speeds):.1f} | {ratio} | {statistics.median(figures.first):.2f} "
              f"| {ninety_fifth(figures.first):.2f} | {statistics.median(figures.wall):.1f} "
              f"| {same} of {len(figures.texts)} | {memory[name] / MEGA:,.0f} |")  # fmt: skip


def ninety_fifth(values: list[float]) -> float:
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)]


def plain_server(gguf: str) -> None:
    """llama.cpp's own server until SIGTERM; its address on stdout."""
    import signal

    import xllamacpp

    wanted: Any = xllamacpp.CommonParams()
    wanted.model.path, wanted.n_parallel, wanted.n_ctx = gguf, MOST_STREAMS, MOST_STREAMS * TOTAL_TOKENS
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = 1
    wanted.verbosity, wanted.ui = 0, False
    server = xllamacpp.Server(wanted)
    print(server.listening_address, flush=True)
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plain"]:
        plain_server(sys.argv[2])
    else:
        main()
