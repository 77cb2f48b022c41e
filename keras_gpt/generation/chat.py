"""Conversations: messages turned into a prompt by the model's own template, answers streamed."""

import functools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from keras_gpt.generation.generate import stream
from keras_gpt.generation.options import usual_new_tokens
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.truncation import count_dropped
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

Message = Mapping[str, str]

_USUAL_NEW_TOKENS = 512
_ROLES = ("system", "user", "assistant")
_THOUGHTS = ("<think>", "</think>")


def render_chat(
    messages: Sequence[Message],
    settings: GenerationSettings,
    add_generation_prompt: bool = True,
) -> str:
    """Turn messages into the text that a model was trained on.

    The template runs in Jinja's sandbox, with the functions that Hugging Face's library gives it.

    Args:
        messages: dictionaries with "role" ("system", "user", "assistant") and "content".
        settings: hold the template, and the tokens that it may name.
        add_generation_prompt: whether the beginning of an answer follows.

    Raises:
        ValueError: there is no template, it fails or refuses the messages, or a message is not of
            this form.

    Example:
        >>> render_chat([{"role": "user", "content": "Hi"}], gpt.generation_settings)
    """
    if settings.chat_template is None:
        raise ValueError(
            "the model has no chat template, so it was not made for conversations: take a model "
            "that was (keras-gpt models list), or generate. Received: chat_template=None"
        )
    _check_messages(messages)
    try:
        return _template(settings.chat_template).render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=settings.bos_token or "",
            eos_token=settings.eos_token or "",
            pad_token=settings.pad_token or "",
        )
    except Exception as error:  # a template is a program: whatever it does wrong, it is its fault
        raise ValueError(
            f"the model's chat template does not take the messages: {error}"
        ) from error


def _check_messages(messages: Sequence[Message]) -> None:
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise ValueError(
                    f"messages must have 'role' and 'content', each a string. Received: "
                    f"messages[{index}][{key!r}] = {message.get(key)!r:.80}"
                )


