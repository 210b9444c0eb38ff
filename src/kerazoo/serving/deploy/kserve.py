"""Files for KServe: an InferenceService on its own runtime of TensorFlow Serving."""

from pathlib import Path

from kerazoo.serving.deploy.deployment import SERVING_VERSION, Deployment, quoted
from kerazoo.serving.deploy.kubernetes import MOST, REPLICAS, resources
from kerazoo.serving.deploy.readme import ask, page


def kserve_files(deployment: Deployment, folder: Path) -> dict[str, str]:
    """The files by their names in `folder`."""
    return {"inferenceservice.yaml": _service(deployment), "README.md": _readme(deployment)}


def _service(deployment: Deployment) -> str:
    return f"""\
# Written by `kerazoo deploy`; README.md has the commands.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: {quoted(deployment.name)}
spec:
  predictor:
    minReplicas: {REPLICAS}
    maxReplicas: {MOST}
    model:
      modelFormat:
        name: tensorflow
      # without a name, KServe may choose another runtime that takes TensorFlow models, such as OpenVINO's
      runtime: kserve-tensorflow-serving
      # without a version, KServe takes TensorFlow Serving 2.6.2, which is too old for a graph of TensorFlow 2.21
      runtimeVersion: {quoted(SERVING_VERSION)}
      storageUri: {quoted(deployment.storage_uri)}
      resources: {resources(deployment)}
"""


def _readme(deployment: Deployment) -> str:
    return page(f"""\
Copy the export to `{deployment.storage_uri}`. That place must contain the folders of the versions, `1`, `2` and so on;
the newest is served. Start, and wait until it answers:

```sh
kubectl apply -f inferenceservice.yaml
kubectl wait --for=condition=Ready --timeout=10m inferenceservice/{deployment.name}
```

Ask about an image. `INGRESS` is the address of the cluster's ingress; the model has the name of the service:

```sh
HOST=$(kubectl get inferenceservice {deployment.name} -o jsonpath='{{.status.url}}' | cut -d / -f 3)
{ask(f"http://INGRESS/v1/models/{deployment.name}", '-H "Host: $HOST" ')}
```

A new version is read when the pods start again. Stop:

```sh
kubectl delete -f inferenceservice.yaml
```
""")
