"""An OpenAI-compatible endpoint on loopback that misbehaves as real ones do, and keeps its own count.

``python tests/misbehaving_teacher.py --port 0 --seed 1`` prints its URL and lives on when its client is killed.
What it says depends on the seed and the request alone; how it misbehaves, on the number of the attempt too.
"""

import argparse
import collections
import hashlib
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

SHARES = ("storm", "errors", "slow", "cut", "truncate", "refuse", "duplicate")
MISBEHAVING = {
    "storm": 0.1, "errors": 0.06, "slow": 0.03, "cut": 0.04, "truncate": 0.03, "refuse": 0.03, "duplicate": 0.1,
}  # fmt: skip
CHINESE = re.compile(r"[\u4e00-\u9fff]")
FORM = re.compile(r"^FORM: (\w+)", re.MULTILINE)
REFUSAL = "I'm sorry, but as an AI language model I cannot help with that."

WRITTEN: dict[str, dict[str, Any]] = {
    "en": {
        "frame": (
            "{verb} {count} {things} that {someone} would {act} {place}, and {way}.",
            "Given that {someone} has {count} {things} {place}, {verb_lower} what to {act} and {way}.",
            "How could {someone} {act} {count} {things} {place} without {worry}?",
            "{verb} a short {text} in which {someone} and {count} {things} meet {place}; {way}.",
            "Why do {things} {place} {worry_verb} {someone}? {verb} an answer in {count} sentences and {way}.",
        ),
        "verb": "Describe|List|Explain|Compare|Summarise|Rank|Sketch|Outline|Translate|Name|Classify|Predict",
        "count": "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen",
        "things": (
            "copper kettles|railway tickets|garden snails|chess openings|winter coats|paper maps|violin strings|ferry "
            "timetables|orange trees|broken clocks|mountain huts|tax forms|bread recipes|old proverbs|library cards|"
            "wooden bridges|school bells|rain gauges|postage stamps|coffee beans|lighthouse lamps|fishing nets|street "
            "musicians|honey jars|bicycle chains|market stalls|telescope lenses|carpet patterns|river stones|ship logs"
        ),
        "someone": (
            "a retired sailor|my younger sister|the village doctor|an apprentice baker|a night watchman|two "
            "physics students|the new librarian|a tired nurse|the orchestra's conductor|a careful farmer|an honest "
            "lawyer|our neighbour's grandmother|a curious tourist|the chess club|a beekeeper|the city council"
        ),
        "act": (
            "repair|sell|paint|count|hide|borrow|collect|weigh|teach about|photograph|argue over|carry|sort|insure|"
            "exchange|measure|remember|replace|ship|inherit"
        ),
        "place": (
            "near a frozen lake|in a crowded station|on a Greek island|before the harvest|during a power cut|under "
            "the old bridge|at a summer fair|in zero gravity|after the flood|by candle light|on a Monday morning|"
            "inside a museum|along the canal|at high tide|beyond the city wall|in thick fog"
        ),
        "way": (
            "keep it under fifty words|give one reason for each|end with a question|use no adjectives|say what could "
            "go wrong|mention the cost|put the cheapest first|write it as a letter|leave out numbers|answer in "
            "rhyme|state your assumptions|start with the conclusion"
        ),
        "worry": "spending money|waking anyone|leaving home|using electricity|losing patience|asking for help",
        "worry_verb": "annoy|please|puzzle|frighten|bore|inspire",
        "text": "poem|letter|dialogue|report|speech|notice|diary|recipe",
    },
    "zh": {
        "frame": (
            "请{verb}{someone}{place}会怎样{act}{count}{things}，{way}。",
            "如果{someone}有{count}{things}，{place}应当如何{act}？{way}。",
            "写一篇{text}，讲{someone}{place}遇到{count}{things}的经过，{way}。",
            "为什么{place}的{count}{things}会让{someone}{worry_verb}？用几句话{verb}，{way}。",
            "把下面关于{count}{things}的{text}改写给{someone}看，再{verb}怎样{place}{act}它们，{way}。",
        ),
        "verb": "描述|列举|解释|比较|概括|排列|说明|推测|评价|归纳|命名|证明",
        "count": "两|三|四|五|六|七|八|九|十|十一|十二",
        "things": (
            "把铜壶|张火车票|只蜗牛|种象棋开局|件冬衣|幅旧地图|根琴弦|份渡轮时刻表|棵橘子树|座停摆的钟|间山间小屋|份报税单|"
            "张面包食谱|句老谚语|张借书卡|座木桥|口校钟|台雨量计|枚邮票|袋咖啡豆|盏灯塔的灯|张渔网|位街头艺人|罐蜂蜜"
        ),
        "someone": (
            "退休的水手|我的小妹妹|村里的医生|面包店学徒|守夜人|两位物理系学生|新来的图书管理员|疲惫的护士|乐团指挥|细心的农夫|"
            "诚实的律师|邻居家的奶奶|好奇的游客|养蜂人"
        ),
        "act": "修理|出售|粉刷|清点|收藏|借用|称量|讲解|拍摄|争论|搬运|分类|投保|交换|测量|更换",
        "place": (
            "在结冰的湖边|在拥挤的车站里|在希腊小岛上|在收获之前|停电的时候|在老桥下面|在夏日集市上|在失重状态下|洪水退去以后|"
            "烛光之下|星期一早晨|在博物馆中|沿着运河|涨潮之时"
        ),
        "way": (
            "不超过五十个字|每条给出一个理由|最后提一个问题|不要用形容词|指出可能出错的地方|说明花费|便宜的放在前面|写成一封信|"
            "不要出现数字|用押韵的句子|先写结论"
        ),
        "worry_verb": "烦恼|高兴|困惑|害怕|厌倦|振奋",
        "text": "小诗|短信|对话|报告|演讲稿|通知|日记|说明书",
    },
}
WORDS = {
    language: {name: words if name == "frame" else words.split("|") for name, words in written.items()}
    for language, written in WRITTEN.items()
}


