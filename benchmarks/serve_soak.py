"""A server under mixed load for a long time: is every request answered or refused, and does memory stay flat?

    python benchmarks/serve_soak.py [--minutes 30] [--model DIR] [--clients 6] [--seed 1] [--server "--flag value ..."]

DIR is a chat model; without it a tiny random one is made, as the tests use it, so that the server's own work is what is
tried and not the model's. The server is a process of its own and ``--server`` adds to its command line, for example
another engine. Clients ask in both dialects, streamed and not, with short and long prompts and answers, greedy and
sampled, with and without stop strings. One request in five is given up half-way; one in ten is bad: broken JSON, an
unknown field, an empty or over-long prompt, a wrong model, impossible numbers.

Counted is what became of each request. Memory is the server's PSS with its children, read every few seconds; growth is
the median of the last tenth of the readings over that of the tenth after the first fifth, in which caches warm up.
At the end all clients have left: the server must say so in /metrics where it has one, use no more CPU, and answer as
many requests at once as it has places. The exit code is 1 where one request was lost or wronged, where memory grew by
5 % or more, or where a place stayed taken.
"""

import argparse
import asyncio
import json
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from measuring import MEGA, machine, versions

from easyllm.core.servers import running

CONCURRENT, TOTAL_TOKENS, MOST_GROWTH = 4, 200, 0.05
GIVEN_UP, BAD = 0.2, 0.1
OK, OVERLOADED = 200, 429
REFUSALS = (400, 404, 413, 422)
ANSWERED, REFUSED, BUSY, LEFT = "answered whole", "bad input refused", "refused with 429", "given up by the client"
WRONG = "lost or wronged"
WORDS = ["the", "sea", "and", "the", "ship", "go", "to", "灯塔的光", "慢慢熄灭", "船离开港口", "1", "2", "3", "\n"]


@dataclass(frozen=True)
class Request:
    """One request, and what may become of it."""

    path: str
    body: bytes
    stream: bool
    bad: bool = False
    given_up: int | None = None
    """The client leaves after so many events, or at once where the answer is not streamed."""


@dataclass
class Tally:
    """What became of the requests."""

    ends: Counter[str] = field(default_factory=Counter)
    wrongs: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """MB, one reading after the other."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--server", default="", help="added to the server's command line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model = options.model or tiny_model(Path(work) / "tiny")
        sys.exit(soak(model, options.minutes * 60, options.clients, options.seed, shlex.split(options.server)))


def tiny_model(folder: Path) -> Path:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from tiny_chat import write_tiny_chat_model  # type: ignore[import-not-found]  # the tests' own

    made: Path = write_tiny_chat_model(folder)
    return made


def soak(model: Path, seconds: float, clients: int, seed: int, extra: list[str]) -> int:
    """The exit code."""
    command = [
        sys.executable, "-m", "easyllm.serve.server", "--model", str(model), "--name", "soak", "--port", "0",
        "--max-total-tokens", str(TOTAL_TOKENS), "--max-input-tokens", "150",
        "--max-concurrent-requests", str(CONCURRENT), "--drain-seconds", "10", "--die-with-parent", *extra,
    ]  # fmt: skip
    tally = Tally()
    print(f"{machine(versions('torch', 'transformers'))}", flush=True)
    with running(command, 10) as server:
        process = psutil.Process(server.process.pid)
        asyncio.run(load(server.url, process, seconds, clients, seed, tally))
        open_places = asyncio.run(left_open(server.url, process))
    return report(tally, seconds, open_places)


async def load(
    url: str, process: psutil.Process, seconds: float, clients: int, seed: int, tally: Tally
) -> None:  # fmt: skip
    """Clients that ask until the time is up, and a reader of memory."""
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        dice = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            request = any_request(dice)
            became = await send(url, request)
            tally.ends[became if became in (ANSWERED, REFUSED, BUSY, LEFT) else WRONG] += 1
            if became not in (ANSWERED, REFUSED, BUSY, LEFT):
                tally.wrongs.append(f"{became}: {request.path} {request.body[:200]!r}")
            if became == BUSY:
                await asyncio.sleep(0.05)

    async def reader() -> None:
        while time.monotonic() < end:
            tally.memory.append(memory_of(process))
            await asyncio.sleep(min(5.0, seconds / 100))

    await asyncio.gather(reader(), *[client(number) for number in range(clients)])


def memory_of(process: psutil.Process) -> float:
    """MB, shared pages counted once."""
    return sum(member.memory_full_info().pss for member in (process, *process.children(recursive=True))) / MEGA


def any_request(dice: random.Random) -> Request:
    """The next of a client's requests."""
    if dice.random() < BAD:
        return bad_request(dice)
    stream = dice.random() < 0.5
    given_up = dice.randint(0, 6) if dice.random() < GIVEN_UP / (1 - BAD) else None
    text = " ".join(dice.choices(WORDS, k=dice.choice((1, 3, 10, 30))))
    tokens = dice.choice((1, 4, 16, 40))
    warm = dice.random() < 0.6
    path, body = dice.choice((chat, completion, tgi))(dice, text, tokens, warm, stream)
    return Request(path, json.dumps(body).encode(), stream, given_up=given_up)


