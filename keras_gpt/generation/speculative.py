"""Speculative decoding: guess several tokens cheaply, and let the model check all in one reading.

A decode step reads every weight for one token; checking some guessed tokens reads them once for all.
What comes out is what the model alone would give: the same tokens where it is greedy (as far as
sums in another order give the same logits), and tokens of the same distribution where it draws.
"""

import dataclasses
from collections.abc import Iterator

from keras import ops

from keras_gpt.generation.cache import RECENT_SLOTS
from keras_gpt.generation.decode import Chosen
from keras_gpt.generation.proposals import make_proposer
from keras_gpt.generation.protocol import Decoder
from keras_gpt.generation.reader import RowReader
from keras_gpt.generation.rows import Row, sampling_of, tensor

USUAL_DRAFT_TOKENS = 5
# The last token and the guessed ones are read together, each in a slot of its own.
MOST_DRAFT_TOKENS = RECENT_SLOTS - 1


@dataclasses.dataclass
class Totals:
    """What speculation did, added up over rows: pass one in and look at it afterwards."""

    rounds: int = 0  # readings that checked guessed tokens
    plain_steps: int = 0  # readings of one token, where there was no guess
    drafted: int = 0  # guessed tokens that were checked
    accepted: int = 0  # those of them that the model took over


def decode_speculatively(
    model: Decoder,
    row: Row,
    *,
    draft: Decoder | None = None,
    lookup: int | None = None,
    num_draft_tokens: int = USUAL_DRAFT_TOKENS,
    totals: Totals | None = None,
) -> Iterator[Chosen]:
    """Choose token after token for one row until it has stopped, as `decode` does.

    One row at a time: rows of a batch would accept different numbers of tokens, and a batch reads
    each weight for several tokens anyway.

    Args:
        model: gives the logits.
        row: what to go on with; it fits the context of both models together with its new tokens.
        draft: a smaller model that guesses, with the same vocabulary; or else
        lookup: how many last tokens to look up in the row, to guess what followed them there.
        num_draft_tokens: how many tokens are guessed at a time, up to `MOST_DRAFT_TOKENS`.
        totals: what happened is added to it.

    Yields:
        The tokens.

    Source: arXiv:2211.17192.
    """
    if row.max_new_tokens == 0:
        return
    totals = Totals() if totals is None else totals
    sampling = sampling_of([row])
    reader = RowReader(model, row, sampling)
    proposer = make_proposer(row, sampling, draft, lookup, num_draft_tokens, reader.steps.known)
    tokens = [*row.prompt, int(ops.convert_to_numpy(reader.first)[0])]
    given = len(row.prompt)  # how many of `tokens` are the prompt or were yielded
    last = len(row.prompt) + row.max_new_tokens
    while True:
        for token in tokens[given:]:
            is_stop = token in row.stop_token_ids
            yield Chosen(token, is_stop, None, None)
            if is_stop:
                return
        given, step = len(tokens), len(tokens) - len(row.prompt)
        if given == last:
            return
        # A round gives one token more than it accepts: near the end fewer guesses count. The
        # others may lie beyond the context, where they are clipped to its last position; they are
        # never accepted, and what they leave in the slots is not looked at.
        count = min(num_draft_tokens, last - given - 1)
        proposal = proposer.propose(tokens, step) if count else None
        if proposal is None:
            reader.make_room(1)
            chosen, _ = reader.next(tensor(tokens[-1:], "int32"), step, sampling)
            tokens.append(int(ops.convert_to_numpy(chosen)[0]))
            totals.plain_steps += 1
            continue
        reader.make_room(num_draft_tokens + 1)
        logits = reader.verify([tokens[-1], *proposal.tokens])
        accepted, chosen = reader.steps.accept(
            logits,
            tensor([proposal.tokens], "int32"),
            proposal.probabilities,
            tensor([count], "int32"),
            sampling,
            tensor([step], "int32"),
        )
        kept = int(ops.convert_to_numpy(accepted)[0])
        reader.forget_from(given + kept)
        tokens += [*proposal.tokens[:kept], int(ops.convert_to_numpy(chosen)[0])]
        totals.rounds += 1
        totals.drafted += count
        totals.accepted += kept
