"""Files for Kubernetes: a Deployment of TensorFlow Serving, with an autoscaler, from a PersistentVolumeClaim."""

import hashlib
import json
import textwrap
from pathlib import Path

from kerazoo.serving.deploy.deployment import GRPC_PORT, IMAGE, REST_PORT, SERVER, USER, Deployment, quoted
from kerazoo.serving.deploy.readme import ask, page
from kerazoo.serving.deploy.server_files import CONFIG, EXPORT, FLAGS, METRICS, server_files

REPLICAS = 2  # so that one can be moved while the other answers
MOST = 8
BUSY = 70  # per cent of the requested CPU; above it, pods are added


def kubernetes_files(deployment: Deployment, folder: Path) -> dict[str, str]:
    """The files by their names in `folder`."""
    parts = (_config, _deployment, _service, _autoscaler, _budget)
    head = "# Written by `kerazoo deploy`; README.md has the commands.\n"
    return {
        "deployment.yaml": head + "---\n".join(part(deployment) for part in parts),
        "README.md": _readme(deployment),
    }


def resources(deployment: Deployment) -> str:
    """Requests and limits of a container, in one line of YAML. Without `cpus`, the CPU has no limit."""
    memory = f"{deployment.memory}Mi"
    cpu = str(deployment.cpus or 1)
    limits = {"memory": memory} if deployment.cpus is None else {"cpu": cpu, "memory": memory}
    return json.dumps({"requests": {"cpu": cpu, "memory": memory}, "limits": limits})


def _metadata(deployment: Deployment) -> str:
    return f"""\
metadata:
  name: {quoted(deployment.name)}
  labels: {{app.kubernetes.io/name: {quoted(deployment.name)}}}
"""


def _config(deployment: Deployment) -> str:
    blocks = "".join(f"  {name}: |\n{textwrap.indent(text, '    ')}" for name, text in server_files(deployment).items())
    return f"""\
apiVersion: v1
kind: ConfigMap
{_metadata(deployment)}data:
{blocks}"""


def _deployment(deployment: Deployment) -> str:
    labels = f"{{app.kubernetes.io/name: {quoted(deployment.name)}}}"
    flags = "".join(f"\n            - {quoted(flag)}" for flag in FLAGS)
    digest = hashlib.sha256("".join(server_files(deployment).values()).encode()).hexdigest()
    return f"""\
apiVersion: apps/v1
kind: Deployment
{_metadata(deployment)}spec:  # without replicas: the autoscaler sets them
  selector:
    matchLabels: {labels}
  strategy:
    type: RollingUpdate
    rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata:
      labels: {labels}
      annotations:
        # a changed ConfigMap starts new pods
        checksum/config: {quoted(digest)}
        prometheus.io/scrape: "true"
        prometheus.io/port: "{REST_PORT}"
        prometheus.io/path: {quoted(METRICS)}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      # the server does not react to SIGTERM as process 1: it goes on answering this long, and is then killed
      terminationGracePeriodSeconds: 15
      securityContext:
        runAsNonRoot: true
        runAsUser: {USER}
        runAsGroup: {USER}
        seccompProfile: {{type: RuntimeDefault}}
      containers:
        - name: serving
          image: {quoted(IMAGE)}
          command: [{quoted(SERVER)}]
          args:{flags}
          ports:
            - {{name: grpc, containerPort: {GRPC_PORT}}}
            - {{name: rest, containerPort: {REST_PORT}}}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{drop: ["ALL"]}}
          resources: {resources(deployment)}
          startupProbe:  # the server opens its ports when the model is loaded and warm; 5 minutes are allowed
            httpGet: {{path: {quoted(deployment.ready)}, port: rest}}
            periodSeconds: 5
            failureThreshold: 60
            timeoutSeconds: 5
          readinessProbe:  # /metadata answers 200 only when a version can be used
            httpGet: {{path: {quoted(deployment.ready)}, port: rest}}
            periodSeconds: 5
            timeoutSeconds: 5
          livenessProbe:  # the status answers 200 while the server itself works
            httpGet: {{path: {quoted(deployment.address)}, port: rest}}
            periodSeconds: 10
            failureThreshold: 6
            timeoutSeconds: 5
          volumeMounts:
            - {{name: config, mountPath: {quoted(CONFIG)}, readOnly: true}}
            - {{name: export, mountPath: {quoted(EXPORT)}, subPath: {quoted(deployment.model)}, readOnly: true}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: config
          configMap: {{name: {quoted(deployment.name)}}}
        - name: export
          persistentVolumeClaim: {{claimName: {quoted(deployment.claim)}, readOnly: true}}
        - name: tmp
          emptyDir: {{sizeLimit: 64Mi}}
"""


def _service(deployment: Deployment) -> str:
    return f"""\
apiVersion: v1
kind: Service
{_metadata(deployment)}spec:
  selector: {{app.kubernetes.io/name: {quoted(deployment.name)}}}
  ports:
    - {{name: grpc, port: {GRPC_PORT}, targetPort: grpc}}
    - {{name: rest, port: {REST_PORT}, targetPort: rest}}
"""


def _autoscaler(deployment: Deployment) -> str:
    return f"""\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
{_metadata(deployment)}spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {quoted(deployment.name)}}}
  minReplicas: {REPLICAS}
  maxReplicas: {MOST}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target: {{type: Utilization, averageUtilization: {BUSY}}}
"""


def _budget(deployment: Deployment) -> str:
    return f"""\
apiVersion: policy/v1
kind: PodDisruptionBudget
{_metadata(deployment)}spec:
  minAvailable: 1
  selector:
    matchLabels: {{app.kubernetes.io/name: {quoted(deployment.name)}}}
"""


def _readme(deployment: Deployment) -> str:
    return page(f"""\
Put the export into the PersistentVolumeClaim `{deployment.claim}`, as the folder `{deployment.model}` with the versions
`1`, `2` and so on. The server looks for new versions every second: copy a version under a name that is not a number,
and rename it when it is complete. Pods on several nodes need a claim with `ReadOnlyMany` or `ReadWriteMany`.

Start, and wait until it answers:

```sh
kubectl apply -f deployment.yaml
kubectl rollout status deployment/{deployment.name}
```

Ask about an image, with `kubectl port-forward service/{deployment.name} {REST_PORT}` in another terminal:

```sh
{ask(f"http://127.0.0.1:{REST_PORT}{deployment.address}")}
```

Stop:

```sh
kubectl delete -f deployment.yaml
```

- The server runs as user {USER} and must be able to read the export.
- The autoscaler runs {REPLICAS} to {MOST} pods, and adds some when they use more than {BUSY} % of the CPU that they
  request. It needs the cluster's metrics server.
- The memory limit is {deployment.memory} MiB. The default is 1024 MiB and four times the weights. It is a rule of
  thumb: look at `kubectl top pod`, and change it with `--memory`.
""")
