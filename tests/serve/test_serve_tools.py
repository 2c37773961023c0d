"""Tools go through the model's own template, and calls come back where the model says how it writes them."""

import asyncio
import copy
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from easyllm.serve.answering import ModelVoice
from easyllm.serve.app import build_app
from easyllm.serve.contract import Abilities, Loaded, Sampling, Scored, Token
from easyllm.serve.desk import About, Desk
from easyllm.serve.engines.loading import load
from easyllm.serve.limits import Limits
from easyllm.serve.words import load_words
from serving_doors import doored
from tiny_chat import write_tiny_chat_model

TEMPLATE = (
    "{% if tools %}<|start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call['function']['arguments']['city'] }}</call>{% endfor %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
DECLARED = {
    "version": 1,
    "start_anchor": "<|start|>assistant\n",
    "fields": {
        "content": {"content": "text"},
        "tool_calls": {
            "open": "<call>", "close": "</call>", "content": "json", "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather", "description": "of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]  # fmt: skip
CALL = '<call>{"name": "weather", "arguments": {"city": "Rom"}}</call>'
QUESTION = [{"role": "user", "content": "Rome?"}]
TALK = [
    *QUESTION,
    {
        "role": "assistant", "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
]  # fmt: skip


class Scripted:
    """An engine that says one text, whatever it is asked: what a model trained on calls would say."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.asked: list[list[int]] = []
        self.trouble = None
        self.running = 0
        self.abilities = Abilities()

    async def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        self.asked.append(ids)
        for number in self.ids[:max_new_tokens]:
            yield Token(number, -0.5)

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        raise AssertionError("nothing is scored here")

    def stop(self) -> None: ...


@pytest.fixture(scope="module")
def words(serve_model: Path) -> Any:
    return load_words(serve_model)


class Asked:
    """The application in front of a scripted engine and of a tokenizer with this template."""

    def __init__(self, words: Any, text: str, template: str = TEMPLATE, declared: Any = None) -> None:
        tokenizer, _, ends = words
        self.tokenizer = copy.deepcopy(tokenizer)
        self.tokenizer.chat_template = template
        self.tokenizer.response_template = declared
        self.engine = Scripted([*self.tokenizer.encode(text), ends[0]])
        desk = Desk(About("scripted", None, Limits(2000, 1500, 3)))
        desk.loaded = Loaded(ModelVoice(self.engine, self.tokenizer, ends), ends, None, None, Sampling())
        self.app = build_app(desk)

    def post(self, **body: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post("/v1/chat/completions", json={"messages": QUESTION} | body)

        return asyncio.run(ask())

    @property
    def prompt(self) -> str:
        return str(self.tokenizer.decode(self.engine.asked[-1]))


def test_the_model_reads_tools_calls_and_their_results_in_its_own_template(words: Any) -> None:
    asked = Asked(words, "ok")
    assert asked.post(tools=TOOLS, messages=TALK).status_code == 200
    written = asked.prompt
    assert json.dumps(TOOLS[0]) in written
    assert "<call>Rom</call>" in written
    assert "<|start|>tool\nsunny<|end|>" in written
    asked.post(tools=TOOLS, tool_choice="none")
    assert "weather" not in asked.prompt


@pytest.mark.parametrize(
    ("body", "field"),
    [({"tools": TOOLS}, "tools"), ({"messages": TALK}, "tool_calls"),
     ({"messages": [{"role": "user", "content": "a", "name": "Ann"}]}, "name"),
     ({"messages": [{"role": "assistant", "content": None}]}, "content"),
     ({"messages": [{"role": "user", "content": "a", "tool_calls": TALK[1]["tool_calls"]}]}, "tool_calls")],
)  # fmt: skip
def test_what_the_template_does_not_read_is_refused_by_name(words: Any, body: Any, field: str) -> None:
    plain = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    answer = Asked(words, "ok", plain).post(**body)
    assert answer.status_code == 400, answer.text
    assert f"{field}`" in answer.json()["error"]["message"]


def test_a_template_that_skips_tool_messages_refuses_them(words: Any) -> None:
    deaf = TEMPLATE.replace("{{ m['content'] }}", "{% if m['role'] != 'tool' %}{{ m['content'] }}{% endif %}")
    answer = Asked(words, "ok", deaf).post(messages=TALK, tools=TOOLS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages.2")


def told(answer: httpx.Response) -> tuple[str, list[Any], str]:
    """(content, calls, finish_reason), of a body or of a stream."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        (choice,) = answer.json()["choices"]
        message = choice["message"]
        return message["content"] or "", message.get("tool_calls", []), choice["finish_reason"]
    lines = [line[6:] for line in answer.text.split("\n\n") if line.startswith("data: {")]
    parts = [json.loads(line)["choices"][0] for line in lines]
    content = "".join(part["delta"].get("content") or "" for part in parts)
    calls = [call for part in parts for call in part["delta"].get("tool_calls", [])]
    return content, calls, parts[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_come_back_where_the_model_declares_how_it_writes_them(words: Any, stream: bool) -> None:
    asked = Asked(words, f"Let me see. {CALL}{CALL}", declared=DECLARED)
    content, calls, finish = told(asked.post(tools=TOOLS, stream=stream))
    assert (content.strip(), finish) == ("Let me see.", "tool_calls")
    assert [call["function"]["name"] for call in calls] == ["weather", "weather"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Rom"}
    assert calls[0]["id"] != calls[1]["id"]
    assert [call.get("index") for call in calls] == ([0, 1] if stream else [None, None])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["just <b>words</b>", "so <call>{broken", 'so <call>{"name": 5}</call> then'])
def test_an_answer_that_is_no_call_stays_the_text_it_is(words: Any, text: str, stream: bool) -> None:
    asked = Asked(words, text, declared=DECLARED)
    assert told(asked.post(tools=TOOLS, stream=stream)) == (text, [], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_without_a_declaration_or_without_tools_nothing_is_taken_out(words: Any, stream: bool) -> None:
    for asked, tools in ((Asked(words, CALL), TOOLS), (Asked(words, CALL, declared=DECLARED), None)):
        assert told(asked.post(tools=tools, stream=stream)) == (CALL, [], "stop")


LOOK = {
    "type": "function",
    "function": {
        "name": "look", "strict": True,
        "parameters": {
            "type": "object", "properties": {"at": {"$ref": "#/$defs/Thing"}}, "required": ["at"],
            "additionalProperties": False, "$defs": {"Thing": {"enum": ["sea", "sky"]}},
        },
    },
}  # fmt: skip
GO = {
    "type": "function",
    "function": {
        "name": "go",
        "parameters": {
            "type": "object", "properties": {"far": {"$ref": "#/$defs/Thing"}}, "required": ["far"],
            "additionalProperties": False, "$defs": {"Thing": {"type": "boolean"}},
        },
    },
}  # fmt: skip
NAMED = {"type": "function", "function": {"name": "look"}}


@pytest.fixture(scope="module")
def demanding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A live server of a tiny model whose template reads tools, with room for them."""
    folder = write_tiny_chat_model(tmp_path_factory.mktemp("demanding") / "tiny", positions=2048)
    loaded = load(folder, Limits(2000, 1800, 3))
    loaded.voice.tokenizer.chat_template = TEMPLATE
    with doored(loaded, total_tokens=2000, input_tokens=1800) as door:
        yield door
    loaded.voice.engine.stop()


def demand(demanding: Any, seed: int = 1, **body: Any) -> httpx.Response:
    asked = {"messages": QUESTION, "tools": [LOOK, GO], "temperature": 1.5, "seed": seed, "max_tokens": 120} | body
    return httpx.post(f"{demanding.url}/v1/chat/completions", json=asked, trust_env=False, timeout=60)


def test_a_function_that_is_named_is_called_with_arguments_of_its_schema(demanding: Any) -> None:
    seen = set()
    for seed in range(4):
        (choice,) = demand(demanding, seed, tool_choice=NAMED).json()["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", None)
        assert (call["type"], call["function"]["name"]) == ("function", "look")
        seen.add(json.loads(call["function"]["arguments"])["at"])
    assert seen <= {"sea", "sky"}
    (cut,) = demand(demanding, tool_choice=NAMED, max_tokens=2).json()["choices"]
    assert cut["finish_reason"] == "length"
    assert '{"at": "sea"}'.startswith(cut["message"]["tool_calls"][0]["function"]["arguments"][:2])


def test_one_call_of_any_function_is_made_where_one_is_required(demanding: Any) -> None:
    names = set()
    for seed in range(8):
        answer = demand(demanding, seed, tool_choice="required", parallel_tool_calls=False).json()
        (choice,) = answer["choices"]
        (call,) = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        arguments = json.loads(call["function"]["arguments"])
        assert arguments in ({"at": "sea"}, {"at": "sky"}, {"far": True}, {"far": False})
        assert ("at" in arguments) == (call["function"]["name"] == "look")
        names.add(call["function"]["name"])
    assert names == {"look", "go"}, "of eight seeds both are chosen"


def test_a_demanded_call_streams_as_the_openai_client_reads_it(demanding: Any) -> None:
    client = openai.OpenAI(base_url=f"{demanding.url}/v1", api_key="none", max_retries=0, timeout=60)
    asked: Any = {
        "model": "tgi", "messages": QUESTION, "tools": [LOOK], "tool_choice": NAMED, "temperature": 0, "max_tokens": 60,
    }  # fmt: skip
    whole = client.chat.completions.create(**asked).choices[0].message
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    (told,) = [call for chunk in chunks for call in chunk.delta.tool_calls or ()]
    assert whole.tool_calls
    assert told.function
    assert (told.index, told.function.arguments) == (0, whole.tool_calls[0].function.arguments)
    assert [chunk.finish_reason for chunk in chunks][-1] == "stop"
    assert not any(chunk.delta.content for chunk in chunks)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "jump"}}}, "tool_choice", "no function `jump`"),
        ({"tool_choice": "required", "tools": None}, "tool_choice", "needs `tools`"),
        ({"tool_choice": "any"}, "tool_choice", "'none', 'auto' or 'required'"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "`tool_choice"),
        ({"tool_choice": NAMED, "response_format": {"type": "text"}}, "response_format", "held to the call"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "demands a call"),
        ({"tool_choice": "auto"}, "tools.0.function.strict", "always strict"),
    ],
)
def test_what_is_not_promised_of_calls_is_refused_by_name(demanding: Any, body: Any, param: str, words: str) -> None:
    refused = demand(demanding, **body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"].startswith(param)
    assert words in refused.json()["error"]["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "list"}}])
def test_a_schema_may_refer_to_itself_whole_or_by_any_path(demanding: Any, choice: Any) -> None:
    parameters = {
        "type": "object", "additionalProperties": False, "required": ["head", "tail"],
        "properties": {
            "head": {"enum": [1, 2]},
            "tail": {"anyOf": [{"type": "null"}, {"$ref": "#/properties/head"}, {"$ref": "#"}]},
        },
    }  # fmt: skip
    tool = {"type": "function", "function": {"name": "list", "parameters": parameters}}
    for seed in range(4):
        answer = demand(
            demanding, seed, tools=[GO, tool], tool_choice=choice, parallel_tool_calls=False, max_tokens=400
        ).json()
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        found = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "go":
            continue
        while isinstance(found, dict):
            assert set(found) == {"head", "tail"}
            found = found["tail"]
        assert found in (None, 1, 2)


@pytest.mark.parametrize("parameters", [{"$defs": []}, {"type": "object", "properties": {"a": {"$ref": "#/$defs/No"}}}])
def test_a_schema_that_is_none_is_refused(demanding: Any, parameters: Any) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": parameters}}
    for choice in ("required", {"type": "function", "function": {"name": "odd"}}):
        answer = demand(demanding, tools=[tool], tool_choice=choice, max_tokens=40)
        assert answer.status_code in (200, 400), answer.text
        if "properties" in parameters:
            assert answer.status_code == 400
