"""A model as lm-eval wants it, so that any of its tasks run (extra `eval`)."""

from typing import TYPE_CHECKING, Any

from keras_gpt.evaluation.scoring import encode_pair, score_requests
from keras_gpt.generation.strides import windows

try:
    from lm_eval.api.model import LM
except ImportError as error:
    raise ImportError(
        "lm-eval is not installed: pip install 'keras-gpt[eval]'. Received: no module lm_eval"
    ) from error

if TYPE_CHECKING:
    from keras_gpt.models import GPT

_USUAL_NEW_TOKENS = 256


class KerasGPTLM(LM):
    """A GPT for `lm_eval.simple_evaluate(model=KerasGPTLM(gpt), tasks=[...])`.

    Args:
        gpt: a model with a tokenizer.

    Raises:
        ValueError: it has none.

    Source: the Language Model Evaluation Harness, arXiv:2405.14782.
    """

    def __init__(self, gpt: "GPT") -> None:
        super().__init__()
        if gpt.tokenizer is None:
            raise ValueError("gpt must have a tokenizer to be evaluated on text. Received: None")
        self._gpt, self._tokenizer = gpt, gpt.tokenizer
        bos = gpt.generation_settings.bos_token
        # What lm-eval itself puts before a text with nothing before it: the first of these.
        start = None if bos is None else gpt.tokenizer.token_to_id(bos)
        self._start = gpt.tokenizer.end_of_text_id if start is None else start

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint, by which lm-eval names what it keeps."""
        return self._tokenizer.fingerprint

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Give log P(continuation | context), and whether it is the greedy one."""
        pairs = [
            encode_pair(self._tokenizer, context, continuation, self._start)
            for context, continuation in (request.args for request in requests)
        ]
        scores = score_requests(self._gpt, pairs)
        return [(score.log_probability, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Give log P(text) of whole texts, in disjoint windows."""
        start, context = self._start, self._gpt.config.context_length
        rows, owners = [], []
        for owner, request in enumerate(requests):
            ids = self._tokenizer.encode(request.args[0])
            these = windows(ids if start is None else [start, *ids], context, context)
            rows += these
            owners += [owner] * len(these)
        answers = [0.0] * len(requests)
        for owner, score in zip(owners, score_requests(self._gpt, rows), strict=True):
            answers[owner] += score.log_probability
        return answers

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Continue contexts, each until one of its stop strings."""
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        # Tasks say 0 or null for what is off.
        temperature = settings.get("temperature")
        sampled = settings.get("do_sample", bool(temperature))
        most = max(1, self._gpt.config.context_length - 1)
        new_tokens = min(settings.get("max_gen_toks", _USUAL_NEW_TOKENS), most)
        choice: dict[str, Any] = {
            "max_new_tokens": new_tokens,
            "temperature": (1.0 if temperature is None else temperature) if sampled else 0.0,
            "top_k": settings.get("top_k") or None,
            "top_p": settings.get("top_p") or None,
        }
        if not context and self._start is not None:
            ids = self._gpt.generate([self._start], **choice)[1:]
            return _until(self._tokenizer.decode(ids, skip_special=True), stops)
        said = ""
        for piece in self._gpt.stream(context, **choice, truncate="left"):
            said += piece
            if len(_until(said, stops)) < len(said):
                break
        return _until(said, stops)


def _until(text: str, stops: list[str]) -> str:
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=None)]
