"""What the misbehaving teacher says: made-up tasks and answers in two languages, by a seeded draw."""

import random
from typing import Any

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
