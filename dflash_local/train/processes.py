"""One process, or one of several under ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import os
from dataclasses import fields
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dflash_local.errors import DFlashError

from .loss import Losses

_PATIENCE = timedelta(days=7)  # one process writes all answers, the others wait


class Processes:
    """Where this process stands among those that train together, and what it computes on.

    Args:
        n_threads: of this process on a CPU; None leaves torch's own number.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        self.world = _world()
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = own_device()
        if self.world > 1 and not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)

    def wrap(self, module: nn.Module) -> Any:
        """The module, averaging gradients over all processes."""
        if self.world == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False)

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world == 1:
            return value
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    def totals(self, sums: Losses) -> Losses:
        """Every field's sum over all processes, without gradients."""
        values = {f.name: self.total(getattr(sums, f.name).detach()) for f in fields(sums)}
        return Losses(**values)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.world > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the group."""
        if dist.is_initialized():
            dist.destroy_process_group()


def check_batch_size(batch_size: int) -> None:
    """Whether each process has a text of a batch; raises DFlashError where one has none."""
    if batch_size < _world():
        raise DFlashError(
            f"{_world()} processes, and {batch_size} texts in a batch: expected one for each "
            "process at least. Start fewer processes, or raise --batch-size"
        )


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_device() -> torch.device:
    """What this process computes on."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def autocast(device: torch.device) -> torch.autocast:
    """BF16 for matrix products where the hardware has it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies BF16 faster than F32.

    A CPU does with matrix tiles (AMX); with AVX-512's BF16 alone torch is slower than in F32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