def chat(dice: random.Random, text: str, tokens: int, warm: bool, stream: bool) -> tuple[str, dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": stream}
    if stream and dice.random() < 0.5:
        body["stream_options"] = {"include_usage": True}
    return "/v1/chat/completions", body | openai_settings(dice, warm)


def completion(dice: random.Random, text: str, tokens: int, warm: bool, stream: bool) -> tuple[str, dict[str, Any]]:
    body = {"prompt": text, "max_tokens": tokens, "stream": stream}
    if not stream and dice.random() < 0.3:
        body |= {"echo": True, "logprobs": 2}
    return "/v1/completions", body | openai_settings(dice, warm)


def openai_settings(dice: random.Random, warm: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"temperature": dice.choice((0.7, 1.0, 1.5)), "top_p": 0.9} if warm else {"temperature": 0}
    if warm and dice.random() < 0.5:
        found["seed"] = dice.randint(0, 9)
    if dice.random() < 0.2:
        found["stop"] = ["e", "\n"]
    return found


def tgi(dice: random.Random, text: str, tokens: int, warm: bool, stream: bool) -> tuple[str, dict[str, Any]]:
    parameters: dict[str, Any] = {"max_new_tokens": tokens, "details": dice.random() < 0.5}
    if warm:
        parameters |= {"do_sample": True, "top_k": 40, "seed": dice.randint(0, 9)}
    if dice.random() < 0.2:
        parameters["stop"] = ["e"]
    return "/generate_stream" if stream else "/generate", {"inputs": text, "parameters": parameters}


def bad_request(dice: random.Random) -> Request:
    bodies: list[tuple[str, Any]] = [
        ("/v1/chat/completions", {"messages": []}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "no_such_field": 1}),
        ("/v1/chat/completions", {"model": "another", "messages": [{"role": "user", "content": "a"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a " * 400}]}),
        ("/v1/completions", {"prompt": "a", "max_tokens": -1}),
        ("/v1/completions", {"prompt": [10**9], "max_tokens": 1}),
        ("/generate", {"inputs": ""}),
        ("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 10**6}}),
        ("/generate_stream", {"inputs": "a", "parameters": {"temperature": -1}}),
    ]
    path, body = dice.choice(bodies)
    text = json.dumps(body).encode()
    return Request(path, text[:-1] if dice.random() < 0.2 else text, False, bad=True)


async def send(url: str, request: Request) -> str:
    """What became of it: one of the four good ends, or in words what went wrong."""
    headers = {"Content-Type": "application/json"}
    # A client of its own for each request: who leaves closes the connection, as a browser does. There is no TLS on
    # loopback, and reading certificates each time would cost more than the requests.
    try:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=120, verify=False) as client,
            client.stream("POST", url + request.path, content=request.body, headers=headers) as answer,
        ):
            if request.given_up is not None and not request.stream:
                return LEFT
            if answer.status_code != OK:
                told = (await answer.aread()).decode()
                return refusal(request, answer.status_code, told)
            return await heard(request, answer)
    except httpx.HTTPError as error:
        return f"{type(error).__name__} {error}"


def refusal(request: Request, status: int, told: str) -> str:
    if status == OVERLOADED:
        return BUSY
    if request.bad and status in REFUSALS and "error" in json.loads(told):
        return REFUSED
    return f"{status} {told[:200]}"


async def heard(request: Request, answer: httpx.Response) -> str:
    """Of an answer that began with 200."""
    if request.bad:
        return "answered in spite of bad input"
    if not request.stream:
        said = json.loads(await answer.aread())
        return ANSWERED if "choices" in said or "generated_text" in said else f"no answer in {str(said)[:200]}"
    last, count = "", 0
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        last, count = line.removeprefix("data:").strip(), count + 1
        if request.given_up is not None and count > request.given_up:
            return LEFT
    whole = last == "[DONE]" or (last.startswith("{") and json.loads(last).get("generated_text") is not None)
    return ANSWERED if whole else f"a stream that ends with {last[:200]!r}"


async def left_open(url: str, process: psutil.Process) -> str:
    """What still seems to go on when nobody asks any more; empty where nothing does."""
    await asyncio.sleep(3)
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(3)
    spent = sum(process.cpu_times()[:2]) - before
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        metrics = await client.get(f"{url}/metrics")
        body = {"inputs": "a", "parameters": {"max_new_tokens": 4}}
        answers = await asyncio.gather(*[client.post(f"{url}/generate", json=body) for _ in range(CONCURRENT)])
    found = [f"{answer.status_code} to one of {CONCURRENT} at once" for answer in answers if answer.status_code != OK]
    if spent > 1.5:
        found.append(f"{spent:.1f} CPU-seconds in 3 idle seconds")
    for line in metrics.text.splitlines() if metrics.status_code == OK else []:
        name, _, value = line.partition(" ")
        if name in ("easyllm_running_requests", "easyllm_queue_requests", "easyllm_batch_requests") and float(value):
            found.append(line)
    return "; ".join(found)


def growth_of(memory: list[float]) -> float:
    """As a share; the first fifth of the readings is the warm-up."""
    tenth = max(1, len(memory) // 10)
    start = len(memory) // 5
    return statistics.median(memory[-tenth:]) / statistics.median(memory[start : start + tenth]) - 1


def report(tally: Tally, seconds: float, open_places: str) -> int:
    total, growth = sum(tally.ends.values()), growth_of(tally.memory)
    print(f"\n{seconds / 60:g} minutes, {total:,} requests\n")
    print("| what became of a request | requests | share |")
    print("|---|---:|---:|")
    for name in (ANSWERED, REFUSED, BUSY, LEFT, WRONG):
        print(f"| {name} | {tally.ends[name]:,} | {tally.ends[name] / total:.1%} |")
    print(f"\nMemory (PSS): {tally.memory[0]:,.0f} MB at first, {max(tally.memory):,.0f} MB at most, "
          f"{tally.memory[-1]:,.0f} MB at last; growth after the warm-up {growth:+.1%}")  # fmt: skip
    print(f"Left open at the end: {open_places or 'nothing'}")
    for line in tally.wrongs[:10]:
        print(f"WRONG {line}", file=sys.stderr)
    return int(bool(tally.wrongs or open_places) or growth >= MOST_GROWTH)


if __name__ == "__main__":
    main()
