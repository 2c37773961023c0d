"""Where one request's time went, as text-generation-inference tells it in headers."""

import time
from dataclasses import dataclass, field

from easyllm.serve.contract import Whole


@dataclass
class Stopwatch:
    """Started when a request's body is there; the marks are set as it goes on."""

    started: float = field(default_factory=time.perf_counter)
    asked: float = 0.0
    """Checked, and waiting for a place."""
    began: float = 0.0
    """At the engine."""

    def ask(self) -> None:
        self.asked = time.perf_counter()

    def begin(self) -> None:
        self.began = time.perf_counter()

    def headers(self, device: str, inputs: str, prompt_tokens: int, answer: Whole) -> dict[str, str]:
        """Of an answer that has just come to its end; times in milliseconds, but x-compute-time in seconds."""
        now = time.perf_counter()
        tokens = len(answer.pieces)
        return compute_headers(device, inputs) | {
            "x-compute-time": f"{now - self.started:.6f}",
            "x-total-time": milliseconds(now - self.started),
            "x-validation-time": milliseconds(self.asked - self.started),
            "x-queue-time": milliseconds(self.began - self.asked),
            "x-inference-time": milliseconds(now - self.began),
            "x-time-per-token": milliseconds((now - self.began) / tokens),
            "x-prompt-tokens": str(prompt_tokens),
            "x-generated-tokens": str(tokens),
        }


def compute_headers(device: str, inputs: str) -> dict[str, str]:
    """What is known before the answer is; a stream has no others."""
    return {"x-compute-type": device, "x-compute-characters": str(len(inputs))}


def milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
