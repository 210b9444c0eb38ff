"""What the files of an export must not have: operations that answer by chance, learn or touch files; other weights."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kerazoo.errors import GateError
from kerazoo.exports.layout import SAVED_MODEL, VARIABLES

if TYPE_CHECKING:
    import keras

# names of TensorFlow's operations; `saved_model_cli scan` warns of WriteFile, ReadFile and PrintV2
KINDS = {
    "answers by chance": re.compile(
        r"Random|Rng|Multinomial|Stateful(Uniform|Standard|Truncated)|Shuffle|SampleDistort"
    ),
    "changes weights": re.compile(r"^Assign|Resource\w*Apply|Scatter\w*Update|ResourceScatter"),
    "touches files, code or the network": re.compile(
        r"File|PyFunc|Print|^Save|^Restore|Reader|TextLine|TFRecord|Sql|Rpc|Socket|Summary"
    ),
}


def check_graph(folder: Path) -> None:
    """Raise GateError, which names the operation, if a signature of the SavedModel in `folder` has one of KINDS."""
    for signature, operation, attributes in _operations(folder):
        for words, pattern in KINDS.items():
            if pattern.search(operation):
                raise GateError(f"the graph of the signature {signature} {words}: it has the operation {operation}")
        if operation.startswith("FusedBatchNorm") and attributes["is_training"].b:
            raise GateError(
                f"the graph of the signature {signature} has batch norm in training mode, so that the answer for an "
                "image depends on the others in its batch"
            )


def _operations(folder: Path) -> Iterator[tuple[str, str, Any]]:
    """(signature, operation, attributes) of every node that a signature can reach; saving and loading are not among."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    saved.ParseFromString((folder / SAVED_MODEL).read_bytes())
    (meta,) = saved.meta_graphs
    functions = {function.signature.name: function.node_def for function in meta.graph_def.library.function}
    nodes = {node.name: node for node in meta.graph_def.node}
    for name, signature in meta.signature_def.items():
        waiting = [(nodes[info.name.split(":")[0]], True) for info in signature.outputs.values()]
        seen: set[str] = set()
        while waiting:
            node, is_outside = waiting.pop()  # of a function that is called, all nodes are looked at
            if is_outside:
                waiting += [(nodes[i.lstrip("^").split(":")[0]], True) for i in node.input if i not in seen]
                seen.update(node.input)
            yield name, node.op, node.attr
            for called in _called(node):
                if called not in seen and called in functions:
                    seen.add(called)
                    waiting += [(inner, False) for inner in functions[called]]


def _called(node: Any) -> list[str]:
    """The functions that a node calls; an operation of its own may have the name of a function, too."""
    functions = [function for value in node.attr.values() for function in (value.func, *value.list.func)]
    return [node.op, *(function.name for function in functions)]


def check_variables(folder: Path, model: "keras.Model") -> None:
    """Raise GateError, which names the weight, unless the SavedModel in `folder` stores exactly those of `model`."""
    import tensorflow as tf

    try:
        stored = tf.train.load_checkpoint(str(folder / VARIABLES))
    except (tf.errors.OpError, ValueError) as error:
        raise GateError(f"the weights of the export cannot be read: {' '.join(str(error).split())[:200]}") from error
    for number, variable in enumerate(model.variables):
        try:
            value = stored.get_tensor(f"variables_/{number}/.ATTRIBUTES/VARIABLE_VALUE")
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise GateError(f"the export's weight {variable.path} cannot be read: {reason}") from error
        if value.tobytes() != np.asarray(variable.value).tobytes():
            raise GateError(f"the export's weight {variable.path} is not that of the evaluated model")
