"""The command line: verbs, exit codes, and what a user reads. Imports no stage until a verb is called.

Exit codes: 0 done, 1 failed, 2 refused (the user's input), 3 prepared and waiting for others, 130 interrupted.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from easyllm import __version__
from easyllm.core.messages import LANGUAGES, choose_language, say

RECIPE_HELP = "A recipe file, or the name of one that ships (easyllm recipe ls)."
SERVE_HELP = (
    "A recipe; or a model's directory; or a folder of runs: the newest merged model in it. "
    "With --self-test: the address of a server."
)
SELF_TEST_HELP = (
    "Serve nothing: ask the server at URL (ours, vLLM, TGI, llama.cpp, ...) which parts of the OpenAI and TGI API it "
    "keeps, and print a line for each. Exit code 1 where something it offers does not hold."
)
KUBERNETES_HELP = (
    "Print the manifest that serves the recipe's model in Kubernetes (serve.kubernetes), and nothing else."
)
REVIEW_HELP = "runs/<name>, or a folder with rows nobody has decided on (*.not_cleaned.jsonl), or that file."
SAMPLE_HELP = "Look at a sample only, as large as it takes to accept at most this share of bad rows, such as 0.02."
KEY_HELP = "Environment variable with the server's API key; unset: OPENAI_API_KEY, should there be one."
RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Override any value, such as pretrain.batch.micro_samples=2."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one machine-readable document on stdout.")]

ON_CLUSTERS = ("corpus", "pretrain", "finetune")
"""The stages that heed the section ``cluster``; their help tells its keys too."""
IFT_FORMS = ("alpaca", "messages", "sharegpt", "self-instruct")
IFT_FILES = ("jsonl", "parquet")
WAITING = 3
INTERRUPTED = 130

app = typer.Typer(
    name="easyllm",
    help="Carry a large language model through its whole life, from raw text to a served answer.",
    epilog="Start with: easyllm run tiny-cpu · Every verb has --help. · --lang zh 显示中文。",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="The recipes that ship, and the schema of a recipe.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


class StageCommand(typer.core.TyperCommand):
    """A stage's verb: its --help ends with the keys of its section, read from the config class."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from easyllm.core.reference import key_rows
        from easyllm.pipeline import Recipe

        name = str(ctx.info_name)
        for section in (name, "cluster") if name in ON_CLUSTERS else (name,):
            with formatter.section(f"Keys of the section `{section}`"):
                formatter.write_dl(key_rows(Recipe, section))


