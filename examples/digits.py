"""The demonstration behind `make demo`: fine-tune on a folder of images, evaluate, export, serve.

The images are scikit-learn's real digit scans (1,797, 8x8 grey; Alpaydin & Kaynak 1998, UCI), written as PNG files.
A zoo network that learned MNIST starts from the weights that ship with kerazoo; the same run from random weights stands
beside it. Every step is a command that you can type; nothing is downloaded.
"""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path("demo")
KERAZOO = Path(sys.executable).with_name("kerazoo")
SETTINGS = ["--epochs", "8", "--set", "data.resize=stretch", "--set", "data.validation=0.3"]
SETTINGS += ["--set", "optimizer.learning_rate=0.003"]
SETTINGS += ["--set", "augmentation.policy=none", "--set", "augmentation.shift=0.08"]  # a mirrored digit is none

# A process of its own, in which keras cannot be imported: TensorFlow alone names the images.
SERVE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.modules["keras"] = None
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = serve(image_bytes=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
for path, label, top in zip(sys.argv[2:], answers["label"].numpy(), answers["top_probabilities"].numpy()):
    print(f"  {path}: {label.decode()} ({top[0]:.3f})")
"""


def write_images(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(path)  # 17 levels -> 0 to 255


def run(*arguments: str) -> dict:
    print("\n$ kerazoo " + " ".join(arguments), flush=True)
    done = subprocess.run([KERAZOO, *arguments, "--json"], cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def serve(export: str, image: str) -> None:
    """Serve the export on a free port, ask for one image as curl does, and stop the server."""
    command = ["serve", export, "--port", "0"]
    print("\n$ kerazoo " + " ".join(command) + " &", flush=True)
    server = subprocess.Popen(
        [KERAZOO, *command, "--json"], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        address = json.loads(server.stdout.readline())["http"] + "/classify?top=1"
        print(f"$ curl --data-binary @{image} {address}")
        curl = shutil.which("curl")
        if curl:
            asking = [curl, "--silent", "--show-error", "--data-binary", f"@{image}", address]
            answer = subprocess.run(asking, cwd=FOLDER, stdout=subprocess.PIPE, check=True).stdout
        else:
            answer = urllib.request.urlopen(address, (FOLDER / image).read_bytes()).read()
        print("  " + answer.decode())
    finally:
        server.terminate()
    assert server.wait() == 0, "the server did not end as it should"


def main() -> None:
    start = time.perf_counter()
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_images(FOLDER / "digits")
    print(f"{FOLDER}/digits: 1,797 real digit scans in 10 folders, one a class")

    finetune = ["finetune", "digits", "--backbone", "bottleneck_cnn", *SETTINGS]
    pretrained = run(*finetune, "--weights", "mnist", "--name", "pretrained")
    random = run(*finetune, "--weights", "none", "--name", "random")
    evaluated = run("evaluate", "pretrained")
    exported = run("export", "pretrained", "--name", "digits")

    print("\nThe export in a fresh process, with TensorFlow alone (keras cannot be imported there):")
    with (FOLDER / "runs/pretrained/evaluation/val.csv").open() as table:
        keys = [line.split(",")[0] for line in table][1::90]
    images = [f"digits/{key}" for key in keys]
    script = [sys.executable, "-c", SERVE, exported["export"], *images]
    served = subprocess.run(script, cwd=FOLDER, capture_output=True, text=True, check=False)
    if served.returncode:
        sys.exit(served.stderr)
    print(served.stdout, end="")

    serve(exported["export"], images[0])

    print("\nWhat pretraining bought, on the same images by the same recipe:")
    print(f"  {'start':<16}{'val accuracy':>14}{'95 % interval':>18}{'val loss':>10}")
    for title, result in (("MNIST weights", pretrained), ("random weights", random)):
        low, high = result["val_accuracy_interval"]
        interval = f"{low:.4f}-{high:.4f}"
        print(f"  {title:<16}{result['val_accuracy']:>14.4f}{interval:>18}{result['val_loss']:>10.4f}")
    assert evaluated["val_accuracy"] == pretrained["val_accuracy"], "evaluation differs from what training recorded"

    gate = exported["gate"]
    print(f"\nMade in {time.perf_counter() - start:.0f} s:")
    print(f"  {FOLDER}/digits             the images")
    print(f"  {FOLDER}/runs/pretrained    the run: recipe, weights, metrics, predictions, curves, feature maps")
    print(f"  {FOLDER}/{exported['export']}  the SavedModel; it answered {gate['images']} images as the run did")
    print("Next, with images of your own, one folder a class:")
    print("  .venv/bin/kerazoo finetune YOUR_FOLDER --backbone mobilenet_v2_100")


if __name__ == "__main__":
    main()
