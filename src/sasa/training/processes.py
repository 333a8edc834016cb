"""The processes of a run and their threads: Lightning Fabric for those that torchrun or Slurm launched."""

import inspect
import os
import warnings
from typing import Any

import torch

from sasa.errors import UsageError
from sasa.threads import THREADS, cores
from sasa.training.settings import RunConfig

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # others keep weights and averages in the precision of the maps


def started() -> tuple[int, int]:
    """Return (processes a machine, machines) that torchrun or srun launched; (1, 1) without them.

    In a Slurm job without srun, such as a shell of salloc, Slurm's variables describe the job, not this process.

    Raises:
        UsageError: machines with different numbers of processes.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        total, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif SLURMEnvironment.detect() and "SLURM_STEP_NUM_TASKS" in os.environ:  # set by srun only
        total, here = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))
    else:
        return 1, 1
    if total % here:
        raise UsageError(f"{total} processes do not divide into machines of {here}: start the same number on each")
    return here, total // here


def is_first() -> bool:
    """Return whether this is the first of the processes that torchrun or srun launched, or the only one."""
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    return started() == (1, 1) or int(rank) == 0


def make_fabric(run: RunConfig) -> Any:
    """Launch Lightning Fabric: devices, precision and the process group.

    Raises:
        UsageError: an accelerator or precision that is not available.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.strategies.ddp import DDPStrategy

    devices, machines = started()
    # Batch norm's statistics are averaged over the processes by `BatchNormAverages`, not copied from the first.
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    options: dict[str, Any] = {option: False}
    alone = devices * machines == 1
    strategy: Any = "auto" if alone else DDPStrategy(**options)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You passed `Fabric")  # about another precision, which is an error below
            fabric = Fabric(
                accelerator=run.accelerator,
                strategy=strategy,
                devices=devices,
                num_nodes=machines,
                precision=run.precision,  # pyright: ignore[reportArgumentType]
                plugins=LightningEnvironment() if alone else None,  # no other process, whatever the variables say
            )
        used = fabric.strategy.precision.precision
        if used not in PRECISIONS:
            raise ValueError(f"the weights stay in float32, so the precision must be {', '.join(PRECISIONS)}")
        if not run.precision.startswith(used.partition("-")[0]):  # "16" is short for "16-mixed"
            raise ValueError(f"Lightning Fabric would use {used}")
        fabric.launch()
    except (ValueError, RuntimeError, TypeError) as error:
        raise UsageError(
            f"cannot run with run.accelerator {run.accelerator!r}, run.precision {run.precision!r} and {devices} "
            f"processes on each of {machines} machines: {(str(error).splitlines() or [''])[0]}"
        ) from error
    return fabric


def max_over_processes(fabric: Any, value: int) -> int:
    """Return the largest value over all processes: nonzero if it is nonzero in one of them."""
    if fabric.world_size == 1:
        return int(value)
    tensor = torch.tensor(float(value), device=fabric.device)
    return int(fabric.all_reduce(tensor, reduce_op="max").item())


def gather(fabric: Any, value: Any) -> list[Any]:
    """Return the values (plain Python objects) of all processes, by rank."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def union_over_processes(fabric: Any, names: set[str]) -> list[str]:
    """Return the names of all processes, sorted."""
    return sorted(set().union(*gather(fabric, sorted(names))))


def end_process_group(fabric: Any) -> None:
    """Barrier, then destroy the process group; it reports an error if a peer has exited before."""
    if fabric.world_size > 1:
        fabric.barrier()
        _ended.append(torch.distributed.group.WORLD)
        torch.distributed.destroy_process_group()


# Process groups of this process that were destroyed. Otherwise DistributedDataParallel would own the last reference,
# whose release waits, with Python's lock held, for the group's threads, which may wait for that lock.
_ended: list[Any] = []


def restore_thread_count(recorded: int | None) -> str | None:
    """Use as many threads as the run had; return a sentence if that is not possible.

    torch splits its sums by the number of threads, so the last bits of a result depend on it. OMP_NUM_THREADS and the
    number of cores take precedence.

    Args:
        recorded: the number in the checkpoint; None in checkpoints of earlier versions.
    """
    now = torch.get_num_threads()
    if recorded is None or recorded == now:
        return None
    if THREADS in os.environ or recorded > cores():
        return (
            f"resuming with {now} threads where the run had {recorded}: "
            "its results may differ from an uninterrupted run's in the last bits"
        )
    torch.set_num_threads(recorded)
    return None
