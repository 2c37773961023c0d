"""Which instructions are dropped before money is spent on their answer, and which must not be."""

import json
from pathlib import Path
from typing import Any

import pytest

import easyllm.instruct
from easyllm.instruct.clean.cleaner import Cleaner
from easyllm.instruct.clean.fragments import fragment
from easyllm.instruct.clean.topics import unservable
from easyllm.instruct.config import Clean
from easyllm.instruct.row import Row

BOTH = [("Name a river.", "en"), ("说出一条河流。", "zh")]

UNSERVABLE = """
Describe the image below in two sentences.
What is shown in this picture?
Draw a cat sitting on a chair.
Sketch a floor plan of a small house
Listen to the following audio and transcribe it.
Watch this video and summarize it.
Create a short video about recycling.
Generate an image of a sunset.
Click the link and fill in the form.
Summarize the article at https://example.org/news/12.
Open the attached file and count the rows.
Download a file from the server
Look at the map and find the shortest route.
Search the web for cheap flights.
Use Google Maps to find the distance.
Design a logo for a coffee shop.
Find the capital's population online.
Plot the graph of y = x^2.
Based on the chart above, which year was best?
Upload a photo of your pet
What animals can you see in the picture?
Identify the person in the photo.
Paint a portrait of a king.
Edit the following image to remove the background.
请描述以下图片的内容。
这张图片里有什么？
如图所示，求三角形的面积。
画一只猫。
请画出函数的图像
绘制一张中国地图
听一段音乐并写下感受。
观看视频，并总结主要内容。
制作一个关于环保的短视频
打开下面的链接，回答问题
请点击链接查看详情
上网搜索今天的天气
在地图上找到北京
请查看附件并总结。
下载文件并解压
阅读以下文件，回答问题
生成一张夕阳的图片
根据图片写一段话
识别图片中的文字
""".strip().splitlines()

SERVABLE = """
Draw a conclusion from the two statements.
Draw a parallel between the French and the Russian revolution.
Explain what a linked list is.
Explain how a file system keeps files.
Write a Python function that opens a file and counts its lines.
Write a Python program that converts an image to grayscale.
What is the probability to draw an ace from a deck of cards?
Use the map function to square each number.
Explain graph theory to a child.
Write a script for a video about recycling.
Write a caption for a post about my new bakery.
Suggest a title for a podcast about history.
What does the idiom "a picture is worth a thousand words" mean?
Extract the domain from the URL https://example.org/a/b.
Write an HTML link to the home page.
Profile the main character of the story.
Name three painters of the Renaissance.
Compose a song about the sea.
Write a SQL query to find the customers who bought online courses.
Explain how photosynthesis works.
Describe the difference between a jpeg and a png.
What is the plot of Hamlet?
Explain how search engines rank pages.
Write a poem about a photograph.
List the pros and cons of video games.
Summarize the following document.
Classify the following website review as positive or negative.
Is the following sentence about music or film?
Draw attention to the errors in the paragraph.
Explain how to take better photos.
Describe the main character of the movie Titanic.
What strings are attached to the offer?
Explain the purpose of a table of contents.
Write an email to a customer about a late parcel.
What is the file extension of a Word document?
Given the following table, compute the mean.
用 Python 编写程序，将图片转换为灰度图。
解释什么是链表。
制定一份学习计划。
写一首关于画家的诗。
为一家面包店写一份海报文案。
写一个短视频的脚本，主题是环保。
什么是光合作用？请写出化学方程式。
概括下面这段文字的主要内容。
动画片《大闹天宫》的主角是谁？
介绍图书馆的借书规则。
解释图灵测试。
列出三种乐器。
描述一下你理想的周末。
请解释“画龙点睛”这个成语的意思。
图论中的欧拉回路是什么？
如何提高听力水平？
写一段代码读取文件并统计行数。
企业应如何规划网站的内容？
把下列句子翻译成英文。
音乐对情绪有什么影响？
请写一份关于网络安全的倡议书。
试图说服你的朋友戒烟。
根据以下表格计算平均值。
以下网站评论是正面还是负面？
""".strip().splitlines()


def cleaner(evaluation: tuple[Path, ...] = (), **asked: Any) -> Cleaner:
    return Cleaner(Clean(**asked), BOTH, evaluation)


@pytest.mark.parametrize("text", UNSERVABLE)
def test_an_instruction_that_needs_more_than_text_is_dropped(text: str) -> None:
    assert [found.reason for found in cleaner().instruction(text)] == ["forbidden_topic"]


