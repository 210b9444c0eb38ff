"""Epochs of training with and without tf.data's tuner, in turn: seconds, and how many cores they used.

    python benchmarks/tuner.py flowers240 [--backbone mobilenet_025] [--size 224] [--epochs 8]

The network has random weights, and its last two stages learn from augmented images, as by `kerazoo finetune`. The first
epoch of each kind is not counted. See `untuned` in src/kerazoo/pipelines/input/images.py.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

from kerazoo.startup import start_tensorflow


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="mobilenet_025")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    start_tensorflow()
    import tensorflow as tf

    from kerazoo.pipelines.devices.opening import open_devices
    from kerazoo.recipes.recipe import make_recipe
    from kerazoo.training.fit import compile_model, make_batches
    from kerazoo.training.plan import plan, set_seed
    from kerazoo.transfer.finetune import build_both

    recipe = make_recipe({
        "model": {"name": arguments.backbone}, "data": {"path": str(arguments.data), "size": arguments.size},
        "training": {"epochs": 1, "batch_size": 32}, "augmentation": {"policy": "light"},
        "transfer": {"weights": "none", "unfreeze": 2},
    })  # fmt: skip
    devices = open_devices(recipe.devices)
    made = plan(recipe, devices)
    _, model = build_both(made, devices)
    made.check_images()
    set_seed(recipe.seed)
    batches, _ = make_batches(made, devices)
    compile_model(model, made, devices, steps=made.steps)
    found = {True: [], False: []}
    for epoch in range(arguments.epochs + 1):
        for tuned in found:
            options = tf.data.Options()
            options.autotune.enabled = tuned
            before, begin = os.times(), time.perf_counter()
            model.fit(batches.at(epoch, 0).with_options(options), verbose=0)
            seconds, after = time.perf_counter() - begin, os.times()
            if epoch:
                found[tuned].append((seconds, (after.user + after.system - before.user - before.system) / seconds))
    for tuned, rows in found.items():
        print(
            f"{'with' if tuned else 'without'} the tuner: " + ", ".join(f"{s:.1f} s ({c:.1f} cores)" for s, c in rows)
        )
    means = [statistics.mean(seconds for seconds, _ in rows) for rows in found.values()]
    print(f"ratio of the means: {means[0] / means[1]:.2f}")


if __name__ == "__main__":
    main()
