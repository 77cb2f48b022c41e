"""The methods of a GPT that take and give text."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

from keras_gpt import generation
from keras_gpt.generation.protocol import Decoder


class TextMethods:
    """`generate`, `stream` and `score`, for a class that is a `Decoder`."""

    def generate(
        self,
        prompt: Any,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        num_return_sequences: int = 1,
        stop_token_ids: Sequence[int] | None = None,
        seed: int | None = None,
        truncate: str | None = None,
        draft_model: Decoder | None = None,
        prompt_lookup: int | None = None,
        num_draft_tokens: int | None = None,
    ) -> Any:
        """Continue prompts, token by token.

        Args:
            prompt: a string or a list of ids, or a list (or an array) of either. Strings need a
                tokenizer.
            max_length: the most tokens of an answer, its prompt included; by default the context.
            max_new_tokens: the most new tokens; instead of `max_length`.
            temperature: divides the logits; 0 always takes the most probable token.
            top_k: only the k most probable tokens are drawn from; None is all.
            top_p: only the most probable tokens that together reach this probability are drawn
                from; None is all.
            num_return_sequences: answers for each prompt.
            stop_token_ids: ids that end an answer and are left out of it; by default those of
                `generation_settings`, or else the tokenizer's end of text; [] never stops.
            seed: from 0 to 2^31 - 1. The same seed gives the same answer to a prompt, whatever
                stands beside it in the batch. None draws one.
            truncate: "left" drops the beginning of a prompt that is too long for the context; None
                raises.
            draft_model: a smaller GPT with the same vocabulary that guesses the next tokens, which
                this one then checks all at once: faster where many are right, and the answer is
                the same where the temperature is 0, and drawn alike where it is not (but by other
                random numbers). Rows are then decoded one after the other.
            prompt_lookup: instead of a draft model, how many last tokens to look up in prompt and
                answer, to guess what followed them there; 2 or 3 are usual.
            num_draft_tokens: how many tokens are guessed at a time; 5 by default.

        Returns:
            Prompt and continuation: a string for a string, ids for ids, a list for a list. With
            `num_return_sequences` above 1, a list of answers for each prompt.

        Raises:
            TypeError: the prompt is neither text nor ids.
            ValueError: an argument is out of range, or a prompt is empty or too long.

        Example:
            >>> gpt.generate("Once upon a time", max_length=50, temperature=0.7, top_k=50, seed=0)
        """
        return generation.generate(
            cast(Decoder, self),
            prompt,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            num_return_sequences=num_return_sequences,
            stop_token_ids=stop_token_ids,
            seed=seed,
            truncate=truncate,
            draft_model=draft_model,
            prompt_lookup=prompt_lookup,
            num_draft_tokens=num_draft_tokens,
        )

    def stream(self, prompt: Any, **settings: Any) -> Iterator[Any]:
        """Continue one prompt and give each piece as soon as it is there.

        Args:
            prompt: a string, or a list of ids.
            **settings: those of `generate`, without `num_return_sequences`.

        Returns:
            An iterator over pieces of the continuation: text for a string (never half a
            character), ids for ids. Closing it stops the work.

        Example:
            >>> for piece in gpt.stream("Once upon a time", max_new_tokens=20):
            ...     print(piece, end="")
        """
        return generation.stream(cast(Decoder, self), prompt, **settings)

    def score(self, targets: Any, given: Any = None, per_token: bool = False) -> Any:
        """Give log P(w1 ... wn) = sum of log P(wt | w1 ... w(t-1)), in nats.

        The first token is given the tokenizer's end of text, which stands between documents; a
        model without one scores from the second token on.

        Args:
            targets: a string or ids, or a list of either.
            given: what each target follows, in the same form: the score is then log P(target |
                given). Text is tokenized apart from its target.
            per_token: whether to give one number a token instead of their sum.

        Returns:
            A float (or an array of float32 where `per_token`), or a list of these for a list.

        Raises:
            ValueError: a sequence is empty or longer than the context.

        Example:
            >>> gpt.score(["The cat sat on the mat."])

        Source: "Language Models are Unsupervised Multitask Learners", equation 1.
        """
        return generation.score(cast(Decoder, self), targets, given, per_token)
