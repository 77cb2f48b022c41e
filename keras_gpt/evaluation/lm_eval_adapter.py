"""A model as lm-eval wants it, so that any of its tasks run (extra `eval`)."""

from typing import TYPE_CHECKING, Any

from keras_gpt.evaluation.scoring import encode_pair, score_requests
from keras_gpt.evaluation.sliding_window import windows

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

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's fingerprint, by which lm-eval names what it keeps."""
        return self._tokenizer.fingerprint

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Give log P(continuation | context), and whether it is the greedy one."""
        pairs = [encode_pair(self._tokenizer, *request.args) for request in requests]
        scores = score_requests(self._gpt, pairs)
        return [(score.log_probability, score.is_greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Give log P(text) of whole texts, in disjoint windows."""
        end, context = self._tokenizer.end_of_text_id, self._gpt.config.context_length
        answers = []
        for request in requests:
            ids = self._tokenizer.encode(request.args[0])
            rows = windows(ids if end is None else [end, *ids], context, context)
            answers.append(sum(score.log_probability for score in score_requests(self._gpt, rows)))
        return answers

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Continue contexts, each until one of its stop strings."""
        return [self._continue(*request.args) for request in requests]

    def _continue(self, context: str, settings: dict[str, Any]) -> str:
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        sampled = settings.get("do_sample", settings.get("temperature", 0) > 0)
        most = max(1, self._gpt.config.context_length - 1)
        new_tokens = min(settings.get("max_gen_toks", _USUAL_NEW_TOKENS), most)
        said = ""
        for piece in self._gpt.stream(
            context,
            max_new_tokens=new_tokens,
            temperature=settings.get("temperature", 1.0) if sampled else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p"),
            truncate="left",
        ):
            said += piece
            found = [said.index(stop) for stop in stops if stop and stop in said]
            if found:
                return said[: min(found)]
        return said
