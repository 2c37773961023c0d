"""An answer under a grammar belongs to it, whatever the model would rather say; what cannot be kept is refused."""

import asyncio
import json
import random
import re
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher, LLParserLimits

from easyllm.core.chat import render
from easyllm.serve.contract import EngineFailed, Grammar, Sampling, Token
from easyllm.serve.engines.grammar import Follower, GrammarRefused, Grammars, _source
from easyllm.serve.engines.sampling import bits
from easyllm.serve.text import decode

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


def random_schema(dice: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema that some JSON text of at most a hundred tokens satisfies."""
    kinds = ["integer", "number", "boolean", "null", "enum", "string", "pattern", "const"]
    kind = dice.choice([*kinds, "object", "array", "anyOf"] if depth else kinds)
    if kind == "integer":
        low = dice.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + dice.randint(0, 40)}
    if kind == "number":
        return {"type": "number", "minimum": 0, "maximum": 9}
    if kind == "enum":
        return {"enum": dice.sample(["a", "灯塔", 'q"uote', 3, None, True, "\n"], 3)}
    if kind == "const":
        return {"const": dice.choice(["x", 0, {"k": [1]}])}
    if kind == "string":
        low = dice.randint(0, 2)
        return {"type": "string", "minLength": low, "maxLength": low + dice.randint(0, 3)}
    if kind == "pattern":
        return {"type": "string", "pattern": dice.choice(["^[a-c]{2}$", "^(灯|塔)+x$", "^\\d{3}-\\d{1,2}$"])}
    if kind == "object":
        names = dice.sample(["a", "b", "键", "a b"], dice.randint(1, 3))
        properties = {name: random_schema(dice, depth - 1) for name in names}
        required = dice.sample(names, dice.randint(0, len(names)))
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        return {"type": "array", "items": random_schema(dice, depth - 1), "minItems": dice.randint(0, 1), "maxItems": 2}
    if kind == "anyOf":
        return {"anyOf": [random_schema(dice, depth - 1), random_schema(dice, depth - 1)]}
    return {"type": kind}


async def answers(engine: Any, ids: list[int], asks: list[Sampling], count: int = 140) -> list[list[Token]]:
    async def one(asked: Sampling) -> list[Token]:
        return [token async for token in engine.generate(ids, count, asked)]

    return await asyncio.gather(*(one(asked) for asked in asks))


@pytest.fixture(scope="module")
def prompt(served: Any) -> list[int]:
    return render(served.tokenizer, [{"role": "user", "content": "the sea"}], True)


def say_all(served: Any, prompt: list[int], asks: list[Sampling]) -> list[str | None]:
    """The text of each answer that ended by an end token; None of one that was cut."""
    ends = served.desk.model.ends
    found = []
    for tokens in asyncio.run(answers(served.engine, prompt, asks)):
        ids = [token.id for token in tokens]
        assert not set(ids[:-1]) & set(ends)
        found.append(decode(served.tokenizer, ids[:-1]) if ids[-1] in ends else None)
    return found


def test_every_answer_that_ends_parses_and_validates(served: Any, prompt: list[int]) -> None:
    dice = random.Random(5)
    schemas = [random_schema(dice) for _ in range(60)]
    asks = [
        Sampling(dice.choice([0.0, 1.0, 2.0]), seed=place, grammar=Grammar("json_schema", json.dumps(schema)))
        for place, schema in enumerate(schemas)
    ]
    ended = 0
    for schema, text in zip(schemas, say_all(served, prompt, asks), strict=True):
        if text is not None:
            ended += 1
            jsonschema.validate(json.loads(text), schema)
    assert ended > 45


@pytest.mark.parametrize("expression", [r"[0-9]{3}-[0-9]{2}", "^abc$", "(灯塔|船)+!", r"a\.b|\x63?d", "[^a]{2}x"])
def test_an_answer_under_a_regular_expression_matches_it_whole(served: Any, prompt: list[int], expression: str) -> None:
    asks = [Sampling(1.5, seed=seed, grammar=Grammar("regex", expression)) for seed in range(6)]
    said = [text for text in say_all(served, prompt, asks) if text is not None]
    assert said
    for text in said:
        assert re.fullmatch(expression, text), text


def test_any_json_object_is_an_object(served: Any, prompt: list[int]) -> None:
    asks = [Sampling(2.0, top_k=60, seed=seed, grammar=Grammar("json_object")) for seed in range(5)]
    said = [text for text in say_all(served, prompt, asks) if text is not None]
    assert said
    for text in said:
        assert isinstance(json.loads(text), dict)


def test_the_end_token_comes_exactly_when_the_text_is_whole(served: Any) -> None:
    width, ends = served.engine.model.config.vocab_size, [0, 2]
    follower = Grammars(served.tokenizer, width, ends).compile(Grammar("regex", "ab?"))
    a, b = served.tokenizer.encode("a")[0], served.tokenizer.encode("b")[0]

    def allowed() -> list[int]:
        return bits(follower.allowed(), width).nonzero()[:, 0].tolist()

    assert a in allowed()
    assert not set(ends) & set(allowed())
    follower.take(a)
    assert sorted(allowed()) == sorted([*ends, b])
    follower.take(b)
    assert allowed() == ends


def test_neighbours_go_on_as_if_alone_beside_a_grammar(served: Any, prompt: list[int]) -> None:
    free = Sampling(1.3, seed=9)
    bound = Sampling(1.3, seed=9, grammar=Grammar("json_schema", PERSON))
    alone = [asyncio.run(answers(served.engine, prompt, [asked], 30))[0] for asked in (free, bound)]
    together = asyncio.run(answers(served.engine, prompt, [bound, free, Sampling()], 30))
    assert [token.id for token in together[1]] == [token.id for token in alone[0]]
    assert [token.id for token in together[0]] == [token.id for token in alone[1]]


REFUSED = [
    ("json_schema", "nope", "not JSON"),
    ("json_schema", "[1]", "is an object"),
    ("json_schema", '{"type": "strin"}', "strin"),
    ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
    ("json_schema", '{"not": {}, "x-guidance": {"lenient": true}}', "not"),
    ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
    ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "look-around"),
    ("json_schema", '{"$ref": "https://example.org/schema"}', "example.org"),
    ("json_schema", "[" * 50_000, "not JSON"),
    ("regex", "(", "unclosed group"),
    ("regex", r"(a)\1", "backreferences"),
]


@pytest.mark.parametrize(("kind", "text", "named"), REFUSED, ids=[text[:40] for _, text, _ in REFUSED])
def test_what_cannot_be_kept_is_refused_by_name(
    served: Any, prompt: list[int], kind: Any, text: str, named: str
) -> None:
    with pytest.raises(GrammarRefused, match=re.escape(named)) as refused:
        asyncio.run(answers(served.engine, prompt, [Sampling(grammar=Grammar(kind, text))]))
    assert refused.value.status == 422
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)
    assert served.engine.running == 0


def test_a_grammar_is_compiled_once_for_all_who_ask_for_it(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(served.tokenizer, served.engine.model.config.vocab_size, [0])
    compiled = []
    real = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda grammar: compiled.append(grammar) or real(grammar))
    first, second = (grammars.compile(Grammar("json_schema", PERSON)) for _ in range(2))
    before = second.allowed()
    first.take(served.tokenizer.encode("{")[0])
    assert second.allowed() == before  # each answer has a place of its own
    for number in range(70):
        grammars.compile(Grammar("regex", f"a{{{number}}}b"))
    assert len(grammars._kept) == 64
    assert len(compiled) == 71


def test_a_grammar_that_grows_too_complex_fails_its_own_request_alone(
    served: Any, prompt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    grammars = served.engine.grammars
    grammars.compile(Grammar("json_object"))

    def small(grammar: Grammar) -> Follower:
        limits = LLParserLimits(step_max_items=8, verbose_errors=False)
        return Follower(LLMatcher(grammars._words, _source(grammar), log_level=0, limits=limits))

    monkeypatch.setattr(grammars, "compile", small)
    bound = Sampling(grammar=Grammar("json_object"))

    async def both() -> list[Any]:
        asks = [answers(served.engine, prompt, [bound], 60), answers(served.engine, prompt, [Sampling()], 60)]
        return await asyncio.gather(*asks, return_exceptions=True)

    bent, free = asyncio.run(both())
    assert isinstance(bent, EngineFailed)
    assert bent.status == 422  # the grammar is the client's
    assert "Too many items" in str(bent)
    assert len(free[0]) > 0
    assert served.engine.running == 0
    assert served.engine.trouble is None
