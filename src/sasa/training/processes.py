"""One process or many: Lightning Fabric, told what torchrun or Slurm started."""

import inspect
import os
import warnings
from typing import Any

import torch

from sasa.errors import UsageError
from sasa.training.settings import RunConfig


def started() -> tuple[int, int]:
    """(processes of each machine, machines) that torchrun or Slurm started; (1, 1) without them.

    Raises:
        UsageError: machines with different numbers of processes.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        all_, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        all_, here = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))
    else:
        return 1, 1
    if all_ % here:
        raise UsageError(f"{all_} processes do not divide into machines of {here}: start the same number on each")
    return here, all_ // here


def make_fabric(run: RunConfig) -> Any:
    """Lightning Fabric, launched: devices, precision, and the processes' means of talking to each other.

    Raises:
        UsageError: an accelerator or precision that is not there.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    devices, machines = started()
    # Batch norm's statistics are averaged over the processes by `BatchNormAverages`, not copied from the first.
    known = inspect.signature(torch.nn.parallel.DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
    options: dict[str, Any] = {option: False}
    strategy: Any = DDPStrategy(**options) if devices * machines > 1 else "auto"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "You passed `Fabric")  # it would go on with another precision
            fabric = Fabric(
                accelerator=run.accelerator,
                strategy=strategy,
                devices=devices,
                num_nodes=machines,
                precision=run.precision,  # pyright: ignore[reportArgumentType]
            )
        fabric.launch()
    except (ValueError, RuntimeError, TypeError, UserWarning) as error:
        raise UsageError(
            f"cannot run with run.accelerator {run.accelerator!r}, run.precision {run.precision!r} and {devices} "
            f"processes on each of {machines} machines: {(str(error).splitlines() or [''])[0]}"
        ) from error
    return fabric


def any_of_all(fabric: Any, value: int) -> int:
    """The largest value over all processes: not 0 if it is not 0 anywhere."""
    if fabric.world_size == 1:
        return int(value)
    tensor = torch.tensor(float(value), device=fabric.device)
    return int(fabric.all_reduce(tensor, reduce_op="max").item())


def names_of_all(fabric: Any, names: set[str]) -> list[str]:
    """The union over all processes, sorted."""
    return sorted(set().union(*gathered(fabric, sorted(names))))


def gathered(fabric: Any, value: Any) -> list[Any]:
    """Plain values of all processes, in their order."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def leave(fabric: Any) -> None:
    """At the end: wait for the others, then end the means of talking, which fail when a process is just gone."""
    if fabric.world_size > 1:
        fabric.barrier()
        torch.distributed.destroy_process_group()