@pytest.mark.parametrize("text", SERVABLE)
def test_an_instruction_that_only_speaks_of_pictures_links_or_files_stays(text: str) -> None:
    assert unservable(text) == []


def test_the_seed_tasks_that_ship_pass_every_filter() -> None:
    for language in ("en", "zh"):
        judge = cleaner()
        file = Path(easyllm.instruct.__file__).with_name(f"seeds.{language}.jsonl")
        for line in file.read_text("utf-8").splitlines():
            seed = json.loads(line)
            assert judge.instruction(seed["instruction"]) == [], seed
            judge.keep(seed["instruction"])
            for one in seed["instances"]:
                row = Row(seed["instruction"], one["input"], one["output"], seed["is_classification"], language)
                assert [found for found in judge.answer(row, cut=False) if found.drops] == [], row


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty_instruction"), (" ?! ", "empty_instruction"), ('{"instruction": "Write', "fragment"),
        ('["a", "b"]', "fragment"), ("1. Write a poem about spring", "fragment"), ("3、写一首诗", "fragment"),
        ("Task 5: Write a poem", "fragment"), ("指令：写一首诗", "fragment"), ("Write about spring and", "fragment"),
        ("写一首诗，", "fragment"), ("- Write a poem", "starts_with_punctuation"),
        (", then write", "starts_with_punctuation"), ("。写一首诗", "starts_with_punctuation"),
        ("Write it", "instruction_too_short"), ("写诗", "instruction_too_short"),
        ("word " * 151, "instruction_too_long"), ("字" * 151, "instruction_too_long"),
        ("Name a  RIVER", "exact_duplicate"), ("说出一条河流", "exact_duplicate"),
        ("Name a big river.", "near_duplicate"), ("说出一条大河流。", "near_duplicate"),
        ("Напиши стихотворение о весне", "wrong_language"),
    ],
)  # fmt: skip
def test_what_is_no_whole_new_instruction_is_dropped(text: str, reason: str) -> None:
    assert [found.reason for found in cleaner().instruction(text)] == [reason]


@pytest.mark.parametrize(
    "text",
    [
        '"To be or not to be": who wrote it?', "《红楼梦》的作者是谁？", "“画龙点睛”是什么意思？",
        "【古诗】补全下一句", "-5 + 3 equals what?", "1.5 升水是多少毫升？",
        "3 apples cost 5 euros; what does one cost?", "√2 是有理数吗？", "¿Qué es esto?",
        ".NET and Java: which is older?", "#include <stdio.h> means what?", "$20 in euros is how much?",
        "(True or false) Water boils at 100 degrees.", "2024. What happened in this year?",
    ],
)  # fmt: skip
def test_quotes_numbers_and_names_may_begin_an_instruction(text: str) -> None:
    assert fragment(text) == []


def test_a_finding_carries_its_numbers_and_words() -> None:
    (found,) = cleaner().instruction("Name a big river.")
    assert found.detail == {"rouge_l": 0.8571, "other": "Name a river."}
    (found,) = cleaner().instruction("Draw a cat and a dog.")
    assert found.detail == {"topic": "drawing", "words": "Draw a cat"}
    (found,) = cleaner().instruction("Write it")
    assert found.detail == {"units": 2, "least": 3, "most": 150}


def test_words_that_a_user_forbids_drop_as_whole_words() -> None:
    judge = cleaner(forbid=["cat", "天气", "C++"])
    assert [found.detail for found in judge.instruction("Describe a Cat at night")] == [{"words": "Cat"}]
    assert [found.detail for found in judge.instruction("请描述今天天气如何")] == [{"words": "天气"}]
    assert [found.detail for found in judge.instruction("Write hello world in c++ please")] == [{"words": "c++"}]
    assert judge.instruction("Name three categories of goods") == []


def test_kept_instructions_count_and_dropped_ones_do_not() -> None:
    judge = cleaner()
    first, second = (
        "Explain how a sailing boat can go against the wind",
        "Explain how a small boat can go against the wind",
    )
    assert judge.nearest(first) == {"rouge_l": 0.1538, "instruction": "Name a river."}
    assert judge.instruction(second) == []
    judge.keep(first)
    assert [found.reason for found in judge.instruction(second)] == ["near_duplicate"]
    assert judge.nearest(second) == {"rouge_l": 0.9, "instruction": first}
