"""The rehearsal's clients, in a process of their own: JSON questions on stdin, JSON answers on stdout.

A process of its own because HF_HUB_OFFLINE, which a machine without network sets, makes huggingface_hub
refuse even localhost, and is read once at import; and because no proxy may stand before loopback.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from easyllm.core.errors import StageFailed

TIMEOUT_SECONDS = 600.0


def ask_all(url: str, model: str, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask every question through every client; each {"prompt", "rendered", "tokens"}. Raises StageFailed.

    Each answer: {"openai", "openai_stream", "hub_chat", "hub_text": text, "ids", "finish_reason",
    "prompt_tokens", "tokens", "first_token_seconds", "tokens_per_second"}.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "NO_PROXY": "*", "no_proxy": "*"}
    work = json.dumps({"url": url, "model": model, "questions": questions})
    command = [sys.executable, "-m", "easyllm.serve.clients"]
    done = subprocess.run(command, input=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageFailed(f"SERVE a client could not ask the server: {done.stderr.strip()[-2000:]}")
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def ask_one(openai: Any, hub: Any, model: str, question: dict[str, Any]) -> dict[str, Any]:
    """One question through four doors, greedily."""
    messages = [{"role": "user", "content": question["prompt"]}]
    most = question["tokens"]
    whole = openai.chat.completions.create(model=model, messages=messages, max_tokens=most, temperature=0)
    streamed = ask_stream(openai, model, messages, most)
    chat = hub.chat_completion(messages, max_tokens=most, temperature=0)
    text = hub.text_generation(question["rendered"], max_new_tokens=most, details=True)
    return streamed | {
        "openai": whole.choices[0].message.content,
        "hub_chat": chat.choices[0].message.content,
        "hub_text": text.generated_text,
        "ids": [token.id for token in text.details.tokens],
        "finish_reason": text.details.finish_reason,
    }


def ask_stream(openai: Any, model: str, messages: list[dict[str, str]], most: int) -> dict[str, Any]:
    """A streamed answer with the times at which its text came."""
    started = time.perf_counter()
    stream = openai.chat.completions.create(
        model=model, messages=messages, max_tokens=most, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    text = ""
    times: list[float] = []
    usage: Any = None
    for chunk in stream:
        usage = chunk.usage or usage
        if chunk.choices and chunk.choices[0].delta.content:
            text += chunk.choices[0].delta.content
            times.append(time.perf_counter())
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return {
        "openai_stream": text,
        "prompt_tokens": usage.prompt_tokens,
        "tokens": usage.completion_tokens,
        "first_token_seconds": times[0] - started if times else None,
        "tokens_per_second": 1 / statistics.mean(gaps) if gaps else None,
    }


def main() -> int:
    import openai
    from huggingface_hub import InferenceClient

    work = json.load(sys.stdin)
    first = openai.OpenAI(base_url=f"{work['url']}/v1", api_key="none", timeout=TIMEOUT_SECONDS)
    second = InferenceClient(work["url"], timeout=TIMEOUT_SECONDS)
    answers = [ask_one(first, second, work["model"], question) for question in work["questions"]]
    json.dump(answers, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
