"""The cluster of a worker, from TF_CONFIG and from Slurm's variables, and one clear line where they are wrong."""

import json
import os

import keras
import pytest
import tensorflow as tf

from kerazoo.errors import RecipeError
from kerazoo.pipelines.devices.cluster import Cluster, expand_counts, expand_nodes, read_cluster
from kerazoo.pipelines.devices.opening import _join_jax


def config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


SLURM = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_PROCID": "2",
}  # fmt: skip
JAX = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (config({"worker": ["a:1", "b:2"]}, {"type": "worker", "index": 1}), Cluster(("a:1", "b:2"), 1)),
        (config({"chief": ["c:1"], "worker": ["a:1"]}, {"type": "chief", "index": 0}), Cluster(("c:1", "a:1"), 0)),
        (config({"worker": ["a:1"], "chief": ["c:1"]}, {"type": "worker", "index": 0}), Cluster(("c:1", "a:1"), 1)),
        (SLURM, Cluster(("node01:23456", "node01:23457", "node02:23456"), 2)),
        # TF_CONFIG is what a person sets by hand; it goes first
        (SLURM | config({"worker": ["a:1"]}, {"type": "worker", "index": 0}), Cluster(("a:1",), 0)),
    ],
)
@pytest.mark.parametrize("jax", [False, True])
def test_clusters(environment, expected, jax):
    assert read_cluster(environment, jax=jax) == expected
    assert expected.size == len(expected.addresses)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "finds no cluster: set TF_CONFIG for every worker, or start them with Slurm's srun; docs/clusters.md"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is not JSON"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG has no cluster; it must be {"),
        (config({"ps": ["a:1"], "worker": ["b:1"]}, {"type": "worker", "index": 0}), "has a job 'ps', but only"),
        (
            config({"worker": ["a"]}, {"type": "worker", "index": 0}),
            "has worker=\\['a'\\], which is not a list of host:p",
        ),
        (config({"worker": "a:1"}, {"type": "worker", "index": 0}), "has worker='a:1', which is not a list"),
        (config({"worker": ["a:1"]}, None), "has task=None, whose type is not one of worker"),
        (config({"worker": ["a:1"]}, {"type": "chief", "index": 0}), "whose type is not one of worker"),
        (config({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 2}), "has task index 2 of 2 worker"),
        (config({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": "0"}), "has task index '0' of 2 worker"),
        (config({"worker": ["a:1", "a:1"]}, {"type": "worker", "index": 0}), "has the same address twice"),
        ({"SLURM_JOB_ID": "1"}, "not in a job step: start every worker with `srun`"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "incomplete or not numbers: 'SLURM_PROCID'"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2),"}, "tasks per node '2\\(x2\\),'"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, r"contradict each other: task 2 of 4, \[2, 1\] on 2 nodes"),
        (SLURM | {"SLURM_DISTRIBUTION": "cyclic"}, "must be block if a node has several tasks"),
        (SLURM | {"SLURM_STEP_NODELIST": "node[01-0x]"}, "node list must look like .*, got .node\\[01-0x"),
    ],
)
def test_what_is_wrong_is_one_line(environment, message):
    with pytest.raises(RecipeError, match=message) as caught:
        read_cluster(environment)
    assert "\n" not in str(caught.value)


def test_the_variables_of_jax():
    """They name the first worker only; TF_CONFIG goes before them, and they before Slurm's, as a person sets them."""
    expected = Cluster(("node1:1234",), 2, 4)
    assert read_cluster(JAX, jax=True) == read_cluster(JAX | SLURM, jax=True) == expected
    assert expected.size == 4
    set_by_hand = config({"worker": ["a:1"]}, {"type": "worker", "index": 0})
    assert read_cluster(JAX | set_by_hand, jax=True) == Cluster(("a:1",), 0)
    assert read_cluster(JAX | SLURM) == read_cluster(SLURM)
    assert read_cluster({}, jax=True) is None  # JAX looks itself
    with pytest.raises(
        RecipeError, match=r"no cluster \(JAX_COORDINATOR_ADDRESS is used only with KERAS_BACKEND=jax\)"
    ):
        read_cluster(JAX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not set; set all of JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, J"),
        ({"JAX_COORDINATOR_ADDRESS": "node1"}, "JAX_COORDINATOR_ADDRESS must be host:port, got 'node1'"),
        ({"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES must be a whole number, got 'two'"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a whole number, got '-1'"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID must be from 0 to JAX_NUM_PROCESSES - 1, got 4 of 4"),
    ],
)
def test_wrong_variables_of_jax_are_one_line(change, message):
    with pytest.raises(RecipeError, match=message) as caught:
        read_cluster(JAX | change, jax=True)
    assert "\n" not in str(caught.value)


def test_where_nothing_is_set_jax_looks_itself(monkeypatch):
    given = []
    monkeypatch.setattr(keras.distribution, "initialize", lambda *values: given.append(values))
    _join_jax(Cluster(("a:1", "b:2"), 1))
    _join_jax(Cluster(("a:1",), 2, 4))
    _join_jax(None)
    assert given == [("a:1", 2, 1), ("a:1", 4, 2), ()]

    def refuse():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(keras.distribution, "initialize", refuse)
    with pytest.raises(RecipeError, match="no cluster: set TF_CONFIG or JAX_COORDINATOR_ADDRESS, .* for every worker"):
        _join_jax(None)


def test_why_slurm_is_read_here(monkeypatch):
    """TensorFlow's resolver sorts the hosts as text, so that task 0, on n9, would take the address of n10.

    It runs nvidia-smi unless it is told of GPUs, and divides by their number.
    """
    for name, value in {**SLURM, "SLURM_STEP_NODELIST": "n[9-11]", "SLURM_STEP_TASKS_PER_NODE": "1(x3)"}.items():
        monkeypatch.setenv(name, value)
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False)
    assert resolver.cluster_spec().as_dict()["worker"] == ["n10:8888", "n11:8888", "n9:8888"]
    assert read_cluster(os.environ).addresses == ("n9:23456", "n10:23456", "n11:23456")
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(gpus_per_node=0, auto_set_gpu=False)
    with pytest.raises(ValueError, match="must not be zero"):
        resolver.cluster_spec()


@pytest.mark.parametrize("text", ["r[1-2]n[1,3]", "gpu[08-10].cluster"])
def test_node_lists_that_tensorflow_cannot_read(text, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", text)
    for name, value in {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Invalid hostlist"):
        tf.distribute.cluster_resolver.SlurmClusterResolver(tasks_per_node=1, gpus_per_node=1)
    assert expand_nodes(text)


def test_why_tf_config_is_read_here(monkeypatch):
    """TensorFlow's resolver takes what cannot work: a task that is not in the cluster, an address twice."""
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 7}}')
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    assert resolver.cluster_spec().as_dict() == {"worker": ["a:1", "a:1"]}
    assert resolver.task_id == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a"]),
        ("a,b-2", ["a", "b-2"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("r[1-2]n[1,3],login", ["r1n1", "r1n3", "r2n1", "r2n3", "login"]),
        ("gpu[08-10].cluster", ["gpu08.cluster", "gpu09.cluster", "gpu10.cluster"]),
    ],
)
def test_slurm_node_lists(text, expected):
    assert expand_nodes(text) == expected


@pytest.mark.parametrize("text", ["", "node[1", "node]1", "node[]", "node[1-]"])
def test_bad_node_lists(text):
    with pytest.raises(RecipeError, match="must look like"):
        expand_nodes(text)


def test_slurm_counts():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="tasks per node"):
        expand_counts("x")
