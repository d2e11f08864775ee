"""How many numbers each method of the PEFT library trains, in closed form from the matrices that it is put on.

A row of :data:`METHODS` has the settings that the method gets where the recipe is silent (what Tunesmith sets goes
before what the library sets), and a formula. Methods whose matrices are shared among layers, or that cut the weights
themselves in two, have no row: they are counted in the built model (:mod:`tunesmith.planner.counted`). Formulas follow
the shapes that the library allocates; a contract test holds every row to the number that a prepared model really
trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from tunesmith.planner.families import Matrix
from tunesmith.planner.shape import ModelShape

Settings = Mapping[str, Any]
# Numbers that one matrix adds, or None where the settings ask for what has no closed form here.
PerMatrix = Callable[[Matrix, Settings], "int | None"]
# The same for a whole model; the second argument is how many matrices have the method.
PerModel = Callable[[ModelShape, int, Settings], "int | None"]


def _none(_shape: ModelShape, _matrices: int, _settings: Settings) -> int:
    return 0


@dataclass(frozen=True)
class Counted:
    """One method: on which modules it goes by itself, its settings, and what it trains."""

    settings: Settings
    per_matrix: PerMatrix
    per_model: PerModel = _none
    targets: Literal["linear", "keys_values_down", "norms", "none"] = "linear"


def _low_rank(matrix: Matrix, settings: Settings) -> int:
    """Two thin matrices: from the inputs to the rank, from there to the outputs."""
    return int(settings["r"]) * (matrix.inputs + matrix.outputs)


def _adalora(matrix: Matrix, settings: Settings) -> int:
    """P Lambda Q with the first rank; the number of ranks that are left is no trained number (Zhang et al. 2023)."""
    return int(settings["init_r"]) * (matrix.inputs + matrix.outputs + 1)


def _adamss(matrix: Matrix, settings: Settings) -> int | None:
    """For each cluster of outputs a row over the largest singular directions, and for each output a factor (AdaMSS).

    The library clusters the outputs by the weights' singular vectors. With one rank a cluster their number alone
    counts; with more, clusters of fewer outputs get fewer ranks, and which these are is known of the weights alone.
    """
    if int(settings["subspace_rank"]) != 1:
        return None
    # A bias is one more column of the matrix.
    directions = min(int(settings["r"]), matrix.outputs, matrix.inputs + int(matrix.bias))
    return min(int(settings["num_subspaces"]), matrix.outputs) * directions + matrix.outputs


def _boft(matrix: Matrix, settings: Settings) -> int | None:
    """A rotation of each block of inputs, and a length for each output (Liu et al. 2024).

    More than one butterfly factor needs an extension that is compiled for a GPU; without it the library takes one.
    """
    size, blocks = int(settings["boft_block_size"]), int(settings["boft_block_num"])
    if (size == 0) == (blocks == 0) or int(settings["boft_n_butterfly_factor"]) != 1:
        return None
    size = size or matrix.inputs // blocks
    return (blocks or matrix.inputs // size) * size**2 + matrix.outputs


def _c3a(matrix: Matrix, settings: Settings) -> int:
    """One circulant kernel for each pair of blocks (Chen et al. 2025)."""
    return matrix.weights // int(settings["block_size"])


def _deft(matrix: Matrix, settings: Settings) -> int:
    rank = min(int(settings["r"]), matrix.outputs)
    return rank * (matrix.outputs + (0 if settings["para"] else matrix.inputs))


def _delora(matrix: Matrix, settings: Settings) -> int:
    """A strength apart from the direction (Bini et al. 2025)."""
    return _low_rank(matrix, settings) + 1


def _frequencies(_matrix: Matrix, settings: Settings) -> int:
    """So many coefficients of a transformed update (Gao et al. 2024; WaveFT does it with wavelets)."""
    return int(settings["n_frequency"])


def _frod(matrix: Matrix, settings: Settings) -> int:
    """A length for each input, and a sparse rotation of the inputs (FRoD): a share of what is off its diagonal."""
    square = matrix.inputs**2
    share, off_diagonal = float(settings["sparse_rate"]), square - matrix.inputs
    rotated = min(int(square * share), off_diagonal)
    return matrix.inputs + (max(1, rotated) if share > 0 and off_diagonal else rotated)


def _glora(matrix: Matrix, settings: Settings) -> int | None:
    """Scale and shift of weights as two low-rank updates, and of a bias where there is one (Chavan et al. 2023)."""
    kinds = (settings["config_A_B"], settings["config_C"], settings["config_D_E"])
    if kinds != ("lora", "lora", "constant"):
        return None
    of_bias = int(settings["r"]) * (matrix.inputs + 1) + 2 if matrix.bias else 0
    return 2 * _low_rank(matrix, settings) + of_bias


def _gralora(matrix: Matrix, settings: Settings) -> int:
    """Low-rank updates block by block, all together as large as one (Jung et al. 2025), and a plain one beside them."""
    return (int(settings["r"]) + int(settings["hybrid_r"])) * (matrix.inputs + matrix.outputs)


def _hra(matrix: Matrix, settings: Settings) -> int:
    """Householder reflections of the inputs (Yuan et al. 2024)."""
    return int(settings["r"]) * matrix.inputs


def _ia3(matrix: Matrix, _settings: Settings) -> int:
    """A factor for each output, or for each input of what leads out of the MLP (Liu et al. 2022)."""
    return matrix.inputs if _leads_out(matrix) else matrix.outputs


def _loha(matrix: Matrix, settings: Settings) -> int:
    """The elementwise product of two low-rank updates (Hyeon-Woo et al. 2022)."""
    return 2 * _low_rank(matrix, settings)


def _lokr(matrix: Matrix, settings: Settings) -> int:
    """A Kronecker product of a small matrix and a larger one, which is low-rank where that is smaller (LyCORIS)."""
    rank, factor = int(settings["r"]), int(settings["decompose_factor"])
    (out_small, out_large), (in_small, in_large) = _factors(matrix.outputs, factor), _factors(matrix.inputs, factor)
    small = out_small * in_small
    if settings["decompose_both"] and rank < max(out_small, in_small) / 2:
        small = rank * (out_small + in_small)
    large = out_large * in_large
    return small + (rank * (out_large + in_large) if rank < max(out_large, in_large) / 2 else large)


def _factors(dimension: int, factor: int) -> tuple[int, int]:
    """Two divisors of a dimension, near its square root or the first of them near ``factor``, as LyCORIS finds them."""
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    most = dimension if factor == -1 else factor
    small, large = 1, dimension
    while small < large:
        wanted = next(one for one in range(small + 1, dimension + 1) if dimension % one == 0)
        if wanted + dimension // wanted > small + large or wanted > most:
            break
        small, large = wanted, dimension // wanted
    return min(small, large), max(small, large)


def _miss(matrix: Matrix, settings: Settings) -> int:
    """One row of numbers for each rank, repeated over the inputs (Kang and Yin 2024, first called Bone)."""
    rank = int(settings["r"])
    if settings["init_weights"] == "bat":
        return matrix.outputs // rank * rank**2
    return rank * (int(settings["mini_r"]) if settings["init_weights"] == "mini" else matrix.outputs)


def _oft(matrix: Matrix, settings: Settings) -> int | None:
    """A rotation of each block of inputs, from the upper half of a skew matrix (Qiu et al. 2023)."""
    size, blocks = int(settings["oft_block_size"]), int(settings["r"])
    if (size == 0) == (blocks == 0):
        return None
    if size:
        size = _nearest_divisor(matrix.inputs, size)
        blocks = matrix.inputs // size
    else:
        blocks = _nearest_divisor(matrix.inputs, blocks)
        size = matrix.inputs // blocks
    return (1 if settings["block_share"] else blocks) * size * (size - 1) // 2


@cache
def _nearest_divisor(dimension: int, wanted: int) -> int:
    """The divisor of a dimension that is nearest to a number; of two, the lower one."""
    if wanted >= dimension:
        return dimension
    divisors = [one for one in range(1, dimension + 1) if dimension % one == 0]
    return min(divisors, key=lambda one: (abs(one - wanted), one))


def _peanut(matrix: Matrix, settings: Settings) -> int:
    rank = int(settings["r"])
    return 2 * rank * matrix.outputs + 2 * int(settings["depth"]) * rank**2


def _psoft(_matrix: Matrix, settings: Settings) -> int:
    """A rotation in the space of the largest singular values, and lengths on both sides of it."""
    rank = int(settings["r"])
    turned = rank * (rank - 1) // 2 if settings["psoft_orth"] else rank**2
    return turned + rank * (int(settings["psoft_mag_a"]) + int(settings["psoft_mag_b"]))


def _pvera(matrix: Matrix, settings: Settings) -> int:
    """As VeRA, with a mean and a spread for each rank."""
    return matrix.outputs + 2 * int(settings["r"])


def _randlora(matrix: Matrix, settings: Settings) -> int:
    """Two diagonals for each of as many fixed random matrices as make a full rank (Albert et al. 2025)."""
    rank, least = int(settings["r"]), min(matrix.inputs, matrix.outputs)
    return -(-least // rank) * (rank + least)


def _road(matrix: Matrix, settings: Settings) -> int | None:
    """An angle and a length for pairs of outputs (Liao et al. 2024)."""
    sizes = {"road_1": 2 * (matrix.outputs // 2), "road_2": 2 * matrix.outputs, "road_4": 4 * matrix.outputs}
    return sizes.get(str(settings["variant"]))


def _supertuning(matrix: Matrix, settings: Settings) -> int:
    """The largest weights alone."""
    beside = int(settings["r"]) * (matrix.inputs + matrix.outputs) if settings["r"] else 0
    return int(matrix.weights * (1 - float(settings["sparsity"]))) + beside


def _vblora(matrix: Matrix, settings: Settings) -> int:
    """Which vectors of a shared bank make up the rows of a low-rank update (Li et al. 2024)."""
    pieces = matrix.inputs // int(settings["vector_length"]) + matrix.outputs // int(settings["vector_length"])
    return int(settings["r"]) * pieces * int(settings["num_vectors"])


def _vera(matrix: Matrix, settings: Settings) -> int:
    """Factors of the ranks and outputs of fixed random matrices (Kopiczko et al. 2024)."""
    return matrix.outputs + int(settings["r"])


def _nothing(_matrix: Matrix, _settings: Settings) -> int:
    return 0


def _bank(_shape: ModelShape, _matrices: int, settings: Settings) -> int:
    return int(settings["num_vectors"]) * int(settings["vector_length"])


def _one_vector(_shape: ModelShape, _matrices: int, settings: Settings) -> int:
    return int(settings["theta_d_length"])


def _groups(_shape: ModelShape, matrices: int, settings: Settings) -> int:
    """A vector for each group of matrices."""
    groups = max(1, round(matrices * (1.0 - float(settings["weight_tying"]))))
    size = max(1, matrices // groups)
    return int(settings["u"]) * min(groups, -(-matrices // size))


def _norms(shape: ModelShape, _matrices: int, _settings: Settings) -> int:
    return shape.layers * shape.layer_norms + shape.outer_norms


def _prompt(shape: ModelShape, _matrices: int, settings: Settings) -> int:
    """Virtual tokens as wide as the embeddings (Lester et al. 2021)."""
    return int(settings["num_virtual_tokens"]) * shape.hidden_size


def _p_tuning(shape: ModelShape, _matrices: int, settings: Settings) -> int | None:
    """Virtual tokens through an MLP of three layers (Liu et al. 2021)."""
    if str(settings["encoder_reparameterization_type"]).rpartition(".")[2].upper() != "MLP":
        return None
    wide, inner = shape.hidden_size, int(settings["encoder_hidden_size"])
    mlp = wide * inner + inner + inner**2 + inner + inner * wide + wide
    return int(settings["num_virtual_tokens"]) * wide + mlp


def _prefix(shape: ModelShape, _matrices: int, settings: Settings) -> int | None:
    """Keys and values of virtual tokens in every layer (Li and Liang 2021)."""
    if settings["prefix_projection"]:
        return None
    return int(settings["num_virtual_tokens"]) * shape.layers * 2 * shape.key_value_size


def _leads_out(matrix: Matrix) -> bool:
    """What the library takes for the way out of an MLP; by their names, that of an encoder's attention as well."""
    return matrix.name.endswith(("down_proj", "output.dense"))


