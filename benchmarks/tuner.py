"""Epochs of training without tf.data's tuner, then with it: seconds, and of these, seconds after the last batch.

    python benchmarks/tuner.py flowers240 [--backbone mobilenet_025] [--size 224] [--epochs 8]

The network has random weights, and its last two stages learn from augmented images, as by `kerazoo finetune`. The first
epoch of each kind is not counted. The kinds are not mixed, because the end of one epoch may fall into the next. See
`untuned` in src/kerazoo/pipelines/input/images.py.
"""

import argparse
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
    import keras

    from kerazoo.pipelines.devices.opening import open_devices
    from kerazoo.pipelines.input import batches as input_batches
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
    last = [0.0]
    mark = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: last.__setitem__(0, time.perf_counter())
    )
    found = {}
    for kind in ("without", "with"):
        if kind == "with":
            input_batches.untuned = lambda dataset: dataset
        rows = []
        for epoch in range(arguments.epochs + 1):
            begin = time.perf_counter()
            model.fit(batches.at(epoch, 0), verbose=0, callbacks=[mark])
            end = time.perf_counter()
            rows.append((end - begin, end - last[0]))
        found[kind] = rows[1:]
        print(f"{kind} the tuner: " + ", ".join(f"{whole:.1f} s ({after:.1f} s)" for whole, after in found[kind]))
    means = [statistics.mean(seconds for seconds, _ in rows) for rows in found.values()]
    print(f"ratio of the means: {means[1] / means[0]:.2f}")


if __name__ == "__main__":
    main()
