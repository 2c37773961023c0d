"""What the OpenAI API promises of an answer: models, chat, streams, usage, stop strings, seeds, several choices."""

import json
from itertools import pairwise
from typing import Any

from easyllm.core.messages import say
from easyllm.serve.selftest.outcome import Broken, Check, NotOffered
from easyllm.serve.selftest.server import (
    COMPLETIONS,
    QUESTION,
    TOKENS,
    UNREADABLE,
    Reply,
    Server,
    content,
    finish,
    quoted,
    same,
    short,
    streamed,
)

SEEDS = (1, 2, 3, 4)
SCHEMA = {
    "type": "object",
    "properties": {"calm": {"enum": ["yes", "no"]}},
    "required": ["calm"],
    "additionalProperties": False,
}
"""Every answer to it is short, so that a model without sense ends it too."""
SCHEMA_TOKENS = 120


def models(server: Server) -> str:
    """GET /v1/models lists at least one id."""
    body = server.get("/v1/models").json
    names = [str(card["id"]) for card in body["data"]]
    if body.get("object") != "list" or not names:
        raise Broken(say("selftest_no_models"))
    return ", ".join(names)


def chat(server: Server) -> str:
    """POST /v1/chat/completions answers as an assistant, and says why it ended."""
    choice = server.greedy["choices"][0]
    if choice["message"]["role"] != "assistant" or choice["finish_reason"] not in ("stop", "length"):
        raise Broken(short(json.dumps(choice, ensure_ascii=False)))
    return quoted(content(server.greedy))


def chat_stream(server: Server) -> str:
    """The same request streamed says the same, for the same reason."""
    whole, reply = server.greedy, server.chat(stream=True)
    pieces = streamed(reply)
    same("".join(pieces), content(whole), say("selftest_streamed"), say("selftest_whole"))
    same(str(finish(reply)), str(whole["choices"][0]["finish_reason"]), "finish_reason", say("selftest_whole"))
    return say("selftest_pieces", count=len(pieces))


def end_of_stream(server: Server) -> str:
    """A stream is of the type text/event-stream, and its last event is [DONE]."""
    server.greedy  # noqa: B018  not offered without it
    reply = server.chat(stream=True)
    kind, events = reply.headers.get("content-type", ""), reply.events()
    if not kind.startswith("text/event-stream"):
        raise Broken(say("selftest_type", kind=kind or "-"))
    if not events or events[-1] != "[DONE]":
        raise Broken(say("selftest_last_event", event=short(events[-1]) if events else "-"))
    return "[DONE]"


def usage(server: Server) -> str:
    """Tokens in, out and together, the same whole and, where asked for with stream_options, streamed."""
    counted = server.greedy.get("usage")
    if not counted:
        raise Broken(say("selftest_lacks", field="usage"))
    prompt, answer, total = (counted[f"{part}_tokens"] for part in ("prompt", "completion", "total"))
    if prompt + answer != total or not prompt or not 0 < answer <= TOKENS:
        raise Broken(say("selftest_usage", prompt=prompt, answer=answer, total=total))
    reply = server.chat(stream=True, stream_options={"include_usage": True})
    last = [chunk["usage"] for chunk in reply.chunks() if chunk.get("usage")]
    if not last:
        raise Broken(say("selftest_usage_stream"))
    if (last[-1]["prompt_tokens"], last[-1]["completion_tokens"]) != (prompt, answer):
        raise Broken(say("selftest_differ", what="usage", one=last[-1], against=say("selftest_whole"), other=counted))
    return f"{prompt} + {answer} = {total}"


def max_tokens(server: Server) -> str:
    """An answer has no more tokens than max_tokens, and says that this is why it ended."""
    server.greedy  # noqa: B018  not offered without it
    body = server.chat(max_tokens=3).json
    count, why = body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]
    if count > 3 or (count == 3 and why not in ("length", "stop")) or (count < 3 and why != "stop"):
        raise Broken(say("selftest_max_tokens", asked=3, count=count, why=why))
    return say("selftest_tokens", count=count, why=why)


def stop_string(server: Server) -> str:
    """A stop string that begins in one token and ends in the next cuts the answer before itself."""
    server.greedy  # noqa: B018  not offered without it
    pieces = streamed(server.chat(stream=True))
    text = "".join(pieces)
    stop = across(pieces)
    if stop is None:
        raise NotOffered(say("selftest_too_short", text=short(text)))
    wanted = text[: text.index(stop)]
    body = server.chat(stop=[stop], optional=True).json
    reply = server.chat(stop=[stop], stream=True)
    for said, why, how in (
        (content(body), body["choices"][0]["finish_reason"], "selftest_whole"),
        ("".join(streamed(reply)), finish(reply), "selftest_streamed"),
    ):
        same(said, wanted, say("selftest_stopped", stop=stop, how=say(how)), say("selftest_wanted"))
        if why != "stop":
            raise Broken(say("selftest_finish", why=why, wanted="stop"))
    return say("selftest_stop", stop=stop)


