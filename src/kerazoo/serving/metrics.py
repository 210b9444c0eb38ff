"""What a server counts, for Prometheus: TensorFlow Serving's names, and a few of ours.

Source of the names: tensorflow_serving/servables/tensorflow/util.cc and model_servers/http_rest_api_handler.cc.
"""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import Metric

from kerazoo.serving.log_thread import LogThread
from kerazoo.serving.service import Service
from kerazoo.version import __version__

PREFIX = ":tensorflow:serving:"
MICROSECONDS = tuple(10 * 1.8**power for power in range(33))  # the bounds there
MOST_NAMES = 100  # model names that are counted by themselves; a client can send any
LONGEST = 100  # characters of such a name: each is in some hundred lines of the page


class Metrics:
    """The counts of one server."""

    def __init__(self, service: Service, writer: LogThread | None = None) -> None:
        self._registry = CollectorRegistry()
        self._counts: dict[tuple[str, str], int] = {}
        labels = ["model_name", "API", "entrypoint"]
        self._latency = Histogram(
            f"{PREFIX}request_latency", "Microseconds of a request.", labels, buckets=MICROSECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._http = Counter("kerazoo_http_requests", "HTTP requests by status.", ["code"], registry=self._registry)
        self._received = Counter("kerazoo_received_bytes", "Bytes of bodies.", registry=self._registry)
        images = Gauge("kerazoo_images_in_progress", "Images that wait or are answered.", registry=self._registry)
        images.set_function(lambda: service.slots.used)
        version = Gauge("kerazoo_served_version", "The served version.", ["model_name"], registry=self._registry)
        name = service.versions.name
        version.labels(name).set_function(lambda: service.versions.current.version)
        about = Gauge("kerazoo_info", "The release of kerazoo.", ["version"], registry=self._registry)
        about.labels(__version__).set(1)
        dropped = Gauge("kerazoo_dropped_log_lines", "Lines that nobody took.", registry=self._registry)
        dropped.set_function(lambda: 0 if writer is None else writer.dropped)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._known = {name}

    def count(self, model: str, api: str, code: str, entrypoint: str, seconds: float) -> None:
        """Count a request to a model."""
        if model not in self._known and (len(self._known) >= MOST_NAMES or len(model) > LONGEST):
            model = ""
        self._known.add(model)
        key = model, code
        self._counts[key] = self._counts.get(key, 0) + 1
        self._latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def count_http(self, status: int, received: int) -> None:
        """Count an HTTP request and the bytes of its body."""
        self._http.labels(str(status)).inc()
        self._received.inc(received)

    def collect(self) -> Iterator[Any]:
        """TensorFlow Serving's `request_count`; this library would add an ending to a counter's name."""
        metric = Metric(f"{PREFIX}request_count", "Requests by model and status.", "unknown")
        for (model, code), count in dict(self._counts).items():
            metric.add_sample(metric.name, {"model_name": model, "status": code}, count)
        yield metric

    def page(self) -> bytes:
        """The page for Prometheus."""
        return generate_latest(self._registry)
