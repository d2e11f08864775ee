"""Memory of a training, part by part: what a device holds, what the host does, and what goes to the disk.

    plan = predict_memory(shape, resolved, data, hardware)
    plan.peak          # bytes of one device, the most that it holds at any time
    plan.activations   # bytes of one part

The parts add up to what a device holds at the moment of training when it holds most: behind the forward pass of the
largest pack, where all activations and the scores are there. Gradients of earlier packs of a step are there too; where
a step has one pack, they come as activations go, and count only as far as they exceed them.

Strategies cut the parts as in Rajbhandari et al. 2020 (ZeRO) and Zhao et al. 2023 (FSDP): stage 1 the moments, stage 2
gradients too, stage 3 and FSDP weights too. DeepSpeed keeps a copy of the trained weights beside them, cut like the
moments. What is cut is whole for the time of its use: ``communication``. Every process loads the model whole before it
is cut (``loading``), and measuring answers needs a cache of keys and values (``answering``).

Held against the measurements of docs/performance.md (SmolLM2-135M, float32, packs of 1,024 tokens on two cores): full
4.4 GiB, LoRA of rank 16 2.8 to 3.1 GiB, the same with all layers checkpointed 1.6 GiB; a test keeps these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tunesmith.planner.activations import CAPPED, LayerHow, layer_bytes, layer_input_bytes, working_bytes
from tunesmith.planner.hardware import PROCESS_BYTES, Hardware
from tunesmith.planner.packs import Packs, plan_packs
from tunesmith.planner.shape import ModelShape
from tunesmith.planner.sizes import Sizes, classes, whole_sizes
from tunesmith.planner.trained import Counted, adapted_matrices
from tunesmith.recipe.facts import DataFacts
from tunesmith.recipe.objectives import HEADS
from tunesmith.recipe.resolved import Resolved
from tunesmith.recipe.strategies import CUT_MOMENTS, CUT_WEIGHTS, DEEPSPEED
from tunesmith.recipe.techniques import OWN_WEIGHTS, VIRTUAL_TOKENS, Freeze, Lora, Qlora, Quantized, TechniqueSpec

# A device is never filled to the last byte: blocks lie scattered, and other programs have some of a host's memory.
USABLE = {"cpu": 0.9, "cuda": 0.94}
# Scores of a frozen output matrix are made for so many numbers at a time, those of a trained one are worked on so.
PROJECTED_NUMBERS, CHUNK_NUMBERS = 2**24, 2**22
# On a processor weights that are made plain come and go between activations, and leave gaps of this share of them.
QUANTIZED_GAPS = 0.3
# What the library of quantized weights takes of a processor's memory.
QUANTIZED_LIBRARY_BYTES = int(0.15 * 2**30)
# Hidden states that a token keeps outside of the layers: what goes into the first one, the last norm, and the scores.
OUTER_HIDDEN = 3
# Numbers that DeepSpeed sends, and at stage 3 keeps whole, at a time (tunesmith.strategies.zero).
BUCKET_NUMBERS = 2**24
# Tokens whose keys and values a batch of answers holds (tunesmith.evaluation.systems).
ANSWER_TOKENS = 16_384


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. The first nine parts are those of one device, at the height of training.

    ``loading`` and ``answering`` are all that a device holds at other times; ``host`` is a machine's own memory (on a
    processor, that of all its processes), ``offloaded`` the part of a machine with GPUs that it cannot drop again, the
    processes with it; 0 where nothing is offloaded. ``checkpoints`` and ``result`` are disk. ``pack_tokens`` are those
    of the largest pack.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    quantization: int
    communication: int
    framework: int
    loading: int
    answering: int
    host: int
    checkpoints: int
    result: int
    trained_parameters: int
    trained_is_known: bool
    pack_tokens: int
    # Plans that lie in run folders may be older.
    offloaded: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """What a device holds while it trains, by name."""
        names = ("weights", "adapters", "gradients", "optimizer", "activations", "logits", "quantization")
        return {name: getattr(self, name) for name in (*names, "communication", "framework")}

    @property
    def training(self) -> int:
        """All parts together."""
        return sum(self.parts.values())

    @property
    def peak(self) -> int:
        """The most that a device holds at any time."""
        return max(self.training, self.loading, self.answering)

    def headroom(self, hardware: Hardware) -> int:
        """Bytes that are left where least is, on a device or on the host; below 0 the plan does not fit."""
        here, host = self.device_headroom(hardware), self.host_headroom(hardware)
        return here if host is None else min(here, host)

    def device_headroom(self, hardware: Hardware) -> int:
        """Bytes that are left of a device; on a processor, of the memory that all processes share."""
        if hardware.device_memory_bytes is not None:
            return int(USABLE["cuda"] * hardware.device_memory_bytes) - self.peak
        return int(USABLE["cpu"] * (hardware.host_memory_bytes or 0)) - self.host

    def host_headroom(self, hardware: Hardware) -> int | None:
        """Bytes that are left of the memory of a host with GPUs; None where nothing is kept there, or none is known.

        Only what is offloaded counts: weights that are read lie in files, and leave memory when others want it.
        """
        if hardware.device_memory_bytes is None or hardware.host_memory_bytes is None or not self.offloaded:
            return None
        return int(USABLE["cpu"] * hardware.host_memory_bytes) - self.offloaded


def predict_memory(
    shape: ModelShape,
    resolved: Resolved,
    data: DataFacts,
    hardware: Hardware,
    *,
    counted: Counted | None = None,
    new_tokens: int = 0,
) -> MemoryPlan:
    """Memory of a resolved recipe on some hardware.

    Args:
        shape: The model.
        resolved: The recipe, resolved.
        data: The training data in tokens.
        hardware: Where it is to run.
        counted: What was counted in the built model, for techniques without a formula.
        new_tokens: Tokens that the model did not have.
    """
    sizes = whole_sizes(shape, resolved, data, counted=counted, new_tokens=new_tokens)
    packs = plan_packs(shape, resolved, data)
    activations = int(_activations(shape, resolved, packs, hardware, new_tokens) * hardware.activation_scale)
    logits = _logits(shape, resolved, data, packs, new_tokens)
    held = _cut(resolved, sizes)
    ranks = resolved.devices * resolved.nodes
    gradients = held.gradients
    if math.ceil(packs.count / ranks) == 1:
        gradients = _late_gradients(shape, resolved, held.gradients, activations + logits)
    framework = hardware.framework
    if isinstance(resolved.technique, Quantized) and hardware.device == "cpu":
        framework += QUANTIZED_LIBRARY_BYTES
    loaded = framework + sizes.weights + sizes.adapters + sizes.quantization
    plan = MemoryPlan(
        weights=held.weights,
        adapters=held.adapters,
        gradients=gradients,
        optimizer=held.optimizer,
        activations=activations,
        logits=logits,
        quantization=sizes.quantization,
        communication=_communication(shape, resolved, sizes, hardware),
        framework=framework,
        loading=loaded,
        answering=loaded + _cache(shape, resolved, data, sizes) if resolved.max_new_tokens else 0,
        host=0,
        checkpoints=_checkpoints(resolved, sizes),
        result=sizes.adapters if resolved.technique.name not in OWN_WEIGHTS else 4 * sizes.parameters,
        trained_parameters=sizes.trained,
        trained_is_known=sizes.trained_is_known,
        pack_tokens=packs.largest,
    )
    return _with_host(plan, resolved, sizes, held, hardware)


def _activations(shape: ModelShape, resolved: Resolved, packs: Packs, hardware: Hardware, new_tokens: int) -> float:
    """All layers from the first that something learns in; the layers before it keep nothing."""
    how, adapted = _how(resolved, hardware), adapted_matrices(shape, resolved.technique)
    first = next((at for at, matrices in enumerate(adapted) if matrices), 0)
    if isinstance(resolved.technique, Freeze):
        first = max(0, shape.layers - resolved.technique.layers)
    if new_tokens:
        first = 0
    wish, tokens = resolved.activation_checkpointing, packs.largest
    again = shape.layers if wish is True else min(int(wish), shape.layers)
    one_layer = total = 0.0
    for layer in range(first, shape.layers):
        if layer > first and adapted[layer] is adapted[layer - 1]:
            kept = one_layer
        else:
            per_token, fixed = layer_bytes(shape, how, adapted[layer], packs)
            kept = one_layer = per_token * tokens + fixed
        total += layer_input_bytes(shape, how) * tokens if layer < again else kept
    if again > first:
        total += one_layer
    if isinstance(resolved.technique, Quantized) and hardware.device == "cpu":
        total *= 1 + QUANTIZED_GAPS
    outside = OUTER_HIDDEN * shape.hidden_size * 4 * tokens
    return total + working_bytes(shape, how) * tokens + outside


def _how(resolved: Resolved, hardware: Hardware) -> LayerHow:
    technique = resolved.technique
    dropout = getattr(technique, "dropout", 0.0) > 0
    return LayerHow(
        products=resolved.precision,
        device=hardware.device,
        technique=technique.name,
        trains=technique.name in OWN_WEIGHTS,
        own=_computes_own_products(technique) and not dropout and resolved.strategy != "zero3",
        dropout=dropout,
    )


def _computes_own_products(technique: TechniqueSpec) -> bool:
    """Whether adapters and weights are one step of autograd (tunesmith.techniques.low_rank_product)."""
    return isinstance(technique, Lora) or (isinstance(technique, Qlora) and technique.quantization == "nf4")


def makes_all_scores(shape: ModelShape, resolved: Resolved, new_tokens: int = 0) -> bool:
    """Whether the scores of all labels are there at once: the output matrix learns, is cut, or is not all there is."""
    technique = resolved.technique
    trains = technique.name == "full" or (isinstance(technique, Freeze) and technique.head and shape.output_matrix > 0)
    cut = resolved.strategy in CUT_WEIGHTS
    return trains or cut or new_tokens > 0 or shape.architecture in CAPPED or technique.name in VIRTUAL_TOKENS


def _logits(shape: ModelShape, resolved: Resolved, data: DataFacts, packs: Packs, new_tokens: int) -> int:
    """Scores of the largest pack's labels and what is made of them."""
    size = 2 if resolved.precision == "bfloat16" else 4
    if resolved.objective.name in HEADS or shape.kind != "causal":
        return 3 * packs.largest * max(2, classes(resolved, data)) * 4
    numbers = packs.labels * shape.vocabulary_size
    if makes_all_scores(shape, resolved, new_tokens):
        # The scores and their gradient; under a cap also what went into it. Chunks of them in float32.
        copies = 4 if shape.architecture in CAPPED else 2
        return copies * size * numbers + 2 * 4 * min(numbers, CHUNK_NUMBERS)
    # A chunk is made while the one before is still there; scores in half precision are there in float32 too.
    of_chunk = (4 if size == 4 else 6) + (4 if numbers > PROJECTED_NUMBERS else 0)
    cast = 2 * shape.vocabulary_size * shape.hidden_size if size == 2 and resolved.technique.name in OWN_WEIGHTS else 0
    return of_chunk * min(numbers, PROJECTED_NUMBERS) + cast


