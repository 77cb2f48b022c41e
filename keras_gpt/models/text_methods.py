"""The methods of a GPT that take and give text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from keras_gpt import generation
from keras_gpt.generation import Constraint
from keras_gpt.generation.protocol import Decoder


class TextMethods:
    """`generate`, `stream`, `embed`, `attention_weights` and `score`, for a class that is a `Decoder`."""

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
        *,
        min_p: float | None = None,
        typical_p: float | None = None,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        no_repeat_ngram_size: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        banned_token_ids: Sequence[int] = (),
        forced_token_ids: Sequence[int] = (),
        min_new_tokens: int = 0,
        stop: str | Sequence[str] | None = None,
        constraint: Constraint | None = None,
        echo: bool = True,
        details: bool = False,
        logprobs: int | None = None,
        draft_model: Decoder | None = None,
        prompt_lookup: int | None = None,
        num_draft_tokens: int | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        penalty_alpha: float | None = None,
        attention_sinks: int | None = None,
    ) -> Any:
        """Continue prompts, token by token.

        What changes the logits acts in this order: `logit_bias` and `banned_token_ids`; the three
        penalties; `no_repeat_ngram_size`; `min_new_tokens`; `temperature`; `top_k`; `top_p`;
        `min_p`; `typical_p`. Those before the temperature count for greedy answers too.

        Args:
            prompt: a string or a list of ids, or a list (or an array) of either. Strings need a
                tokenizer.
            max_length: the most tokens of an answer, its prompt included; by default the context,
                beyond which only `attention_sinks` lead.
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
            truncate: what goes from a prompt that does not fit the context together with
                `max_new_tokens`: "left" its beginning, "right" its end, "middle" what lies between
                a beginning and an end of the same length; None raises. `details` count it.
            min_p: only tokens at least this times as probable as the most probable are drawn from.
            typical_p: only the tokens whose information is closest to the entropy, that together
                reach this probability, are drawn from.
            repetition_penalty: divides the positive logits of tokens that prompt or answer have,
                and multiplies the negative ones; 1 changes nothing.
            presence_penalty: is taken from the logits of tokens that the answer has.
            frequency_penalty: is taken from the logits of tokens once for each time that the
                answer has them.
            no_repeat_ngram_size: no so many tokens in a row come twice in prompt and answer.
            logit_bias: what to add to the logits of ids; -inf bans one.
            banned_token_ids: ids that are never chosen.
            forced_token_ids: the ids that the answer begins with.
            min_new_tokens: how many tokens an answer has before one of `stop_token_ids` may end it.
            stop: a string or several, each of which ends an answer and is left out of it.
            constraint: what an answer, without its prompt, must be: `Constraint.json_schema(...)`
                and others; needs a tokenizer. Where the settings above ban all that it allows,
                they do not count.
            echo: whether an answer begins with its prompt.
            details: whether to give `keras_gpt.generation.Answer` objects: text, new ids, what ended
                them, log-probabilities, and how much was cut out of the prompt.
            logprobs: how many of the most probable tokens `details` hold for each token, from 0
                to 20, beside log P of the chosen one; None asks for neither.
            draft_model: a smaller GPT with the same vocabulary that guesses the next tokens, which
                this one then checks all at once: faster where many are right, and the answer is
                the same where the temperature is 0, and drawn alike where it is not (but by other
                random numbers). Rows are then decoded one after the other.
            prompt_lookup: instead of a draft model, how many last tokens to look up in prompt and
                answer, to guess what followed them there; 2 or 3 are usual.
            num_draft_tokens: how many tokens are guessed at a time; 5 by default.
            num_beams: above 1, so many beginnings of an answer go on side by side, and the answers
                are the `num_return_sequences` (at most `num_beams`) with the best scores, the best
                first; fewer only where fewer sequences are possible. Nothing is drawn, and
                `details` hold the scores. Not together with settings that choose by drawing,
                `logprobs`, a constraint or guessed tokens.
            length_penalty: a sequence's score is the sum of log P of its new tokens / n **
                length_penalty, where n counts the new tokens, and a stop token that ends them, and
                not the prompt. Above 0 favours long answers, below 0 short ones. log P is changed
                by penalties, biases and bans where there are any.
            early_stopping: when a search with `num_beams` whole sequences ends: True, at once;
                False, when the best beam, if it ended now, would score no better than the worst of
                them; "never", when no longer beam can score better.
            penalty_alpha: from 0 to 1; each token is then that of the `top_k` most probable ones
                with the largest (1 - penalty_alpha) * P - penalty_alpha * (the cosine between its
                state and the most similar one of all earlier tokens). About 0.6 with a `top_k` of 4
                is usual. Nothing is drawn.
            attention_sinks: lets an answer go on beyond the context, as far as `max_new_tokens` or
                `max_length` says: so many of the first tokens stay (4 are usual), and the newest
                ones; whenever the context is full, an eighth of those between is forgotten, the
                oldest first. Positions count what is left. For models of rotary positions without
                windows; not together with beams, contrastive search, guessed tokens, a constraint
                or `no_repeat_ngram_size`.

        Returns:
            Prompt and continuation: a string for a string, ids for ids, a list for a list. With
            `num_return_sequences` above 1, a list of answers for each prompt.

        Raises:
            TypeError: the prompt is neither text nor ids.
            ValueError: an argument is out of range, or a prompt is empty or too long.

        Example:
            >>> gpt.generate("Once upon a time", max_length=50, temperature=0.7, top_k=50, seed=0)

        Sources: top-k, arXiv:1805.04833; top-p, arXiv:1904.09751; min-p, arXiv:2407.01082; typical,
        arXiv:2202.00666; repetition penalty, arXiv:1909.05858; n-grams, arXiv:1705.04304;
        speculative decoding, arXiv:2211.17192; beams, transformers' `generate` (5.23); contrastive
        search, arXiv:2202.06417; attention sinks, arXiv:2309.17453.
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
            min_p=min_p,
            typical_p=typical_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            logit_bias=logit_bias,
            banned_token_ids=banned_token_ids,
            forced_token_ids=forced_token_ids,
            min_new_tokens=min_new_tokens,
            stop=stop,
            constraint=constraint,
            echo=echo,
            details=details,
            logprobs=logprobs,
            draft_model=draft_model,
            prompt_lookup=prompt_lookup,
            num_draft_tokens=num_draft_tokens,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            penalty_alpha=penalty_alpha,
            attention_sinks=attention_sinks,
        )

    def stream(self, prompt: Any, **settings: Any) -> Iterator[Any]:
        """Continue one prompt and give each piece as soon as it is there.

        Args:
            prompt: a string, or a list of ids.
            **settings: those of `generate`, without `num_return_sequences`, `echo`, `details`,
                `logprobs` and beams.

        Returns:
            An iterator over pieces of the continuation: text for a string (never half a
            character), ids for ids. Closing it stops the work.

        Example:
            >>> for piece in gpt.stream("Once upon a time", max_new_tokens=20):
            ...     print(piece, end="")
        """
        return generation.stream(cast(Decoder, self), prompt, **settings)

    def warmup(
        self, batch_size: int = 1, max_length: int | None = None, chunk: int | None = None
    ) -> None:
        """Compile now what `generate`, `stream` and an `Engine` would compile at their first calls.

        After it no call of up to `batch_size` rows and `max_length` tokens compiles anything,
        whatever its settings, save that beams, contrastive search, speculative decoding and
        attention sinks compile at their first calls.

        Args:
            batch_size: the most rows at a time: prompts times answers, or an engine's `max_batch`.
            max_length: the most tokens of a row, its prompt included; None is the context.
            chunk: that of an `Engine`, for which alone it then warms up; None is for `generate`
                and `stream`.

        Raises:
            ValueError: an argument is out of range.

        Example:
            >>> gpt.warmup(batch_size=4, max_length=256)
        """
        generation.warmup(cast(Decoder, self), batch_size, max_length, chunk)

    def embed(self, texts: Any, pooling: str = "mean", normalize: bool = True) -> np.ndarray:
        """Turn texts into vectors that are alike where the texts are.

        Args:
            texts: a string or a list of ids, or a list of either, each within the context.
            pooling: "mean" of the last states of all tokens, or the "last" token's, which has seen
                all others.
            normalize: whether each vector has the length 1, so that a product of two is their
                cosine.

        Returns:
            (texts, embedding_dim) float32, or (embedding_dim,) for one text.

        Raises:
            ValueError: a text is empty or longer than the context, or `pooling` is unknown.

        Example:
            >>> cat, kitten = gpt.embed(["a cat", "a kitten"])
            >>> similarity = cat @ kitten
        """
        return generation.embed(cast(Decoder, self), texts, pooling, normalize)

    def attention_weights(
        self, text: Any, layer: int | None = None, prefix_length: int = 0
    ) -> np.ndarray:
        """Give where each token of a text looks: softmax(Q Kᵀ / sqrt(head_dim)), head by head.

        Args:
            text: a string or a list of ids, within the context.
            layer: which layer, from 0, or from the last with -1; None is all of them.
            prefix_length: how many first tokens see each other both ways, in a model with
                `bidirectional_prefix`: usually those of the prompt.

        Returns:
            (heads, time, time) float32, or (layers, heads, time, time) for all layers. The second
            axis from the end is the token that looks, the last one what it looks at; each row's sum
            is 1.

        Raises:
            TypeError: the text is neither text nor ids.
            ValueError: it is empty, several, or longer than the context, or there is no such layer.

        Example:
            >>> weights = gpt.attention_weights("The cat sat", layer=0)
            >>> weights[3, -1]  # what the last token takes from each, by head 3
        """
        return generation.attention_weights(cast(Decoder, self), text, layer, prefix_length)

    def score(
        self,
        targets: Any,
        given: Any = None,
        per_token: bool = False,
        stride: int | None = None,
    ) -> Any:
        """Give log P(w1 ... wn) = sum of log P(wt | w1 ... w(t-1)), in nats.

        The first token is given the tokenizer's end of text, which stands between documents; a
        model without one scores from the second token on.

        Args:
            targets: a string or ids, or a list of either.
            given: what each target follows, in the same form: the score is then log P(target |
                given). Text is tokenized apart from its target.
            per_token: whether to give one number a token instead of their sum.
            stride: what is longer than the context is read in windows of the context's length that
                move by so many tokens: each token is scored once, after at least context_length -
                stride of those before it. None takes nothing that is longer.

        Returns:
            A float (or an array of float32 where `per_token`), or a list of these for a list.

        Raises:
            ValueError: a sequence is empty, or it is longer than the context and has no stride (a
                model with `bidirectional_prefix` takes none), or the stride is longer.

        Example:
            >>> gpt.score(["The cat sat on the mat."])
            >>> gpt.score(open("book.txt").read(), stride=512)

        Source: "Language Models are Unsupervised Multitask Learners", equation 1.
        """
        return generation.score(cast(Decoder, self), targets, given, per_token, stride)
