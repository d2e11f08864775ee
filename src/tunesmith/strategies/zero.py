"""Moments, gradients and weights cut over the ranks by DeepSpeed: its ZeRO stages 1, 2 and 3.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models".

The loop calls the model and steps the optimizer itself, so DeepSpeed's engine only turns the model's weights into its
own, takes the gradients, and gives its optimizer.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tunesmith.errors import CheckpointError, TrainingError, missing_extra
from tunesmith.models.allocator import give_back_always
from tunesmith.strategies.group import Group
from tunesmith.strategies.held import Held, held_by, part_bytes
from tunesmith.strategies.tensors import OneByOne, Tensors
from tunesmith.techniques.base import State, Technique

# Numbers that travel in one message, and, at stage 3, that are whole at a time. DeepSpeed's own settings are for models
# of billions of weights, and would keep all of a small one whole.
_BUCKET = 2**24
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Weights below this size stay whole on every rank at stage 3, where a message costs more than the memory.
_SMALL = 2**10


@dataclass
class Zero:
    """``zero1``, ``zero2`` and ``zero3``; see :class:`tunesmith.strategies.base.Strategy` for each method.

    ``engine`` is there once the ranks have joined.
    """

    group: Group
    stage: int
    offload: bool = False
    engine: Any = None
    # What a pack has added is on its way to other ranks at once.
    can_try: bool = False
    # The weights of stages 1 and 2 are whole, but lie in DeepSpeed's memory, which is not needed behind the training.
    keeps_whole: bool = False

    def share_out(self, model: nn.Module) -> nn.Module:
        """The whole model, all weights those of the main rank; they are cut when the optimizer is there."""
        give_back_always()
        self.group.copy_from_main([parameter.data for parameter in model.parameters()])
        return model

    def join(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """DeepSpeed's optimizer around the given one, which from now on sees this rank's part alone.

        Raises:
            UsageError: DeepSpeed is not installed.
            TrainingError: It has not cut what it should.
        """
        deepspeed = _load_deepspeed(self.group)
        with redirect_stdout(sys.stderr):
            self.engine, joined, _, _ = deepspeed.initialize(model=model, optimizer=optimizer, config=self._config())
        whole = [
            name for name, parameter in model.named_parameters() if self.stage == 3 and not hasattr(parameter, "ds_id")
        ]
        if whole or joined is optimizer:
            raise TrainingError("DeepSpeed has cut nothing", code="training.not_sharded", value=", ".join(whole[:3]))
        result: torch.optim.Optimizer = joined
        return result

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Gradients are averaged over the ranks on the way, and should be summed."""
        from deepspeed.runtime.utils import register_output_backward_hooks

        self.engine.set_gradient_accumulation_boundary(last)
        scaled = loss * self.group.world_size
        # As the engine does it before and behind the forward pass of a model that it calls itself.
        self.engine.optimizer.clear_backward_seen_flag()
        begin = self.engine._backward_prologue
        register_output_backward_hooks(scaled, preprocess_once_fn=begin, preprocess_per_tensor_fn=lambda one: one)
        self.engine.backward(scaled, scale_wrt_gas=False)

    def reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing is left to do: the last backward pass has reduced all."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float | None) -> float:  # noqa: ARG002
        """The norm of the whole; DeepSpeed scales when it steps, and does not step where the norm is not finite."""
        joined = self.engine.optimizer
        joined.clip_grad = max_norm or 0.0
        return float(_norm(joined))

    def held(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Held:
        """This rank's parts, as DeepSpeed keeps them."""
        joined = self.engine.optimizer
        copies = _flat(joined)
        # On their way to the step gradients are DeepSpeed's own, or already those of the copies in the host's memory.
        gradients = [one for group in joined.averaged_gradients.values() for one in group or () if one is not None]
        gradients += [one.grad for one in copies if one.grad is not None]
        found = held_by(model, optimizer, offloaded=_is_offloaded(joined, self.stage))
        return replace(
            found,
            weights_bytes=sum(map(_weight_bytes, model.parameters())),
            gradients_bytes=found.gradients_bytes + part_bytes(gradients),
            copies_bytes=part_bytes(copies),
        )

    def weights(self, technique: Technique, model: nn.Module) -> Tensors:
        """As they are; at stage 3 in the main rank's host memory."""
        return technique.trainable_state(model) if self.stage < 3 else OneByOne(self._gathered_weights(model))

    def put_weights(self, technique: Technique, model: nn.Module, state: State) -> None:
        """Through the model's own weights; those that the optimizer changes are copies of them."""
        if self.stage < 3:
            technique.load_trainable_state(model, state)
        else:
            self._put_parts(model, state)
        self.engine.optimizer.refresh_fp32_params()

    def moments(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> OneByOne:  # noqa: ARG002
        """On the main rank, in the host's memory."""
        return OneByOne(self._gathered_moments(model))

    def _gathered_weights(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        from deepspeed.runtime.zero import GatheredParameters

        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                with GatheredParameters([parameter]):
                    whole = parameter.detach().cpu().clone() if self.group.is_main else None
                if whole is not None:
                    yield name, whole

    def _gathered_moments(self, model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        from deepspeed.utils import safe_get_full_optimizer_state

        joined = self.engine.optimizer
        own = joined.optimizer.state.get(_flat(joined)[0], {})
        if not own:
            return
        _link_moments(joined)
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            for kind in _MOMENTS:
                moment = safe_get_full_optimizer_state(parameter, kind)
                if self.group.is_main:
                    # DeepSpeed steps in float32 whatever the weights are; others keep moments as their weights.
                    yield f"{kind}.{name}", moment.to("cpu", parameter.dtype)
            if self.group.is_main:
                yield f"step.{name}", own["step"].detach().clone().cpu()

    def put_moments(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:  # noqa: ARG002
        """This rank's parts, into the flat tensors that DeepSpeed's optimizer steps."""
        if not state:
            return
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        unknown = state.keys() - {f"{kind}.{name}" for name in trained for kind in ("step", *_MOMENTS)}
        if unknown:
            raise CheckpointError(
                "the saved optimizer state is not that of this model",
                code="checkpoint.optimizer",
                value=", ".join(sorted(unknown)[:3]),
            )
        joined = self.engine.optimizer
        step = next(value for key, value in state.items() if key.startswith("step."))
        for flat in _flat(joined):
            joined.optimizer.state[flat] = {"step": step.clone().to(flat.device, torch.float32)} | {
                kind: torch.zeros_like(flat) for kind in _MOMENTS
            }
        _link_moments(joined)
        for name, parameter in trained.items():
            for kind in _MOMENTS:
                # A weight that never had a gradient has none on one process.
                moment = state.get(f"{kind}.{name}")
                if moment is not None:
                    self._put_moment(parameter, moment.to(parameter.device), kind)

    def close(self) -> None:
        """Undo DeepSpeed's hooks and what it remembers beside them: both hold model, optimizer and buffers."""
        if self.engine is None:
            return
        self.engine.destroy()
        self.engine = None
        if self.stage == 3:
            _forget_modules()

    def _put_moment(self, parameter: Any, moment: torch.Tensor, kind: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.stage < 3:
            safe_set_full_optimizer_state(parameter, moment, kind)
            return
        # Parts are of one size, so the last rank's has padding, which DeepSpeed's own setter of whole ones forgets.
        size = parameter.ds_tensor.numel()
        flat = moment.reshape(-1)[self.group.rank * size :][:size]
        part = torch.zeros(size, dtype=flat.dtype, device=flat.device)
        part[: flat.numel()] = flat
        safe_set_local_optimizer_state(parameter, part, kind)

    def _config(self) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.stage,
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
            # Weights that are fetched ahead would be on their way while the loss is watched or a checkpoint written.
            "stage3_prefetch_bucket_size": 0,
            "stage3_max_live_parameters": _BUCKET,
            "stage3_max_reuse_distance": _BUCKET,
            "stage3_param_persistence_threshold": _SMALL,
            # Else torch's own linear function would be another one in this process from now on.
            "memory_efficient_linear": False,
            "overlap_comm": self.group.device.type == "cuda",
        }
        if self.offload:
            pinned = self.group.device.type == "cuda"
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
            if self.stage == 3:
                zero["offload_param"] = {"device": "cpu", "pin_memory": pinned}
        return {
            # Counts of rows are the loop's; DeepSpeed wants numbers that agree with each other.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "zero_optimization": zero,
            # Else an optimizer of its own is compiled for offload; torch's runs on the host as well.
            "zero_force_ds_cpu_optimizer": False,
        }

    @torch.no_grad()
    def _put_parts(self, model: nn.Module, state: State) -> None:
        """Stage 3: each rank takes its part of each weight, which the main rank has whole for a moment."""
        from deepspeed.runtime.zero import GatheredParameters

        trained: dict[str, Any] = {name: one for name, one in model.named_parameters() if one.requires_grad}
        wrong = [
            name
            for name in trained.keys() | state.keys()
            if name not in trained or name not in state or tuple(state[name].shape) != tuple(trained[name].ds_shape)
        ]
        if wrong:
            raise CheckpointError(
                "the saved weights are not those of this model",
                code="checkpoint.weights",
                value=", ".join(sorted(wrong)[:3]),
            )
        for name, parameter in trained.items():
            with GatheredParameters([parameter], modifier_rank=0):
                if self.group.is_main:
                    parameter.copy_(state[name])


def _load_deepspeed(group: Group) -> Any:
    """DeepSpeed, quiet, told where it is, and talking through torch's group alone."""
    os.environ.setdefault("DS_ACCELERATOR", group.device.type)
    local = torch.cuda.current_device() if group.device.type == "cuda" else group.rank
    os.environ["LOCAL_RANK"] = str(local)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        with redirect_stdout(sys.stderr):
            import deepspeed
    except ImportError as error:
        raise missing_extra("this strategy needs the package deepspeed", "deepspeed", place="strategy") from error
    # It would be compiled at first use, to do what gloo does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _forget_modules() -> None:
    """Empty what stage 3 keeps for the whole process: the modules whose forward pass began, and caches of methods."""
    from deepspeed.runtime.zero import parameter_offload, partitioned_param_coordinator

    parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(partitioned_param_coordinator.PartitionedParameterCoordinator).values():
        # The caches are inside of another decorator.
        inside = inspect.getclosurevars(method).nonlocals if inspect.isfunction(method) else {}
        for cached in inside.values():
            if hasattr(cached, "cache_clear"):
                cached.cache_clear()


def _norm(joined: Any) -> torch.Tensor:
    """The total norm of what was reduced, by stage 3 or by the others; infinite where a gradient is not finite."""
    if not hasattr(joined, "_get_norm_groups"):
        norm: torch.Tensor = joined.scaled_global_norm()
        return norm
    from deepspeed.runtime.utils import combine_grad_norm_groups

    total: torch.Tensor = combine_grad_norm_groups(joined._get_norm_groups())
    return total


def _weight_bytes(parameter: Any) -> int:
    """What of a weight lies here: all of it before stage 3, and there too beside this rank's part where it is small."""
    if not hasattr(parameter, "ds_tensor"):
        return int(parameter.nbytes)
    whole = parameter.ds_numel * parameter.element_size() if parameter.ds_persist else 0
    return int(parameter.ds_tensor.nbytes) + whole


def _is_offloaded(joined: Any, stage: int) -> bool:
    """Whether DeepSpeed keeps what it cuts in the host's memory; without a GPU no device of a tensor would tell."""
    if stage < 3:
        return bool(joined.cpu_offload)
    return bool(joined.offload_optimizer and joined.offload_param)


def _link_moments(joined: Any) -> None:
    """Let the stages before 3 find the moments of each weight.

    By themselves they look once, behind the step of the first group, when the others have none yet.
    """
    if hasattr(joined, "_hp_optimizer_states_linked"):
        joined._hp_optimizer_states_linked = False
        joined._lazy_init_hp_params_optimizer_state()


def _flat(joined: Any) -> list[torch.Tensor]:
    """This rank's part of all trained weights, as the optimizer inside steps it."""
    flat = getattr(joined, "fp32_partitioned_groups_flat", None)
    found: list[torch.Tensor] = joined.single_partition_of_fp32_groups if flat is None else flat
    return found
