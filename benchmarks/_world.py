"""Several ranks on this machine, each a process, that run a function together."""

import io
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from metadistiller.ranks import ALONE, Group, Ranks

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["metadistiller.assemble", "torch.distributed", __name__])


def run(function: Callable[..., Any], world: int, *given: Any, seconds: float = 120) -> list[Any]:
    """What `function(ranks, *given)` returns on each of `world` ranks; here, where it is one.

    Args:
        function: of a module; it returns tensors and plain values.
        seconds: that the slowest may take.
    Raises: AssertionError where a rank fails or does not answer.
    """
    if world == 1:
        return [function(ALONE, *given)]
    with tempfile.TemporaryDirectory() as place:
        ends = []
        for rank in range(world):
            here, there = _server.Pipe()
            process = _server.Process(target=_rank, args=(function, rank, world, Path(place, "store"), there, given))
            process.start()
            there.close()
            ends.append((process, here))
        answers = []
        for rank, (process, here) in enumerate(ends):
            if not here.poll(seconds):
                raise AssertionError(f"rank {rank} has not answered in {seconds} s")
            answers.append(torch.load(io.BytesIO(here.recv_bytes()), weights_only=True))
            process.join()
    for _, failure in answers:
        if failure is not None:
            raise AssertionError(failure)
    return [answer for answer, _ in answers]


def _rank(
    function: Callable[..., Any], rank: int, world: int, store: Path, answer: Connection, given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    try:
        ranks: Ranks = Group(torch.device("cpu"))
        said = function(ranks, *given), None
    except BaseException:
        said = None, traceback.format_exc()
    # Tensors would otherwise go through memory that ends with this process.
    file = io.BytesIO()
    torch.save(said, file)
    answer.send_bytes(file.getvalue())
    dist.destroy_process_group()