def takes_ia3(matrix: Matrix) -> bool:
    """Whether IA3 goes on a matrix by itself: keys, values, and what leads out of the MLP."""
    return matrix.name.endswith((".k_proj", ".v_proj", ".qkv_proj", ".key", ".value")) or _leads_out(matrix)


METHODS: Mapping[str, Counted] = {
    "adalora": Counted({"init_r": 12}, _adalora),
    "adamss": Counted({"r": 100, "num_subspaces": 5, "subspace_rank": 1}, _adamss),
    "boft": Counted({"boft_block_size": 4, "boft_block_num": 0, "boft_n_butterfly_factor": 1}, _boft),
    "c3a": Counted({"block_size": 64}, _c3a),
    "deft": Counted({"r": 8, "para": False}, _deft),
    "delora": Counted({"r": 8}, _delora),
    "fourierft": Counted({"n_frequency": 1000}, _frequencies),
    "frod": Counted({"sparse_rate": 0.01}, _frod),
    "glora": Counted({"r": 8, "config_A_B": "lora", "config_C": "lora", "config_D_E": "constant"}, _glora),
    "gralora": Counted({"r": 32, "hybrid_r": 0}, _gralora),
    "hira": Counted({"r": 32}, _low_rank),
    "hra": Counted({"r": 8}, _hra),
    "ia3": Counted({}, _ia3, targets="keys_values_down"),
    "ln_tuning": Counted({}, _nothing, _norms, targets="norms"),
    "loha": Counted({"r": 8}, _loha),
    "lokr": Counted({"r": 8, "decompose_both": False, "decompose_factor": -1}, _lokr),
    "miss": Counted({"r": 32, "mini_r": 1, "init_weights": True}, _miss),
    "oft": Counted({"r": 0, "oft_block_size": 32, "block_share": False}, _oft),
    "p_tuning": Counted(
        {"num_virtual_tokens": 20, "encoder_hidden_size": 128, "encoder_reparameterization_type": "MLP"},
        _nothing,
        _p_tuning,
        targets="none",
    ),
    "peanut": Counted({"r": 32, "depth": 0}, _peanut),
    "prefix_tuning": Counted({"num_virtual_tokens": 20, "prefix_projection": False}, _nothing, _prefix, "none"),
    "prompt_tuning": Counted({"num_virtual_tokens": 20}, _nothing, _prompt, "none"),
    "psoft": Counted({"r": 32, "psoft_orth": True, "psoft_mag_a": True, "psoft_mag_b": True}, _psoft),
    "pvera": Counted({"r": 256}, _pvera),
    "randlora": Counted({"r": 32}, _randlora),
    "road": Counted({"variant": "road_1"}, _road),
    "shira": Counted({"r": 16}, _low_rank),
    "supertuning": Counted({"sparsity": 0.99, "r": None}, _supertuning),
    "tinylora": Counted({"u": 64, "weight_tying": 0.0}, _nothing, _groups),
    "unilora": Counted({"theta_d_length": 65536}, _nothing, _one_vector),
    "vblora": Counted({"r": 4, "num_vectors": 256, "vector_length": 64}, _vblora, _bank),
    "vera": Counted({"r": 256}, _vera),
    "waveft": Counted({"n_frequency": 2592}, _frequencies),
}