@dataclass(frozen=True)
class _Held:
    """What a device holds of the parts that strategies cut, and what of them lies on the host instead."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    offloaded: int


def _cut(resolved: Resolved, sizes: Sizes) -> _Held:
    ranks, strategy = resolved.devices * resolved.nodes, resolved.strategy
    of_weights = ranks if strategy in CUT_WEIGHTS else 1
    of_gradients = ranks if strategy in (*CUT_WEIGHTS, "zero2") else 1
    of_moments = ranks if strategy in CUT_MOMENTS else 1
    copies = 4 * sizes.trained if strategy in DEEPSPEED else 0
    weights, adapters = sizes.weights // of_weights, sizes.adapters // of_weights
    gradients, optimizer = sizes.gradients // of_gradients, (sizes.optimizer + copies) // of_moments
    if not resolved.offload:
        return _Held(weights, adapters, gradients, optimizer, 0)
    # The optimizer steps on the host, which holds this rank's part of the gradients for it in any case.
    host = optimizer + sizes.gradients // of_moments
    if strategy in CUT_WEIGHTS:
        return _Held(0, 0, 0, 0, host + weights + adapters)
    return _Held(weights, adapters, gradients if strategy == "zero1" else 0, 0, host)


def _late_gradients(shape: ModelShape, resolved: Resolved, gradients: int, others: int) -> int:
    """Gradients of a step's only pack: they come as activations go; that of a trained output matrix comes first."""
    writes = resolved.objective.name not in HEADS and shape.kind == "causal"
    first = writes and resolved.technique.name == "full" and resolved.strategy not in CUT_WEIGHTS
    of_scores = 4 * shape.vocabulary_size * shape.hidden_size if first else 0
    return max(min(gradients, of_scores), gradients - others)


