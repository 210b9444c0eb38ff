"""Unfreeze the layers to fine-tune."""

from typing import Any

import keras

from kerazoo.errors import ModelError
from kerazoo.keras_private import all_layers
from kerazoo.models.registry import Entry, Network
from kerazoo.recipes.transfer_part import TransferPart
from kerazoo.transfer.batch_norm import batch_norms

NORMS = (
    keras.layers.BatchNormalization, keras.layers.LayerNormalization, keras.layers.GroupNormalization,
    keras.layers.RMSNormalization,
)  # fmt: skip


def unfreeze(model: keras.Model, entry: Entry, transfer: TransferPart, *, pretrained: bool) -> None:
    """Make the layers trainable that `transfer` names, and batch norm by its policy. Raises ModelError."""
    unfrozen = layers_to_unfreeze(model, entry, transfer.unfreeze)
    policy = transfer.batch_norm or ("frozen" if pretrained else "train")
    for layer in model.layers:
        layer.trainable = layer.name in unfrozen
    for norm in batch_norms(model):  # blocks of keras-hub have theirs inside
        norm.trainable = norm.trainable and policy != "frozen"
        if policy == "stats":
            for variable in (norm.gamma, norm.beta):
                if variable is not None:
                    variable.trainable = False
    if transfer.method == "norm":
        keep_norms(model)


def keep_norms(model: keras.Model) -> None:
    """Freeze all variables but those of the head and of normalization layers. Raises ModelError if there are none."""
    norms = [layer for layer in all_layers(model) if isinstance(layer, NORMS)]
    kept = [variable for norm in norms for variable in norm.trainable_variables]
    if not kept:
        raise ModelError(f"transfer.method='norm': {model.name} has no normalization layers to fine-tune; use 'all'")
    freeze_others(model, kept)


def freeze_others(model: keras.Model, kept: list[Any]) -> None:
    """Freeze all variables of `model` but `kept` and those of the head."""
    ids = {id(variable) for variable in [*kept, *model.get_layer("logits").trainable_variables]}
    for variable in model.trainable_variables:
        if id(variable) not in ids:
            variable.trainable = False


def layers_to_unfreeze(model: keras.Model, entry: Entry, stages: int) -> set[str]:
    """The names of the trainable layers if the last `stages` stages are unfrozen; 0 unfreezes all.

    Raises ModelError if there are fewer stages.
    """
    names = [layer.name for layer in model.layers]
    if stages == 0:
        return set(names)
    if isinstance(entry, Network) or stages >= len(entry.stages):
        has = 0 if isinstance(entry, Network) else len(entry.stages) - 1
        raise ModelError(
            f"transfer.unfreeze={stages}: {entry.name} has {has} stages to unfreeze; use a smaller number, or 0 for all"
        )
    last_frozen = entry.stages[-1 - stages]
    return set(names[names.index(last_frozen) + 1 :])