def sentence(draw: random.Random, language: str) -> str:
    """One made-up task or answer."""
    words = WORDS[language]
    frame = draw.choice(words["frame"])
    chosen = {name: draw.choice(options) for name, options in words.items() if name != "frame"}
    return frame.format(**chosen, verb_lower=chosen["verb"].lower())


def content(title: str, draw: random.Random, language: str, duplicate: bool) -> Any:
    """What is said to a request for ``title``."""

    def text() -> str:
        if not duplicate:
            return sentence(draw, language)
        heard = sentence(random.Random(draw.randrange(3)), language)  # one of three that all have heard
        return (
            heard if draw.random() < 0.5 else {"en": f"Please: {heard} Thanks.", "zh": f"请：{heard}谢谢。"}[language]
        )

    def answer() -> str:
        return " ".join(sentence(draw, language) for _ in range(draw.randint(1, 3)))

    if title == "Instructions":
        return {"instructions": [text() for _ in range(4)]}
    if title == "Kind":
        return {"classification": draw.random() < 0.3}
    if title == "Instances":
        return {"instances": [{"input": sentence(draw, language), "output": answer()}]}
    if title == "Rows":
        return {"rows": [{"instruction": text(), "input": "", "output": answer()} for _ in range(4)]}
    if title == "Evolved":
        return {"instruction": f"{text()} {sentence(draw, language)}"}
    if title == "Score":
        return {"score": draw.choice((2, 4, 4, 5, 5)), "why": sentence(draw, language)}
    return {"output": answer()}


LABELS = {
    "en": {"instruction": "Instruction: ", "input": "Input: ", "output": "Output: ", "yes": "Yes", "no": "No"},
    "zh": {"instruction": "指令：", "input": "输入：", "output": "输出：", "yes": "是", "no": "不是"},
}


def in_words(title: str, said: dict[str, Any], language: str) -> str:
    """The same without JSON, as a plain prompt asks for it."""
    labels = LABELS[language]
    if title == "Instructions":
        return "\n".join(f"{number}. {text}" for number, text in enumerate(said["instructions"], start=1))
    if title == "Kind":
        return labels["yes" if said["classification"] else "no"]
    if title in ("Instances", "Rows"):
        entries = said[title.lower()]
        return "\n\n".join("\n".join(labels[name] + (text or "<noinput>") for name, text in e.items()) for e in entries)
    return str(next(iter(said.values())))


