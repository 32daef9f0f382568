"""One process a GPU (torchrun), or one process alone: the few collectives that the recipe needs."""

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

RANK, WORLD = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))


def setup() -> None:
    """Before the first tensor: 'cuda' then means this process's GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', 0)))
    if WORLD > 1:
        backend = 'nccl' if torch.cuda.is_available() else 'gloo'
        dist.init_process_group(backend, timeout=timedelta(seconds=300))  # a run of minutes has no ten to lose


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    if WORLD > 1:
        dist.all_reduce(tensor)
    return tensor


def from_first(value):
    """Rank 0's value: a tensor is overwritten in place, anything else is pickled."""
    if WORLD == 1:
        return value
    if isinstance(value, torch.Tensor):
        dist.broadcast(value, 0)
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def barrier() -> None:
    if WORLD > 1:
        dist.barrier()


def claim(folder: Path, job: str) -> bool:
    """Whether this process is the first to ask for a job: jobs of unequal length are dealt out as processes become free."""
    try:
        (folder / f'{job}.claim').touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


def forget_claims(folder: Path) -> None:
    """At the start of a run, so that the jobs of one that broke off are done after all."""
    if RANK == 0:
        for path in folder.glob('*.claim'):
            path.unlink(missing_ok=True)
    barrier()
