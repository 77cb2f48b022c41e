"""What clients may ask for: the bodies of the OpenAI-style API.

Source: OpenAI's public API description (openapi.json), and for `top_k`, `min_p` and
`repetition_penalty`, which it does not have, the names that other servers use.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from keras_gpt.serving.openai.errors import of_validation

MOST_CHOICES = 128
MOST_INPUTS = 2048
MOST_MESSAGES = 4096
MOST_STOP_CHARACTERS = 1000
MOST_PROMPT_LOGPROBS = 5

# What OpenAI's API has and this one does not: refused by name, and not as a mistake in writing.
NOT_SUPPORTED = frozenset(
    {
        "audio",
        "dimensions",
        "function_call",
        "functions",
        "moderation",
        "modalities",
        "prediction",
        "prompt_cache_retention",
        "reasoning_effort",
        "suffix",
        "tool_calls",
        "tool_choice",
        "tools",
        "verbosity",
        "web_search_options",
    }
)

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
# A list of the wrong kind may be very long: its first mistake is enough.
Ids = Annotated[list[int], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(fail_fast=True, max_length=MOST_INPUTS)]
ListsOfIds = Annotated[list[Ids], Field(fail_fast=True, max_length=MOST_INPUTS)]
Stop = Annotated[str, Field(min_length=1, max_length=MOST_STOP_CHARACTERS)]


class Part(BaseModel):
    """An object of a body: a null says nothing, and there are no other names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            name: value
            for name, value in data.items()
            if value is not None and not (name in NOT_SUPPORTED and value == [])
        }


class StreamOptions(Part):
    """How to stream."""

    include_usage: bool = False
    include_obfuscation: bool = False  # without effect


class ModelRequest(Part):
    """What asks a model."""

    model: str
    user: str | None = None  # without effect


class Sampling(ModelRequest):
    """What both kinds of completions take."""

    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Bias] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_belong_to_streams(self) -> "Sampling":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options may be given only with stream=true")
        return self

    def settings(self) -> dict[str, Any]:
        """Give the arguments of `Engine.submit` that are said."""
        named = {
            "stop": self.stop,
            # Any 64-bit number may come; those that the engine takes stay as they are.
            "seed": None if self.seed is None else self.seed % 2**31,
            "temperature": self.temperature,
            # At 0 the most probable token alone is left.
            "top_p": None if self.top_p is None else max(self.top_p, 1e-6),
            "top_k": self.top_k if self.top_k and self.top_k > 0 else None,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()},
        }
        return {name: value for name, value in named.items() if value is not None}


class CompletionRequest(Sampling):
    """The body of POST /v1/completions."""

    prompt: str | Texts | Ids | ListsOfIds = ""
    best_of: int | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MOST_PROMPT_LOGPROBS)] | None = None

    @model_validator(mode="after")
    def _refuse_what_is_not_there(self) -> "CompletionRequest":
        if self.best_of not in (None, self.n):
            raise ValueError("best_of is not supported: ask for n answers")
        if self.echo and self.logprobs is not None:
            raise ValueError("logprobs of the prompt are not supported: leave out echo or logprobs")
        return self


class TextPart(Part):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Part):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True, max_length=MOST_INPUTS)]
    name: str | None = None  # without effect
    refusal: str | None = None  # without effect

    def text(self) -> str:
        """Give the content in one piece."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class TextFormat(Part):
    """An answer of any form."""

    type: Literal["text"]


class JsonObjectFormat(Part):
    """An answer that is a JSON object."""

    type: Literal["json_object"]


class JsonSchema(Part):
    """A schema and its name."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    definition: Annotated[dict[str, Any], Field(alias="schema")] = {}
    description: str | None = None
    strict: bool | None = None  # the schema is always followed


class JsonSchemaFormat(Part):
    """An answer that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES)]


class ChatRequest(Sampling):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: (
        Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    # Without effect: there are no tools, nothing is stored, and there is one kind of service.
    parallel_tool_calls: bool | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _check_what_belongs_together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs may be given only with logprobs=true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("give max_completion_tokens or max_tokens, not both")
        return self


class EmbeddingRequest(ModelRequest):
    """The body of POST /v1/embeddings."""

    input: Annotated[str, Field(min_length=1)] | Texts | Ids | ListsOfIds
    encoding_format: Literal["float", "base64"] = "float"


class AttentionRequest(ModelRequest):
    """The body of POST /v1/attention."""

    prompt: str | Ids | None = None
    messages: Messages | None = None
    answer: str = ""
    layer: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_of_two(self) -> "AttentionRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages, one of them")
        return self


Body = TypeVar("Body", bound=ModelRequest)


def read_as(kind: type[Body], body: bytes) -> Body:
    """Read a body.

    Raises:
        ApiError: it is no JSON, or not of this kind.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise of_validation(error, NOT_SUPPORTED) from error