def tokens_of(text: str) -> int:
    """This endpoint's tokenizer: a token for each word and each character that stands alone."""
    return len(re.findall(r"[A-Za-z0-9]+|[^\sA-Za-z0-9]", text))


@dataclass
class Reply:
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def body(self, model: str) -> bytes:
        usage = {
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }  # fmt: skip
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [choice],
            "usage": usage,
        }
        return json.dumps(whole).encode()


class Desk:
    """What was asked and what it cost, over all connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.requests = self.delivered = 0
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0
        self.by_status: collections.Counter[str] = collections.Counter()
        self.attempts: collections.Counter[str] = collections.Counter()
        self.bills: collections.Counter[str] = collections.Counter()
        self.whole: collections.Counter[str] = collections.Counter()
        self.replies: dict[str, Reply] = {}
        self.running = self.most_at_once = 0
        self.at_once: list[tuple[float, int]] = []

    def count(self) -> dict[str, Any]:
        with self.lock:
            return {
                "requests": self.requests, "delivered": self.delivered, "by_status": dict(self.by_status),
                "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
                "cached_tokens": self.cached_tokens, "keys": len(self.attempts), "keys_billed": len(self.bills),
                "keys_billed_twice": sum(times > 1 for times in self.bills.values()),
                "keys_delivered_twice": sum(times > 1 for times in self.whole.values()),
                "most_at_once": self.most_at_once, "at_once": self.at_once,
            }  # fmt: skip

    def moved(self, by: int) -> None:
        """Under the lock: one more or one less is being answered."""
        self.running += by
        self.most_at_once = max(self.most_at_once, self.running)
        self.at_once.append((time.monotonic(), self.running))

    def reply(self, key: str, asked: dict[str, Any], known: bool) -> Reply:
        """The answer to ``key``, made and billed once; without a key of the client's, at every time."""
        with self.lock:
            if known and key in self.replies:
                return self.replies[key]
            made = self.replies[key] = self.make(key, asked)
            self.bills[key] += 1
            self.prompt_tokens += made.prompt_tokens
            self.completion_tokens += made.completion_tokens
            self.cached_tokens += made.cached_tokens
            return made

    def make(self, key: str, asked: dict[str, Any]) -> Reply:
        draw = random.Random(f"{self.options.seed} {key}")
        last = str(asked["messages"][-1]["content"])
        language = "zh" if CHINESE.search(last) else "en"
        schema = ((asked.get("response_format") or {}).get("json_schema") or {}).get("schema") or {}
        form = FORM.search(last)
        title = str(schema.get("title") or (form[1] if form else ""))
        refuses, truncates, repeats = (
            draw.random() < getattr(self.options, name) for name in ("refuse", "truncate", "duplicate")
        )
        said = content(title, draw, language, repeats)
        text = json.dumps(said, ensure_ascii=False)
        if not title:
            text = said["output"]
        elif not schema:
            text = f"```json\n{text}\n```" if draw.random() < 0.3 else in_words(title, said, language)
        text, finish = (REFUSAL, "stop") if refuses else (text, "stop")
        if truncates and not refuses:
            text, finish = text[: len(text) * 2 // 3], "length"
        prompt = sum(tokens_of(str(message["content"])) for message in asked["messages"])
        limit = asked.get("max_tokens") or asked.get("max_completion_tokens") or 10**6
        return Reply(text, finish, prompt, min(tokens_of(text), limit), int(prompt * self.options.cached))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    desk: Desk
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.send(200, json.dumps(self.desk.count()).encode())

    def do_POST(self) -> None:
        options, desk = self.desk.options, self.desk
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if len(raw) < int(self.headers["Content-Length"]):  # killed while it was sending: no request at all
            self.close_connection = True
            return
        asked = json.loads(raw)
        given = self.headers.get("Idempotency-Key")
        key = given or hashlib.sha256(raw).hexdigest()
        with desk.lock:
            desk.requests += 1
            desk.attempts[key] += 1
            attempt = desk.attempts[key]
            desk.moved(1)
        try:
            self.misbehave(asked, key, attempt, given is not None and not options.forgetful)
        finally:
            with desk.lock:
                desk.moved(-1)

    def misbehave(self, asked: dict[str, Any], key: str, attempt: int, known: bool) -> None:
        options = self.desk.options
        mood = random.Random(f"{options.seed} {key} {attempt}")
        if options.key and self.headers.get("Authorization") != f"Bearer {options.key}":
            return self.refuse(
                401, f"Incorrect API key provided: {self.headers.get('Authorization')}", "invalid_api_key"
            )
        if options.model and asked["model"] != options.model:
            return self.refuse(404, f"The model `{asked['model']}` does not exist", "model_not_found")
        if options.no_schema and "response_format" in asked:
            return self.refuse(400, "'response_format' of type json_schema is not supported with this model", None)
        if options.always:
            return self.refuse(options.always, "as you wished", options.code, options.retry_after)
        time.sleep(options.delay)
        storm, error, slow, cut = (
            mood.random() < getattr(options, name) for name in ("storm", "errors", "slow", "cut")
        )
        if storm:
            return self.refuse(429, "Rate limit reached", "rate_limit_exceeded", milliseconds=mood.randint(10, 80))
        if error:
            return self.refuse(mood.choice((500, 502, 503)), "The server had an error", None)
        body = self.desk.reply(key, asked, known).body(str(asked["model"]))
        if slow:
            time.sleep(options.slow_seconds)
        if options.no_choices:
            body = b'{"object": "chat.completion", "choices": []}'
        self.send(200, body, whole=not cut, key=key)
        return None

    def refuse(
        self, status: int, message: str, code: str | None, after: str | None = None, milliseconds: int | None = None
    ) -> None:
        headers = {"retry-after": after} if after else {}
        if milliseconds is not None:
            headers["retry-after-ms"] = str(milliseconds)
        body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
        self.send(status, json.dumps(body).encode(), headers=headers)

    def send(
        self,
        status: int,
        body: bytes,
        whole: bool = True,
        headers: dict[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if whole else body[: len(body) // 2])
            self.wfile.flush()
        except OSError:  # the client was killed
            self.close_connection = True
            self.told("gone")
            return
        if not whole:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        if self.command == "POST":
            self.told(str(status) if whole else "cut", key)

    def told(self, outcome: str, key: str | None = None) -> None:
        with self.desk.lock:
            self.desk.by_status[outcome] += 1
            if outcome == "200" and key:
                self.desk.delivered += 1
                self.desk.whole[key] += 1


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed leaves broken connections; anything else is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--model", help="the one model it knows; without, it knows all")
    parser.add_argument("--key", help="the API key it wants; without, it takes any")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds to every answer")
    parser.add_argument("--slow-seconds", type=float, default=1.0, help="of a slow answer, beside the delay")
    for name in SHARES:
        parser.add_argument(f"--{name}", type=float, default=0.0, help="share of the requests")
    parser.add_argument("--cached", type=float, default=0.0, help="share of a prompt's tokens that its cache had")
    parser.add_argument("--no-schema", action="store_true", help="refuse response_format")
    parser.add_argument("--no-choices", action="store_true", help="answer with no choices")
    parser.add_argument("--forgetful", action="store_true", help="bill a repeated key again")
    parser.add_argument("--always", type=int, help="answer everything with this status")
    parser.add_argument("--code", help="with --always: the error's code")
    parser.add_argument("--retry-after", help="with --always: the header")
    options = parser.parse_args()
    Handler.desk = Desk(options)
    server = Server(("127.0.0.1", options.port), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()


@dataclass
class Teacher:
    """A running one."""

    url: str
    """Ends in /v1."""
    process: "subprocess.Popen[str]"

    def count(self) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url.removesuffix("/v1") + "/count", timeout=10) as answer:
            return dict(json.load(answer))


@contextmanager
def misbehaving_teacher(**options: Any) -> Iterator[Teacher]:
    """``with misbehaving_teacher(storm=0.1, no_schema=True) as teacher``: a process of its own, gone at the end."""
    command = [sys.executable, str(Path(__file__)), "--port", str(options.pop("port", 0))]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [option, str(value)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Teacher(process.stdout.readline().strip(), process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    main()