def across(pieces: list[str]) -> str | None:
    """A few letters around the border of two tokens, past the first ones, that are nowhere before it in the answer."""
    text, begun = "".join(pieces), 0
    for place, (left, right) in enumerate(pairwise(pieces), start=1):
        begun += len(left)
        found = left[-1:] + right[: 2 if right[:1].isspace() else 1]
        plain = len(found) > 1 and found.strip() == found and UNREADABLE not in found
        if place > 2 and plain and text.index(found) == begun - 1:
            return found
    return None


def seed(server: Server) -> str:
    """One seed gives one answer, several seeds give several."""
    server.greedy  # noqa: B018  not offered without it

    def answer(number: int) -> str:
        return content(server.chat(seed=number, temperature=1.5, optional=True).json)

    said = [answer(number) for number in SEEDS]
    same(answer(SEEDS[0]), said[0], say("selftest_seed_again", seed=SEEDS[0]), say("selftest_before"))
    if len(set(said)) == 1:
        raise Broken(say("selftest_seed_dead", seeds=len(SEEDS)))
    return say("selftest_seeds", count=len(set(said)), seeds=len(SEEDS))


def several(server: Server) -> str:
    """n: 2 gives two choices, numbered."""
    server.greedy  # noqa: B018  not offered without it
    choices = server.chat(n=2, temperature=1.0, optional=True).json["choices"]
    if sorted(choice["index"] for choice in choices) != [0, 1]:
        raise Broken(say("selftest_choices", asked=2, count=len(choices)))
    return say("selftest_choices_good", count=len(choices))


def logprobs(server: Server) -> str:
    """Every token has its log-probability, and the likeliest ones beside it, best first; greedy takes the best."""
    server.greedy  # noqa: B018  not offered without it
    choice = server.chat(logprobs=True, top_logprobs=2, optional=True).json["choices"][0]
    entries = (choice.get("logprobs") or {}).get("content")
    if not entries:
        raise Broken(say("selftest_lacks", field="logprobs"))
    for entry in entries:
        top = [other["logprob"] for other in entry["top_logprobs"]]
        sound = len(top) == 2 and top[0] >= top[1] and entry["logprob"] <= 1e-6
        if not sound or abs(entry["logprob"] - top[0]) > 1e-3:
            raise Broken(say("selftest_logprobs", entry=short(json.dumps(entry, ensure_ascii=False), 100)))
    return say("selftest_scored", count=len(entries), least=min(entry["logprob"] for entry in entries))


def json_schema(server: Server) -> str:
    """response_format json_schema: the answer parses and has what the schema wants."""
    server.greedy  # noqa: B018  not offered without it
    form = {"type": "json_schema", "json_schema": {"name": "sea", "strict": True, "schema": SCHEMA}}
    body = server.chat(response_format=form, max_tokens=SCHEMA_TOKENS, optional=True).json
    return fits(content(body), body["choices"][0]["finish_reason"])


def fits(text: str, why: str) -> str:
    """The text where it is an instance of SCHEMA. Raises Broken otherwise."""
    if why == "length":
        raise Broken(say("selftest_unfinished", tokens=SCHEMA_TOKENS, text=short(text)))
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        raise Broken(say("selftest_no_json", text=short(text))) from error
    if found not in ({"calm": "yes"}, {"calm": "no"}):
        raise Broken(say("selftest_no_instance", text=short(text)))
    return short(text)


def completions(server: Server) -> str:
    """POST /v1/completions goes on with a text, and says the same whole and streamed."""
    asked = {"model": server.model, "prompt": QUESTION, "max_tokens": TOKENS, "temperature": 0}
    whole = server.post(COMPLETIONS, asked).json["choices"][0]["text"]
    reply: Reply = server.post(COMPLETIONS, asked | {"stream": True})
    choices = [choice for chunk in reply.chunks() for choice in chunk["choices"]]
    said = "".join(choice.get("text") or "" for choice in choices)
    same(said, whole, say("selftest_streamed"), say("selftest_whole"))
    return quoted(whole)


CHECKS = (
    Check("OpenAI", "models", models),
    Check("OpenAI", "chat", chat),
    Check("OpenAI", "chat stream", chat_stream),
    Check("OpenAI", "end of stream", end_of_stream),
    Check("OpenAI", "usage", usage),
    Check("OpenAI", "max_tokens", max_tokens),
    Check("OpenAI", "stop string", stop_string),
    Check("OpenAI", "seed", seed),
    Check("OpenAI", "n", several),
    Check("OpenAI", "logprobs", logprobs),
    Check("OpenAI", "json_schema", json_schema),
    Check("OpenAI", "completions", completions),
)
