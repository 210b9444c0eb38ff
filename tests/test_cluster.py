"""The cluster of a worker, from TF_CONFIG and from Slurm's variables, and one clear line where they are wrong."""

import json

import pytest

from kerazoo.errors import RecipeError
from kerazoo.pipelines.devices.cluster import Cluster, expand_counts, expand_nodes, read_cluster


def config(cluster, task):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


SLURM = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_PROCID": "2",
}  # fmt: skip


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
def test_clusters(environment, expected):
    assert read_cluster(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "finds no cluster: set TF_CONFIG for every worker, or start them by Slurm's srun; docs/clusters.md"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG is not JSON"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG has no cluster; it is {"),
        (config({"ps": ["a:1"], "worker": ["b:1"]}, {"type": "worker", "index": 0}), "has a job 'ps', not only"),
        (config({"worker": ["a"]}, {"type": "worker", "index": 0}), "has worker=\\['a'\\], which is no list of host:p"),
        (config({"worker": "a:1"}, {"type": "worker", "index": 0}), "has worker='a:1', which is no list"),
        (config({"worker": ["a:1"]}, None), "has task=None, whose type is none of worker"),
        (config({"worker": ["a:1"]}, {"type": "chief", "index": 0}), "whose type is none of worker"),
        (config({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 2}), "has task index 2 of 2 worker"),
        (config({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": "0"}), "has task index '0' of 2 worker"),
        (config({"worker": ["a:1", "a:1"]}, {"type": "worker", "index": 0}), "names an address twice"),
        ({"SLURM_JOB_ID": "1"}, "not in a step of it: start every worker by `srun`"),
        ({k: v for k, v in SLURM.items() if k != "SLURM_PROCID"}, "incomplete or no numbers: 'SLURM_PROCID'"),
        (SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2),"}, "tasks per node '2\\(x2\\),'"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "4"}, r"contradict: task 2 of 4, \[2, 1\] on 2 nodes"),
        (SLURM | {"SLURM_DISTRIBUTION": "cyclic"}, "several tasks a node must be laid out in blocks"),
        (SLURM | {"SLURM_STEP_NODELIST": "node[01-0x]"}, "node list 'node\\[01-0x\\]' cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(environment, message):
    with pytest.raises(RecipeError, match=message) as caught:
        read_cluster(environment)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(RecipeError, match="cannot be read; it looks like"):
        expand_nodes(text)


def test_slurm_counts():
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]
    with pytest.raises(ValueError, match="tasks per node"):
        expand_counts("x")
