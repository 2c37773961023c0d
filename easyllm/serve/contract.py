"""How routes, text and engine talk to each other. Light: the server listens before torch is there."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from easyllm.core.errors import StageFailed

Finish = Literal["length", "eos_token", "stop_sequence"]


class EngineFailed(StageFailed):
    """The engine lost a request, or has died; ``status`` is the HTTP status that tells a client what to make of it."""

    def __init__(self, what: str, status: int = 500) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class Remote:
    """The server that generates for the remote engine."""

    url: str
    """Base address of its OpenAI API, ending in /v1."""
    key_variable: str | None = None
    """The environment variable that holds its API key. The key itself is kept out of settings, and so of any log."""


@dataclass(frozen=True)
class Sampling:
    """How one request wants its tokens chosen."""

    temperature: float = 0.0
    """0 always takes the likeliest token."""
    top_p: float = 1.0
    """Keep the likeliest tokens whose probabilities reach this sum."""
    top_k: int = 0
    """Keep this many likeliest tokens; 0 keeps all."""
    seed: int | None = None
    """Same seed, prompt and settings: same answer, whatever else is in the batch."""
    min_p: float = 0.0
    """Keep tokens at least this many times as likely as the likeliest (arXiv:2407.01082); 0 keeps all."""
    typical_p: float = 1.0
    """Locally typical sampling (arXiv:2202.00666): keep the most typical tokens that reach this sum; 1 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in prompt and answer (arXiv:1909.05858)."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for every time that the answer has it, as OpenAI defines it."""
    presence_penalty: float = 0.0
    """Taken off a token's logit once the answer has it, as OpenAI defines it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit)."""
    likeliest: int = 0
    """How many likeliest tokens to tell with each token, besides the one that was chosen."""
    grammar: "Grammar | None" = None
    """What the answer's text must be; tokens that would break it are never chosen."""


@dataclass(frozen=True)
class Grammar:
    """A language that an answer has to belong to."""

    kind: Literal["json_schema", "json_object", "regex"]
    text: str = ""
    """The JSON schema as JSON, or the regular expression; empty for any JSON object."""


@dataclass(frozen=True)
class Token:
    """One generated token and its log-probability under the model."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()
    """(id, log-probability) of the likeliest tokens at its place, best first, as ``Sampling.likeliest`` asks."""


Scored = tuple[float | None, dict[int, float] | None]
"""A given token's log-probability and the likeliest ids at its place; None of the first token."""


@dataclass(frozen=True)
class Abilities:
    """What an engine honours beyond temperature, top_p, top_k and seed. The routes refuse the rest by its name."""

    penalties: bool = False
    """min_p, typical_p, repetition, frequency and presence penalty, logit_bias."""
    likeliest: bool = False
    """``Sampling.likeliest``."""
    grammar: bool = False
    """``Sampling.grammar``."""
    score: bool = False
    """``Engine.score``."""
    adapters: bool = False
    """``adapter`` of ``generate`` and ``score``."""


@dataclass(frozen=True)
class AdapterCard:
    """A LoRA adapter that can be asked for."""

    name: str
    root: str
    """Where it came from."""
    digest: str | None = None
    """Of its manifest, where it has one."""
    created: int = 0
    """Unix time at which it was loaded."""


class Adapters(Protocol):
    """The adapters of an engine; which there are may change at any time."""

    def cards(self) -> list[AdapterCard]:
        """Those that can be asked for."""
        ...

    def load(self, name: str, path: Path) -> AdapterCard:
        """Add the one in ``path``, beside running requests. Raises UserError or StageFailed where it does not fit."""
        ...

    def unload(self, name: str) -> int:
        """Take it away when the requests that use it have ended. Raises UserError where there is none."""
        ...


class Engine(Protocol):
    """What a server needs of whatever runs the model: token ids in, token ids out."""

    @property
    def trouble(self) -> str | None:
        """Why it cannot answer now; None when it can."""
        ...

    @property
    def running(self) -> int:
        """Requests it still works on."""
        ...

    @property
    def restarts(self) -> int:
        """How often it has begun again after it had died or was away."""
        ...

    @property
    def abilities(self) -> Abilities:
        """What it honours; never asked for anything else."""
        ...

    def generate(
        self, ids: list[int], max_new_tokens: int, sampling: Sampling, adapter: str | None = None
    ) -> AsyncGenerator[Token, None]:
        """Tokens as they come, an end token last if one was reached. Closing it cancels the request.

        ``adapter`` names a LoRA adapter that the engine has loaded; None is the base model alone.
        """
        ...

    async def score(self, ids: list[int], likeliest: int, adapter: str | None = None) -> list[Scored]:
        """The log-probability of every token of ``ids`` after the first, and so many likeliest ones at its place."""
        ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Ask:
    """A request every check has passed."""

    ids: list[int]
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    keep_stop: bool = False
    """Whether a stop string stays at the end of the text."""
    adapter: str | None = None
    """The adapter that answers; None is the base model alone."""


@dataclass(frozen=True)
class Piece:
    """One token and the text it completes; the last one says why the answer ended."""

    token: Token
    special: bool
    text: str
    finish: Finish | None = None
    characters: int = 0
    """Of the answer's text, which it completes itself; ``text`` may come later, and without a stop string."""


@dataclass(frozen=True)
class Whole:
    """An answer all at once."""

    text: str
    pieces: list[Piece]

    @property
    def finish(self) -> Finish:
        last = self.pieces[-1].finish
        assert last is not None
        return last


class Voice(Protocol):
    """A model with its tokenizer: what answers."""

    engine: Engine
    tokenizer: Any

    def answer(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The answer token by token. Closing the generator stops the engine's work on it."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to answer."""

    voice: Voice
    ends: list[int]
    dtype: str | None
    device: str | None
    default: Sampling
    """What generation_config.json says of sampling; the OpenAI routes use it where a request says nothing."""
    adapters: Adapters | None = None
    """Where its engine answers with adapters too: which. None: the base model alone."""
