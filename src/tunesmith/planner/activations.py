"""What a transformer layer keeps of every token for its backward pass, counted number by number.

The counts are those of our own forward pass on models of the Transformers library, and were found by looking at every
tensor that autograd keeps (a test does it again for each family). H is the size of the hidden state, Q that of all
queries, K that of all keys, I that of the MLP. Numbers are in the type of the products where nothing else is said. A
token leaves in a layer

    norms        their inputs, H each and always in float32; where norms train, what they made of them as well
    attention    queries Q, keys K and values K as they go into the kernel, what it gives (Q, segment by segment), and
                 a sum for each head; probabilities are not kept, see below
    MLP          gate I, its activation I and up I; an encoder's has one I alone
    inputs       of the four kinds of matrices: H before attention, Q behind it, H before the MLP, I inside of it;
                 each only where the matrices have something on them that learns

which makes 4 H + 3 Q + 2 K + 4 I numbers for a llama with LoRA on all matrices, against the 34 H bytes of Korthikanti
et al. 2023 ("Reducing Activation Recomputation in Large Transformer Models"), who keep masks of dropout and 16 bits.
Families with four norms, with norms of queries and keys, or with fused matrices keep what is theirs in addition.

Probabilities are kept in two cases: under soft caps, which no kernel computes (Gemma 2), and on a processor in
bfloat16, where attention is matrix products and short rows keep them (``tunesmith.models.product_attention``).

A layer that computes its activations again keeps its input alone, H numbers a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.planner.packs import Packs
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.trained import Adapted

# Numbers of the MLP's size: gate, activation and up of a gated one, what goes into the activation of a plain one.
GATED_INNER, PLAIN_INNER = 3, 1
# Bytes that a query keeps for each key that it may see, under soft caps: scores and probabilities.
CAPPED_BYTES = 8
CAPPED = ("gemma2",)
# Rows up to this length keep their probabilities where attention is matrix products: 2**18 numbers a head.
LONGEST_KEPT_ROW = 676
PRODUCT_BLOCK = 96
# Queries of rows that continue one prefix share copies of its keys, up to so many.
SIBLING_QUERIES = 64
# Of a layer's own gradients, those of the MLP and of the residual are there at a time on the way back.
WORKING_INNER, WORKING_HIDDEN = 3, 2


@dataclass(frozen=True)
class MethodCost:
    """What a method keeps in a layer.

    Multiples of its matrices' outputs for each token, and, whatever the tokens, of its matrices' numbers and of the
    squares of their inputs. ``inputs`` and ``ranks`` say whether inputs are kept, and what they became in the rank.
    """

    outputs: float = 0.0
    weights: float = 0.0
    squares: float = 0.0
    inputs: bool = True
    ranks: bool = True


# Measured on a tiny llama in float32. Methods that add to the weights keep a matrix as large as they are; the library's
# DoRA sends a unit matrix through the adapter to learn the length of each weight, and keeps it.
METHOD_COSTS = {
    "dora": MethodCost(outputs=2.0, squares=1.0),
    "qdora": MethodCost(outputs=2.0, squares=1.0),
    "boft": MethodCost(outputs=1.0, weights=1.0, squares=2.4, ranks=False),
    "c3a": MethodCost(outputs=0.3, ranks=False),
    "deft": MethodCost(outputs=1.1, weights=0.3),
    "delora": MethodCost(outputs=0.4),
    "fourierft": MethodCost(weights=1.1, ranks=False),
    "frod": MethodCost(weights=2.0, ranks=False),
    "glora": MethodCost(weights=1.0, ranks=False),
    "gralora": MethodCost(outputs=0.1),
    "hira": MethodCost(weights=1.0, ranks=False),
    "hra": MethodCost(weights=1.0, squares=9.0, ranks=False),
    "lily": MethodCost(weights=0.5),
    "loha": MethodCost(weights=1.0, ranks=False),
    "lokr": MethodCost(weights=1.0, ranks=False),
    "miss": MethodCost(inputs=False, ranks=False),
    "oft": MethodCost(weights=0.5, ranks=False),
    "osf": MethodCost(outputs=1.0, weights=1.0, ranks=False),
    "peanut": MethodCost(weights=1.5, ranks=False),
    "psoft": MethodCost(inputs=False, ranks=False),
    "pvera": MethodCost(outputs=1.8),
    "randlora": MethodCost(weights=0.7, ranks=False),
    "road": MethodCost(outputs=1.8, ranks=False),
    "shira": MethodCost(weights=1.0, ranks=False),
    "supertuning": MethodCost(weights=1.0, ranks=False),
    "tinylora": MethodCost(inputs=False, ranks=False),
    "vblora": MethodCost(weights=0.5),
    "vera": MethodCost(outputs=0.4),
    "waveft": MethodCost(weights=2.1, ranks=False),
}
_PLAIN = MethodCost()


@dataclass(frozen=True)
class LayerHow:
    """How a layer runs.

    ``products`` is the type of the matrix products. ``trains`` says that the layer's own weights learn. ``own`` says
    that adapters are computed by our own step of autograd, which keeps each input once.
    """

    products: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    technique: str
    trains: bool
    own: bool
    dropout: bool

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the type of the products."""
        return 2 if self.products == "bfloat16" else 4