@app.callback()
def options(
    lang: Annotated[str | None, typer.Option(help="Language of messages: en or zh. Default: LANG.")] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if lang is not None and lang not in LANGUAGES:
        raise typer.BadParameter(f"{lang} is not one of {', '.join(LANGUAGES)}", param_hint="--lang")
    choose_language(lang)


@app.command("run")
def run_verb(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="First stage to run.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Last stage to run.")] = None,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline: skips what is fresh, goes on where a run was cut."""
    _run(_open(recipe, overrides), first, last, as_json)


def _stage_verb(stage: str, help_text: str) -> None:
    """Add the verb of one stage: the same run, from and to that stage."""

    def verb(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
        _run(_open(recipe, overrides), stage, stage, as_json)

    app.command(stage, help=help_text, cls=StageCommand)(verb)


_stage_verb("corpus", "Raw text to a tokenizer and indexed tokens.")
_stage_verb(
    "pretrain",
    "Tokens to a checkpoint, with Megatron-Core; loss curve as CSV and PNG. Where cluster.launcher is not "
    "local, it writes the job into the run's folder, prints the commands and ends with exit code 3; called again, it "
    "tells how far they are, and gathers the checkpoint once they have ended.",
)
_stage_verb("convert", "Megatron checkpoint to a Hugging Face model or back, proven by parity.")
_stage_verb(
    "instruct",
    "Seed tasks and a teacher to instruction rows that a person has accepted. Ends with exit code 3 while rows wait "
    "for `easyllm review`; called again after it, it hands the accepted ones on.",
)
_stage_verb(
    "finetune",
    "Instruction rows and a model to an adapter or a model. Where cluster.launcher names somebody else to start the "
    "ranks, it writes the job, prints the commands and ends with exit code 3, as pretrain does.",
)
_stage_verb("align", "Preference pairs and a model to one that prefers what was chosen.")
_stage_verb("merge", "Adapter and base to one model, proven by parity.")
_stage_verb("evaluate", "Held-out loss, perplexity and answers side by side.")
_stage_verb("export", "Model to the layout of transformers 4, GGUF files, a model card and the folder of a hub.")


@app.command("serve", cls=StageCommand)
def serve_verb(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE|FOLDER|URL", help=SERVE_HELP)],
    overrides: Overrides = None,
    self_test: Annotated[bool, typer.Option("--self-test", help=SELF_TEST_HELP)] = False,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="With --self-test: the environment variable with its key.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="ID", help="With --self-test: the model to ask. Default: the first it lists.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --self-test: print one document.")] = False,
) -> None:
    """Serve the model until Ctrl-C: OpenAI and text-generation-inference routes. Or test a server: --self-test URL."""
    if self_test:
        if overrides:
            raise typer.BadParameter(f"{overrides[0]}: --self-test takes the address alone", param_hint="KEY=VALUE")
        _self_test(recipe, key_variable, model, as_json)
        return
    for given, option in ((key_variable, "--key-variable"), (model, "--model"), (as_json, "--json")):
        if given:
            raise typer.BadParameter("only with --self-test", param_hint=option)
    from easyllm.serve.run import serve_forever

    serve_forever(_serve_job(recipe, overrides))


def _self_test(url: str, key_variable: str | None, model: str | None, as_json: bool) -> None:
    from easyllm.serve.selftest.verb import self_test

    found = self_test(url, key_variable, model, None if as_json else partial(print, flush=True))
    if as_json:
        _print_json(found)
    if not found["holds"]:
        raise typer.Exit(1)


def _serve_job(recipe: str, overrides: Sequence[str] | None) -> Any:
    from easyllm import pipeline
    from easyllm.core.errors import UserError
    from easyllm.core.inputs import written_path
    from easyllm.serve.folder import folder_job

    if written_path(recipe).is_dir():
        return folder_job(Path(recipe), overrides or ())
    project = _open(recipe, overrides)
    problems = pipeline.check(project, pipeline.choose(project, "serve", "serve"))
    job = pipeline.make_job(project, "serve")
    problems = problems or pipeline.not_ready(job)
    if problems:
        raise UserError(*problems)
    return job


@app.command("check")
def check_verb(recipe: RecipeArgument, overrides: Overrides = None, as_json: Json = False) -> None:
    """Find every mistake that can be known before anything runs, without loading torch."""
    from easyllm import pipeline
    from easyllm.core.errors import UserError

    project = _open(recipe, overrides)
    problems = pipeline.check(project, project.stages)
    project.place.digests.save()
    if problems:
        raise UserError(*problems)
    if as_json:
        _print_json({"recipe": project.recipe.name, "stages": project.stages, "errors": []})
    else:
        print(say("check_good", recipe=project.recipe.name, stages=", ".join(project.stages)))


@app.command("plan")
def plan_verb(
    recipe: RecipeArgument,
    stage: Annotated[str | None, typer.Argument(metavar="[STAGE]", help="One stage only.")] = None,
    overrides: Overrides = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="List the layouts of pretraining that fit N GPUs.")] = None,
    gpu_memory: Annotated[float | None, typer.Option(metavar="GB", min=1, help="Memory of each, 10^9 bytes.")] = None,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help=KUBERNETES_HELP)] = False,
    as_json: Json = False,
) -> None:
    """What would run: commands, tokens, steps, memory, disk, and why."""
    from easyllm import pipeline
    from easyllm.core import report
    from easyllm.core.errors import UserError

    if stage and "=" in stage:  # easyllm plan RECIPE key=value
        overrides = [stage, *(overrides or [])]
        stage = None
    project = _open(recipe, overrides)
    if kubernetes:
        if stage not in (None, "serve") or gpus or gpu_memory or as_json:
            raise typer.BadParameter("it goes with the stage serve and no other option", param_hint="--kubernetes")
        print(pipeline.kubernetes_manifest(project), end="")
        return
    chosen = pipeline.choose(project, stage, stage)
    problems = pipeline.check(project, chosen)
    # What another machine will train may be planned on one whose disk is too small for it.
    if wrong := [entry for entry in problems if entry.code != "RUN-003"]:
        raise UserError(*wrong)
    for entry in problems:
        print(entry, file=sys.stderr)
    rows = [
        (name, state, pipeline.plan_of(job))
        for name, (job, state) in pipeline.states(project).items()
        if name in chosen
    ]
    fits = pipeline.layouts(project, gpus, gpu_memory)
    if as_json:
        found = {} if fits is None else {"layouts": [fit.row() for fit in fits.found]}
        _print_json(report.plan_document(rows) | found)
    else:
        print(report.plan_text(rows) + ("" if fits is None else "\n" + fits.text()), end="")


@app.command("plot")
def plot_verb(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="runs/<name>, a stage's folder, a losses.csv.")],
    out: Annotated[Path, typer.Option(metavar="PNG", help="The picture to write.")] = Path("curves.png"),
    by: Annotated[str, typer.Option(metavar="steps|tokens", help="What to draw the curves over.")] = "steps",
    as_json: Json = False,
) -> None:
    """The curves of several pretrainings side by side: a picture and a table."""
    from easyllm.pretrain import curves

    if by not in ("steps", "tokens"):
        raise typer.BadParameter(f"{by} is not steps or tokens", param_hint="--by")
    found = curves.open_curves(runs)
    curves.picture(found, out, by)
    if as_json:
        _print_json({"picture": str(out), "runs": [curve.summary() for curve in found]})
    else:
        print(curves.table(found) + str(out))


@app.command("doctor")
def doctor_verb(as_json: Json = False) -> None:
    """What this machine can run, what it cannot, and the fix."""
    from easyllm.env import doctor

    findings = doctor.examine()
    if as_json:
        _print_json(doctor.document(findings))
    else:
        print(doctor.text(findings), end="")


@app.command("lineage")
def lineage_verb(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="An artifact's directory, runs/<name>/<stage>.")],
    as_json: Json = False,
) -> None:
    """From raw text to this artifact: every input with its digest."""
    from easyllm.core import lineage

    tree = lineage.trace(path)
    if as_json:
        _print_json(tree)
    else:
        print(lineage.text(tree), end="")


@app.command("chat")
def chat_verb(
    target: Annotated[str, typer.Argument(metavar="URL|MODEL", help="A server's address, or a model's directory.")],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.7,
    key_variable: Annotated[str | None, typer.Option(metavar="NAME", help=KEY_HELP)] = None,
) -> None:
    """Talk to a served model in the terminal; /help there tells what else it does."""
    from easyllm.serve.chat import chat

    code = chat(target, system, max_tokens, temperature, key_variable)
    if code:
        raise typer.Exit(code)


@app.command("review")
def review_verb(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help=REVIEW_HELP)],
    author: Annotated[str | None, typer.Option(help="Who decides. Default: the login name.")] = None,
    tui: Annotated[bool, typer.Option("--tui", help="Review in this terminal, not in the browser.")] = False,
    accept_all: Annotated[bool, typer.Option("--accept-all", help="Accept what nobody has looked at.")] = False,
    i_know: Annotated[bool, typer.Option("--i-know", help="With --accept-all: you answer for it.")] = False,
    sample: Annotated[float | None, typer.Option(metavar="RATE", help=SAMPLE_HELP)] = None,
    confidence: Annotated[float | None, typer.Option(help="How sure --sample must be. Default: 0.95.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the page. Default: a free one.")] = None,
    open_browser: Annotated[bool | None, typer.Option("--open/--no-open", help="Open the page in a browser.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the rows stand, and leave.")] = False,
) -> None:
    """Decide which generated rows may be trained on: in the browser, or in the terminal. Every decision is logged."""
    from easyllm.instruct.review import verb

    wish = verb.Wish(author, tui, accept_all, i_know, sample, confidence, port, open_browser, as_json)
    found = verb.review(directory, wish)
    if found is not None:
        _print_json(found)


@app.command("sft2ift")
def sft2ift_verb(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Files or folders of rows; a review; what instruct made.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write: rows, and those held out.")],
    write: Annotated[str, typer.Option(metavar="|".join(IFT_FORMS), help="Format of the rows.")] = "alpaca",
    file_as: Annotated[str, typer.Option("--as", metavar="jsonl|parquet", help="Kind of the files.")] = "jsonl",
    held_out: Annotated[
        str, typer.Option(metavar="N|SHARE", help="Rows kept out of training, such as 100 or 5%, by instruction.")
    ] = "0",
    seed: Annotated[int, typer.Option(help="Of the choice of rows to hold out.")] = 1234,
    as_json: Json = False,
) -> None:
    """Rows of any form (Alpaca, ShareGPT, messages, Self-Instruct; JSONL, Parquet) to rows of one; of a review, the
    accepted ones alone."""
    from easyllm.instruct.ift.convert import Asked, sft2ift, text_of

    for value, known, option in ((write, IFT_FORMS, "--write"), (file_as, IFT_FILES, "--as")):
        if value not in known:
            raise typer.BadParameter(f"{value} is not one of {', '.join(known)}", param_hint=option)
    told = sft2ift(Asked(tuple(sources), out, write, file_as, held_out, seed))
    if as_json:
        _print_json(told)
    else:
        print(text_of(told), end="")


@recipe_app.command("ls")
def recipe_ls(as_json: Json = False) -> None:
    """List the recipes that ship."""
    from easyllm.recipes import shipped

    rows = shipped.listing()
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            print(f"{row['name']:<18} {row['about']}")


@recipe_app.command("cp")
def recipe_cp(
    name: Annotated[str, typer.Argument(help="Name of a recipe that ships.")],
    directory: Annotated[Path, typer.Argument(help="Folder to copy it to, with its data.")] = Path("."),
) -> None:
    """Copy a recipe and its data files, to make them your own."""
    from easyllm.recipes import shipped

    print(shipped.copy(name, directory))


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of a recipe, so that an editor completes and checks it."""
    from easyllm.pipeline import Recipe

    schema = Recipe.model_json_schema()
    _print_json({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


def _open(recipe: str, overrides: Sequence[str] | None) -> Any:
    from easyllm import pipeline
    from easyllm.recipes import shipped

    return pipeline.open_project(shipped.find(recipe), overrides or ())


def _run(project: Any, first: str | None, last: str | None, as_json: bool) -> None:
    from easyllm import pipeline
    from easyllm.core import report
    from easyllm.core.progress import note

    rows = pipeline.run(project, pipeline.choose(project, first, last))
    if as_json:
        _print_json(report.run_document(rows))
        return
    if all(row.status == "fresh" for row in rows):
        note(say("all_fresh", count=len(rows)))
    print(report.run_text(rows), end="")


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def main() -> int:
    """Run the command line; every known way to end has its exit code and no traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run says how to go on, like Ctrl-C
    return _guarded(lambda: app(standalone_mode=False))


def _guarded(work: Callable[[], Any]) -> int:
    from easyllm.core.errors import StageFailed, UserError, Waiting

    try:
        result = work()
    except UserError as error:
        if "--json" in sys.argv:
            _print_json({"errors": [entry.as_json() for entry in error.problems]})
        else:
            for entry in error.problems:
                print(entry, file=sys.stderr)
        return 2
    except StageFailed as error:
        if "--json" in sys.argv:
            _print_json({"errors": [error.as_json()]})
        else:
            print(error, file=sys.stderr)
        return 1
    except Waiting as waiting:
        if "--json" in sys.argv:
            _print_json(waiting.as_json())
        else:
            print(waiting)
        return WAITING
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except typer.TyperException as error:  # a wrong option or a missing argument: typer's own words
        shown: Any = error  # show() and exit_code stand on typer's private subclass of this public one
        shown.show()
        return int(shown.exit_code)
    except BrokenPipeError:  # the reader of our output has gone (head, less): nothing is wrong
        return 0
    if result == INTERRUPTED:  # typer turns Ctrl-C into this exit code
        print("\n" + say("interrupted"), file=sys.stderr)
    return result if isinstance(result, int) else 0
