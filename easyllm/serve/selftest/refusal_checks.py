"""How a server says no, and whether it lives on: errors, keys, too long prompts, clients that hang up."""

import re
import time

import httpx

from easyllm.core.messages import say
from easyllm.serve.selftest.outcome import Broken, Check, NotOffered
from easyllm.serve.selftest.server import CHAT, QUESTION, Server, content, same, short

NO_MODEL = "no-such-model-easyllm"
NO_FIELD = "no_such_field_easyllm"
WRONG_KEY = "wrong-key-easyllm"
LONGEST_KNOWN = 262_144
"""Words to send where the server does not tell its limit: more tokens than most models take, under 2 MB."""
ROUTES = (("GET", "/v1/models"), ("GET", "/info"), ("GET", "/metrics"))
BUSY = (429, 503)
PATIENCE_SECONDS = 20.0
"""How long a server may still be busy with a request whose client has gone."""
SAMPLE = re.compile(r"^[a-zA-Z_:][a-zA-Z0-9_:]*(\{.*\})? \S+( \d+)?$")


def unknown_model(server: Server) -> str:
    """A model it does not have is refused with 404, never answered by another one."""
    server.greedy  # noqa: B018  not offered without it
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    reply = server.ask("POST", CHAT, {"model": NO_MODEL} | asked)
    if reply.status != httpx.codes.NOT_FOUND:
        raise Broken(say("selftest_status", wanted=404, told=reply.reason))
    return reply.reason


def unknown_field(server: Server) -> str:
    """A field nobody knows is refused or passed over; which of the two is told."""
    server.greedy  # noqa: B018  not offered without it
    asked = {"model": server.model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    reply = server.ask("POST", CHAT, asked | {NO_FIELD: 1})
    if reply.status == httpx.codes.OK:
        return say("selftest_field_ignored")
    if not 400 <= reply.status < 500:
        raise Broken(reply.reason)
    return say("selftest_field_refused", reason=reply.reason)


def error_shape(server: Server) -> str:
    """A bad request gets a 4xx and {"error": {"message", "type", ...}}."""
    server.greedy  # noqa: B018  not offered without it
    reply = server.ask("POST", CHAT, {"model": server.model, "messages": "no list"})
    if not 400 <= reply.status < 500:
        raise Broken(say("selftest_status", wanted="4xx", told=reply.reason))
    error = reply.json.get("error")
    if not isinstance(error, dict) or not error.get("message") or not error.get("type"):
        raise Broken(say("selftest_error_shape", body=short(reply.text, 100)))
    return f"{reply.status} {error['type']}"


def too_long(server: Server) -> str:
    """A prompt longer than the model takes is the client's mistake, 4xx, and not the server's."""
    server.greedy  # noqa: B018  not offered without it
    words = min(server.longest_prompt or LONGEST_KNOWN, LONGEST_KNOWN) + 1
    asked = {"model": server.model, "messages": [{"role": "user", "content": "sea " * words}], "max_tokens": 1}
    reply = server.ask("POST", CHAT, asked)
    if not 400 <= reply.status < 500:
        raise Broken(say("selftest_too_long", words=words, told=reply.reason))
    return reply.reason


def disconnect(server: Server) -> str:
    """A client that hangs up in the middle does no harm to the next one."""
    wanted = content(server.greedy)
    server.cut_off({"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 100, "temperature": 0})
    began = time.monotonic()
    asked = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 24}
    while True:
        reply = server.ask("POST", CHAT, {"model": server.model} | asked)
        if reply.status not in BUSY or time.monotonic() - began > PATIENCE_SECONDS:
            break
        time.sleep(0.5)
    if reply.status != httpx.codes.OK:
        raise Broken(say("selftest_after", told=reply.reason))
    same(content(reply.json), wanted, say("selftest_next"), say("selftest_before"))
    return say("selftest_next_good", seconds=time.monotonic() - began)


def health(server: Server) -> str:
    """GET /health says 200."""
    return str(server.get("/health").status)


def metrics(server: Server) -> str:
    """GET /metrics is in Prometheus' text format."""
    text = server.get("/metrics").text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    wrong = [line for line in lines if not SAMPLE.match(line)]
    if wrong or not lines:
        raise Broken(say("selftest_metrics", line=short(wrong[0]) if wrong else "-"))
    return say("selftest_metrics_good", count=len(re.findall(r"^# TYPE ", text, re.MULTILINE)), samples=len(lines))


def keys(server: Server) -> str:
    """Without its key, or with another one, nothing is generated: 401."""
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    tgi = {"inputs": QUESTION, "parameters": {"max_new_tokens": 1}}
    if server.key is None:
        raise NotOffered(say("selftest_no_key"))
    doors = (
        (CHAT, {"model": server.model} | asked),
        ("/v1/completions", {"model": server.model, "prompt": QUESTION, "max_tokens": 1}),
        ("/generate", tgi),
        ("/", tgi),
    )
    for path, body in doors:
        if server.ask("POST", path, body).status != httpx.codes.OK:
            continue  # no such door
        for key in (None, WRONG_KEY):
            reply = server.ask("POST", path, body, key)
            if reply.status != httpx.codes.UNAUTHORIZED:
                raise Broken(say("selftest_open", path=path, told=reply.reason))
    free = [path for method, path in ROUTES if server.ask(method, path, key=None).status == httpx.codes.OK]
    return say("selftest_keys", open=", ".join(free) or "-")


CHECKS = (
    Check("OpenAI", "unknown model", unknown_model),
    Check("OpenAI", "unknown field", unknown_field),
    Check("OpenAI", "error shape", error_shape),
    Check("OpenAI", "too long", too_long),
    Check("server", "disconnect", disconnect),
    Check("server", "health", health),
    Check("server", "metrics", metrics),
    Check("server", "keys", keys),
)
