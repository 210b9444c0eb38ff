"""TensorFlow Serving's REST dialect: JSON requests -> arrays by the name of an input, outputs -> JSON answers.

Rules and messages are those of TensorFlow Serving 2.20 (tensorflow_serving/util/json_tensor.cc, g3doc/api_rest.md), so
that a client that works here works there; `tests/test_rest.py` names the source of each case. Two things differ: a
whole number out of its type's range is refused, and so is nesting beyond some thousand levels.
"""
