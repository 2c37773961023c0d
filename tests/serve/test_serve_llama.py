"""llama.cpp answers as the model it was made from, through our own routes and with our own choice of tokens."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from easyllm.core.artifact import Manifest
from easyllm.core.chat import load_tokenizer
from easyllm.core.errors import StageFailed, UserError
from easyllm.core.stage import Job
from easyllm.serve import address, checks, plan, run
from easyllm.serve.config import ServeConfig
from easyllm.serve.contract import Grammar, Sampling, Token
from easyllm.serve.engines.gguf import chosen_gguf, gguf_problems
from easyllm.serve.folder import folder_job
from easyllm.serve.limits import Limits

MakeJob = Callable[..., Job[ServeConfig]]
LIMITS = Limits(total_tokens=200, input_tokens=150, concurrent_requests=3)
TEXTS = ("the sea", "灯塔的光", "a", "go to the ship and the sea and the ship", "😀")


@pytest.fixture(scope="session")
def gguf(serve_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``gguf("f32")``: the tiny chat model's file, made by llama.cpp's converter."""
    from easyllm.export.gguf_files import convert

    folder = tmp_path_factory.mktemp("gguf")

    def make(outtype: Any) -> Path:
        path = folder / f"tiny-{outtype}.gguf"
        if not path.is_file():
            convert(serve_model, path, outtype, {"eos": 0, "eot": 2})
        return path

    return make


@pytest.fixture(scope="module")
def loaded(serve_model: Path, gguf: Callable[[str], Path]) -> Iterator[Any]:
    from easyllm.serve.engines.llama_loading import load_llama

    found = load_llama(serve_model, gguf("f32"), LIMITS)
    yield found
    found.voice.engine.stop()


@pytest.fixture(scope="module")
def model(serve_model: Path) -> Any:
    import torch

    from easyllm.core.models import load_model

    return load_model(serve_model, torch.float32)


def answers(engine: Any, prompts: list[list[int]], tokens: int, sampling: Sampling) -> list[list[Token]]:
    """All at once."""

    async def ask(ids: list[int]) -> list[Token]:
        return [token async for token in engine.generate(ids, tokens, sampling)]

    async def ask_all() -> list[list[Token]]:
        return await asyncio.gather(*[ask(ids) for ids in prompts])

    return asyncio.run(ask_all())


def ids_of(answer: list[Token]) -> list[int]:
    return [token.id for token in answer]


def test_greedy_answers_are_those_of_generate_also_when_five_share_the_three_places(loaded: Any, model: Any) -> None:
    from easyllm.serve.engines.embedded import greedy_reference

    prompts = [loaded.voice.tokenizer.encode(text) for text in TEXTS]
    said = answers(loaded.voice.engine, prompts, 60, Sampling())
    assert [ids_of(answer) for answer in said] == [greedy_reference(model, ids, 60, loaded.ends) for ids in prompts]
    assert sum(len(answer) for answer in said) > 100
    again = answers(loaded.voice.engine, prompts, 60, Sampling())  # begins where the kept sequences end
    assert [ids_of(answer) for answer in again] == [ids_of(answer) for answer in said]


def test_every_token_comes_with_its_log_probability_halves_of_characters_too(loaded: Any, model: Any) -> None:
    from easyllm.serve.engines.scoring import score

    ids = loaded.voice.tokenizer.encode("the sea")
    said = answers(loaded.voice.engine, [ids], 60, Sampling(temperature=1.0, seed=4, likeliest=3))[0]
    assert any("\ufffd" in loaded.voice.tokenizer.decode([token.id]) for token in said)
    told = score(model, ids + ids_of(said), 3)[len(ids) :]
    for token, (logprob, best) in zip(said, told, strict=True):
        assert logprob is not None
        assert token.logprob == pytest.approx(logprob, abs=1e-3)
        assert [number for number, _ in token.likeliest] == list(best or {})


