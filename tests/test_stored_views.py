"""Stored views: the last stages learn from what the frozen ones give for the same pixels, stopped anywhere or not."""

import os
import re
import signal
from itertools import chain

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_images
from test_transfer import state_of

import kerazoo
from kerazoo.callbacks.stopping import StopOnNaN
from kerazoo.errors import DataError, Interrupted, KerazooError
from kerazoo.files import read_json
from kerazoo.models.description import ModelSpec
from kerazoo.models.registry import find
from kerazoo.models.saved import load_model, save_model
from kerazoo.pipelines.devices.opening import open_devices
from kerazoo.recipes.recipe import make_recipe
from kerazoo.training.plan import plan, resolve_preset
from kerazoo.transfer.batch_norm import batch_norms
from kerazoo.transfer.finetune import build_both, finetune
from kerazoo.transfer.passes import View
from kerazoo.transfer.stored_views import stored_views

SIZE = 32
VIEWS = 2
MIXED = "augmentation.mixup=0.4"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of its own, because tests look at what is left there and damage it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAZOO_CACHE", str(folder))
        yield folder / "views"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Images, and a backbone whose weights are not random for the recipe."""
    folder = tmp_path_factory.mktemp("stored")
    make_images(folder / "photos", count=12, size=40)
    keras.utils.set_random_seed(0)
    arguments = {"input_shape": (SIZE, SIZE, 3), "num_classes": 2}
    (folder / "weights").mkdir()
    spec = ModelSpec("mobilenet_025", arguments, find("mobilenet_025").preprocessing(SIZE, SIZE), ("a", "b"))
    network = kerazoo.build("mobilenet_025", **arguments)
    for norm in batch_norms(network):
        norm.momentum = 0.0
    network(np.random.default_rng(0).uniform(-1, 1, (64, SIZE, SIZE, 3)), training=True)  # or it would give next to 0
    save_model(folder / "weights", spec, network)
    return folder


def recipe_of(here, *settings, **transfer):
    values = {
        "model": {"name": "mobilenet_025"}, "data": {"path": str(here / "photos"), "size": SIZE, "validation": 0.25},
        "training": {"epochs": 3, "batch_size": 5, "drop_last": False, "early_stopping": 3}, "seed": 4,
        "optimizer": {"learning_rate": 1e-3}, "augmentation": {"policy": "light"}, "checkpoint": {"steps": 1},
        "transfer": {
            "weights": str(here / "weights"), "unfreeze": 1, "stored_views": VIEWS, "penalties": [0.1, 0.01],
            "folds": 2, **transfer,
        },
    }  # fmt: skip
    return make_recipe(values, settings)


def opened(recipe):
    """(plan, devices, the network that answers, the one that is fine-tuned with the same weights)."""
    devices = open_devices(recipe.devices)
    made = plan(recipe, devices)
    single, model = build_both(made, devices)
    model.set_weights(single.get_weights())
    return made, devices, single, model


@pytest.fixture(scope="module")
def whole(here):
    """A run that nothing disturbed."""
    return finetune(recipe_of(here, MIXED), name="whole", root=here)


def test_the_tail_answers_for_stored_views_as_the_network_for_the_pixels(here):
    made, devices, single, model = opened(recipe_of(here))
    train, val = made.examples.split("train"), made.examples.split("val")
    read = tf.function(made.preprocessing.read)
    scale = made.preprocessing.scale
    with stored_views(single, model, made, devices, run=here) as stored:
        assert stored.tail.count_params() < model.count_params()
        for epoch in range(VIEWS + 1):
            view = View(1 + epoch % VIEWS, 4, made.augmentation)
            seeds = view.seeds(train.hashes)
            rows = stored.batches.order(epoch)
            found = [(x, y) for x, y in stored.batches.at(epoch, 0).as_numpy_iterator()]
            assert [len(y) for _, y in found] == [5, 5, 5, 3]
            np.testing.assert_array_equal(np.concatenate([y for _, y in found]), train.labels[rows])
            pixels = np.stack(
                [scale(made.augmentation(read(tf.io.read_file(str(train.paths[i]))), seeds[i])).numpy() for i in rows]
            )
            answers = stored.tail.predict(np.concatenate([x for x, _ in found]), verbose=0)
            np.testing.assert_allclose(answers, single.predict(pixels, verbose=0), atol=2e-3, rtol=1e-2)
        pixels = np.stack([scale(read(tf.io.read_file(str(path)))).numpy() for path in val.paths])
        head = single.get_layer("logits")
        head.set_weights([3 * weights for weights in head.get_weights()])  # it answers with its weights of then
        # the frozen layers have constants for weights, so they round otherwise (see engines.py)
        np.testing.assert_allclose(stored.val_logits(), single.predict(pixels, verbose=0), atol=1e-3)


def test_epochs_use_views_in_turn_and_each_in_another_order(here):
    made, devices, single, model = opened(recipe_of(here))
    with stored_views(single, model, made, devices, run=here) as stored:
        by_image = []
        for epoch in range(3):
            rows = np.concatenate([x for x, _ in stored.batches.at(epoch, 0).as_numpy_iterator()])
            by_image.append(rows[np.argsort(stored.batches.order(epoch))])
        np.testing.assert_array_equal(by_image[0], by_image[2])
        assert np.abs(by_image[0] - by_image[1]).max() > 0.1
        assert list(stored.batches.order(0)) != list(stored.batches.order(2))


def test_mixup_mixes_stored_outputs_alike_from_any_step(here):
    made, devices, single, model = opened(recipe_of(here))
    with stored_views(single, model, made, devices, run=here) as stored:
        plain = [list(stored.batches.at(epoch, 0).as_numpy_iterator()) for epoch in (0, VIEWS)]
    made, devices, single, model = opened(recipe_of(here, MIXED))
    with stored_views(single, model, made, devices, run=here) as stored:
        found = [list(stored.batches.at(epoch, 0).as_numpy_iterator()) for epoch in (0, VIEWS)]
        rest = list(stored.batches.at(VIEWS, 2).as_numpy_iterator())
        (_, one_hot), *_ = stored.validation.as_numpy_iterator()
    assert one_hot.shape[1] == 2
    shares = []
    for (x, y), (rows, labels) in zip(chain(*found), chain(*plain), strict=True):
        taken = (x - rows) / np.where(np.roll(rows, -1, 0) == rows, np.inf, np.roll(rows, -1, 0) - rows)
        share = np.array([np.median(one[one != 0]) for one in taken])
        targets = np.eye(2)[labels]
        np.testing.assert_allclose(y, targets + share[:, None] * (np.roll(targets, -1, 0) - targets), atol=1e-3)
        shares.append(share)
    assert len({*np.round(np.concatenate(shares), 5)}) > 30  # each image and epoch has its own
    for (x, y), (a, b) in zip(found[1][2:], rest, strict=True):
        np.testing.assert_array_equal(x, a)
        np.testing.assert_array_equal(y, b)


def test_a_run_learns_the_last_stage_only_and_leaves_no_files(whole, cache, here):
    _, _, single, _ = opened(whole.recipe)
    _, model = load_model(whole.folder)
    changed = {
        layer.name
        for layer, start in zip(model.layers, single.layers, strict=True)
        for now, before in zip(layer.get_weights(), start.get_weights(), strict=True)
        if not np.array_equal(now, before)
    }
    names = [layer.name for layer in model.layers]
    assert changed
    assert min(names.index(name) for name in changed) > names.index("conv_pw_11_relu")
    assert not list(cache.glob("*"))
    assert "fine-tuning" in [phase["name"] for phase in read_json(whole.folder / "phases.json")["phases"]]


SLOW = pytest.mark.slow  # two trainings, like the case beside it


@pytest.mark.parametrize(
    "lost", [pytest.param("nothing", marks=SLOW), pytest.param("a view", marks=SLOW), "a byte of a view"]
)
def test_a_stopped_run_goes_on_with_the_same_bits(whole, here, cache, monkeypatch, lost):
    recipe = recipe_of(here, MIXED)
    with monkeypatch.context() as patch:
        steps = []

        def stop(self, batch, logs=None):
            steps.append(batch)
            if len(steps) == 6:  # in the second epoch
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(StopOnNaN, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            finetune(recipe, name=f"cut-{lost}", root=here)
    kept = sorted(cache.glob("*.npy"), key=lambda path: path.stat().st_size)
    assert len(kept) == VIEWS + 1
    if lost == "a view":
        kept[-1].unlink()
    elif lost == "a byte of a view":
        content = bytearray(kept[-1].read_bytes())
        content[-1000] ^= 255
        kept[-1].write_bytes(content)
    run = finetune(recipe, name=f"cut-{lost}", root=here)
    assert state_of(run.folder) == state_of(whole.folder)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["transfer.unfreeze=0"], r"all stages learn \(transfer.unfreeze is 0\)"),
        (["augmentation.cutmix=1.0"], "augmentation.cutmix exchanges parts of images, not of outputs"),
        (["data.cache=never"], "data.cache is never"),
        (["model.arguments.taps=['conv_pw_5_relu']"], "layers after conv_pw_11_relu use layers before it"),
    ],
)
def test_where_they_are_of_no_use_the_log_says_why(here, caplog, settings, why):
    recipe = recipe_of(here, *settings)
    with caplog.at_level("INFO", "kerazoo"):
        made, devices, single, model = opened(recipe)
        with stored_views(single, model, made, devices, run=here) as stored:
            assert stored is None
    (line,) = [message for message in caplog.messages if "stored_views" in message]
    assert line.startswith("transfer.stored_views is not used: ")
    assert re.search(why, line)


def test_with_little_room_on_the_disk_they_are_left_out_or_refused(here, caplog, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10_000})())
    recipe = recipe_of(here)
    with caplog.at_level("INFO", "kerazoo"):
        made, devices, single, model = opened(recipe)
        with stored_views(single, model, made, devices, run=here) as stored:
            assert stored is None
    assert any("is not used: the outputs of the frozen stages need" in message for message in caplog.messages)
    made, devices, single, model = opened(recipe_of(here, "data.cache=always"))
    with (
        pytest.raises(DataError, match=r"^the outputs of the frozen stages need .*, but .* has only .* free"),
        stored_views(single, model, made, devices, run=here),
    ):
        pass


def test_outputs_too_large_for_16_bits_have_32(here, cache):
    made, devices, single, model = opened(recipe_of(here))
    norm = single.get_layer("conv_pw_11_bn")
    norm.gamma.assign(np.full(norm.gamma.shape, 1e6))
    single.get_layer("conv_pw_11_relu").max_value = None  # MobileNet's is 6
    with stored_views(single, model, made, devices, run=here) as stored:
        rows = np.concatenate([x for x, _ in stored.batches.at(0, 0).as_numpy_iterator()])
        assert rows.max() > np.finfo(np.float16).max
        assert np.isfinite(rows).all()


def test_outputs_that_are_not_finite_are_an_error_and_leave_no_file(here, cache):
    made, devices, single, model = opened(recipe_of(here))
    norm = single.get_layer("conv_pw_11_bn")
    norm.gamma.assign(np.full(norm.gamma.shape, np.inf))
    single.get_layer("conv_pw_11_relu").max_value = None
    with (
        pytest.raises(KerazooError, match=r"outputs are not finite in 32 bits; use other weights or another size"),
        stored_views(single, model, made, devices, run=here),
    ):
        pass
    assert not list(cache.glob("*"))


def test_runs_share_no_files(here, cache):
    made, devices, single, model = opened(recipe_of(here))
    with stored_views(single, model, made, devices, run=here / "one") as one:
        before = [x for x, _ in one.batches.at(0, 0).as_numpy_iterator()]
        with stored_views(single, model, made, devices, run=here / "other"):
            assert len(list(cache.glob("*.npy"))) == 2 * (VIEWS + 1)
        assert len(list(cache.glob("*.npy"))) == VIEWS + 1
        for x, (y, _) in zip(before, one.batches.at(0, 0).as_numpy_iterator(), strict=True):
            np.testing.assert_array_equal(x, y)


def test_light_where_all_stages_learn_is_short(here):
    asked = {"model": {"name": "mobilenet_025"}, "data": {"path": str(here / "photos"), "size": SIZE}}
    for unfreeze, epochs in ((0, 8), (2, 24)):
        values = asked | {"transfer": {"weights": str(here / "weights"), "preset": "light", "unfreeze": unfreeze}}
        recipe, _ = resolve_preset(make_recipe(values))
        assert recipe.training.epochs == epochs