@functools.lru_cache(maxsize=8)
def _template(text: str) -> Any:
    import datetime
    import json

    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
        # Jinja's own escapes what HTML would read.
        return json.dumps(value, ensure_ascii=ensure_ascii, **layout)

    class Generation(Extension):
        """`{% generation %}`, with which some makers mark the answers for training: only text here."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # As any other block, it sees variables and keeps those that it sets to itself.
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(text)


def chat_prompt_ids(
    tokenizer: "Tokenizer", settings: GenerationSettings, messages: Sequence[Message]
) -> list[int]:
    """Turn messages into the ids of a prompt for the next answer.

    Special and added tokens that the template writes become their ids. One that stands anywhere
    in a message stays plain text: nobody can end a turn, or forge one, by writing its token. Two
    kinds are left as they are: added tokens of blank space, and <think> and </think> in an
    answer, by which templates take the thoughts out of it.

    Args:
        tokenizer: the model's.
        settings: hold the template.
        messages: as for `render_chat`.

    Raises:
        ValueError: as for `render_chat`.
    """
    _check_messages(messages)
    added = [token for token in tokenizer.added_tokens if not token.isspace()]
    hiding = _Hiding([*tokenizer.special_tokens, *added])
    hidden = [hiding.hide(message) for message in messages]
    ids: list[int] = []
    for piece, is_hidden in hiding.pieces(render_chat(hidden, settings)):
        if is_hidden:
            ids += tokenizer.encode_literally(piece)
        else:
            ids += tokenizer.encode(piece, allow_special=True)
    return ids


class _Hiding:
    """Marks in the place of tokens, which a template passes on and nobody can guess.

    What stands between marks has the template's own tokens only. Digits come through a
    template's filters as they are.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        # The longest first, as the tokenizer finds them.
        self._tokens = sorted(tokens, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, self._tokens)) or "(?!)")
        self._mark = f"{secrets.randbelow(10**20):020d}"

    def hide(self, message: Message) -> dict[str, Any]:
        """Give the message with marks in all its strings."""
        spared = _THOUGHTS if message["role"] == "assistant" else ()

        def sign(found: re.Match[str]) -> str:
            token = found[0]
            return token if token in spared else f"{self._mark}{self._tokens.index(token):06d}"

        def inside(value: Any) -> Any:
            if isinstance(value, str):
                return self._found.sub(sign, value)
            if isinstance(value, Mapping):
                return {inside(key): inside(each) for key, each in value.items()}
            if isinstance(value, list | tuple):
                return [inside(each) for each in value]
            return value

        # What a template asks for by name stays; a role that it knows forges nothing.
        return {
            key if key in ("role", "content") else inside(key): each
            if key == "role" and each in _ROLES
            else inside(each)
            for key, each in message.items()
        }

    def pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Give the pieces of a text, and whether each is a token that was hidden."""
        # The group makes split() keep the numbers of the hidden ones, at odd places.
        for place, piece in enumerate(re.split(f"{self._mark}([0-9]{{6}})", text)):
            yield (self._tokens[int(piece)], True) if place % 2 else (piece, False)


class Chat:
    """A conversation with a model: what was said is kept and goes into each next prompt.

    Args:
        gpt: a model with a tokenizer and a chat template.
        system: the first message, which says how to answer; None leaves it to the template.
        **settings: those of `generate`: `temperature`, `top_k`, `top_p`, `max_new_tokens`, `seed`,
            and `truncate`, for a message that alone does not fit the context. By default what the
            model's makers suggest, and at most 512 new tokens.

    Attributes:
        messages: what was said, as dictionaries with "role" and "content".
        num_forgotten: how many of the oldest messages the last prompt left out.
        num_dropped_tokens: how many tokens `truncate` cut out of the last prompt.
        num_new_tokens: how many tokens the last answer has so far.

    Raises:
        ValueError: the model has no tokenizer or no chat template.

    Example:
        >>> chat = Chat(gpt)
        >>> for piece in chat.send("What is the capital of France?"):
        ...     print(piece, end="")
    """

    def __init__(self, gpt: Decoder, system: str | None = None, **settings: Any) -> None:
        if gpt.tokenizer is None:
            raise ValueError("gpt must have a tokenizer to talk. Received: tokenizer=None")
        suggested = gpt.generation_settings
        defaults = {
            "temperature": suggested.temperature,
            "top_k": suggested.top_k,
            "top_p": suggested.top_p,
            "max_new_tokens": usual_new_tokens(gpt.config.context_length, _USUAL_NEW_TOKENS),
        }
        given = {name: value for name, value in settings.items() if value is not None}
        self._gpt, self._tokenizer = gpt, gpt.tokenizer
        self._settings = {
            **{name: value for name, value in defaults.items() if value is not None},
            **given,
        }
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.num_new_tokens = 0
        self.num_dropped_tokens = 0
        self.reset()
        render_chat([*self.messages, {"role": "user", "content": ""}], suggested)

    def reset(self) -> None:
        """Forget what was said, but not the system message."""
        self.messages: list[dict[str, str]] = list(self._system)
        self.num_forgotten = 0

    def send(self, text: str) -> Iterator[str]:
        """Say something, and get the answer piece by piece.

        Both are kept when the answer has ended. One that is not read to its end is kept as far as
        it was read, and one that is not read at all was never asked for.

        Where the conversation no longer fits the context, its oldest messages are left out of
        the prompt; `num_forgotten` counts them.

        Args:
            text: what the user says.

        Returns:
            An iterator over pieces of the answer. Closing it stops the work.

        Raises:
            ValueError: the message alone does not fit the context, and no `truncate` was given.
        """
        question = {"role": "user", "content": text}
        prompt, num_forgotten = self._prompt([*self.messages, question])
        tokens = stream(self._gpt, prompt, **self._settings)
        self.num_forgotten, self.num_new_tokens = num_forgotten, 0
        self.num_dropped_tokens = self._count_dropped(prompt)
        return self._answer(question, tokens, self.messages)

    def _prompt(self, messages: list[dict[str, str]]) -> tuple[list[int], int]:
        """Give the ids of the prompt, and how many of the oldest messages it leaves out."""
        first = len(self._system)
        spoken = messages[first:]
        for start in range(0, len(spoken), 2):  # a question goes with its answer
            kept = [*self._system, *spoken[start:]]
            ids = chat_prompt_ids(self._tokenizer, self._gpt.generation_settings, kept)
            if not self._count_dropped(ids) or start + 2 >= len(spoken):
                return ids, start
        raise AssertionError("there is always a last message")

    def _count_dropped(self, ids: list[int]) -> int:
        new = int(self._settings["max_new_tokens"])
        return count_dropped(len(ids), new, self._gpt.config.context_length)

    def _answer(
        self, question: dict[str, str], tokens: Iterator[int], messages: list[dict[str, str]]
    ) -> Iterator[str]:
        # `messages` are those of the question, whatever `reset` does meanwhile.
        special = set(self._tokenizer.special_tokens.values())
        decoder = self._tokenizer.stream_decoder()
        said: list[str] = []
        try:
            for token in tokens:
                self.num_new_tokens += 1
                piece = "" if token in special else decoder.push(token)
                if piece:
                    said.append(piece)
                    yield piece
            rest = decoder.finish()
            if rest:
                said.append(rest)
                yield rest
        finally:
            cast(Any, tokens).close()
            messages += [question, {"role": "assistant", "content": "".join(said)}]