def test_given_tokens_are_scored_as_the_model_scores_them(loaded: Any, model: Any) -> None:
    from easyllm.serve.engines.scoring import score

    ids = (loaded.voice.tokenizer.encode("灯塔的光慢慢熄灭, the ship") * 20)[:180]  # longer than one forward pass gives
    mine, theirs = asyncio.run(loaded.voice.engine.score(ids, 2)), score(model, ids, 2)
    assert mine[0] == (None, None)
    assert [value for value, _ in mine[1:]] == pytest.approx([value for value, _ in theirs[1:]], abs=1e-3)
    assert [list(best or {}) for _, best in mine] == [list(best or {}) for _, best in theirs]


def test_a_seed_gives_the_answer_of_the_embedded_engine_whatever_else_is_asked(loaded: Any, served: Any) -> None:
    ids = loaded.voice.tokenizer.encode("the sea")
    warm = Sampling(temperature=1.2, top_p=0.9, seed=11)
    alone = answers(served.engine, [ids], 30, warm)[0]
    crowd = answers(loaded.voice.engine, [ids, [5], [6, 7]], 30, warm)[0]
    assert ids_of(alone) == ids_of(crowd)


def test_penalties_biases_and_grammars_are_honoured(loaded: Any) -> None:
    engine, tokenizer = loaded.voice.engine, loaded.voice.tokenizer
    assert engine.abilities.penalties
    assert engine.abilities.grammar
    ids = tokenizer.encode("the sea")
    likeliest = answers(engine, [ids], 1, Sampling())[0][0].id
    assert answers(engine, [ids], 1, Sampling(logit_bias=((likeliest, -100.0),)))[0][0].id != likeliest
    digits = Sampling(temperature=1.0, seed=3, grammar=Grammar("regex", "[0-9]{6}"))
    said = answers(engine, [ids], 20, digits)[0]
    text = tokenizer.decode(ids_of(said), skip_special_tokens=True)
    assert len(text) == 6
    assert text.isdigit()


def test_who_goes_away_gives_the_place_back(loaded: Any) -> None:
    engine = loaded.voice.engine

    async def hang_up() -> None:
        async with aclosing(engine.generate([5, 6], 190, Sampling(temperature=1.0, seed=1))) as tokens:
            await anext(tokens)

    for _ in range(5):  # more often than there are places
        asyncio.run(hang_up())
    end = time.monotonic() + 30
    while engine.running and time.monotonic() < end:
        time.sleep(0.01)
    assert engine.running == 0
    assert len(answers(engine, [[5, 6]], 3, Sampling())[0]) == 3


