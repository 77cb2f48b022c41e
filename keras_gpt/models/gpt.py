"""GPT: a decoder-only Transformer as a Keras model."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_gpt import losses
from keras_gpt.config import GPTConfig
from keras_gpt.generation_settings import GenerationSettings
from keras_gpt.layers import (
    Block,
    PositionEmbedding,
    RotaryTables,
    TokenEmbedding,
    attention_mask,
    branch_mask,
    make_norm,
    rotary_tables,
    token_positions,
)
from keras_gpt.models.cached_pass import CachedPass
from keras_gpt.models.formats import Formats
from keras_gpt.models.inputs import unpack_inputs
from keras_gpt.models.integer_weights import mode_of, set_mode, split_policy, with_mode
from keras_gpt.models.next_token import NextTokenModel, TrainingOutputs
from keras_gpt.models.text_methods import TextMethods

if TYPE_CHECKING:
    from keras_gpt.tokenizers import Tokenizer


@keras.saving.register_keras_serializable("keras_gpt")
class GPT(CachedPass, TextMethods, Formats, NextTokenModel):
    """A GPT: token ids in, the logits of each next token out.

    Args:
        vocab_size: number of token ids.
        embedding_dim: width of the residual stream.
        num_heads: attention heads a layer.
        feed_forward_dim: inner width of the feed-forward layer.
        num_layers: number of blocks.
        tokenizer: a `keras_gpt.Tokenizer`, so that strings go in and come out; or None.
        generation_settings: how the model is meant to be run (stop ids, chat template), as
            `GenerationSettings` or its dictionary; None says nothing.
        name: the model's name.
        dtype: a Keras dtype policy, such as "mixed_bfloat16"; None is Keras' global one. With one
            such as "int8_from_float32" the matrices are integers, zero until they are loaded; it is
            what `from_preset(..., quantize="int8")` takes.
        **fields: any other field of `GPTConfig`, such as `context_length=256`.

    Call arguments:
        inputs: token ids (batch, time) int, or a dictionary with "token_ids" and, as needed,
            "padding_mask" (batch, time): True at real tokens; "segment_ids" (batch, time): packed
            documents that do not see each other; "prefix_lengths" (batch,): how many first tokens
            see each other both ways (with `bidirectional_prefix`).
        training: whether dropout acts.
        mask: a padding mask (batch, time), True at real tokens, or an attention mask (batch, time,
            time), True where the query (second axis) may look at the key (third axis).

    Returns:
        Logits (batch, time, vocab_size) in the compute dtype.

    Raises:
        ValueError: an argument is out of range, ids are outside the vocabulary, or the sequence is
            longer than `context_length`.

    Example:
        >>> gpt = GPT(vocab_size=1000, embedding_dim=64, num_heads=4, feed_forward_dim=256, num_layers=2)
        >>> gpt(np.array([[1, 2, 3]])).shape
        (1, 3, 1000)

    Compiled without a loss, the model trains on the next-token loss, which never holds the logits
    of a whole batch: `gpt.compile(optimizer)`, then `gpt.fit(dataset)` with (ids, next ids).
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        num_heads: int,
        feed_forward_dim: int,
        num_layers: int,
        *,
        tokenizer: "Tokenizer | None" = None,
        generation_settings: GenerationSettings | Mapping[str, Any] | None = None,
        name: str | None = None,
        dtype: Any = None,
        **fields: Any,
    ) -> None:
        config = GPTConfig.from_dict(
            {
                "vocab_size": vocab_size,
                "embedding_dim": embedding_dim,
                "num_heads": num_heads,
                "feed_forward_dim": feed_forward_dim,
                "num_layers": num_layers,
                **fields,
            }
        )
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                "vocab_size must have room for every id of the tokenizer. Received: "
                f"vocab_size={config.vocab_size}, tokenizer.vocab_size={tokenizer.vocab_size}"
            )
        policy, mode = split_policy(dtype)
        super().__init__(name=name, dtype=policy)
        self.config = config
        self.tokenizer = tokenizer
        self.generation_settings = GenerationSettings.of(generation_settings)
        self.token_embedding = TokenEmbedding(
            config.vocab_size,
            config.embedding_dim,
            tie_weights=config.tie_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=config.initializer_range),
            reverse_dtype=self.compute_dtype,  # Keras' default is the variables' dtype
            dtype=policy,
            name="token_embedding",
        )
        self.position_embedding = None
        if config.positions != "rotary":
            self.position_embedding = PositionEmbedding(
                config, dtype=policy, name="position_embedding"
            )
        self.embedding_dropout = keras.layers.Dropout(
            config.embedding_dropout, dtype=policy, name="embedding_dropout"
        )
        self.blocks = [
            Block(config, dtype=policy, name=f"block_{layer}") for layer in range(config.num_layers)
        ]
        self.final_norm = None
        if config.norm_placement == "pre":
            self.final_norm = make_norm(config, "final_norm", policy)
        set_mode(self, mode)
        self.supports_masking = True  # it takes a mask; `compute_mask` says what becomes of it
        self.build((None, None))

    def build(self, input_shape: Any) -> None:
        """Make every weight."""
        if self.built:
            return
        states = (None, None, self.config.embedding_dim)
        self.token_embedding.build((None, None))
        if self.position_embedding is not None:
            self.position_embedding.build((None, None))
        for block in self.blocks:
            block.build(states)
        if self.final_norm is not None:
            self.final_norm.build(states)

    # -- the forward pass -------------------------------------------------------------------------

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the logits of the next token at every position."""
        states = self.hidden_states(inputs, training=training, mask=mask)
        if self.is_in_own_step:  # only metrics make the logits of a whole batch exist
            return TrainingOutputs(states, self.project(states) if self.has_metrics else None)
        return self.project(states)

    def hidden_states(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Give the last states, from which `project` makes logits.

        Args:
            inputs: as in a call.
            training: whether dropout acts.
            mask: as in a call.

        Returns:
            (batch, time, embedding_dim).
        """
        token_ids, positions, masks = self._unpack(inputs, mask)
        return self._run_blocks(token_ids, positions, masks, training)

    def attention_by_layer(self, inputs: Any, mask: Any = None) -> Iterator[Any]:
        """Give each layer's attention weights: layers after the last that is asked for do not run.

        Args:
            inputs: as in a call.
            mask: as in a call.

        Returns:
            An iterator over (batch, heads, query, key) float32: what share of what each query takes
            comes from each key.
        """
        token_ids, positions, masks = self._unpack(inputs, mask)
        states, rotary = self.embed_tokens(token_ids, positions, training=False)
        for layer, block in enumerate(self.blocks):
            window = self.config.attention_window(layer)
            states, weights = block.with_weights(states, masks[window], rotary)
            yield weights

    def _unpack(self, inputs: Any, mask: Any) -> tuple[Any, Any, dict[int | None, Any]]:
        """Give token ids, their positions, and who sees whom for each width of window."""
        inputs = unpack_inputs(inputs, mask, self.config)
        token_ids, mask = inputs.token_ids, inputs.mask
        time = ops.shape(token_ids)[1]
        padding_mask = mask if mask is not None and len(mask.shape) == 2 else None
        positions = token_positions(time, padding_mask, inputs.segment_ids)
        masks = {
            window: attention_mask(time, window, mask, inputs.prefix_lengths, inputs.segment_ids)
            for window in set(self.config.attention_windows)
        }
        return token_ids, positions, masks

    def packed_states(self, token_ids: Any, positions: Any, segments: Any, branches: Any) -> Any:
        """Give the last states where continuations of one context stand side by side behind it.

        Args:
            token_ids: (batch, time) int32.
            positions: (batch, time) int32, each token's place in its own sequence: that of a
                continuation goes on from its context's.
            segments: (batch, time) int32, equal within a context and its continuations.
            branches: (batch, time) int32, 0 in a context, then one number a continuation.

        Returns:
            (batch, time, embedding_dim), from which `project` makes logits.
        """
        masks = {
            window: branch_mask(
                positions, segments, branches, window, self.config.bidirectional_prefix
            )
            for window in set(self.config.attention_windows)
        }
        return self._run_blocks(token_ids, positions, masks, training=False)

    def _run_blocks(
        self, token_ids: Any, positions: Any, masks: Mapping[int | None, Any], training: bool | None
    ) -> Any:
        states, rotary = self.embed_tokens(token_ids, positions, training)
        for layer, block in enumerate(self.blocks):
            window = self.config.attention_window(layer)
            states = block(states, masks[window], rotary, training=training)
        return self.finish(states)

    def project(self, states: Any) -> Any:
        """Turn last states (..., embedding_dim) into logits (..., vocab_size)."""
        return self.token_embedding(states, reverse=True)

    def output_matrix(self) -> Any:
        """Give the output projection as (vocab_size, embedding_dim), in the variables' dtype."""
        if self.token_embedding.quantization_mode is not None:
            # The integers mean nothing without their scales: project the unit vectors.
            return ops.transpose(self.project(ops.eye(self.config.embedding_dim)))
        if self.config.tie_embeddings:
            return ops.convert_to_tensor(self.token_embedding.embeddings)
        return ops.transpose(ops.convert_to_tensor(self.token_embedding.reverse_embeddings))

    def embed_tokens(
        self, token_ids: Any, positions: Any, training: bool | None
    ) -> tuple[Any, RotaryTables | None]:
        """Give what the first block takes: states (batch, time, embedding_dim), and rotary angles."""
        states = self.token_embedding(token_ids)
        rotary = None
        if self.position_embedding is None:
            rotary = rotary_tables(
                positions,
                self.config.head_dim,
                self.config.rotary_base,
                self.config.rotary_scaling,
            )
        else:
            states = states + self.position_embedding(positions, training=training)
        return self.embedding_dropout(states, training=training), rotary

    def finish(self, states: Any) -> Any:
        """Make the last states of those that the blocks gave, of any shape (..., embedding_dim)."""
        if self.final_norm is not None:
            states = self.final_norm(states)
        return ops.tanh(states) if self.config.output_activation == "tanh" else states

    # -- scoring ----------------------------------------------------------------------------------

    def score_positions(self, token_ids: Any, prefix_lengths: Any) -> Any:
        """Give -log P of each token given those before it.

        Args:
            token_ids: (batch, time + 1) int32.
            prefix_lengths: (batch,) int32, the length of what is only given; it is read both ways
                by a model with `bidirectional_prefix`.

        Returns:
            (batch, time) float32 in nats; place t belongs to token t + 1.
        """
        inputs = {"token_ids": token_ids[:, :-1]}
        if self.config.bidirectional_prefix:
            inputs["prefix_lengths"] = prefix_lengths
        states = self.hidden_states(inputs, training=False)
        if self.token_embedding.quantization_mode is not None:
            # Integers are multiplied in a way of their own, so their own logits count; a row at a time.
            return ops.map(self._score_row, (states, token_ids[:, 1:]))
        return losses.token_losses(states, self.output_matrix(), token_ids[:, 1:])

    def _score_row(self, row: tuple[Any, Any]) -> Any:
        states, targets = row
        logits = ops.cast(self.project(states), "float32")  # (time, vocab_size)
        picked = ops.take_along_axis(logits, ops.expand_dims(targets, 1), axis=1)
        return ops.logsumexp(logits, axis=1) - picked[:, 0]

    # -- Keras' contract --------------------------------------------------------------------------

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> None:
        """Give no mask on: which positions count in the loss is said by `sample_weight`."""

    def compute_output_shape(self, input_shape: Any, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Give the shape of the logits."""
        if isinstance(input_shape, dict):
            input_shape = input_shape["token_ids"]
        return (*input_shape, self.config.vocab_size)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> keras.KerasTensor:
        """Give shape and dtype of the logits."""
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        shape = self.compute_output_shape(tuple(token_ids.shape))
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Give what the model is made from, the tokenizer included."""
        tokenizer = self.tokenizer and keras.saving.serialize_keras_object(self.tokenizer)
        return {
            **self.config.to_dict(),
            "tokenizer": tokenizer,
            "generation_settings": self.generation_settings.to_dict(),
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(with_mode(self.dtype_policy, mode_of(self))),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "GPT":
        """Make the model from what `get_config` gave."""
        config = dict(config)
        if config.get("tokenizer") is not None:
            config["tokenizer"] = keras.saving.deserialize_keras_object(config["tokenizer"])
        return cls(**config)
