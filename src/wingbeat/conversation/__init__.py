"""A conversation that keeps the model's state between its turns, so that only what is new is read.

from wingbeat import LLM, Conversation

with LLM("rwkv7-g1.pth") as llm:
    conversation = Conversation(llm, system="Answer briefly.")
    for chunk in conversation.say("What is RWKV?"):
        print(chunk.text, end="", flush=True)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wingbeat.conversation.reply import FRESH, Reply, Seen
from wingbeat.engine.snapshot import StateSnapshot
from wingbeat.llm import LLM, Chunk, GenerationError
from wingbeat.llm.answers import message_of
from wingbeat.llm.chatting import chat_request, to_message
from wingbeat.llm.forms import AnswerReader, ChatForm, JsonSchema, to_tool
from wingbeat.sampling.params import SamplingParams
from wingbeat.text.templates import Message
from wingbeat.text.tools import Tool

_MESSAGES, _TOKENS, _MODEL = "conversation.messages", "conversation.tokens", "conversation.model"
_READ_ONLY = SamplingParams(max_tokens=0)


class Conversation:
    """Turns of a user and a model, for one thread at a time.

    Every answer is the one that the whole conversation, sent anew, would get. What of it a kept state has seen already
    is not read again; a ``repetition_penalty`` counts all tokens, and so needs them all read.
    """

    def __init__(
        self,
        llm: LLM,
        messages: Sequence[Mapping[str, Any]] = (),
        *,
        system: str | None = None,
        tools: Sequence[Tool | Mapping[str, Any]] = (),
    ) -> None:
        """``messages``: what was said before. ``system``: a message that comes before all others. ``tools``: what the
        model may call, as for ``LLM.chat``.

        Raises ValueError for a message or a tool of another form, or a model that does not chat or has no tokenizer.
        """
        llm.profile.chat_template()
        self._llm = llm
        self._encode = llm.tokenizer.encode_segments
        self._turns = [to_message(message) for message in messages]
        self._system = system
        self._tools = [to_tool(tool) for tool in tools]
        self._form = ChatForm(self._tools)
        self._seen: list[Seen] = []  # at most those before, within and after the last turn
        self._reply: Reply | None = None
        if self._messages():
            llm.profile.render(self._messages())  # an unknown role is told now

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages so far, the system's included. That of a reply under way comes when it has ended."""
        return [{**message_of(said.content, said.tool_calls), "role": said.role} for said in self._messages()]

    @property
    def system(self) -> str | None:
        """The message before all others. A new one makes the next turn read the conversation anew."""
        return self._system

    @system.setter
    def system(self, text: str | None) -> None:
        self._settle()
        self._system = text

    def say(
        self,
        text: str,
        sampling_params: SamplingParams | None = None,
        *,
        thinking: bool | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        schema: JsonSchema | None = None,
    ) -> Reply:
        """Send a message; iterate over the reply, or ``wait`` for it. An earlier reply under way is left as it is.

        None takes the model's chat defaults; the last three are those of ``LLM.chat``. A reply that was stopped stays
        part of the conversation as far as it came; one that failed, or was stopped before its first word, does not, and
        neither does the message.
        Raises ValueError at once for a bad parameter, GenerationError while iterating when the answer fails.
        """
        self._settle()
        form = self._asked(tool_choice, schema, parallel=parallel_tool_calls)
        return self._answer([*self._turns, Message("user", text)], sampling_params, thinking, form)

    def give(
        self,
        results: Sequence[str],
        sampling_params: SamplingParams | None = None,
        *,
        thinking: bool | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        schema: JsonSchema | None = None,
    ) -> Reply:
        """Send what the tools that the last reply called have given, one text for each call; otherwise as ``say``.

        Raises ValueError where there are not as many calls.
        """
        self._settle()
        calls = self._turns[-1].tool_calls if self._turns else ()
        if isinstance(results, str) or not calls or len(results) != len(calls):
            raise ValueError(f"the last reply has {len(calls)} calls: give a list of one text for each")
        turns = [*self._turns, *(Message("tool", result) for result in results)]
        form = self._asked(tool_choice, schema, parallel=parallel_tool_calls)
        return self._answer(turns, sampling_params, thinking, form)

    def retry(
        self,
        sampling_params: SamplingParams | None = None,
        *,
        thinking: bool | None = None,
        tool_choice: str = "auto",
        parallel_tool_calls: bool = True,
        schema: JsonSchema | None = None,
    ) -> Reply:
        """Answer the last message again. Raises ValueError when there is none."""
        form = self._asked(tool_choice, schema, parallel=parallel_tool_calls)
        return self._answer(self._turns[: self._last_message() + 1], sampling_params, thinking, form)

    def undo(self) -> None:
        """Take the last message and its answer back. Raises ValueError when there is none."""
        del self._turns[self._last_message() :]

    def reset(self) -> None:
        """Forget everything but the system's message."""
        self._settle()
        self._turns, self._seen = [], []

    def save(self, path: str | Path) -> None:
        """Write the messages and the model's state to a ``.safetensors`` file.

        Raises ValueError when nothing was said yet, OSError when the file cannot be written.
        """
        self._settle()
        if not self._turns:
            raise ValueError("there is nothing to save yet")
        # Without the label that opens the next reply: the next message comes before it.
        profile = self._llm.profile
        ids = self._encode(profile.render(self._form.tell(self._messages(), profile.chat_template()))[:-1])
        seen = self._longest(ids)
        if seen.state is None:
            seen = self._read(ids)
        assert seen.state is not None
        extra = {
            _MESSAGES: msgspec.json.encode(self.messages).decode(),
            _TOKENS: msgspec.json.encode(seen.ids).decode(),
            _MODEL: self._llm.info.name,
        }
        seen.state.save(path, extra)

    def load(self, path: str | Path) -> None:
        """Go on with a conversation that ``save`` wrote.

        Raises ValueError, and changes nothing, for another kind of file, a damaged one, or one of another model.
        """
        self._settle()
        state, extra = StateSnapshot.load(path)
        if state.fingerprint != self._llm.info.fingerprint:
            made_by = f" ({extra[_MODEL]})" if _MODEL in extra else ""
            raise ValueError(f"{path} was saved with another model{made_by}: load that one to go on with it")
        self._llm.check_state(state)
        try:
            messages = [to_message(m) for m in msgspec.json.decode(extra[_MESSAGES], type=list[dict[str, Any]])]
            ids = msgspec.json.decode(extra[_TOKENS], type=list[int])
            self._llm.profile.render(messages)
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise ValueError(f"{path} holds a state, but no conversation that it belongs to") from error
        if len(ids) != state.position:
            raise ValueError(f"{path} holds a state after {state.position} tokens, but {len(ids)} are listed")
        begins = bool(messages) and messages[0].role.lower() == "system"
        self._system = messages[0].content if begins else None
        self._turns = messages[begins:]
        self._seen = [Seen(ids, state)]

    def _messages(self, turns: Sequence[Message] | None = None) -> list[Message]:
        turns = self._turns if turns is None else turns
        return [*([Message("system", self._system)] if self._system else []), *turns]

    def _last_message(self) -> int:
        """Where the user's last message is."""
        self._settle()
        places = [i for i, message in enumerate(self._turns) if message.role.lower() == "user"]
        if not places:
            raise ValueError("there is no message yet")
        return places[-1]

    def _settle(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None

    def _asked(self, choice: str, schema: JsonSchema | None, *, parallel: bool) -> ChatForm:
        return ChatForm(self._tools, choice, schema, parallel=parallel)

    def _answer(
        self, turns: list[Message], params: SamplingParams | None, thinking: bool | None, form: ChatForm
    ) -> Reply:
        profile, messages = self._llm.profile, self._messages(turns)
        # Of what opens the reply, such as "<think", nothing stays in the conversation: it is read after the rest.
        before = profile.render(form.tell(messages, profile.chat_template()))
        segments, sampling, reader = chat_request(profile, messages, params, thinking, form)
        base, opening = self._encode(before), self._encode(segments[len(before) :])
        sampling.validate(self._llm.info.vocab_size)
        self._reply = Reply(
            base + opening, lambda reply: self._write(reply, turns, reader, self._generate(reply, base, sampling))
        )
        return self._reply

    def _write(
        self, reply: Reply, turns: list[Message], reader: AnswerReader, chunks: Iterator[Chunk]
    ) -> Generator[Chunk]:
        """Pass the pieces on, reasoning and text apart; in the end make the answer part of the conversation."""
        answer = reply.completion
        try:
            for chunk in chunks:
                last = chunk.finish_reason is not None
                chunk.reasoning, chunk.text = reader.push(chunk.text, last=last)
                answer.reasoning += chunk.reasoning
                answer.text += chunk.text
                answer.token_ids += chunk.token_ids
                if chunk.logprobs is not None:
                    answer.logprobs = [*(answer.logprobs or []), *chunk.logprobs]
                answer.tool_calls = reader.calls()
                answer.finish_reason, answer.stop_reason = chunk.finish_reason, chunk.stop_reason
                yield chunk
        except GenerationError as error:
            answer.finish_reason, answer.error = "error", str(error)
            raise
        finally:
            ended = answer.finish_reason in ("stop", "length")
            if ended or (answer.text and answer.finish_reason != "error"):
                # A call that was cut off would be a bad example.
                calls = tuple(call for call in answer.tool_calls if ended and call.is_whole)
                self._turns = [*turns, Message("assistant", answer.text, tool_calls=calls)]

    def _generate(self, reply: Reply, base: list[int], params: SamplingParams) -> Iterator[Chunk]:
        """The answer to the prompt ``reply.completion.prompt_ids``, of which ``base`` will begin the next one, too."""
        ids = reply.completion.prompt_ids
        opened, counts_all = len(base) < len(ids), params.counts_prompt
        start = FRESH if counts_all else self._longest(ids)
        reply.read = len(ids) - len(start.ids)
        self._seen = [start] if start.ids else []
        if opened and not counts_all and len(start.ids) < len(base):
            start = self._read(base, lambda: reply.stopped)
            if not start.ids:
                yield Chunk("", [], "cancelled")
                return
        keep = () if opened else ("prompt", "end", "reply")
        for chunk in self._llm.stream(
            ids[len(start.ids) :], params, state=start.state, keep=keep, stop_when=lambda: reply.stopped
        ):
            for kept in (chunk.prompt_state, chunk.state):
                if kept is not None:
                    self._seen.append(Seen([*ids, *(chunk.reply or ())][: kept.position], kept))
            yield chunk

    def _read(self, ids: list[int], stop_when: Callable[[], bool] | None = None) -> Seen:
        """The state after ``ids``, kept; a fresh one when it was stopped on the way."""
        start = self._longest(ids)
        new = ids[len(start.ids) :]
        for chunk in self._llm.stream(new, _READ_ONLY, state=start.state, keep=("prompt",), stop_when=stop_when):
            if chunk.prompt_state is not None:
                self._seen.append(Seen(ids, chunk.prompt_state))
                return self._seen[-1]
        return FRESH

    def _longest(self, ids: list[int]) -> Seen:
        """The state that has seen the most of ``ids``, but not all: the next token must be predicted from one."""
        fitting = [seen for seen in self._seen if len(seen.ids) < len(ids) and ids[: len(seen.ids)] == seen.ids]
        return max(fitting, key=lambda seen: len(seen.ids), default=FRESH)
