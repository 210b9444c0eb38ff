"""The cluster of a worker: read from TF_CONFIG, from JAX's variables, or from the variables of Slurm's `srun`.

TensorFlow's own resolvers check nothing, and its Slurm resolver gives workers the wrong addresses (a test shows it).
If none of these variables is set, JAX's own detection is used. See docs/decisions/0013-own-code.md.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kerazoo.errors import RecipeError

GUIDE = "docs/clusters.md shows how to start them"
JAX_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
FIRST_PORT, PORTS = 20_000, 10_000  # a Slurm job listens at FIRST_PORT + its number modulo PORTS


@dataclass(frozen=True)
class Cluster:
    """The workers' addresses, "host:port", in the same order in all workers, and the number of this worker.

    Worker 0 is the chief: only it writes, and the others connect to it first.
    """

    addresses: tuple[str, ...]
    worker: int
    count: int | None = None  # number of workers, if only the first one's address is known

    @property
    def size(self) -> int:
        """The number of workers."""
        return self.count or len(self.addresses)


def read_cluster(environment: Mapping[str, str], *, jax: bool = False) -> Cluster | None:
    """The cluster from TF_CONFIG, else from JAX's variables (with `jax`), else from Slurm's variables.

    None if `jax` is set and none of these is: JAX then detects the cluster (Open MPI, Kubernetes, Cloud TPU). Raises
    RecipeError.
    """
    if "TF_CONFIG" in environment:
        return from_tf_config(environment["TF_CONFIG"])
    named = [name for name in JAX_VARIABLES if name in environment]
    if named and jax:
        return from_jax(environment)
    if "SLURM_JOB_ID" in environment:
        return from_slurm(environment)
    if jax:
        return None
    hint = f" ({named[0]} is used only with KERAS_BACKEND=jax)" if named else ""
    raise RecipeError(
        f"devices=multiworker finds no cluster{hint}: set TF_CONFIG for every worker, or start them with Slurm's "
        f"srun; {GUIDE}"
    )


def from_jax(environment: Mapping[str, str]) -> Cluster:
    """The cluster of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises RecipeError."""
    missing = [name for name in JAX_VARIABLES if not environment.get(name)]
    if missing:
        raise RecipeError(f"{missing[0]} is not set; set all of {', '.join(JAX_VARIABLES)}; " + GUIDE)
    address, *numbers = (environment[name] for name in JAX_VARIABLES)
    if not _is_address(address):
        raise RecipeError(f"JAX_COORDINATOR_ADDRESS must be host:port, got {address!r}; " + GUIDE)
    for name, number in zip(JAX_VARIABLES[1:], numbers, strict=True):
        if not re.fullmatch(r"\d{1,6}", number):
            raise RecipeError(f"{name} must be a whole number, got {number!r}; " + GUIDE)
    count, worker = map(int, numbers)
    if worker >= count:
        raise RecipeError(f"JAX_PROCESS_ID must be from 0 to JAX_NUM_PROCESSES - 1, got {worker} of {count}; " + GUIDE)
    return Cluster((address,), worker, count)


def from_tf_config(text: str) -> Cluster:
    """The cluster of `{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}`.

    A "chief" is the first worker. Raises RecipeError.
    """

    def bad(why: str) -> RecipeError:
        return RecipeError(
            f'TF_CONFIG {why}; it must be {{"cluster": {{"worker": ["host:port", ...]}}, "task": {{"type": "worker", '
            f'"index": 0}}}}; ' + GUIDE
        )

    try:
        values = json.loads(text)
    except ValueError as error:
        raise bad(f"is not JSON ({error})") from error
    if not isinstance(values, dict) or not isinstance(values.get("cluster"), dict):
        raise bad("has no cluster")
    jobs = values["cluster"]
    task = values.get("task")
    for job, addresses in jobs.items():
        if job not in ("chief", "worker"):
            raise bad(f"has a job {job!r}, but only chief and worker are allowed")
        if not isinstance(addresses, list) or not all(_is_address(address) for address in addresses):
            raise bad(f"has {job}={addresses!r}, which is not a list of host:port")
    if not isinstance(task, dict) or task.get("type") not in jobs:
        raise bad(f"has task={task!r}, whose type is not one of {', '.join(jobs)}")
    index = task.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(jobs[task["type"]]):
        raise bad(f"has task index {index!r} of {len(jobs[task['type']])} {task['type']}")
    chiefs = jobs.get("chief", [])
    workers = jobs.get("worker", [])
    if len({*chiefs, *workers}) < len(chiefs) + len(workers):
        raise bad("has the same address twice")
    return Cluster((*chiefs, *workers), index + (len(chiefs) if task["type"] == "worker" else 0))


def _is_address(address: Any) -> bool:
    return isinstance(address, str) and re.fullmatch(r".+:\d{1,5}", address) is not None


def from_slurm(environment: Mapping[str, str]) -> Cluster:
    """The cluster of a Slurm step: one worker for each task, with tasks in blocks on the nodes. Raises RecipeError."""
    if "SLURM_STEP_NODELIST" not in environment:
        raise RecipeError(
            "devices=multiworker runs in a Slurm job, but not in a job step: start every worker with `srun`; " + GUIDE
        )
    nodes = expand_nodes(environment["SLURM_STEP_NODELIST"])
    try:
        tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])
        worker = int(environment["SLURM_PROCID"])
        job = int(environment["SLURM_JOB_ID"])
        counts = expand_counts(environment.get("SLURM_STEP_TASKS_PER_NODE") or environment["SLURM_TASKS_PER_NODE"])
    except (KeyError, ValueError) as error:
        raise RecipeError(f"Slurm's variables are incomplete or not numbers: {error}; " + GUIDE) from error
    if len(counts) != len(nodes) or sum(counts) != tasks or not 0 <= worker < tasks:
        raise RecipeError(
            f"Slurm's variables contradict each other: task {worker} of {tasks}, {counts} on {len(nodes)} nodes; "
            + GUIDE
        )
    if max(counts) > 1 and not environment.get("SLURM_DISTRIBUTION", "block").startswith("block"):
        raise RecipeError(
            f"SLURM_DISTRIBUTION must be block if a node has several tasks, got {environment['SLURM_DISTRIBUTION']!r}; "
            "use `srun --distribution=block`"
        )
    port = FIRST_PORT + job % PORTS
    addresses = [f"{node}:{port + i}" for node, count in zip(nodes, counts, strict=True) for i in range(count)]
    return Cluster(tuple(addresses), worker)


def expand_nodes(text: str) -> list[str]:
    """The names in a Slurm node list: "a[01-03,07],b" -> a01 a02 a03 a07 b. Raises RecipeError."""
    piece = r"(?:[^,\[\]\s]|\[[^\[\]]+\])+"  # commas inside brackets do not separate names
    if not re.fullmatch(f"{piece}(?:,{piece})*", text):
        raise RecipeError(f"Slurm's node list must look like node[01-03,07], got {text!r}")
    return [name for part in re.findall(piece, text) for name in _expand(part)]


def _expand(part: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\]]*)\]", part)  # text, inside, text, inside, ..., text
    choices = [[piece] if i % 2 == 0 else list(_numbers(piece, part)) for i, piece in enumerate(pieces)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def _numbers(inside: str, part: str) -> Iterator[str]:
    for item in inside.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if match is None:
            raise RecipeError(f"Slurm's node list must look like node[01-03,07], got {part!r}")
        first = match[1]
        last = match[2] or first
        yield from (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))


def expand_counts(text: str) -> list[int]:
    """Slurm's tasks per node: "2(x3),1" -> [2, 2, 2, 1]. Raises ValueError."""
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match is None:
            raise ValueError(f"tasks per node {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
