"""POST /v1/chat/completions: messages in, the next message out."""

from typing import Any

from keras_gpt.generation import Constraint
from keras_gpt.generation.chat import chat_prompt_ids
from keras_gpt.serving.openai.choices import Choice, Delta, Token, finite, token_bytes
from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.forms import Form
from keras_gpt.serving.openai.running import Job
from keras_gpt.serving.openai.schemas import (
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
)
from keras_gpt.serving.openai.service import Service


def chat_job(service: Service, body: ChatRequest, constraint: Constraint | None) -> Job:
    """Give what a request asks the engine for.

    What it does not say about drawing is what the model's makers suggest.

    Args:
        service: has the model.
        body: what was asked for.
        constraint: what the answer must be.

    Raises:
        ApiError: the model was not made for chat, or does not take the messages.
    """
    suggested = service.gpt.generation_settings
    defaults = {
        "temperature": suggested.temperature,
        "top_k": suggested.top_k if body.top_k is None else None,  # -1 is a word too: all
        "top_p": suggested.top_p,
    }
    service.check_answers(1, body.n)
    return Job(
        prompts=[message_ids(service, body.messages)],
        param="messages",
        max_new_tokens=body.max_completion_tokens or body.max_tokens,
        usual=None,
        n=body.n,
        settings={
            **{name: value for name, value in defaults.items() if value is not None},
            **body.settings(),
            "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
            "constraint": constraint,
        },
    )


def message_ids(service: Service, messages: list[Message]) -> list[int]:
    """Give the ids of the prompt that messages make.

    Raises:
        ApiError: the model was not made for chat or does not take the messages, or they are long.
    """
    plain = [_message(each) for each in messages]
    service.check_characters(sum(len(each["content"]) for each in plain), "messages")
    try:
        return chat_prompt_ids(service.gpt.tokenizer, service.gpt.generation_settings, plain)
    except ValueError as error:
        raise ApiError(400, str(error), param="messages", code="invalid_value") from error


def _message(message: Message) -> dict[str, str]:
    # "developer" is OpenAI's newer name for it; templates know the older one.
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": message.text()}


async def constraint_of(service: Service, body: ChatRequest) -> Constraint | None:
    """Give what the answer must be.

    Raises:
        ApiError: the form that is asked for cannot be followed.
    """
    if isinstance(body.response_format, JsonSchemaFormat):
        return await service.grammars.constraint(body.response_format.json_schema.definition)
    if not isinstance(body.response_format, JsonObjectFormat):
        return None
    try:
        return Constraint.json_schema({"type": "object"})
    except ImportError as error:
        raise ApiError(
            400, str(error), param="response_format", code="invalid_response_format"
        ) from error


class ChatForm(Form):
    """How messages are written.

    Args:
        service: has the model.
        body: what was asked for.
    """

    whole_object, chunk_object = "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, body: ChatRequest) -> None:
        super().__init__(service.name, "chatcmpl")
        self._tokenizer = service.gpt.tokenizer
        self._has_logprobs = body.logprobs

    def first(self, index: int) -> list[dict[str, Any]]:
        """Say who speaks."""
        return [self._piece(index, {"role": "assistant", "content": ""}, [], None)]

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        """Give one more piece of an answer."""
        return self._piece(index, {"content": delta.text}, delta.tokens, None)

    def last(self, index: int, finish_reason: str | None) -> dict[str, Any]:
        """Give the end of an answer."""
        return self._piece(index, {}, [], finish_reason)

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.tokens),
            "finish_reason": choice.finish_reason,
        }

    def _piece(
        self, index: int, delta: dict[str, Any], tokens: list[Token], finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(tokens) if tokens else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        content = [
            {
                **self._entry(token.id, token.logprob),
                "top_logprobs": [self._entry(*pair) for pair in token.top.items()],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(self._tokenizer, token)
        return {
            "token": data.decode(errors="replace"),
            "logprob": finite(logprob),
            "bytes": list(data),
        }
