"""Where the curves go beside losses.csv: TensorBoard's files always, W&B and MLflow when asked. First rank only.

After a cut, steps are trained again whose figures have been sent. No curve doubles: TensorBoard is told from which
step on to forget, and the services are sent no step twice, since the same step has the same figures.
"""

import os
import time
import uuid
from pathlib import Path
from typing import Any, Protocol

from easyllm.core.artifact import write_whole
from easyllm.core.messages import say
from easyllm.core.progress import note
from easyllm.pretrain.job import RankJob
from easyllm.pretrain.losses import Row

PROJECT = "easyllm"
"""Name of the W&B project and of the MLflow experiment; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME say otherwise."""
TENSORBOARD = "tensorboard"
SEND_SECONDS = 5.0
"""MLflow answers every call before we go on, so steps are sent together."""


class Tracker(Protocol):
    """One place where curves go."""

    def log(self, row: Row) -> None: ...

    def flush(self) -> None:
        """Nothing that was logged is lost from here on: the steps before a checkpoint are not trained again."""

    def close(self, finished: bool) -> None: ...


class Trackers:
    """All places that a run's curves go to."""

    def __init__(self, job: RankJob, step: int) -> None:
        """``step`` steps have been trained; the next one logged is the one after."""
        self._open: dict[str, Tracker] = {"tensorboard": TensorBoard(job, step)}
        for name in job.config.track:
            try:
                self._open[name] = SERVICES[name](job)
            except Exception as error:  # noqa: BLE001  # a service that is away must not keep a training from starting
                note(say("tracker_lost", stage="pretrain", service=name, reason=_one_line(error)))

    def log(self, row: Row) -> None:
        self._all("log", row)

    def flush(self) -> None:
        self._all("flush")

    def close(self, finished: bool) -> None:
        self._all("close", finished)

    def _all(self, what: str, *given: Any) -> None:
        """A service that fails is let go, with a word; the training goes on. A full disk is no service's fault."""
        for name, tracker in list(self._open.items()):
            try:
                getattr(tracker, what)(*given)
            except Exception as error:  # whatever a client library raises
                if name == "tensorboard":
                    raise
                note(say("tracker_lost", stage="pretrain", service=name, reason=_one_line(error)))
                del self._open[name]


def scalars(row: Row) -> dict[str, float]:
    """What is drawn of a step; what was not measured is left out."""
    drawn = {
        "loss/train": row.loss,
        "loss/validation": row.validation,
        "learning_rate": row.learning_rate,
        "grad_norm": row.grad_norm,
        "tokens": row.tokens,
        "throughput/tokens_per_second": row.tokens_per_second,
        "throughput/model_flops_utilisation": row.utilisation,
    }
    return {name: float(value) for name, value in drawn.items() if value is not None}


class TensorBoard:
    """Event files below the stage's own directory: ``tensorboard --logdir runs``."""

    def __init__(self, job: RankJob, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            str(job.out / TENSORBOARD),
            purge_step=step + 1,
            flush_secs=30,
            filename_suffix=f".{time.time_ns()}",  # the name's own time is in seconds: a second file would be the first
        )

    def log(self, row: Row) -> None:
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row.step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class WandB:
    """One W&B run for a training, however often it was cut; address, key and mode are W&B's own variables."""

    def __init__(self, job: RankJob) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=job.out.parent.name,
            id=_remembered(job.out / ".wandb-run") or _remember(job.out / ".wandb-run", uuid.uuid4().hex),
            resume="allow",
            dir=str(job.out.parent),  # beside the stages: an artifact holds what the stage made, and no more
            config=_settings(job),
        )

    def log(self, row: Row) -> None:
        if row.step >= self._run.step:
            self._run.log(scalars(row), step=row.step)

    def flush(self) -> None:
        """W&B's own process has it."""

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MLflow:
    """One MLflow run for a training, however often it was cut; files beside the stages unless MLFLOW_TRACKING_URI."""

    def __init__(self, job: RankJob) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # Upstream wants to be told that plain files are meant, and not a data base.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            os.environ["MLFLOW_TRACKING_URI"] = (job.out.parent / "mlflow").as_uri()
        from mlflow import MlflowClient

        self._client, remembered = MlflowClient(), job.out / ".mlflow-run"
        self._id = _remembered(remembered) or _remember(remembered, self._new_run(job))
        logged = self._client.get_metric_history(self._id, "loss/train")
        self._sent = max((metric.step for metric in logged), default=0)
        self._waiting: list[Any] = []
        self._last_sent = time.monotonic()

    def _new_run(self, job: RankJob) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        found = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run = self._client.create_run(found, run_name=job.out.parent.name)
        for key, value in _settings(job).items():
            self._client.log_param(run.info.run_id, key, value)
        return str(run.info.run_id)

    def log(self, row: Row) -> None:
        from mlflow.entities import Metric

        if row.step <= self._sent:
            return
        self._sent, now = row.step, int(time.time() * 1000)
        self._waiting += [Metric(name, value, now, row.step) for name, value in scalars(row).items()]
        if time.monotonic() - self._last_sent > SEND_SECONDS:
            self.flush()

    def flush(self) -> None:
        most = 1000  # of one call, by MLflow's own limit
        while self._waiting:
            self._client.log_batch(self._id, metrics=self._waiting[:most])
            self._waiting = self._waiting[most:]
        self._last_sent = time.monotonic()

    def close(self, finished: bool) -> None:
        self.flush()
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


SERVICES: dict[str, type[WandB | MLflow]] = {"wandb": WandB, "mlflow": MLflow}


def _settings(job: RankJob) -> dict[str, Any]:
    """What a person tells runs apart by."""
    a, config = job.architecture, job.config
    return {
        "engine": config.engine, "family": a.family, "layers": a.layers, "hidden": a.hidden, "heads": a.heads,
        "parameters": a.parameters(), "dtype": a.dtype, "sequence_tokens": config.sequence_tokens,
        "global_samples": config.batch.global_samples, "micro_samples": config.batch.micro_samples,
        "steps": config.steps, "ranks": config.ranks, "learning_rate": config.optimizer.learning_rate, "seed": job.seed,
        **{f"parallel.{key}": value for key, value in config.parallel.model_dump().items()},
    }  # fmt: skip


def _remembered(path: Path) -> str | None:
    return path.read_text("utf-8") if path.is_file() else None


def _remember(path: Path, name: str) -> str:
    write_whole(path, name)
    return name


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
