"""Conversations: messages turned into a prompt by the model's own template, answers streamed."""

import functools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from keras_gpt.generation.generate import stream
from keras_gpt.generation.options import usual_new_tokens
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation_settings import GenerationSettings

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer

Message = Mapping[str, str]

_USUAL_NEW_TOKENS = 512


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
        ValueError: there is no template, it is not valid, or it refuses the messages.

    Example:
        >>> render_chat([{"role": "user", "content": "Hi"}], gpt.generation_settings)
    """
    import jinja2

    if settings.chat_template is None:
        raise ValueError(
            "the model has no chat template, so it was not made for conversations: take a model "
            "that was (keras-gpt models list), or generate. Received: chat_template=None"
        )
    try:
        return _template(settings.chat_template).render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=add_generation_prompt,
            bos_token=settings.bos_token or "",
            eos_token=settings.eos_token or "",
            pad_token=settings.pad_token or "",
        )
    except jinja2.TemplateError as error:
        raise ValueError(
            f"the model's chat template does not take the messages: {error}"
        ) from error


@functools.lru_cache(maxsize=8)
def _template(text: str) -> Any:
    import datetime
    import json

    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, indent: int | None = None) -> str:
        # Jinja's own escapes what HTML would read.
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(text)


def chat_prompt_ids(
    tokenizer: "Tokenizer", settings: GenerationSettings, messages: Sequence[Message]
) -> list[int]:
    """Turn messages into the ids of a prompt for the next answer.

    Special tokens that the template writes become their ids. One that stands in a message stays
    plain text: nobody can end a turn, or forge one, by writing its token.

    Args:
        tokenizer: the model's.
        settings: hold the template.
        messages: as for `render_chat`.

    Raises:
        ValueError: as for `render_chat`.
    """
    special = list(tokenizer.special_tokens)
    if not any(token in message["content"] for message in messages for token in special):
        return tokenizer.encode(render_chat(messages, settings), allow_special=True)
    # The template sees a mark that nobody can guess in the place of each special token; what
    # stands between marks is encoded with the template's own tokens, the marked ones as text.
    mark = secrets.token_hex(8)
    marks = {f"{mark}{index:04d}": token for index, token in enumerate(special)}
    hidden = []
    for message in messages:
        content = message["content"]
        for sign, token in marks.items():
            content = content.replace(token, sign)
        hidden.append({**message, "content": content})
    ids: list[int] = []
    for piece in re.split(f"({mark}[0-9]{{4}})", render_chat(hidden, settings)):
        ids += tokenizer.encode(marks.get(piece, piece), allow_special=piece not in marks)
    return ids


class Chat:
    """A conversation with a model: what was said is kept and goes into each next prompt.

    Args:
        gpt: a model with a tokenizer and a chat template.
        system: the first message, which says how to answer; None leaves it to the template.
        **settings: those of `generate`: `temperature`, `top_k`, `top_p`, `max_new_tokens`, `seed`.
            By default what the model's makers suggest, and at most 512 new tokens.

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
        self.num_forgotten = 0
        self.reset()
        render_chat([*self.messages, {"role": "user", "content": ""}], suggested)

    def reset(self) -> None:
        """Forget what was said, but not the system message."""
        self.messages: list[dict[str, str]] = list(self._system)
        self.num_forgotten = 0

    def send(self, text: str) -> Iterator[str]:
        """Say something, and get the answer piece by piece.

        Where the conversation no longer fits the context, its oldest messages are left out
        of the prompt; `num_forgotten` counts them. An answer that is not read to its end is kept
        as far as it was read.

        Args:
            text: what the user says.

        Returns:
            An iterator over pieces of the answer. Closing it stops the work.

        Raises:
            ValueError: the message alone does not fit the context.
        """
        self.messages.append({"role": "user", "content": text})
        try:
            prompt = self._prompt()
            tokens = stream(self._gpt, prompt, **self._settings)
        except ValueError:
            self.messages.pop()
            raise
        return self._answer(tokens)

    def _prompt(self) -> list[int]:
        room = self._gpt.config.context_length - int(self._settings["max_new_tokens"])
        first = len(self._system)
        spoken = self.messages[first:]
        for start in range(0, len(spoken), 2):  # a question goes with its answer
            messages = [*self._system, *spoken[start:]]
            ids = chat_prompt_ids(self._tokenizer, self._gpt.generation_settings, messages)
            if len(ids) <= room or start + 2 >= len(spoken):
                self.num_forgotten = start
                return ids
        raise AssertionError("there is always a last message")

    def _answer(self, tokens: Iterator[int]) -> Iterator[str]:
        special = set(self._tokenizer.special_tokens.values())
        decoder = self._tokenizer.stream_decoder()
        said: list[str] = []
        try:
            for token in tokens:
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
            self.messages.append({"role": "assistant", "content": "".join(said)})
