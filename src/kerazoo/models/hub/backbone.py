"""A backbone of keras-hub as an entry of the registry, "hub:PRESET". What the preset says is read when it is needed."""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from kerazoo.errors import ModelError
from kerazoo.models.hub.build import build_hub, check_installed
from kerazoo.models.hub.families import FAMILIES
from kerazoo.models.hub.fetching import preset_folder
from kerazoo.models.hub.licenses import license_note, license_of
from kerazoo.models.hub.presets import PREFIX, check_files, check_preset, is_folder, source_of, stem_of
from kerazoo.preprocessing.preprocessing import Preprocessing

if TYPE_CHECKING:
    import keras

    from kerazoo.models.hub.reading import PresetFacts

log = logging.getLogger("kerazoo")


@dataclass(frozen=True)
class HubBackbone:
    """The entry "hub:PRESET"; `presets.py` says what PRESET can be.

    `facts`, and what comes from it, reads the preset, which fetches one that is not on this machine. A run that is
    loaded again needs none of it: its arguments hold the architecture.
    """

    name: str

    weights: ClassVar[tuple[str, ...]] = ("preset",)
    loss: ClassVar[str] = "cross_entropy"
    smallest: ClassVar[int] = 1
    arguments: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @property
    def preset(self) -> str:
        """The preset's name, address or path."""
        return self.name.removeprefix(PREFIX)

    @property
    def label(self) -> str:
        """A short name, for runs and models."""
        return f"hub_{stem_of(self.preset)}"

    @property
    def stored_name(self) -> str:
        """The name in `model.json`, without the path of a folder."""
        return PREFIX + stem_of(self.preset) if is_folder(self.preset) else self.name

    def check(self) -> None:
        """Raise ModelError if keras-hub is not installed, or if there can be no such preset. Nothing is fetched."""
        check_installed()
        self.check_name()

    def check_name(self) -> None:
        """Raise ModelError if there can be no such preset. Nothing is fetched."""
        check_preset(self.preset)

    def folder(self) -> Path:
        """The folder of the preset's files, fetched if they are not on this machine."""
        self.check()
        return preset_folder(self.preset)

    def record(self) -> dict[str, Any]:
        """What a run records of the preset: source, license, and the sha256 of its files. Raises WeightsError.

        The log has a license that is not known to be free.
        """
        folder = self.folder()
        license, license_source = license_of(self.preset, folder, self.facts.kind)
        note = license_note(license, license_source)
        if note:
            log.info(f"{self.name}: {note}")
        return {
            "name": self.stored_name, "source": source_of(self.preset), "license": license,
            "license_source": license_source,
            "files": {name: digest for name, (_, digest) in check_files(self.preset, folder).items()},
        }  # fmt: skip

    @functools.cached_property
    def facts(self) -> "PresetFacts":
        """What the preset's files say."""
        from kerazoo.models.hub.reading import read_facts

        return read_facts(self.name, self.folder())

    @functools.cached_property
    def _skeleton(self) -> "tuple[tuple[str, ...], int, int]":
        """(the stages, the number of features, the number of parameters below the head) at the default size."""
        from kerazoo.keras_private import without_variables
        from kerazoo.models.hub.build import make_backbone
        from kerazoo.models.hub.flat import flatten

        with without_variables():
            stages = tuple(flatten(make_backbone(self.name, self.facts.architecture, self.input_shape)).stages)
            model = self.builder()(**self.defaults, num_classes=1)
        return (
            stages,
            int(model.get_layer("features").output.shape[-1]),
            int(model.count_params()) - int(model.get_layer("logits").count_params()),
        )

    @property
    def stages(self) -> tuple[str, ...]:
        """The ends of the stages: transformer blocks, or sizes of feature maps."""
        return self._skeleton[0]

    @property
    def features(self) -> int:
        """The number of features."""
        return self._skeleton[1]

    @property
    def parameters(self) -> int:
        """The number of parameters below the head."""
        return self._skeleton[2]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) at the preset's size."""
        return (*self.facts.size, 3)

    @property
    def resize(self) -> str:
        """How the preset fits images to its size."""
        return self.facts.resize

    @property
    def summary(self) -> str:
        """One line for the list of models."""
        return f"{FAMILIES[self.facts.kind].title} of keras-hub, {self.features} features"

    @property
    def defaults(self) -> dict[str, Any]:
        """The builder's arguments that come from the preset."""
        return {
            "input_shape": self.input_shape, "architecture": self.facts.architecture,
            "pooling": FAMILIES[self.facts.kind].poolings[0],
        }  # fmt: skip

    def scaling_of(self, channels: int) -> str:
        """The scaling for images with this number of channels. Raises ModelError unless it is 3."""
        if channels != 3:
            raise ModelError(f"{self.name} takes images with 3 channels, not {channels}")
        return "numbers"

    def preprocessing(
        self, height: int | None = None, width: int | None = None, resize: str | None = None, channels: int = 3
    ) -> Preprocessing:
        """The preprocessing that the preset states, for the given size or its own. Raises ModelError."""
        facts = self.facts
        own_height, own_width = facts.size
        return Preprocessing(
            height=height or own_height, width=width or height or own_width, channels=channels,
            resize=resize or facts.resize, interpolation=facts.interpolation, scaling=self.scaling_of(channels),
            factor=facts.factor, offset=facts.offset,
        )  # fmt: skip

    def builder(self) -> "Callable[..., keras.Model]":
        """`build_hub` under this name."""
        return functools.partial(build_hub, self.label)


@functools.cache
def hub_backbone(name: str) -> HubBackbone:
    """The entry called `name`; the path of a folder becomes absolute. Raises ModelError for an empty name."""
    preset = name.removeprefix(PREFIX)
    if not preset or len(preset) > 1_000 or any(ord(letter) < 32 for letter in preset):
        raise ModelError(f"{name!r:.60} must be as hub:PRESET; `kerazoo models --filter hub:` lists the presets")
    if is_folder(preset):
        preset = str(Path(preset).expanduser().absolute())
    return HubBackbone(PREFIX + preset)
