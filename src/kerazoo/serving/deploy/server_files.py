"""TensorFlow Serving's own files and flags: models, batching, monitoring."""

from kerazoo.serving.deploy.deployment import GRPC_PORT, REST_PORT, Deployment, quoted

CONFIG = "/config"  # where a container has these files
EXPORT = "/models/export"  # where it has the export; the same for every name, so that no name must be a path
METRICS = "/monitoring/prometheus/metrics"
MODELS_FILE = "models.config"
BATCHING_FILE = "batching.config"
MONITORING_FILE = "monitoring.config"
FLAGS = (
    f"--port={GRPC_PORT}",
    f"--rest_api_port={REST_PORT}",
    f"--model_config_file={CONFIG}/{MODELS_FILE}",
    "--enable_batching=true",
    f"--batching_parameters_file={CONFIG}/{BATCHING_FILE}",
    f"--monitoring_config_file={CONFIG}/{MONITORING_FILE}",
)


def server_files(deployment: Deployment) -> dict[str, str]:
    """The files that `FLAGS` name, by their names: protocol buffers as text."""
    return {
        MODELS_FILE: _models(deployment),
        BATCHING_FILE: _batching(deployment.cpus),
        MONITORING_FILE: f"prometheus_config {{\n  enable: true\n  path: {quoted(METRICS)}\n}}\n",
    }


def _models(deployment: Deployment) -> str:
    """A ModelServerConfig. Without a policy, the server takes the newest version, and each new one as it appears."""
    policy = ""
    if deployment.version is not None:
        policy = f"\n    model_version_policy {{ specific {{ versions: {deployment.version} }} }}"
    return f"""\
model_config_list {{
  config {{
    name: {quoted(deployment.model)}
    base_path: {quoted(EXPORT)}
    model_platform: "tensorflow"{policy}
  }}
}}
"""


def _batching(cpus: int | None) -> str:
    """BatchingParameters. Without `num_batch_threads`, there are as many as the machine has cores."""
    threads = "" if cpus is None else f"num_batch_threads {{ value: {cpus} }}\n"
    return f"""\
# Requests that arrive together are answered as one batch. Encoded images can have any size. Pixels (serve_pixels,
# serve_images) must have the same height and width in all requests; otherwise, remove --enable_batching and
# --batching_parameters_file from the flags of the server.
max_execution_batch_size {{ value: 32 }}
# a larger request is split into several batches, up to this number of images
enable_large_batch_splitting {{ value: true }}
max_batch_size {{ value: 256 }}
# how long a request waits for others
batch_timeout_micros {{ value: 1000 }}
# requests beyond this queue are refused at once, which a client can retry
max_enqueued_batches {{ value: 100 }}
{threads}"""
