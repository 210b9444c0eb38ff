"""The models of the zoo, by name."""

from typing import TYPE_CHECKING

from kerazoo.models import installed, registry
from kerazoo.models.hub.backbone import HubBackbone
from kerazoo.models.hub.families import FAMILIES, title_of
from kerazoo.models.hub.presets import PREFIX, source_of, table

if TYPE_CHECKING:
    from kerazoo.models.info import ModelInfo


def list_models(text: str = "", *, weights: str | None = None) -> list[str]:
    """The names of the zoo's networks and pretrained backbones, and of networks that installed packages declare.

    Args:
        text: Only names that contain this text, in any case. A text that begins with "hub:" lists the presets of
            keras-hub, as `hub:dinov2`, and nothing else.
        weights: Only models that have weights of this name, such as "imagenet".

    Returns:
        Names, networks first, those of other packages last.

    Example:
    ```python
    kerazoo.list_models("resnet50")  # ["resnet50", "resnet50_v2"]
    ```
    """
    if text.startswith(PREFIX):
        names = [name for name in (f"{PREFIX}{preset}" for preset in table()) if text.lower() in name]
        return names if weights in (None, *HubBackbone.weights) else []
    return [name for name in registry.list_models(text) if weights is None or weights in describe(name).weights]


def describe(name: str) -> "ModelInfo":
    """What the zoo knows of a model: input shape, parameters, weights, and the arguments that `build` takes.

    Args:
        name: A name of `list_models()`.

    Returns:
        `ModelInfo` with `name`, `kind` ("network", "backbone", "hub" or "installed"), `input_shape`, `parameters`,
        `macs`, `weights`, `summary`, the published accuracy (`top1`, `top5`) and `license` of the weights, `arguments`
        (with their defaults), and `preprocessing()`: what turns images into its input.

    Raises:
        ModelError: if no model is called `name`.

    Example:
    ```python
    from pathlib import Path

    info = kerazoo.describe("vgg16")
    info.parameters  # 14_714_688
    inputs = info.preprocessing()(Path("photos/circle/00.png").read_bytes())  # (224, 224, 3) float32, BGR less a mean
    ```
    """
    from kerazoo.models.info import ModelInfo
    from kerazoo.models.macs import macs
    from kerazoo.models.weights.published import manifest

    if name not in registry.REGISTRY and name in registry.list_models():
        return ModelInfo(
            name=name, kind="installed", input_shape=None, parameters=None, weights=(),
            summary=installed.origin(name),
        )  # fmt: skip
    entry = registry.find(name)
    if isinstance(entry, HubBackbone):
        entry.check_name()
        row = table().get(entry.preset)
        title = "keras-hub" if row is None else f"{title_of(row[0])} of keras-hub"
        return ModelInfo(
            name=name, kind="hub", input_shape=None, parameters=None if row is None else row[2],
            weights=entry.weights, summary=", ".join(filter(None, [title, source_of(entry.preset)])),
            license="" if row is None else FAMILIES[row[0]].license,
        )  # fmt: skip
    file = manifest().get(entry.name)
    return ModelInfo(
        name=entry.name,
        kind="network" if isinstance(entry, registry.Network) else "backbone",
        input_shape=entry.input_shape,
        parameters=entry.parameters,
        weights=entry.weights,
        summary=entry.summary,
        macs=macs().get(entry.name),
        top1=None if file is None else file.top1,
        top5=None if file is None else file.top5,
        license="" if file is None else file.license,
    )