def test_both_dialects_speak_through_it(loaded: Any, served: Any) -> None:
    import uvicorn

    from easyllm.serve.app import build_app
    from easyllm.serve.desk import About, Desk

    desk = Desk(About("tiny-llama", None, LIMITS))
    desk.loaded = loaded
    listening = address.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(build_app(desk), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    chat = {"messages": [{"role": "user", "content": "灯塔"}], "max_tokens": 40, "temperature": 0}
    text = {"inputs": "the sea", "parameters": {"max_new_tokens": 20, "details": True}}
    for path, body in (("/v1/chat/completions", chat), ("/generate", text)):
        mine, embedded = [
            httpx.post(at + path, json=body, trust_env=False, timeout=60).json() for at in (url, served.url)
        ]
        assert said(mine) == said(embedded)
    info = httpx.get(f"{url}/info", trust_env=False).json()
    assert info["model_dtype"] == "F32"
    server.should_exit = True
    thread.join(10)


def said(answer: Any) -> Any:
    """Text, and the ids where they are told."""
    if "choices" in answer:
        return answer["choices"][0]["message"]["content"], answer["usage"]
    return answer["generated_text"], [token["id"] for token in answer["details"]["tokens"]]


def test_stopping_ends_its_thread_and_its_requests(serve_model: Path, gguf: Callable[[str], Path]) -> None:
    from easyllm.serve.contract import EngineFailed
    from easyllm.serve.engines.llama_engine import LlamaEngine
    from easyllm.serve.engines.llama_library import Llama

    before = threading.active_count()
    engine = LlamaEngine(Llama(gguf("f32"), 1, 200, 1), load_tokenizer(serve_model), [])
    ended = False

    async def ask() -> None:
        async for _ in engine.generate([5], 190, Sampling()):
            if not ended:
                await asyncio.to_thread(stop)

    def stop() -> None:
        nonlocal ended
        ended = True
        engine.stop()

    with pytest.raises(EngineFailed, match="takes no more"):
        asyncio.run(ask())
    assert threading.active_count() <= before
    with pytest.raises(EngineFailed, match="takes no more"):
        asyncio.run(anext(engine.generate([5], 1, Sampling())))


def test_a_cache_that_does_not_fit_is_refused_before_it_is_made(
    serve_model: Path, gguf: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from easyllm.serve.engines import llama_loading

    needed = {"f32": 3 * 256 * 2 * 2 * 2 * 12 * 4, "q8_0": 3 * 256 * 2 * 2 * 2 * 12 * 2}
    for kind, size in needed.items():
        monkeypatch.setattr(llama_loading, "free_bytes", lambda device, size=size: size - 1)
        with pytest.raises(UserError, match="SERVE-044"):
            llama_loading.load_llama(serve_model, gguf(kind), LIMITS)
        monkeypatch.setattr(llama_loading, "free_bytes", lambda device, size=size: size)
        llama_loading.load_llama(serve_model, gguf(kind), LIMITS).voice.engine.stop()


def test_a_rounded_file_is_said_to_be_one(
    serve_model: Path, gguf: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from easyllm.serve.engines.llama_loading import load_llama

    found = load_llama(serve_model, gguf("q8_0"), LIMITS)
    found.voice.engine.stop()
    assert found.dtype == "Q8_0"
    assert "not those of the model it was made from" in capsys.readouterr().err


def test_another_models_weights_or_vocabulary_are_refused(
    serve_model: Path, gguf: Callable[[str], Path], tmp_path: Path
) -> None:
    import torch

    from easyllm.core.models import load_model
    from easyllm.serve.engines.llama_loading import load_llama

    other = load_model(serve_model, torch.float32)
    torch.nn.init.normal_(other.lm_head.weight)
    other.save_pretrained(tmp_path / "other")
    load_tokenizer(serve_model).save_pretrained(tmp_path / "other")
    with pytest.raises(StageFailed, match="SERVE-068"):
        load_llama(tmp_path / "other", gguf("f32"), LIMITS)
    tokenizer = load_tokenizer(serve_model)
    tokenizer.add_tokens(["sea"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="SERVE-067"):
        load_llama(tmp_path / "other", gguf("f32"), LIMITS)
    (tmp_path / "no.gguf").write_bytes(b"GGUF of nothing")
    with pytest.raises(StageFailed, match="SERVE-065"):
        load_llama(serve_model, tmp_path / "no.gguf", LIMITS)


def test_another_xllamacpp_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from easyllm.serve.engines import llama_library

    llama_library.library.cache_clear()
    try:
        monkeypatch.setitem(llama_library.FUNCTIONS, "llama_of_tomorrow", ([], None))
        with pytest.raises(StageFailed, match="SERVE-066"):
            llama_library.library()
    finally:
        monkeypatch.undo()
        llama_library.library.cache_clear()


def codes(job: Job[ServeConfig]) -> list[str]:
    return [entry.code for entry in checks.check(job)]


def test_the_check_says_which_file_is_missing_or_too_many(
    serve_model: Path, serve_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    assert codes(serve_job(serve_model, engine="llama.cpp")) == ["SERVE-061"]
    assert codes(serve_job(serve_model, engine="llama.cpp", gguf=str(folder))) == ["SERVE-063"]
    (folder / "one.gguf").write_bytes(b"GGUF")
    assert codes(serve_job(serve_model, engine="llama.cpp", gguf=str(folder))) == []
    (folder / "two.gguf").write_bytes(b"GGUF")
    assert codes(serve_job(serve_model, engine="llama.cpp", gguf=str(folder))) == ["SERVE-063"]
    assert codes(serve_job(serve_model, gguf=str(folder))) == ["SERVE-062"]
    monkeypatch.setattr("easyllm.serve.engines.gguf.find_spec", lambda name: None)
    assert codes(serve_job(serve_model, engine="llama.cpp", gguf=str(folder / "one.gguf"))) == ["SERVE-060"]


def test_the_check_sees_a_file_that_does_not_begin_as_one(
    serve_model: Path, serve_job: MakeJob, tmp_path: Path
) -> None:
    file = tmp_path / "bad.gguf"
    for content in (b"", b"hello", b"version https://git-lfs.github.com/spec/v1\n"):
        file.write_bytes(content)
        for job in (
            serve_job(file, engine="llama.cpp"),
            serve_job(serve_model, engine="llama.cpp", gguf=str(file)),
        ):
            (entry,) = checks.check(job)
            assert (entry.code, entry.params["path"]) == ("SERVE-065", str(file))
            assert "does not begin as a GGUF file" in str(entry)


@pytest.mark.parametrize("length", [4, 3000, 200_000])
def test_a_model_file_that_is_cut_is_refused_with_one_code(
    serve_job: MakeJob, gguf: Callable[[str], Path], tmp_path: Path, length: int
) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(gguf("f32").read_bytes()[:length])
    with pytest.raises(UserError, match=rf"BASE-007 .*{file}"):
        run.servable(serve_job(file, engine="llama.cpp"))
    with pytest.raises(UserError, match="BASE-007"):
        run.servable(serve_job(file))


def test_an_export_of_another_model_is_refused(serve_job: MakeJob, tmp_path: Path) -> None:
    model, export = tmp_path / "model", tmp_path / "export"
    for folder, kind, inputs in ((model, "model", {}), (export, "exports", {"model": {"digest": "other"}})):
        folder.mkdir()
        manifest = Manifest(kind, "s", "r", "f", "mine", {}, inputs, [], {}, 1)
        (folder / "manifest.json").write_text(manifest.as_json(), "utf-8")
    (export / "gguf").mkdir()
    (export / "gguf" / "r-q8_0.gguf").write_bytes(b"GGUF")
    job = serve_job(model, engine="llama.cpp", gguf=str(export))
    assert [entry.code for entry in gguf_problems(job)] == ["SERVE-064"]
    text = (export / "manifest.json").read_text("utf-8").replace('"other"', '"mine"')
    (export / "manifest.json").write_text(text, "utf-8")
    assert gguf_problems(serve_job(model, engine="llama.cpp", gguf=str(export))) == []


def test_a_folder_is_served_from_a_file_given_on_the_command_line(
    serve_model: Path, gguf: Callable[[str], Path]
) -> None:
    asked = ["serve.engine=llama.cpp", f"serve.gguf={gguf('f32')}", f"serve.port={address.free_port()}"]
    assert chosen_gguf(folder_job(serve_model, asked)) == gguf("f32")
    with pytest.raises(UserError, match="SERVE-061"):
        folder_job(serve_model, asked[::2])


def test_a_pipeline_rehearses_with_llama_too_and_the_plan_names_the_file(
    serve_model: Path, serve_job: MakeJob, gguf: Callable[[str], Path]
) -> None:
    settings = {"engine": "llama.cpp", "gguf": str(gguf("f32")), "max_total_tokens": 200}
    job = serve_job(serve_model, ask=("灯塔",), ask_tokens=16, **settings)
    made = plan.plan(job)
    assert made.commands[0].endswith(f"--gguf {gguf('f32')}")
    assert made.memory_bytes > gguf("f32").stat().st_size
    result = run.run(job)
    assert [entry.value for entry in result.decisions if entry.what == "engine"] == ["llama.cpp"]
    assert result.records["answers"][0]["answer"]
    assert math.isfinite(result.metrics["seconds_to_healthy"])
