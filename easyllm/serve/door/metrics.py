"""What Prometheus may know of a server: our own names, and the ``tgi_*`` names that dashboards exist for."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from easyllm.serve.door.accounts import Account

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKENS = tuple(float(2**power) for power in range(16))
ASKING = ("/", "/generate", "/generate_stream", "/invocations", "/v1/chat/completions", "/v1/completions")
"""Routes that generate: the requests that text-generation-inference counts."""
REASONS = {413: "validation", 422: "validation", 400: "validation", 429: "overloaded"}

Live = Callable[[], dict[str, float]]
"""What is so right now: waiting, running, batch, batch_tokens, ready, restarts."""


class Metrics:
    """The counters of one server; ``text`` is what GET /metrics answers."""

    def __init__(self, live: Live) -> None:
        disable_created_metrics()  # the time of creation of every single series: as many lines again, for nobody
        self._registry = CollectorRegistry()
        self._failures: dict[str, int] = {}
        self._requests = 0
        self._successes = 0
        self._registry.register(Now(live, self.counted))
        self._answered = self._counter("requests", "Requests by route and HTTP status", "route", "status")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens in prompts that were answered")
        self._answer_tokens = self._counter("answer_tokens", "Tokens generated")
        self._engine_failures = self._counter("engine_failures", "Answers that the engine failed to finish")
        self._cancelled = self._counter("cancelled", "Answers whose client went away")
        self._first = self._seconds("easyllm_first_token_seconds", "From arrival to the first token")
        self._gap = self._seconds("easyllm_inter_token_seconds", "From one token of an answer to the next")
        self._queue = self._seconds("easyllm_queue_seconds", "Waiting for a place at the engine")
        self._whole = self._seconds("easyllm_request_seconds", "From arrival to the end of the answer")
        self._tgi_seconds = {
            "total_seconds": self._seconds("tgi_request_duration", "Total time of a request"),
            "validation_seconds": self._seconds("tgi_request_validation_duration", "Validating a request"),
            "queue_seconds": self._seconds("tgi_request_queue_duration", "Waiting in the queue"),
            "inference_seconds": self._seconds("tgi_request_inference_duration", "Inference of a request"),
            "seconds_per_token": self._seconds("tgi_request_mean_time_per_token_duration", "Mean time per token"),
        }
        self._tgi_tokens = {
            "answer_tokens": self._tokens("tgi_request_generated_tokens", "Generated tokens per request"),
            "prompt_tokens": self._tokens("tgi_request_input_length", "Input tokens per request"),
            "max_new_tokens": self._tokens("tgi_request_max_new_tokens", "Maximum new tokens per request"),
        }

    def text(self) -> bytes:
        return generate_latest(self._registry)

    def token(self, gap_seconds: float | None) -> None:
        """A token has come, so long after the one before it; None is an answer's first."""
        self._answer_tokens.inc()
        if gap_seconds is not None:
            self._gap.observe(gap_seconds)

    def end(self, account: Account) -> None:
        """A request is over."""
        status = account.status or 0
        self._answered.labels(account.route, str(status)).inc()
        if account.first_token_seconds is not None:
            self._first.observe(account.first_token_seconds)
        if account.finish in ("error", "cancelled"):
            (self._engine_failures if account.finish == "error" else self._cancelled).inc()
        if account.asked is not None:
            self._prompt_tokens.inc(account.prompt_tokens)
            self._queue.observe(account.queue_seconds)
            self._whole.observe(account.total_seconds)
        if account.method == "POST" and account.route in ASKING:
            self._end_as_tgi(account, status)

    def counted(self) -> Iterable[Metric]:
        """Counters that text-generation-inference names without the ending that this library gives to every one."""
        yield sampled("tgi_request_count", "Total number of requests", [({}, self._requests)])
        yield sampled("tgi_request_success", "Number of successful requests", [({}, self._successes)])
        failures = [({"err": reason}, number) for reason, number in sorted(self._failures.items())]
        yield sampled("tgi_request_failure", "Number of requests that failed, by reason", failures)

    def _end_as_tgi(self, account: Account, status: int) -> None:
        self._requests += 1
        if status != 200 or account.finish in ("error", "cancelled"):
            reason = REASONS.get(status, "generation")
            self._failures[reason] = self._failures.get(reason, 0) + 1
            return
        self._successes += 1
        for name, histogram in (self._tgi_seconds | self._tgi_tokens).items():
            value = getattr(account, name)
            if value is not None:
                histogram.observe(value)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"easyllm_{name}", help_text, labels, registry=self._registry)

    def _seconds(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, buckets=SECONDS, registry=self._registry)

    def _tokens(self, name: str, help_text: str) -> Histogram:
        return Histogram(name, help_text, buckets=TOKENS, registry=self._registry)


class Now(Collector):
    """What is asked of the server at the moment of the question, and so can never be out of date."""

    def __init__(self, live: Live, counted: Callable[[], Iterable[Metric]]) -> None:
        self._live = live
        self._counted = counted

    def collect(self) -> Iterable[Metric]:
        now = self._live()
        for name, what, key in (
            ("easyllm_queue_requests", "Requests that wait for a place", "waiting"),
            ("easyllm_running_requests", "Requests that have a place", "running"),
            ("easyllm_batch_requests", "Requests in the engine's batch", "batch"),
            ("easyllm_ready", "1 when the server answers, 0 while it loads, stops or is broken", "ready"),
            ("tgi_queue_size", "Current queue size", "waiting"),
            ("tgi_batch_current_size", "Current batch size", "batch"),
            ("tgi_batch_current_max_tokens", "Maximum tokens of the current batch", "batch_tokens"),
        ):
            yield GaugeMetricFamily(name, what, now[key])
        yield CounterMetricFamily("easyllm_engine_restarts", "Times the engine was started again", now["restarts"])
        yield from self._counted()


def sampled(name: str, what: str, samples: list[tuple[dict[str, str], int]]) -> Metric:
    """A metric of exactly this name."""
    metric = Metric(name, what, "unknown")
    for labels, value in samples:
        metric.add_sample(name, labels, value)
    return metric
