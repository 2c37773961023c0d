"""What can be asked of an evaluation."""

from typing import Annotated

from pydantic import AfterValidator, Field

from easyllm.core.inputs import Takes
from easyllm.core.keys import key_to_send
from easyllm.core.section import Section, distinct


class Endpoint(Section):
    """A server of the same model, measured beside it: OpenAI's /v1/completions with echo and logprobs."""

    base_url: str = Field(pattern=r"^https?://[^@?#]+/v1/?$")
    """Base address of its API, ending in /v1."""
    model: str | None = None
    """The model's name there; without one the server's only model is asked."""
    key_variable: str | None = None
    """The environment variable that holds its API key; the key itself stands nowhere else."""
    timeout_seconds: float = Field(default=120, gt=0)
    """Longest wait for one answer."""

    def key(self) -> str | None:
        """None where there is none that can be sent."""
        try:
            return key_to_send(self.key_variable) if self.key_variable else None
        except ValueError:
            return None


class EvaluateConfig(Section):
    """A tuned model beside its base and its adapter: loss, task scores, and what each says to the same prompts."""

    model: Annotated[str, Takes("model", "model", "adapter")] = "merge"
    """The tuned model: a stage, a directory (an adapter's too), a .gguf file, hf:, modelscope: or package:NAME."""
    base: Annotated[str | None, Takes("model", "model")] = None
    """The model to compare with; by default the one that the tuned model was made from, if it says so."""
    data: Annotated[list[str] | None, Takes("files", "rows", part="held_out")] = None
    """Held-out instruction rows: instruct, files, folders or globs; by default those that finetune held out."""
    prompts: list[Annotated[str, Field(pattern=r"\S")]] = Field(default=[])
    """Questions that both models answer, greedily."""
    prompt_files: Annotated[list[str] | None, Takes("files")] = None
    """More of them: rows {"prompt": text, "expect": text or texts}; an answer with one of those is a hit."""
    max_new_tokens: int = Field(default=32, ge=1)
    """Longest answer in tokens."""
    batch_samples: int = Field(default=8, ge=1)
    """Rows and prompts worked on at once."""
    tasks: Annotated[list[str], AfterValidator(distinct)] = Field(default=[])
    """lm-eval tasks by name; nothing is downloaded: data of those it ships comes from ``task_data`` or the cache."""
    task_data: Annotated[str | None, Takes("artifact", foreign=True)] = None
    """A folder with copies of the tasks' data sets by their names on the hub, such as allenai/ai2_arc in it."""
    task_files: Annotated[list[str] | None, Takes("files")] = None
    """Your own tasks, a file each: rows {"question", "choices", "answer"} or {"prompt", "answer", "match"}."""
    task_folder: Annotated[str | None, Takes("artifact", foreign=True)] = None
    """A folder of lm-eval YAML files of yours, whose names ``tasks`` may hold."""
    chat: bool = True
    """Ask the tasks' questions through the chat template; false: as plain text that goes on."""
    shots: int | None = Field(default=None, ge=0)
    """Solved examples before each question of a task; by default what the task says."""
    limit_rows: int | None = Field(default=None, ge=1)
    """Only so many first rows of each task."""
    endpoint: Endpoint | None = None
    """A served copy of ``model``: one more column of the table, which should hold the same figures."""
