"""A tiny story grammar in English and Chinese: the demo model's simple prose, so that it can continue a story."""

from __future__ import annotations

import random

_HEROES = (
    ("bird", "Pip", "小鸟"), ("fox", "Rusty", "狐狸"), ("rabbit", "Hazel", "兔子"), ("bear", "Bruno", "小熊"),
    ("mouse", "Nib", "老鼠"), ("duck", "Dilly", "小鸭"), ("cat", "Luna", "小猫"), ("dog", "Max", "小狗"),
    ("girl", "Anna", "女孩"), ("boy", "Tom", "男孩"), ("owl", "Sage", "猫头鹰"), ("turtle", "Moss", "乌龟"),
)  # fmt: skip
_KINDS = (
    ("little", "小小的"),
    ("brave", "勇敢的"),
    ("kind", "善良的"),
    ("curious", "好奇的"),
    ("quiet", "安静的"),
    ("happy", "快乐的"),
)
_PLACES = (
    ("in a green forest", "绿色的森林里"), ("by a blue lake", "蓝色的湖边"), ("in a small village", "一个小村庄里"),
    ("on a high hill", "一座高山上"), ("near the wide sea", "大海旁边"), ("in an old garden", "一个古老的花园里"),
)  # fmt: skip
_FRIENDS = (
    ("a white goose", "一只白鹅"),
    ("an old frog", "一只老青蛙"),
    ("a shy deer", "一头害羞的小鹿"),
    ("a busy bee", "一只忙碌的蜜蜂"),
    ("a wise owl", "一只聪明的猫头鹰"),
)
_THINGS = (
    ("a red ball", "一个红球"), ("a golden key", "一把金钥匙"), ("a warm hat", "一顶暖和的帽子"),
    ("a shiny stone", "一块闪亮的石头"), ("a small boat", "一只小船"), ("a sweet apple", "一个甜苹果"),
    ("an old map", "一张旧地图"),
)  # fmt: skip
_TIMES = (
    ("One morning", "一天早上"),
    ("One sunny day", "一个晴天"),
    ("One evening", "一天傍晚"),
    ("One rainy day", "一个雨天"),
    ("The next day", "第二天"),
)
_TROUBLES = (
    ("it began to rain and the path was full of water", "天下起了雨，路上全是水"),
    ("the wind blew hard and the trees were dark", "风刮得很大，树林很暗"),
    ("the way home was lost", "找不到回家的路了"),
    ("the bridge over the river was broken", "河上的桥断了"),
)
_LESSONS = (
    ("Friends make every road short.", "有朋友，路就不远。"),
    ("A kind word is a warm fire.", "一句好话就像一团温暖的火。"),
    ("Small steps go far.", "小步也能走得很远。"),
    ("It is good to share.", "分享是一件好事。"),
)


def english(rng: random.Random) -> str:
    """One story of five to eight sentences."""
    animal, name, _ = rng.choice(_HEROES)
    kind, place, friend = rng.choice(_KINDS)[0], rng.choice(_PLACES)[0], rng.choice(_FRIENDS)[0]
    thing, time, trouble = rng.choice(_THINGS)[0], rng.choice(_TIMES)[0], rng.choice(_TROUBLES)[0]
    lesson = rng.choice(_LESSONS)[0]
    she = {"girl": "she", "boy": "he"}.get(animal) or rng.choice(("he", "she"))
    her = "her" if she == "she" else "his"
    short_friend, short_thing = friend.split(" ", 1)[1], thing.split(" ", 1)[1]
    opening = rng.choice(
        (
            f"Once upon a time there was a {kind} {animal} named {name} who lived {place}.",
            f"Once upon a time, a {kind} {animal} called {name} lived {place}.",
            f"There was once a {kind} {animal}. {her.capitalize()} name was {name}, and {she} lived {place}.",
        )
    )
    finding = rng.choice(
        (
            f"{time} {name} found {thing} under a tree.",
            f"{time} {name} went for a walk and saw {thing} in the grass.",
            f"{time} {name} wanted to look for {thing}.",
        )
    )
    meeting = rng.choice(
        (
            f'On the way {she} met {friend}. "Where are you going?" asked the {short_friend}.',
            f'Then {she} met {friend}. "What do you have there?" asked the {short_friend}.',
        )
    )
    answer = rng.choice(
        (f'"I am looking for a friend," said {name}.', f'"Come with me," said {name}. "We can play together."')
    )
    problem = f"But then {trouble}. {name} was {rng.choice(('afraid', 'sad', 'worried'))}."
    help_ = rng.choice(
        (
            f'"Do not worry," said the {short_friend}. "I will help you."',
            f'"We can do it together," said the {short_friend}.',
        )
    )
    ending = rng.choice(
        (
            f"So they went on side by side, and before night they were safe at home with the {short_thing}.",
            f"They helped each other, and soon the sun came out again. {name} gave {her} friend the {short_thing}.",
            f"At last they came home, and {name} was happy. From that day on they were best friends.",
        )
    )
    parts = [opening, finding, meeting, answer]
    if rng.random() < 0.8:
        parts += [problem, help_]
    return " ".join([*parts, ending, lesson])


def chinese(rng: random.Random) -> str:
    """One story of four to six sentences."""
    hero, place, friend = rng.choice(_HEROES)[2], rng.choice(_PLACES)[1], rng.choice(_FRIENDS)[1]
    kind, thing, time = rng.choice(_KINDS)[1], rng.choice(_THINGS)[1], rng.choice(_TIMES)[1]
    trouble, lesson = rng.choice(_TROUBLES)[1], rng.choice(_LESSONS)[1]
    opening = rng.choice((f"从前，{place}住着一只{kind}{hero}。", f"很久以前，有一只{kind}{hero}，住在{place}。"))
    if hero in ("女孩", "男孩"):
        opening = opening.replace("一只", "一个")
    parts = [opening, f"{time}，{hero}找到了{thing}。", f"路上，{hero}遇见了{friend}。"]
    parts.append(rng.choice(("“你要去哪里？”它问。", "“你好！我们一起玩吧。”它说。")))
    if rng.random() < 0.8:
        parts += [
            f"可是{trouble}，{hero}很着急。",
            rng.choice(("“别担心，我来帮你。”新朋友说。", "“我们一起想办法。”新朋友说。")),
        ]
    parts.append(rng.choice((f"最后，他们平安地回到了家，{hero}很高兴。", "从那天起，他们成了好朋友。")))
    return "".join([*parts, lesson])
