"""What watches a network learn. Observers only: training with them is bit-equal to training without.

Each takes the writer it writes to; what it writes is a fixed set of tags, at the end of every epoch.
"""

from kerazoo.callbacks.epochs import EpochMetrics
from kerazoo.callbacks.feature_maps import FeatureMapLogger
from kerazoo.callbacks.gradients import GradientLogger
from kerazoo.callbacks.metrics import MetricsWriter
from kerazoo.callbacks.progress import Progress
from kerazoo.callbacks.resume import Resume
from kerazoo.callbacks.weights import WeightLogger
from kerazoo.callbacks.writers.folder import RunWriter
from kerazoo.callbacks.writers.writer import Writer
from kerazoo.insight.curves import curves_of, draw_curves

__all__ = [
    "EpochMetrics", "FeatureMapLogger", "GradientLogger", "MetricsWriter", "Progress", "Resume", "RunWriter",
    "WeightLogger", "Writer", "curves_of", "draw_curves",
]  # fmt: skip
