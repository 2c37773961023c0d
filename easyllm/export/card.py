"""The model card: what a reader of the hub must know, from the recipe and the manifests. Names no path of a machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from easyllm.core.artifact import Manifest, read_manifest
from easyllm.export.config import ExportConfig

TRAINERS = ("pretrain", "finetune", "align")
CURVE = "loss_curve.png"


@dataclass(frozen=True)
class Facts:
    """What the run knows when it writes the card."""

    recipe: str
    config: ExportConfig
    licence: str
    model: Path
    proofs: list[dict[str, Any]]
    """Parity reports, layout v4's and the GGUF files'."""
    v4_proven: bool
    scores: Manifest | None


def model_card(facts: Facts, curve: bool) -> str:
    """The whole README.md, its front matter made and read back by huggingface_hub."""
    history = list(chain(facts.model))
    parts = [f"# {facts.config.card.title or facts.recipe}", facts.config.card.about or "", _training(history, curve)]
    parts += [_evaluation(facts.scores), _proofs(facts), _loading(facts), _lineage(history), _unproven(facts)]
    body = "\n\n".join(part for part in parts if part)
    card = ModelCard(f"---\n{_front(facts).to_yaml()}\n---\n\n{body}\n")
    return str(card.content)


def chain(path: Path) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """The manifest of an artifact and of everything it was made from, newest first, each once, with its inputs."""
    waiting, seen = [path], set()
    while waiting:
        manifest = read_manifest(waiting.pop(0))
        if manifest is None or manifest.digest in seen:
            continue
        seen.add(manifest.digest)
        yield manifest, manifest.inputs
        paths = [Path(entry["path"]) for entry in manifest.inputs.values() if entry["path"]]
        waiting += [found for found in paths if found.is_dir()]


def loss_curve(path: Path) -> Path | None:
    """The picture of the last training that left one."""
    for manifest, inputs in chain(path):
        for entry in inputs.values():
            folder = Path(entry["path"]) if entry["path"] else None
            pictures = sorted(folder.glob("*.png")) if folder and folder.is_dir() else []
            if pictures:
                return pictures[0]
        if manifest.stage in TRAINERS and (pictures := sorted(path.glob("*.png"))):
            return pictures[0]
    return None


def _front(facts: Facts) -> ModelCardData:
    card, results = facts.config.card, _results(facts)
    said: dict[str, Any] = {
        "license": facts.licence, "language": card.language, "base_model": card.base_model, "datasets": card.datasets,
        "tags": ["easyllm", *(["gguf"] if facts.config.gguf else []), *card.tags],
        "library_name": "transformers", "pipeline_tag": "text-generation",
    }  # fmt: skip
    if results:
        said |= {"eval_results": results, "model_name": card.title or facts.recipe}
    return ModelCardData(**{name: value for name, value in said.items() if value})


def _results(facts: Facts) -> list[EvalResult]:
    metrics = facts.scores.metrics if facts.scores else {}
    return [
        EvalResult("text-generation", "held_out", "held-out rows of the recipe", name, round(float(value), 6))
        for name, value in metrics.items()
        if isinstance(value, int | float) and name.startswith("tuned_")
    ]


def _training(history: list[tuple[Manifest, dict[str, Any]]], curve: bool) -> str:
    rows = ["## Training"]
    for manifest, inputs in history:
        if manifest.stage not in TRAINERS:
            continue
        rows += [
            f"### {manifest.stage}",
            "| setting | value |\n|---|---|\n" + "\n".join(_settings(_with_a_part(manifest.config))),
        ]
        rows += ["| data | sha256 |\n|---|---|\n" + "\n".join(_data(inputs))] if inputs else []
        figures = [
            f"| {name} | {value} |" for name, value in manifest.metrics.items() if isinstance(value, int | float)
        ]
        rows += ["| figure | value |\n|---|---|\n" + "\n".join(figures)] if figures else []
    rows += [f"![training loss]({CURVE})"] if curve else []
    return "\n\n".join(rows) if len(rows) > 1 else ""


def _with_a_part(config: dict[str, Any]) -> dict[str, Any]:
    """Without the settings of methods and engines that did not train: a reader would take them for what was done."""
    method, engine = config.get("method"), config.get("engine")
    idle = {
        "quantisation": method not in ("int8", "qlora"), "lora": method == "full",
        "deepspeed": engine != "deepspeed", "fsdp": engine != "fsdp",
    }  # fmt: skip
    return {name: value for name, value in config.items() if not (method and idle.get(name))}


def _settings(config: dict[str, Any], parents: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{parents}{name}.")
        elif value not in (None, [], ()):
            values = value if isinstance(value, list | tuple) else [value]
            yield f"| {parents}{name} | {', '.join(nameless(str(entry)) for entry in values)} |"


def _data(inputs: dict[str, Any]) -> list[str]:
    return [f"| {role}: {_refs(entry['ref'])} | `{entry['digest']}` |" for role, entry in inputs.items()]


def _refs(refs: str) -> str:
    return ", ".join(nameless(ref) for ref in refs.split(", "))


def nameless(text: str) -> str:
    """A path without the machine's part: where files lie here is nobody's business."""
    return PurePath(text).name if text.startswith(("/", "~", "..")) else text


def _evaluation(scores: Manifest | None) -> str:
    if scores is None:
        return ""
    rows = [f"| {name} | {value:.6g} |" for name, value in scores.metrics.items() if isinstance(value, int | float)]
    return "## Evaluation\n\n| measure | value |\n|---|---|\n" + "\n".join(rows)


def _proofs(facts: Facts) -> str:
    rows = []
    for proof in facts.proofs:
        if "file" in proof:
            found = f"mean divergence {proof['mean_divergence']:.2e} nats"
            rows.append(f"| {proof['file']} in llama.cpp | {found} | {proof['top1_agreement']:.1%} |")
        else:
            found = f"largest difference of a logit {proof['max_logit_difference']:.1e}"
            rows.append(f"| {proof['left']} | {found} | {proof['top1_agreement']:.1%} |")
    head = "| form | beside the model in transformers | same likeliest token |\n|---|---|---|\n"
    return "## Proven to say the same\n\n" + head + "\n".join(rows) if rows else ""


def _loading(facts: Facts) -> str:
    name = facts.config.hub.repo if facts.config.hub else "PATH"
    parts = [
        "## How to load it",
        (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n```'
        ),
    ]
    if facts.config.layouts:
        parts += [f"```sh\ntext-generation-launcher --model-id {name}\n```"]
    parts += [f"```sh\nllama-server --model {facts.recipe}-{kind}.gguf\n```" for kind in facts.config.gguf[:1]]
    return "\n\n".join(parts)


def _lineage(history: list[tuple[Manifest, dict[str, Any]]]) -> str:
    rows = [
        f"| {manifest.stage} | {manifest.kind} | `{manifest.digest}` | {'; '.join(_inputs(inputs))} |"
        for manifest, inputs in history
    ]
    head = "| stage | kind | digest | made from |\n|---|---|---|---|\n"
    return "## Lineage\n\n" + head + "\n".join(rows) if rows else ""


def _inputs(inputs: dict[str, Any]) -> list[str]:
    return [f"{role}: {_refs(entry['ref'])} `{(entry['digest'] or '-')[:12]}`" for role, entry in inputs.items()]


def _unproven(facts: Facts) -> str:
    lines = ["- Nothing here was measured beyond what the tables above say: no safety, no bias, no other task."]
    if facts.config.layouts and not facts.v4_proven:
        lines.append("- That transformers 4.51 and TGI read these files was not proven where they were made.")
    if facts.scores is None:
        lines.append("- No evaluation was part of this export.")
    return "## What it is not proven for\n\n" + "\n".join(lines)
