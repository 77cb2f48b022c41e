"""POST /v1/completions: prompts in, texts out."""

from typing import Any

from keras_gpt.serving.openai.choices import Choice, Delta, Token, finite, token_text
from keras_gpt.serving.openai.errors import ApiError
from keras_gpt.serving.openai.forms import Form
from keras_gpt.serving.openai.running import Job
from keras_gpt.serving.openai.schemas import CompletionRequest
from keras_gpt.serving.openai.service import Service

_USUAL_NEW_TOKENS = 16  # OpenAI's own default


def completion_job(service: Service, body: CompletionRequest) -> Job:
    """Give what a request asks the engine for.

    Raises:
        ApiError: there is no prompt, there are too many, or one cannot be taken.
    """
    prompts = prompts_of(body.prompt, "prompt")
    service.check_answers(len(prompts), body.n)
    return Job(
        prompts=[prompt_ids(service, each, "prompt") for each in prompts],
        param="prompt",
        max_new_tokens=body.max_tokens,
        usual=_USUAL_NEW_TOKENS,
        n=body.n,
        settings={**body.settings(), "logprobs": body.logprobs},
    )


def prompts_of(prompt: Any, param: str) -> list[Any]:
    """Give one prompt, or several, as a list.

    Raises:
        ApiError: there is none.
    """
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    if not prompt:
        raise _bad(param, "must not be an empty list")
    return list(prompt)


def prompt_ids(service: Service, prompt: str | list[int], param: str) -> list[int]:
    """Give the ids of a prompt.

    Raises:
        ApiError: it is too long by far, has ids that are none of the tokenizer's, or is empty where
            the model cannot begin from nothing.
    """
    tokenizer = service.gpt.tokenizer
    if isinstance(prompt, str):
        service.check_characters(len(prompt), param)
        ids: list[int] = tokenizer.encode(prompt)
    else:
        service.check_tokens(len(prompt), param)
        ids = prompt
    known = tokenizer.vocab_size
    if wrong := [token for token in ids if not 0 <= token < known]:
        raise _bad(param, f"must hold ids from 0 to {known - 1}. Received: {wrong[0]}")
    if ids:
        return ids
    # Nothing is the beginning of a document, which an end of text stands before in training.
    if tokenizer.end_of_text_id is None:
        raise _bad(param, "must not be empty: this model has no end of text to begin from")
    return [tokenizer.end_of_text_id]


def _bad(param: str, reason: str) -> ApiError:
    return ApiError(400, f"{param} {reason}", param=param, code="invalid_value")


class CompletionForm(Form):
    """How texts are written.

    Args:
        service: has the model.
        body: what was asked for.
        job: the prompts.
    """

    whole_object = chunk_object = "text_completion"

    def __init__(self, service: Service, body: CompletionRequest, job: Job) -> None:
        super().__init__(service.name, "cmpl")
        self._tokenizer = service.gpt.tokenizer
        self._has_logprobs = body.logprobs is not None
        self._before = [""] * (len(job.prompts) * job.n)
        if body.echo:
            prompts = [
                each if isinstance(each, str) else self._tokenizer.decode(each)
                for each in prompts_of(body.prompt, "prompt")
            ]
            self._before = [prompt for prompt in prompts for _ in range(job.n)]

    def first(self, index: int) -> list[dict[str, Any]]:
        """Give the prompt where it is to be repeated."""
        before = self._before[index]
        return [self._choice(index, before, [], None)] if before else []

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        """Give one more piece of an answer."""
        return self._choice(index, delta.text, delta.tokens, None)

    def last(self, index: int, finish_reason: str | None) -> dict[str, Any]:
        """Give the end of an answer."""
        return self._choice(index, "", [], finish_reason)

    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        text = self._before[index] + choice.text
        return self._choice(index, text, choice.tokens, choice.finish_reason)

    def _choice(
        self, index: int, text: str, tokens: list[Token], finish_reason: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(tokens) if self._has_logprobs else None,
            "finish_reason": finish_reason,
        }

    def _logprobs(self, tokens: list[Token]) -> dict[str, Any]:
        return {
            "tokens": [self._name(token.id) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            # The chosen token too, where it is not among the most probable ones.
            "top_logprobs": [
                {
                    self._name(each): finite(logprob)
                    for each, logprob in {**token.top, token.id: token.logprob}.items()
                }
                for token in tokens
            ],
            "text_offset": [token.offset for token in tokens],
        }

    def _name(self, token: int) -> str:
        text = token_text(self._tokenizer, token)
        if text is not None:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._tokenizer.token_bytes(token))
