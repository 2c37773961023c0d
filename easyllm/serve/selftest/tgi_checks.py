"""What text-generation-inference's own routes promise."""

import json
from typing import Any

import httpx

from easyllm.core.messages import say
from easyllm.serve.selftest.openai_checks import SCHEMA, SCHEMA_TOKENS, fits
from easyllm.serve.selftest.outcome import Broken, Check, NotOffered
from easyllm.serve.selftest.server import QUESTION, TOKENS, Reply, Server, quoted, same, short

KNOWN = ("model_id", "max_total_tokens", "version")
FINISH = ("length", "eos_token", "stop_sequence")
HEADERS = ("x-compute-type", "x-total-time", "x-inference-time", "x-prompt-tokens", "x-generated-tokens")


def ask(server: Server, path: str = "/generate", optional: bool = False, **parameters: Any) -> Reply:
    """A greedy answer to QUESTION, unless ``parameters`` say otherwise."""
    stream = {"stream": parameters.pop("stream")} if "stream" in parameters else {}
    body = {"inputs": QUESTION, "parameters": {"max_new_tokens": TOKENS, "do_sample": False} | parameters}
    return server.post(path, body | stream, optional)


def answer(server: Server) -> str:
    """The text that other answers are held against. Raises NotOffered where there is no /generate."""
    text: str = ask(server).json["generated_text"]
    return text


def info(server: Server) -> str:
    """GET /info says which model it is, its limits and its version."""
    found = server.get("/info").json
    missing = [name for name in KNOWN if found.get(name) is None]
    if missing:
        raise Broken(say("selftest_lacks", field=", ".join(missing)))
    return f"{found['model_id']}, {found['max_total_tokens']}, {found.get('router', 'router')} {found['version']}"


def generate(server: Server) -> str:
    """POST /generate answers with one object."""
    return quoted(answer(server))


def generate_stream(server: Server) -> str:
    """POST /generate_stream says the same, one event a token, and the whole text in the last one."""
    whole = answer(server)
    chunks = ask(server, "/generate_stream").chunks()
    said = "".join(chunk["token"]["text"] for chunk in chunks if not chunk["token"]["special"])
    same(chunks[-1]["generated_text"], whole, say("selftest_streamed"), say("selftest_whole"))
    same(said, whole, say("selftest_token_texts"), say("selftest_whole"))
    return say("selftest_pieces", count=len(chunks))


def root(server: Server) -> str:
    """POST / answers with a list of one, or with a stream where the body says so; huggingface_hub rests on it."""
    whole = answer(server)
    found = ask(server, "/").json
    if not isinstance(found, list) or len(found) != 1:
        raise Broken(say("selftest_no_list", body=short(json.dumps(found, ensure_ascii=False))))
    same(found[0]["generated_text"], whole, "POST /", "/generate")
    chunks = ask(server, "/", stream=True).chunks()
    same(chunks[-1]["generated_text"], whole, say("selftest_streamed"), "/generate")
    return say("selftest_root")


def details(server: Server) -> str:
    """details: the tokens with their log-probabilities, how many, and why the answer ended."""
    found = ask(server, details=True).json.get("details")
    if not found:
        raise Broken(say("selftest_lacks", field="details"))
    tokens = found["tokens"]
    sound = all(isinstance(token["id"], int) and token["logprob"] <= 1e-6 for token in tokens)
    if not tokens or not sound or found["generated_tokens"] != len(tokens) or found["finish_reason"] not in FINISH:
        raise Broken(short(json.dumps(found, ensure_ascii=False), 100))
    return say("selftest_tokens", count=len(tokens), why=found["finish_reason"])


def best_of(server: Server) -> str:
    """best_of 2 tells the sequence it did not choose in details."""
    found = ask(server, optional=True, best_of=2, do_sample=True, details=True).json
    others = found["details"].get("best_of_sequences")
    if not others or len(others) != 1:
        raise Broken(say("selftest_lacks", field="details.best_of_sequences"))
    return quoted(others[0]["generated_text"])


def grammar(server: Server) -> str:
    """A grammar of the type json holds the answer to its schema."""
    rule = {"type": "json", "value": SCHEMA}
    found = ask(server, optional=True, grammar=rule, details=True, max_new_tokens=SCHEMA_TOKENS).json
    return fits(found["generated_text"], found["details"]["finish_reason"])


def tokenize(server: Server) -> str:
    """POST /tokenize cuts a text into ids with their places."""
    answer(server)
    tokens = server.post("/tokenize", {"inputs": QUESTION}).json
    wrong = [token for token in tokens if token["text"] != QUESTION[token["start"] : token["stop"]]]
    if wrong or not tokens or tokens[-1]["stop"] != len(QUESTION) or not isinstance(tokens[0]["id"], int):
        raise Broken(short(json.dumps(wrong or tokens, ensure_ascii=False), 100))
    return say("selftest_cut", count=len(tokens))


def error_type(server: Server) -> str:
    """A bad request gets 422 with {"error", "error_type": "validation"}."""
    answer(server)
    reply = server.ask("POST", "/generate", {"inputs": "", "parameters": {"max_new_tokens": 1}})
    if reply.status != httpx.codes.UNPROCESSABLE_ENTITY:
        raise Broken(say("selftest_status", wanted=422, told=reply.reason))
    body = reply.json
    if not isinstance(body.get("error"), str) or body.get("error_type") != "validation":
        raise Broken(short(reply.text, 100))
    return f"422 {body['error_type']}: {short(body['error'], 40)}"


def headers(server: Server) -> str:
    """Times and counts of tokens stand in x- headers, and agree with details."""
    reply = ask(server, details=True)
    missing = [name for name in HEADERS if name not in reply.headers]
    if missing:
        kind = NotOffered if len(missing) == len(HEADERS) else Broken
        raise kind(say("selftest_lacks", field=", ".join(missing)))
    count = reply.json["details"]["generated_tokens"]
    same(reply.headers["x-generated-tokens"], str(count), "x-generated-tokens", "details.generated_tokens")
    return ", ".join(f"{name}: {reply.headers[name]}" for name in HEADERS[-2:])


CHECKS = (
    Check("TGI", "info", info),
    Check("TGI", "generate", generate),
    Check("TGI", "generate_stream", generate_stream),
    Check("TGI", "POST /", root),
    Check("TGI", "details", details),
    Check("TGI", "best_of", best_of),
    Check("TGI", "grammar", grammar),
    Check("TGI", "tokenize", tokenize),
    Check("TGI", "error_type", error_type),
    Check("TGI", "x- headers", headers),
)
