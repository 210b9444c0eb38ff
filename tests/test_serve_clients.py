"""Clients that others made, and all validation images of a real data set, against a server."""

import base64
import csv
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from servers import serving
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from test_venvs import said_in

import kerazoo
from kerazoo.tasks.measures import TOLERANCE

CLIENTS = 32
KSERVE = """
import asyncio, base64, json, sys
from kserve import InferenceRESTClient, RESTConfig

async def main():
    client = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    image = base64.b64encode(open("image.png", "rb").read()).decode()
    for data in ({"instances": [{"b64": image}]}, {"instances": [{"image_bytes": {"b64": image}}]}):
        answer = await client.infer("ADDRESS", data, model_name="digits")
        print(json.dumps(answer["predictions"][0]["probabilities"]).replace(" ", ""))
    await client.close()

asyncio.run(main())
"""


@pytest.mark.slow  # an environment from the package index
def test_the_client_of_kserve_works_unchanged(digits, tmp_path):
    image = next((digits.parents[1] / "images").rglob("*.png"))
    (tmp_path / "image.png").write_bytes(image.read_bytes())
    with serving(digits) as found:
        said, _ = said_in(tmp_path, ["kserve"], KSERVE.replace("ADDRESS", found.rest), tmp_path)
    expected = kerazoo.open_export(digits).probabilities(image)
    assert len(said) == 2
    for line in said:
        np.testing.assert_allclose([json.loads(line)], expected, atol=TOLERANCE)


@pytest.mark.slow  # a fine-tuning on real photos, and 2,208 requests
def test_every_photo_is_answered_as_evaluation_recorded(shared, tmp_path):
    """All 736 validation photos by REST, gRPC and the plain way, from 32 clients at once, with bad images between."""
    with tarfile.open(shared / "flowers240.tar") as tar:
        tar.extractall(tmp_path / "photos", filter="data")
    weights = shared / "weights/mobilenet_2_5_224_tf_no_top.h5"
    run = kerazoo.finetune(
        tmp_path / "photos", "mobilenet_025", weights=weights, preset="linear", name="flowers", root=tmp_path / "runs"
    )
    export = run.export(root=tmp_path / "saved_models").folder
    with (run.folder / "evaluation/val.csv").open(newline="") as file:
        keys = [row[0] for row in csv.reader(file)][1:]
    recorded = dict(zip(keys, np.load(run.folder / "evaluation/val.npy"), strict=True))
    assert len(recorded) == 736
    names = run.spec.class_names

    with serving(export, "--grpc-port", "0") as found, grpc.insecure_channel(found.grpc) as channel:
        stub = PredictionServiceStub(channel)

        def ask(key):
            content = (tmp_path / "photos" / key).read_bytes()
            body = json.dumps({"instances": [{"b64": base64.b64encode(content).decode()}]}).encode()
            (rest,) = found.json("POST", "/v1/models/flowers:predict", body)[1]["predictions"]
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "flowers"
            request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([content]))
            outputs = stub.Predict(request, timeout=60).outputs
            plain = found.json("POST", "/classify", content)[1]
            assert found.json("POST", "/classify", content[: len(content) // 2])[0] in (200, 400)  # a cut photo
            answers = (rest["probabilities"], list(outputs["probabilities"].float_val))
            return answers, {rest["label"], outputs["label"].string_val[0].decode(), plain["label"]}

        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = dict(zip(recorded, pool.map(ask, recorded), strict=True))
        statuses = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "flowers"
        (status,) = statuses.GetModelStatus(request, timeout=10).model_version_status
        assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        assert found.end() == 0
    largest = 0.0
    for key, (both, labels) in answers.items():
        assert labels == {names[int(recorded[key].argmax())]}, key
        largest = max(largest, *(float(np.abs(answer - recorded[key]).max()) for answer in both))
    assert largest <= TOLERANCE
    print(f"{len(answers)} photos, {os.cpu_count()} cores: largest difference {largest:.2g}")
