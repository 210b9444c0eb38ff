"""Open the devices that a recipe names."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from kerazoo.errors import RecipeError
from kerazoo.keras_private import check_versions
from kerazoo.pipelines.devices.cluster import GUIDE, JAX_VARIABLES, Cluster, read_cluster
from kerazoo.pipelines.devices.devices import Devices
from kerazoo.recipes.device_names import parse_devices
from kerazoo.startup import start_tensorflow, starting

log = logging.getLogger("kerazoo")


def open_devices(name: str = "auto") -> Devices:
    """The devices called `name` in a recipe, ready for the first operation. It starts TensorFlow without its messages.

    `auto` is all GPUs, or the CPU if there are none. `mirrored:N` without GPUs is N logical CPUs. `multiworker` waits
    for all workers. Raises RecipeError, which names the available devices.
    """
    kind, count = parse_devices(name)
    cluster = read_cluster(os.environ, jax=_is_on_jax()) if kind == "multiworker" else None
    if cluster is not None and cluster.size == 1:
        kind = "auto"
        cluster = None
    if cluster is not None:
        log.info(f"worker {cluster.worker} of {cluster.size} waits for the others (worker 0 is {cluster.addresses[0]})")
    with starting():
        on_jax = _is_on_jax()
        try:
            devices: Devices | RecipeError = _on_jax(kind, cluster) if on_jax else _on_tensorflow(kind, count, cluster)
        except RecipeError as error:
            devices = error  # raised here, it would come with TensorFlow's start-up messages
    if isinstance(devices, RecipeError):
        raise devices
    start_tensorflow()
    return devices


def _is_on_jax() -> bool:
    """Whether Keras uses the JAX backend."""
    with starting():
        import keras

    return bool(keras.config.backend() == "jax")


def _on_tensorflow(kind: str, count: int | None, cluster: Cluster | None) -> Devices:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if kind == "tpu":
        raise RecipeError(
            "devices=tpu: Keras 3 does not train on TPUs with TensorFlow; set KERAS_BACKEND=jax (not tested on TPUs)"
        )
    if kind == "gpu" and not gpus:
        raise RecipeError("devices=gpu: TensorFlow finds no GPU here; use devices=cpu, or install tensorflow[and-cuda]")
    if cluster is not None:
        return _workers(cluster)
    if kind == "mirrored":
        return _mirrored(count, gpus)
    if kind == "cpu" and gpus:
        _settle(lambda: tf.config.set_visible_devices([], "GPU"), "devices=cpu")
    if kind == "auto" and len(gpus) > 1:
        return _mirrored(None, gpus)
    if kind == "gpu" and len(gpus) > 1:
        _settle(lambda: tf.config.set_visible_devices(gpus[:1], "GPU"), "devices=gpu")
    return Devices("one GPU" if gpus and kind != "cpu" else "CPU")


def _mirrored(count: int | None, gpus: list[Any]) -> Devices:
    """All GPUs or `count` of them; without GPUs, `count` logical CPUs."""
    import tensorflow as tf

    if gpus:
        if count is not None and count > len(gpus):
            raise RecipeError(f"devices=mirrored:{count}: there are {len(gpus)} GPUs here")
        names = [f"GPU:{index}" for index in range(count or len(gpus))]
    elif count is None:
        raise RecipeError("devices=mirrored: there are no GPUs here; devices=mirrored:2 uses 2 logical CPUs instead")
    else:
        (cpu,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        if (tf.config.get_logical_device_configuration(cpu) or [None]) != parts and count > 1:
            _settle(lambda: tf.config.set_logical_device_configuration(cpu, parts), f"devices=mirrored:{count}")
        names = [f"CPU:{index}" for index in range(count)]
    what = f"{'GPUs' if gpus else 'logical CPUs'} of one machine"
    if len(names) == 1:
        return Devices("one GPU" if gpus else "CPU")
    return Devices(what, len(names), strategy=tf.distribute.MirroredStrategy(names))


def _workers(cluster: Cluster) -> Devices:
    import tensorflow as tf

    check_versions()  # before the workers wait for each other
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker", task_id=cluster.worker, rpc_layer="grpc",
    )  # fmt: skip
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except RuntimeError as error:
        raise RecipeError(f"devices=multiworker must be opened before anything is computed: {error}") from error
    except tf.errors.OpError as error:
        raise RecipeError(
            f"worker {cluster.worker} at {cluster.addresses[cluster.worker]} cannot join the cluster: "
            f"{str(error.message).splitlines()[0][:200]}; start all {len(cluster.addresses)} workers within an hour"
        ) from error
    return Devices(
        "machines by TensorFlow", strategy.num_replicas_in_sync, cluster.worker, len(cluster.addresses), strategy
    )


def _on_jax(kind: str, cluster: Cluster | None) -> Devices:
    """One process on its first device, or one process for each worker with `keras.distribution`."""
    import jax
    import keras
    import tensorflow as tf

    _settle(lambda: tf.config.set_visible_devices([], "GPU"), "KERAS_BACKEND=jax")  # JAX uses them
    if kind == "mirrored":
        raise RecipeError(
            "devices=mirrored works only with the TensorFlow backend; with JAX use auto, cpu, gpu, multiworker or tpu"
        )
    if kind == "cpu":
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    if kind == "multiworker":
        _keep_standard_output()
        _join_jax(cluster)
        names = keras.distribution.list_devices()
        whole = keras.distribution.DataParallel(devices=names, auto_shard_dataset=False)
        return Devices("machines by JAX", len(names), jax.process_index(), jax.process_count(), distribution=whole)
    try:
        platform = jax.devices(None if kind == "auto" else kind)[0].platform.upper()
    except RuntimeError as error:
        raise RecipeError(
            f"devices={kind}: JAX finds only {jax.devices()[0].platform}; install JAX for {kind}, or use devices=auto"
        ) from error
    return Devices(f"one {platform} by JAX" if platform != "CPU" else "CPU by JAX")


def _join_jax(cluster: Cluster | None) -> None:
    """Connect this process to the others of `cluster`, or of the cluster that JAX detects if it is None."""
    import keras

    if cluster is not None:
        keras.distribution.initialize(cluster.addresses[0], cluster.size, cluster.worker)
        return
    try:
        keras.distribution.initialize()
    except ValueError as error:  # JAX detects no cluster
        raise RecipeError(
            f"devices=multiworker finds no cluster: set TF_CONFIG or {', '.join(JAX_VARIABLES)} for every worker, or "
            f"start them with Slurm's srun; {GUIDE}"
        ) from error


def _keep_standard_output() -> None:
    """Send Gloo's output to standard error. Gloo connects JAX's processes and writes to standard output."""
    own = sys.__stdout__
    if own is not None and sys.stdout is own:
        sys.stdout = os.fdopen(os.dup(1), "w", encoding=own.encoding, errors=own.errors, buffering=1)
        os.dup2(sys.stderr.fileno(), 1)


def _settle(change: Callable[[], None], what: str) -> None:
    try:
        change()
    except RuntimeError as error:
        raise RecipeError(f"{what} must be opened before anything is computed: {error}") from error
