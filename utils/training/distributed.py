"""Several processes that train one network, as torchrun starts them; without torchrun, one."""

import contextlib
import datetime
import os
import re

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm  # PyTorch's own drops the activations that timm's layers hold

from utils.base.errors import ProcessLost, UserError, excerpt
from utils.base.hardware import choose_device

# A process may wait for another one's caches. One that has died is noticed by its closed connections, at once.
PATIENCE = datetime.timedelta(hours=12)
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LOST = re.compile("connect|gloo|nccl|peer|socket|store|timed? ?out", re.IGNORECASE)


class World:
    """The processes of this run, a context while which they are connected.

    Args: `device` as of --device; of the GPUs of its machine, a process takes the one of its local rank.
    Raises: UserError if there are fewer GPUs than processes; ProcessLost, within the context, if another one dies.
    """

    def __init__(self, device):
        self.rank, self.size, self.local_rank = _numbers()
        self.is_first = self.rank == 0  # it logs and saves
        self.device = choose_device(device)
        if self.device.type == "cuda" and self.size > 1:
            if self.local_rank >= torch.cuda.device_count():
                raise UserError("torchrun: more processes than GPUs; give a smaller --nproc_per_node")
            self.device = torch.device("cuda", self.local_rank)
            torch.cuda.set_device(self.device)
        elif self.size > 1 and os.environ.get("OMP_NUM_THREADS") == "1":  # torchrun sets it, where nobody has
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", self.size))))

    def __enter__(self):
        if self.size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=PATIENCE)
            self._hosts = dist.new_group(backend="gloo", timeout=PATIENCE)  # numbers that are not on a GPU
        return self

    def __exit__(self, kind, error, traceback):
        if self.size == 1:
            return
        if kind is None:
            dist.destroy_process_group()
        elif isinstance(error, RuntimeError) and LOST.search(str(error)):
            # NCCL gives its reason last, and PyTorch adds its own C++ stack.
            cause = excerpt(" ".join(str(error).split("Exception raised from")[0].split()), 500)
            lost = f"process {self.rank} of {self.size}: lost the connection to the others ({cause})"
            raise ProcessLost(f"{lost}; one that has ended tells why; --resume True goes on") from error

    @contextlib.contextmanager
    def first_alone(self):
        """The block is run by the first process of each machine, then by the others, who find what it has made."""
        if self.size > 1 and self.local_rank > 0:
            dist.barrier()
        yield
        if self.size > 1 and self.local_rank == 0:
            dist.barrier()

    def broadcast(self, value):
        """The first process's value, in all of them."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def all_reduce_max(self, number):
        """The largest of the processes' integers, in all of them, once all have come here."""
        values = torch.tensor([number])
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self._hosts)
        return values.item()

    def sum(self, tensor):
        """The sum of a tensor over the processes, on the device."""
        tensor = tensor.to(self.device)
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share_figures(self, net):
        """Have the first process's running figures of batch norm, which are the ones that are kept, in all of them."""
        if self.size > 1:
            for values in net.buffers():
                dist.broadcast(values, 0)

    def shard(self, indices):
        """This process's part of a batch, int64 `(B,)`, and whether it counts.

        With fewer images than processes some get one that is another's, since all must take part in each step.
        """
        mine = indices[self.rank :: self.size]
        return (mine, True) if len(mine) else (indices[:1], False)

    def parallel(self, net):
        """The network for training: gradients are averaged over the processes, and GPUs share batch norm's figures."""
        if self.size == 1:
            return net
        if self.device.type == "cuda":
            net = convert_sync_batchnorm(net)
        return torch.nn.parallel.DistributedDataParallel(net)


def _numbers():
    """(Rank, number of processes, rank on this machine), as torchrun has them in the environment; (0, 1, 0) without it.

    Raises: UserError where only a part of it is there, as the scripts of a cluster may leave it.
    """
    said = {name: os.environ[name] for name in TORCHRUN if os.environ.get(name)}
    if (said.get("RANK", "0"), said.get("WORLD_SIZE", "1")) == ("0", "1"):
        return 0, 1, 0
    numbers = [int(said[name]) for name in TORCHRUN[:3] if said.get(name, "").isdecimal()]
    if len(said) == len(TORCHRUN) and len(numbers) == 3 and numbers[2] <= numbers[0] < numbers[1]:
        return numbers
    found = excerpt(" ".join(f"{name}={value}" for name, value in said.items()))
    way_out = "start several processes by torchrun; for a single one, unset RANK WORLD_SIZE"
    raise UserError(f"the environment has {found}, not what torchrun sets, {' '.join(TORCHRUN)}: {way_out}")
