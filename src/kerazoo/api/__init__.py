"""The public functions: what `import kerazoo` offers, and the only door of the command line.

Each looks at names, paths and values first, and starts TensorFlow only then, which takes seconds. Paths are strings or
`Path`. `settings` are keys of the recipe, as a mapping, {"optimizer.schedule": "step"}, or as texts,
["optimizer.schedule=step"].
"""

from kerazoo.api.data import check, load_examples
from kerazoo.api.exports import deploy, export, open_export, verify
from kerazoo.api.inspection import anatomy, compare_convolutions, draw_receptive_field
from kerazoo.api.looking import draw_feature_maps, draw_grad_cam, grad_cam
from kerazoo.api.reports import push, report
from kerazoo.api.runs import evaluate, open_run, predict
from kerazoo.api.serving import serve
from kerazoo.api.training import finetune, resume, train
from kerazoo.api.trials import diagnose, find_learning_rate, has_finding, overfit_one_batch, rank
from kerazoo.api.zoo import describe, list_models
from kerazoo.insight.findings.finding import Finding
from kerazoo.models.build import build

__all__ = [
    "Finding", "anatomy", "build", "check", "compare_convolutions", "deploy", "describe", "diagnose",
    "draw_feature_maps", "draw_grad_cam", "draw_receptive_field", "evaluate", "export", "find_learning_rate",
    "finetune", "grad_cam", "has_finding", "list_models", "load_examples", "open_export", "open_run",
    "overfit_one_batch", "predict", "push", "rank", "report", "resume", "serve", "train", "verify",
]  # fmt: skip