def _kernel(shape: ModelShape, how: LayerHow) -> Literal["segments", "one_call", "products", "capped"]:
    """What computes attention: a kernel called segment by segment, which keeps what it gives; one call for the pack;
    matrix products of our own; or the library's operations one by one, where scores are capped."""
    if shape.architecture in CAPPED:
        return "capped"
    if how.products == "bfloat16" and how.device == "cuda":
        return "one_call"
    in_half = how.products == "bfloat16" and not how.trains
    return "products" if in_half and shape.kind == "causal" else "segments"


def layer_bytes(shape: ModelShape, how: LayerHow, adapted: Sequence[Adapted], packs: Packs) -> tuple[float, float]:
    """What one layer keeps: bytes a token of the largest pack, and bytes whatever the tokens."""
    per_token = _norms(shape, how) + _attention(shape, how, packs) + _inputs(shape, how, adapted)
    inner = PLAIN_INNER if shape.family.encoder else GATED_INNER
    per_token += inner * shape.intermediate_size * how.number_bytes
    cost = METHOD_COSTS.get(how.technique, _PLAIN)
    per_token += (sum(one.rank for one in adapted) if cost.ranks else 0) * how.number_bytes
    per_token += cost.outputs * sum(one.matrix.outputs for one in adapted) * how.number_bytes
    fixed = sum(cost.weights * one.matrix.weights + cost.squares * one.matrix.inputs**2 for one in adapted)
    if how.trains and how.products == "bfloat16":
        # Weights are float32 and cast once a pack; the casts are kept.
        fixed += shape.layer_matrices
    elif how.products == "bfloat16" and not how.own and cost.ranks:
        fixed += sum(one.rank * (one.matrix.inputs + one.matrix.outputs) for one in adapted)
    return per_token, fixed * how.number_bytes


def layer_input_bytes(shape: ModelShape, how: LayerHow) -> int:
    """Bytes a token that a layer keeps which computes its activations again."""
    return shape.hidden_size * (4 if how.trains else how.number_bytes)


def working_bytes(shape: ModelShape, how: LayerHow) -> int:
    """Bytes a token of the gradients that are there at a time on the way back through a layer."""
    return (WORKING_INNER * shape.intermediate_size + WORKING_HIDDEN * shape.hidden_size) * how.number_bytes


def _norms(shape: ModelShape, how: LayerHow) -> float:
    if shape.family.encoder:
        # A fused kernel keeps the inputs, in the type that they come in, a mean and a spread.
        width = 4 if how.trains else how.number_bytes
        return (shape.family.norms * shape.hidden_size + 2 * shape.family.norms) * width
    learn = how.trains or how.technique == "ln_tuning"
    total = (shape.family.norms * shape.hidden_size * (2 if learn else 1) + shape.family.norms) * 4
    if shape.family.query_key_norms:
        numbers = shape.query_size + shape.key_value_size
        total += (numbers + shape.attention_heads + shape.key_value_heads) * 4
        # Gemma's norms stay in float32 to the end.
        total += numbers * (4 if shape.family.norms > 2 else how.number_bytes) if learn else 0
    return total


def _attention(shape: ModelShape, how: LayerHow, packs: Packs) -> float:
    kernel = _kernel(shape, how)
    queries, keys = shape.query_size, shape.key_value_size
    numbers = float(queries + 2 * keys)
    if shape.family.fused:
        # Values are a part of one matrix's output, which is kept whole.
        numbers += queries + keys
    if packs.prefix:
        numbers += 2 * keys * _copied_keys(packs)
    if kernel == "segments":
        numbers += queries
    sums = 4 * shape.attention_heads if kernel in ("segments", "one_call") else 0
    return numbers * how.number_bytes + sums + _probabilities(shape, how, packs)


def _copied_keys(packs: Packs) -> float:
    """Keys of a shared prefix that are copied beside those of each group of rows, for each token of the pack."""
    own = max(1.0, packs.mean - packs.prefix)
    groups = max(1.0, min(packs.rows, own / SIBLING_QUERIES))
    return groups * packs.prefix / packs.mean


def _probabilities(shape: ModelShape, how: LayerHow, packs: Packs) -> float:
    kernel = _kernel(shape, how)
    if kernel == "capped":
        return CAPPED_BYTES * shape.attention_heads * packs.row_tokens
    if kernel == "products" and packs.row_tokens <= LONGEST_KEPT_ROW:
        # Queries go in blocks, each with the keys up to its own last one.
        blocks = max(1, round(packs.row_tokens / PRODUCT_BLOCK))
        return shape.attention_heads * packs.row_tokens * (blocks + 1) / (2 * blocks) * how.number_bytes
    return 0.0


def _inputs(shape: ModelShape, how: LayerHow, adapted: Sequence[Adapted]) -> float:
    """What matrices were called with: once for all that read it, or once for each."""
    if how.trains:
        read = [(one.reads, one.inputs) for one in shape.matrices]
        return (_each(read) if how.products == "bfloat16" else _once(read)) * how.number_bytes
    read = [(one.matrix.reads, one.matrix.inputs) for one in adapted]
    if not METHOD_COSTS.get(how.technique, _PLAIN).inputs:
        return 0.0
    if how.dropout:
        # What was let through is kept as well: numbers of float32 on a processor, a byte each on a GPU.
        return _each(read) * (how.number_bytes + (4 if how.device == "cpu" else 1))
    return (_once(read) if how.own or how.products == "float32" else _each(read)) * how.number_bytes


def _once(read: Sequence[tuple[str, int]]) -> int:
    return sum(dict(read).values())


def _each(read: Sequence[tuple[str, int]]) -> int:
    return sum(inputs for _, inputs in read)
