"""Print what the shipped demo model answers: the samples of docs/demo-model.md, good and bad.

python tools/demo_model/samples.py [model.safetensors]
"""

from __future__ import annotations

import sys

from wingbeat import LLM, SamplingParams

CHATS = (
    ("Hello!",),
    ("What is RWKV?",),
    ("What is wingbeat?",),
    ("How do I start the server?", "And which port does it use?"),
    ("Could you tell me how I would go about starting this thing?",),
    ("你好", "什么是状态？"),
    ("怎么用 openai 客户端调用 wingbeat？",),
    ("What is 7 + 5?",),
    ("What is 37 + 48?",),
    ("What is the capital of Norway?",),
    ("What is the capital of Brazil?",),
    ("Translate to Chinese: Save the file",),
    ("翻译成英文：打开新窗口",),
    ("Why do birds sing in the morning?",),
    ("Write a haiku about the sea.",),
)
CONTINUED = (
    "English: Open the document\n\nChinese:",
    "English: Delete the selected rows\n\nChinese:",
    "English: The dog wants to eat the blue chair\n\nChinese:",
    "Chinese: 关闭所有窗口\n\nEnglish:",
    "Once upon a time",
    "从前，",
    "The old house",
)


def main() -> None:
    greedy = SamplingParams(temperature=0, max_tokens=120)
    with LLM(sys.argv[1] if len(sys.argv) > 1 else None) as llm:
        for questions in CHATS:
            messages: list[dict[str, str]] = []
            for question in questions:
                messages.append({"role": "user", "content": question})
                answer = llm.chat(messages, greedy).text
                messages.append({"role": "assistant", "content": answer})
                print(f"User: {question}\nAssistant: {answer}")
            print()
        stopped = SamplingParams(temperature=0, max_tokens=120, stop=("\n\n",))
        for prompt in CONTINUED:
            print(f"{prompt}[{llm.generate(prompt, stopped)[0].text}]\n")


if __name__ == "__main__":
    main()
