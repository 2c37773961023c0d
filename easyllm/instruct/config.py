"""What can be asked of instruct: seed tasks and a teacher become rows that a person has accepted."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from easyllm.core.inputs import Takes
from easyllm.core.section import Section


class Price(Section):
    """What a million tokens cost, in the currency that ``budget.money`` is meant in."""

    prompt: float = Field(ge=0)
    """Of a prompt."""
    completion: float = Field(ge=0)
    """Of an answer."""
    cached_prompt: float | None = Field(default=None, ge=0)
    """Of the part of a prompt that the provider had in its cache; unset: the price of a prompt."""


class Teacher(Section):
    """An OpenAI-compatible endpoint, or a model that easyllm serves itself on loopback while it is asked."""

    HOW: ClassVar[frozenset[str]] = frozenset({"base_url", "key_variable", "concurrency", "timeout_seconds", "retries"})

    base_url: str | None = None
    """Address of the endpoint, ending in /v1; one of base_url and local."""
    model: str | None = None
    """Model name to ask the endpoint for; only with base_url."""
    key_variable: Annotated[str, Field(min_length=1)] = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; a key stands nowhere else."""
    local: Annotated[str | None, Takes("model", "model")] = None
    """A model to serve here: a stage, a directory, a .gguf file, hf:org/name, modelscope:org/name or package:NAME."""
    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""
    lookahead: int = Field(default=64, ge=1)
    """A prompt shows the rows that came this many requests before it, whichever answers come first: so that a run can
    be repeated. At least as large as concurrency."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """Longest wait for one answer; unset: 120, and 1800 for a local model, which may be slow and charges nothing."""
    retries: int = Field(default=6, ge=0)
    """Times a request is sent again after 429, 5xx, a timeout or a cut answer, each time after a longer pause."""

    @property
    def patience_seconds(self) -> float:
        """Longest wait for one answer."""
        return self.timeout_seconds or (120.0 if self.local is None else 1800.0)

    structured: Literal["auto", "never"] = "auto"
    """auto: answers are asked for by JSON schema, and in plain text where the endpoint refuses that."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Of what is made up: instructions and answers; classification is always asked at 0."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Share of the likeliest tokens that an answer is drawn from."""
    max_tokens: int = Field(default=1024, ge=16)
    """Longest answer, in tokens; one cut there is dropped."""
    price: Price | None = None
    """Prices, for the ledger and for budget.money."""


class Budget(Section):
    """Limits over the whole run, resumed or not; the stage stops before one is passed and keeps what it has."""

    requests: int | None = Field(default=None, ge=1)
    """Requests sent, failed ones too."""
    tokens: int | None = Field(default=None, ge=1)
    """Tokens of prompts and answers."""
    money: float | None = Field(default=None, gt=0)
    """In the currency of teacher.price."""


class Evolve(Section):
    """Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): an accepted instruction is made harder, then answered."""

    rounds: int = Field(default=1, ge=1)
    """Times an instruction is made harder; every round's is a row of its own."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows that it is done to."""


class Score(Section):
    """Quality, as the teacher sees it: one more request a row."""

    least: int = Field(default=4, ge=1, le=5)
    """Rows below are dropped, of 1 to 5."""


class Clean(Section):
    """What a row must be like. Every drop keeps its reasons in dropped.jsonl and is counted in report.md."""

    instruction_units: tuple[int, int] = (3, 150)
    """Shortest and longest instruction, in words, or in characters where a language has no spaces."""
    output_units: tuple[int, int] = (1, 2000)
    """Shortest and longest answer, in the same units."""
    similarity: float = Field(default=0.7, gt=0, le=1)
    """ROUGE-L (F) to a seed or an accepted instruction above which an instruction is dropped."""
    minhash_above: int = Field(default=100_000, ge=0)
    """With more instructions than this, candidates come from MinHash and ROUGE-L is computed for those alone."""
    languages: list[str] | None = None
    """ISO codes that may stand; unset: the languages of the seeds."""
    forbid: list[str] = Field(default=[])
    """More words that drop an instruction, beside those that a text model cannot serve (images, links, files)."""
    evaluation: Annotated[list[str] | None, Takes("files")] = None
    """Evaluation sets: a row that shares a run of contamination_tokens tokens with one is dropped."""
    contamination_tokens: int = Field(default=13, ge=4)
    """Length of that run, in words, or in characters where a language has no spaces."""
    personal_data: Literal["flag", "drop", "keep"] = "flag"
    """Addresses, telephone, identity and card numbers: flag shows them to the reviewer."""
    score: Score | None = None
    """Have the teacher score every row; unset: no request is spent on it."""


class InstructConfig(Section):
    """Seed tasks and a teacher to reviewed instruction rows, by Self-Instruct (Wang et al. 2022, arXiv:2212.10560)."""

    teacher: Teacher
    """Who writes the rows."""
    seeds: Annotated[list[str], Takes("files", shelf="seeds-")] = Field(
        default=["builtin:en", "builtin:zh"], min_length=1
    )
    """Seed tasks: builtin:en, builtin:zh, or files in the Self-Instruct or the Alpaca format."""

    @field_validator("seeds", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        """One name alone is a list of one."""
        return [value] if isinstance(value, str) else value

    language: Literal["en", "zh", "both"] = "both"
    """Language of the prompts, and so of the rows; both: in turn. Seeds of another language are not shown."""
    method: Literal["self-instruct", "one-call", "answers"] = "self-instruct"
    """self-instruct: instructions, then their kind, then input and answer. one-call: whole rows in one answer.
    answers: the instructions and inputs of the seeds are answered anew, each once."""
    count: int = Field(default=100, gt=0)
    """Rows to end with after cleaning, before a person looks."""
    per_request: int = Field(default=4, ge=1, le=20)
    """Instructions, or whole rows, asked for in one request."""
    instances: int = Field(default=1, ge=1, le=5)
    """Inputs with their answers asked for each instruction by self-instruct; of a classification, for each label."""
    shown: int = Field(default=4, ge=1, le=8)
    """Tasks shown as examples in a prompt."""
    evolve: Evolve | None = None
    """Make some of the rows harder, as further rows."""
    clean: Clean = Clean()
    """What a row must be like."""
    budget: Budget = Budget()
    """When to stop asking."""
    fewer: Literal["refuse", "accept"] = "refuse"
    """When the budget is spent or nothing new comes, with fewer rows than count: refuse, or accept those there are."""
    recorded: Annotated[list[str] | None, Takes("files")] = None
    """Answers of an earlier run (its answers.jsonl): they are taken before anything is asked."""
    decisions: Annotated[list[str] | None, Takes("files")] = None
    """Decisions of reviewers made elsewhere (logs of `easyllm review`): copied into the log of this run."""
    held_out_rows: int = Field(default=0, ge=0)
    """Accepted rows kept out of training, with every row of the same instruction: heldout.jsonl."""
    write: Literal["alpaca", "messages", "sharegpt", "self-instruct"] = "alpaca"
    """Format of the rows; finetune reads all but self-instruct."""
