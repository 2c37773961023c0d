"""lm-eval's tasks on a model of ours: it renders, splits and scores, and asks us for log-probabilities and answers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import huggingface_hub.constants
import jinja2
import yaml
from lm_eval import simple_evaluate
from lm_eval.api import task as harness_tasks
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from easyllm.core.errors import refuse
from easyllm.core.messages import say
from easyllm.core.progress import Progress, note
from easyllm.core.stage import Job
from easyllm.evaluate.config import EvaluateConfig
from easyllm.evaluate.speakers import Speaker
from easyllm.evaluate.taskfiles import TaskFile, matches

SEED = 1234
RESAMPLES = 1000
"""Of a bootstrap, for the standard error of a metric that is no mean; lm-eval seeds it itself."""
Measured = dict[str, dict[str, tuple[float, float | None]]]
"""By task and metric: (value, standard error; None where there is none)."""


class Tasks:
    """The tasks of a recipe, loaded once before any model is, so that what is missing is told at once."""

    def __init__(self, job: Job[EvaluateConfig], own: Sequence[TaskFile]) -> None:
        """Raises UserError EVAL-013 (a name nobody knows), EVAL-014 (its data is not here) or EVAL-023 (its file)."""
        self._config = job.config
        self._made = TemporaryDirectory()  # holds what is read of task_data, for as long as the tasks are
        names = job.config.tasks
        folder = job.inputs["task_folder"].path if "task_folder" in job.inputs else None
        if folder:
            _require_yaml(folder, job.stage)
        with _quiet():
            self._manager = _manager(folder, names)
            unknown = [name for name in names if name not in self._manager.all_tasks]
            if unknown:
                shown = ", ".join(unknown)
                raise refuse("EVAL-013", stage=job.stage, key="evaluate.tasks", names=shown, folder=str(folder or "-"))
            self._loaded = [task for name in names for task in self._of_name(job, name)]
            files = [_as_task(file, job.config) for file in own]
            self._loaded += self._manager.load(files)["tasks"].values() if files else []

    def __len__(self) -> int:
        return len(self._loaded)

    def score(self, speaker: Speaker, tokenizer: Any, bar: Progress, positions: int | None = None) -> Measured:
        """Every metric of every task for one model, which holds ``positions`` tokens."""
        config = self._config
        model = Model(speaker, tokenizer, config, bar, positions)
        with _quiet():
            found = simple_evaluate(
                model=model, tasks=list(self._loaded), task_manager=self._manager, num_fewshot=config.shots,
                limit=config.limit_rows, apply_chat_template=config.chat, bootstrap_iters=RESAMPLES,
                log_samples=False, random_seed=SEED, numpy_random_seed=SEED, torch_random_seed=SEED,
                fewshot_random_seed=SEED,
            )  # fmt: skip
        assert found is not None
        if model.cut:
            note(say("evaluate_cut", count=model.cut, positions=positions))
        return {name: _metrics(values) for name, values in found["results"].items()}

    def _of_name(self, job: Job[EvaluateConfig], name: str) -> list[Any]:
        data = job.inputs["task_data"].path if "task_data" in job.inputs else None
        try:
            with _copies_in(data, Path(self._made.name)) if data else nullcontext():
                return list(self._manager.load([name])["tasks"].values())
        except (jinja2.TemplateError, LookupError, TypeError, AttributeError) as error:  # it renders the first row too
            reason = f"{type(error).__name__}: {error}".rstrip(".")
            raise refuse("EVAL-023", stage=job.stage, key="evaluate.tasks", name=name, reason=reason) from error
        except (OSError, ValueError, ImportError) as error:  # datasets' own errors are OSErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise refuse("EVAL-014", stage=job.stage, key="evaluate.tasks", name=name, reason=reason) from error


class Model(TemplateLM):
    """What lm-eval asks, answered by a Speaker; the same token ids whoever speaks."""

    def __init__(
        self, speaker: Speaker, tokenizer: Any, config: EvaluateConfig, bar: Progress, positions: int | None = None
    ) -> None:
        super().__init__()
        self.tokenizer, self._speaker, self._config, self._bar = tokenizer, speaker, config, bar
        # One less: a server that scores has to make a token as well.
        self._most = positions - 1 if positions else 10**9
        self.cut = 0
        """Requests of which the beginning was left out, as lm-eval's own model class does it."""

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        # A chat template writes its own special tokens.
        special = not self._config.chat if add_special_tokens is None else add_special_tokens
        return list(self.tokenizer.encode(string, add_special_tokens=special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )  # fmt: skip

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        pairs = [self._within(context, continuation) for _, context, continuation in requests]
        return self._speaker.score(pairs, self._bar)

    def _within(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Both, less what is too much at the beginning; something always stands before what is scored."""
        continuation = continuation[-(self._most - 1) :]
        kept = context[-(self._most - len(continuation)) :]
        self.cut += len(kept) < len(context)
        return kept, continuation

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        pairs: list[tuple[list[int], list[int]]] = []
        text_of: list[int] = []
        for row, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self._most - 1, context_len=1)
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                text_of.append(row)
        found = [0.0] * len(requests)
        for row, (total, _) in zip(text_of, self._speaker.score(pairs, self._bar), strict=True):
            found[row] += total
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        found = [""] * len(requests)
        prompts, longest = [], []
        for request in requests:
            asked = int(request.args[1].get("max_gen_toks", self._config.max_new_tokens))
            ids = self.tok_encode(request.args[0])
            kept = ids[-max(self._most - asked, self._most // 2) :]  # an answer never takes more than half of the room
            self.cut += len(kept) < len(ids)
            prompts.append(kept)
            longest.append(min(asked, self._most - len(kept)))
        for limit in sorted(set(longest)):
            rows = [row for row, most in enumerate(longest) if most == limit]
            said = self._speaker.say([prompts[row] for row in rows], limit, self._bar)
            for row, ids in zip(rows, said, strict=True):
                text = self.tokenizer.decode(ids, skip_special_tokens=True)
                stops = requests[row].args[1].get("until") or []
                for stop in [stops] if isinstance(stops, str) else stops:
                    text = text.split(stop)[0] if stop else text
                found[row] = text
        return found


def _require_yaml(folder: Path, stage: str) -> None:
    """UserError EVAL-023 for the first file that is no YAML: lm-eval would only say that it knows no such task."""
    for path in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
        except (yaml.MarkedYAMLError, UnicodeDecodeError) as error:
            mark = getattr(error, "problem_mark", None)
            reason = str(getattr(error, "problem", None) or error)
            place = {"file": path, "line": mark.line + 1 if mark else None}
            raise refuse(
                "EVAL-023", stage=stage, key="evaluate.task_folder", **place, name=path.stem, reason=reason
            ) from error


def _manager(folder: Path | None, names: Sequence[str]) -> TaskManager:
    """What knows the names: the user's folder, and lm-eval's own 10,000 only where a name is not in it."""
    where = str(folder) if folder else None
    own = TaskManager(include_path=where, include_defaults=False)
    if all(name in own.all_tasks for name in names):
        return own
    note(say("evaluate_reading_tasks"))
    return TaskManager(include_path=where)


@contextmanager
def _copies_in(folder: Path, made: Path) -> Iterator[None]:
    """datasets takes org/name for a folder where there is one, seen from where it stands.

    It keeps what it has read by that short name, whichever folder that was, so nothing is kept beyond this run.
    """
    kept = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = made
    try:
        with chdir(folder):
            yield
    finally:
        datasets.config.HF_DATASETS_CACHE = kept


def _as_task(file: TaskFile, config: EvaluateConfig) -> dict[str, Any]:
    """lm-eval's configuration of a user's own file."""

    def rows(**_: Any) -> dict[str, Any]:
        return {"test": datasets.Dataset.from_list(file.rows)}

    shared = {
        "task": file.name, "custom_dataset": rows, "test_split": "test", "fewshot_split": "test", "num_fewshot": None,
    }  # fmt: skip
    plain = not config.chat
    if file.kind == "choice":
        return shared | {
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:" if plain else "{{question}}",
            "doc_to_choice": lambda row: row["choices"],
            "doc_to_target": lambda row: row["answer"],
            "metric_list": [_mean("acc"), _mean("acc_norm")],
        }
    return shared | {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{prompt}}\nAnswer:" if plain else "{{prompt}}",
        "doc_to_target": lambda row: row["answers"][0],
        "process_results": lambda row, said: {"acc": float(matches(said[0], row))},
        "generation_kwargs": {
            "do_sample": False, "max_gen_toks": config.max_new_tokens, "until": ["\n\n"] if plain else [],
        },
        "metric_list": [_mean("acc")],
    }  # fmt: skip


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


def _metrics(values: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """lm-eval's {"acc,none": ..., "acc_stderr,none": ...} by plain names; another filter than none keeps its name."""
    found = {}
    for key, value in values.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, int | float):
            spread = values.get(f"{metric}_stderr,{kind}")
            name = metric if kind == "none" else f"{metric} ({kind})"
            found[name] = (float(value), float(spread) if isinstance(spread, int | float) else None)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """No network, no log lines and no bars of lm-eval and datasets: the progress shown is ours."""
    logger = logging.getLogger("lm_eval")
    level, hub, bar = logger.level, huggingface_hub.constants.HF_HUB_OFFLINE, harness_tasks.tqdm
    offline = datasets.config.HF_HUB_OFFLINE
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    harness_tasks.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        logger.setLevel(level)
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = hub, offline
        harness_tasks.tqdm = bar
