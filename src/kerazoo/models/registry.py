"""The registry: one literal table of networks here, one of pretrained backbones in `keras_applications.py`.

Reading it imports neither keras nor tensorflow, so the command line can list the zoo at once. Names that stand in
neither table may be those of networks that other packages declare (`installed.py`).
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kerazoo.errors import ModelError
from kerazoo.models import installed
from kerazoo.models.backbone import Backbone
from kerazoo.models.hub.backbone import HubBackbone, hub_backbone
from kerazoo.models.hub.presets import PREFIX
from kerazoo.models.keras_applications import BACKBONES
from kerazoo.preprocessing.preprocessing import Preprocessing

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Network:
    """A network of the zoo: `module` in `kerazoo.models.networks` has a builder called `function`.

    `input_shape` is (H, W, C). `parameters` is the exact count for the defaults, including moving statistics. `loss` is
    the network's own loss (see `losses.py`). `weights` has the names of weights that ship with the package.
    `installed` is the builder of a network of another package, whose parameters are not counted.
    """

    name: str
    module: str
    function: str
    input_shape: tuple[int, int, int]
    parameters: int | None
    summary: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loss: str = "cross_entropy"
    weights: tuple[str, ...] = ()
    smallest: int = 1  # shortest allowed side, px
    resize: ClassVar[str] = "crop"
    installed: Callable[..., "keras.Model"] | None = None

    def preprocessing(
        self, height: int | None = None, width: int | None = None, resize: str = "crop", channels: int | None = None
    ) -> Preprocessing:
        """Pixels in [0, 1], at the default size or the one given."""
        own_height, own_width, own_channels = self.input_shape
        return Preprocessing(
            height or own_height, width or height or own_width, channels or own_channels, resize=resize, scaling="unit"
        )

    def builder(self) -> Callable[..., "keras.Model"]:
        """The function that builds the network."""
        if self.installed is not None:
            return self.installed
        function: Callable[..., keras.Model] = getattr(
            importlib.import_module(f"kerazoo.models.networks.{self.module}"), self.function
        )
        return function


NETWORKS: tuple[Network, ...] = (
    Network(
        "perceptron", "neurons", "perceptron", (28, 28, 1), 7_850,
        "threshold units, learned by the perceptron criterion (Rosenblatt 1958)", loss="perceptron",
    ),
    Network(
        "sigmoid_neuron", "neurons", "sigmoid_neuron", (28, 28, 1), 7_850,
        "sigmoid neurons, learned by the quadratic cost", loss="quadratic",
    ),
    Network("mlp", "mlp", "mlp", (28, 28, 1), 109_386, "multilayer perceptron: units, activation, dropout, L1/L2"),
    Network(
        "cnn", "cnn", "cnn", (28, 28, 1), 421_642,
        "convolution, pooling (max, mean, sum, min), flatten, dense", smallest=4,
    ),
    Network(
        "bottleneck_cnn", "bottleneck_cnn", "bottleneck_cnn", (28, 28, 1), 7_554,
        "1x1 bottlenecks, 3x3 convolutions, global pooling; under 8,000 parameters", smallest=8, weights=("mnist",),
    ),
    Network(
        "recurrent", "recurrent", "recurrent", (28, 28, 1), 24_458,
        "rows as time steps; simple, GRU or LSTM cells",
    ),
    Network(
        "vgg_small", "vgg_small", "vgg_small", (32, 32, 3), 289_642,
        "VGG for small images: pairs of 3x3 convolutions (after Simonyan & Zisserman 2014)", smallest=8,
    ),
    Network(
        "resnet20", "resnet_small", "resnet_small", (32, 32, 3), 271_098,
        "CIFAR ResNet (He et al. 2015, section 4.2), n=3", {"depth": 20}, smallest=8,
    ),
    Network(
        "resnet32", "resnet_small", "resnet_small", (32, 32, 3), 466_426,
        "CIFAR ResNet (He et al. 2015, section 4.2), n=5", {"depth": 32}, smallest=8,
    ),
    Network(
        "resnet56", "resnet_small", "resnet_small", (32, 32, 3), 857_082,
        "CIFAR ResNet (He et al. 2015, section 4.2), n=9", {"depth": 56}, smallest=8,
    ),
    Network(
        "inception_small", "inception_small", "inception_small", (32, 32, 3), 1_654_538,
        "small Inception (Zhang et al. 2016, Figure 3)", smallest=8,
    ),
    Network(
        "fast_cnn", "fast_cnn", "fast_cnn", (32, 32, 3), 1_973_954,
        "whitened patches, then six 3x3 convolutions: learns CIFAR-10 in minutes (Jordan 2024)", smallest=9,
    ),
)  # fmt: skip

Entry = Network | Backbone | HubBackbone
ENTRIES: tuple[Network | Backbone, ...] = (*NETWORKS, *BACKBONES)
REGISTRY: Mapping[str, Network | Backbone] = {entry.name: entry for entry in ENTRIES}


def list_models(text: str = "") -> list[str]:
    """The names that contain `text` (ignoring case): networks, backbones, then networks of other packages.

    No package is imported for this.
    """
    return [name for name in (*REGISTRY, *_installed_names()) if text.lower() in name.lower()]


def find(name: str) -> Entry:
    """The entry called `name`. If the tables have none, a network of another package, which is then imported.

    A name that begins with "hub:" is a backbone of keras-hub, whose preset is read when it is needed. Raises
    ModelError, with the most similar names, if there is none, or if the package cannot be used.
    """
    if str(name).startswith(PREFIX):
        return hub_backbone(name)
    if name not in REGISTRY:
        if name in _installed_names():
            return _installed_network(name)
        import difflib  # imported here so that `kerazoo --help` starts sooner

        near = difflib.get_close_matches(str(name).lower(), list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "`kerazoo models` lists them all"
        raise ModelError(f"no model is called {name!r}: {hint}")
    return REGISTRY[name]


def _installed_names() -> list[str]:
    return [name for name in installed.names() if name not in REGISTRY]


def _installed_network(name: str) -> Network:
    builder = installed.load(name)
    height, width, channels = inspect.signature(builder).parameters["input_shape"].default
    return Network(
        name=name, module="", function="", input_shape=(height, width, channels), parameters=None,
        summary=installed.origin(name), installed=builder,
    )  # fmt: skip


def weight_names(entry: Entry) -> tuple[str, ...]:
    """The names of weights for `entry`: those that exist, and "none" for random weights."""
    return (*entry.weights, "none")


def construct(name: str, **arguments: Any) -> "keras.Model":
    """The network called `name` with random weights; `build` in `build.py` also loads weights.

    Raises ModelError for an unknown name or argument, and for values that the builder does not allow.
    """
    entry = find(name)
    allowed = signature_of(entry)
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise ModelError(f"{name} has no argument {unknown[0]!r}; its arguments are {', '.join(allowed)}")
    known: dict[str, Any] = {} if arguments.get("architecture") else own_defaults(entry)
    return entry.builder()(**{**known, **entry.arguments, **arguments})


def describe(name: str) -> dict[str, Any]:
    """The arguments of the builder of `name`, each with its default."""
    entry = find(name)
    return signature_of(entry) | own_defaults(entry)


def signature_of(entry: Entry) -> dict[str, Any]:
    """The arguments of the builder of `entry`, with the defaults in its signature."""
    parameters = inspect.signature(entry.builder()).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in entry.arguments}


def own_defaults(entry: Entry) -> dict[str, Any]:
    """The defaults that the entry has for itself; those of keras-hub's backbones are read from the preset."""
    return entry.defaults if isinstance(entry, HubBackbone) else {"input_shape": entry.input_shape}