def _communication(shape: ModelShape, resolved: Resolved, sizes: Sizes, hardware: Hardware) -> int:
    """What is whole for a while, and buffers: of FSDP what lies outside of the layers, and two layers."""
    number, strategy = sizes.number, resolved.strategy
    trains = 4 if resolved.technique.name in OWN_WEIGHTS else 0
    layer = shape.layer_parameters
    outside = sizes.parameters - shape.layers * layer
    if strategy == "fsdp":
        gathered = (2 * outside + 3 * layer) * number
        return gathered + trains * (outside + 2 * layer)
    sent = 4 * min(sizes.trained, BUCKET_NUMBERS)
    if strategy == "zero3":
        largest = max(shape.vocabulary_size * shape.hidden_size, *(one.weights for one in shape.matrices))
        return (min(sizes.parameters, BUCKET_NUMBERS) + largest) * number + sent
    if strategy in DEEPSPEED:
        # One bucket is filled while the other is on its way.
        return sent * (2 if hardware.device == "cuda" else 1)
    return 0


def _cache(shape: ModelShape, resolved: Resolved, data: DataFacts, sizes: Sizes) -> int:
    """Keys and values of a batch of answers, and scores of its rows."""
    row = data.mean_row_tokens + resolved.max_new_tokens
    rows = max(1.0, min(float(resolved.evaluation_rows), ANSWER_TOKENS / row))
    numbers = rows * row * shape.layers * 2 * shape.key_value_size
    return int(numbers * sizes.number + rows * shape.vocabulary_size * (4 + sizes.number))


def _checkpoints(resolved: Resolved, sizes: Sizes) -> int:
    """Those that are kept, the one being written, and the best one."""
    kept = resolved.keep_checkpoints + 1 + (1 if resolved.patience is not None else 0)
    return kept * (sizes.gradients + sizes.optimizer)


def _with_host(plan: MemoryPlan, resolved: Resolved, sizes: Sizes, held: _Held, hardware: Hardware) -> MemoryPlan:
    """The same with the host's memory."""
    if hardware.device == "cpu":
        # One process answers; the others only train.
        others = (resolved.devices - 1) * max(plan.training, plan.loading)
        return MemoryPlan(**{**vars(plan), "host": plan.peak + others})
    # Weights come through the host's memory, except where they are quantized on their way to the device.
    through = 0 if isinstance(resolved.technique, Quantized) else sizes.weights
    process = PROCESS_BYTES + max(through, held.offloaded)
    # The main process writes checkpoints from copies.
    host = resolved.devices * process + sizes.gradients + sizes.optimizer
    kept = resolved.devices * (PROCESS_BYTES + held.offloaded) if resolved.offload else 0
    return MemoryPlan(**{**vars(plan), "host": host, "offloaded": kept})
