"""The layers of a network in parts, from map to map."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kerazoo.insight.anatomy import Anatomy, LayerAnatomy, sum_of_macs


@dataclass(frozen=True)
class Part:
    """Consecutive `layers` whose outputs are maps of one `size`; () for those that see the same pixels everywhere."""

    size: tuple[int, ...]
    layers: Sequence[LayerAnatomy]

    @property
    def macs(self) -> int | None:
        """The multiply-accumulate operations for one image; None if those of a layer are not known."""
        return sum_of_macs(self.layers)

    @property
    def last(self) -> LayerAnatomy:
        """The last layer of the maps; a factor beside them, as in squeeze and excitation, is none."""
        maps = [layer for layer in self.layers if layer.output_shape[:-1] == self.size]
        return (maps or self.layers)[-1]


def parts_of(anatomy: Anatomy) -> Iterator[Part]:
    """The layers in parts with maps of one size, and what comes after the last map as one part.

    What computes nothing, such as padding, belongs to the part after it.
    """
    last = anatomy.last_map
    end = 0 if last is None else anatomy.layers.index(last) + 1
    size: tuple[int, ...] = anatomy.input_shape[:-1] if end else ()
    begin = 0
    for number, layer in enumerate(anatomy.layers[:end]):
        own = layer.output_shape[:-1]
        if own == size or layer.field.is_same_everywhere:  # such as a factor beside the maps
            continue
        part = Part(size, anatomy.layers[begin:number])
        if any(layer.parameters or layer.macs != 0 for layer in part.layers):  # else padding before a convolution
            yield part
            begin = number
        size = own
    if end > begin:
        yield Part(size, anatomy.layers[begin:end])
    if anatomy.layers[end:]:
        yield Part((), anatomy.layers[end:])
