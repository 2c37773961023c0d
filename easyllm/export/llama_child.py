"""A GGUF file in the real llama.cpp, in a process of its own: what it does to the process stays there.

``python llama_child.py REQUEST.json OUT.npz``; the request: {"gguf", "threads", "ids", "positions", "texts",
"conversations", "greedy", "greedy_tokens"}.
"""

import json
import sys
import urllib.request
from typing import Any


class Runtime:
    """llama.cpp's own server, on a free port of this machine only."""

    def __init__(self, gguf: str, context: int, threads: int) -> None:
        import xllamacpp

        wanted: Any = xllamacpp.CommonParams()
        wanted.model.path, wanted.n_ctx, wanted.n_parallel = gguf, context, 1
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
        wanted.warmup, wanted.verbosity, wanted.ui = False, 0, False
        self._server = xllamacpp.Server(wanted)
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        address = self._server.listening_address + path
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with self._open(request) as reply:
            return json.load(reply)


def log_probabilities(runtime: Runtime, ids: list[int], vocabulary: int, letter: int) -> Any:
    """Of every token as the next after ``ids``, as the model gives them.

    The server drops them with a token that ends the answer or is half a character, so it is made to say ``letter``;
    the bias comes after the probabilities are taken.
    """
    import numpy

    body = {"prompt": ids, "n_predict": 1, "n_probs": vocabulary, "temperature": 0, "logit_bias": [[letter, 1e6]]}
    found = numpy.full(vocabulary, -numpy.inf, numpy.float32)
    for entry in runtime.ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found


def answer(request: dict[str, Any], out: str) -> dict[str, Any]:
    """{"texts", "conversations", "greedy"}; the log-probabilities, a row a position, go into ``out``."""
    import numpy

    longest = max(len(ids) for ids in [*request["ids"], request["greedy"]])
    runtime = Runtime(request["gguf"], longest + request["greedy_tokens"] + 8, request["threads"])
    letter = runtime.ask("/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
    rows = [
        log_probabilities(runtime, ids[: position + 1], request["vocabulary"], letter)
        for ids, positions in zip(request["ids"], request["positions"], strict=True)
        for position in positions
    ]
    numpy.savez(out, numpy.stack(rows))
    words = {"add_special": False, "parse_special": True}
    wanted = {"n_predict": request["greedy_tokens"], "temperature": 0, "return_tokens": True}
    said = runtime.ask("/completion", {"prompt": request["greedy"], "cache_prompt": False} | wanted)
    return {
        "texts": [runtime.ask("/tokenize", {"content": text} | words)["tokens"] for text in request["texts"]],
        "conversations": [
            runtime.ask("/apply-template", {"messages": said})["prompt"] for said in request["conversations"]
        ],
        "greedy": said["tokens"],
        "stopped": said["stop_type"],
    }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        asked_for = json.load(file)
    print("ANSWER " + json.dumps(answer(asked_for, sys.argv[2])), flush=True)
