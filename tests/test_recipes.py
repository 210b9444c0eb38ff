"""Recipes: each bad one is refused in one line that names key, value and way out; the zoo's own hold."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

from kerazoo.errors import ModelError, RecipeError
from kerazoo.models.registry import REGISTRY, construct
from kerazoo.recipes.checks import check_against, check_replicas, steps_of, with_recorded_batch_size
from kerazoo.recipes.presets import BIT_RULE, preset_values
from kerazoo.recipes.recipe import ZOO, Recipe, make_recipe, read_recipe

RECIPES = sorted(ZOO.glob("*.toml"))
OF_NETWORKS = [path for path in RECIPES if path.stem in REGISTRY]  # the others are trained by their own names


def recipe(*settings, defaults=None, **parts):
    return make_recipe({"model": {"name": "mlp"}, "data": {"path": "x"}, **parts}, settings, defaults=defaults)


def refusal(make, *arguments, **more):
    with pytest.raises(RecipeError) as error:
        make(*arguments, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


BAD = {
    # unknown keys, with the nearest names
    "optimizer.learing_rate=1": "no key 'optimizer.learing_rate'; known here: name, learning_rate, .*; "
    "did you mean optimizer.learning_rate",
    "learning_rate=1": "no key 'learning_rate'; known here: model, .*; did you mean optimizer.learning_rate",
    "training.learning_rate=1": "no key 'training.learning_rate'; .* did you mean optimizer.learning_rate",
    "optimiser.name='sgd'": "no key 'optimiser'; known here: model, .* did you mean optimizer",
    "training.epoch=1": "did you mean training.epochs",
    "training.zzz=1": "no key 'training.zzz'; known here: epochs, .*synchronized_batch_norm$",
    # wrong types
    "training.epochs='15'": r"training.epochs must be a whole number in \[0, inf\), got '15'$",
    "training.epochs=1.5": r"training.epochs must be a whole number in \[0, inf\), got 1.5$",
    "training.epochs=true": r"training.epochs must be a whole number in \[0, inf\), got True$",
    "optimizer.learning_rate=fast": r"optimizer.learning_rate must be a number in \(0, inf\), got 'fast'$",
    "training.drop_last=1": "training.drop_last must be true or false, got 1$",
    "optimizer.milestones=0.5": "optimizer.milestones must be a list of one or more, each item a share of .*, got 0.5$",
    "optimizer.milestones=[]": r"optimizer.milestones must be a list of one or more, .*, got \[\]$",
    "log=true": "recipe key log must be a list, each item 'gradients', 'weights' or 'feature_maps', got True$",
    "log=['gradient']": "recipe key log.0 must be 'gradients', .*, got 'gradient'; did you mean 'gradients'",
    "watch=false": "the recipe has no key 'watch'; known here: .*, report$",
    "training.batch_size=some": "training.batch_size must be a whole number from 1, or \"all\", got 'some'",
    "optimizer.warmup=long": r"optimizer.warmup must be a share of the run in \(0, 1\), or a whole number of its steps",
    "optimizer=3": "optimizer must be a table of keys, got 3",
    "data.path=3": "data.path must be a string, got 3",
    # impossible values
    "optimizer.learning_rate=-0.1": r"optimizer.learning_rate must be a number in \(0, inf\), got -0.1",
    "optimizer.learning_rate=inf": r"optimizer.learning_rate must be a number in \(0, inf\), got inf",
    "optimizer.momentum=1.5": r"optimizer.momentum must be a number in \[0, 1\), got 1.5",
    "optimizer.ema=1.0": r"optimizer.ema must be a number in \(0, 1\), got 1.0",
    "optimizer.accumulate=0": r"optimizer.accumulate must be a whole number in \[1, inf\), got 0",
    "optimizer.clip_norm=0": r"optimizer.clip_norm must be a number in \(0, inf\), got 0",
    "training.batch_size=0": 'training.batch_size must be a whole number from 1, or "all", got 0',
    "training.epochs=-1": r"training.epochs must be a whole number in \[0, inf\), got -1",
    "training.label_smoothing=1.0": r"training.label_smoothing must be a number in \[0, 1\), got 1.0",
    "training.early_stopping=0": r"training.early_stopping must be a whole number in \[1, inf\), got 0",
    "augmentation.hue=0.6": r"augmentation.hue must be a number in \[0, 0.5\], got 0.6",
    "augmentation.flip=yes": "augmentation.flip must be true or false, got 'yes'",
    "augmentation.flip_alternately=true": "augmentation.flip_alternately=true needs flip=true; set it, or remove",
    "data.group='('": r"data.group must be a regular expression \(missing \), .*\), got '\('",
    "seed=-1": r"recipe key seed must be a whole number in \[0, 2147483648\), got -1",
    # unknown names, with the nearest
    "optimizer.name=adamm": "optimizer.name must be 'sgd', 'lamb', 'lion', 'adam' or 'adamw', got 'adamm'; did you "
    "mean 'adam' or 'adamw'",
    "optimizer.schedule=poly": "optimizer.schedule must be 'cosine', .* or 'plateau', got 'poly'$",
    "training.precision=float16": "training.precision must be .float32., .*, got .float16.; did you mean .*mixed_float",
    "training.loss=cross_entrop": "training.loss must be 'cross_entropy', .*, got 'cross_entrop'; did you mean 'cross_",
    "augmentation.policy=Strong": "augmentation.policy must be 'none', .*, got 'Strong'; did you mean 'strong'",
    "devices=GPU": "devices must be one of auto, cpu, gpu, mirrored, .*, got 'GPU'; did you mean gpu",
    "devices=mirrored:0": "devices must be one of auto, cpu, .*, got 'mirrored:0'; did you mean mirrored",
    "model.name=resnet21": "recipe key model.name: no model is called 'resnet21': did you mean .*resnet20",
    # longer than the run
    "optimizer.warmup=1.5": r"optimizer.warmup must be a share of the run in \(0, 1\), .* got 1.5",
    "optimizer.milestones=[0.5, 1.2]": r"optimizer.milestones.1 must be a share of the run in \(0, 1\), .* got 1.2",
    "optimizer.schedule=plateau training.epochs=5": "optimizer.patience=5 must be smaller than training.epochs=5, "
    ".*; use a smaller patience",
    # contradictions
    "optimizer.nesterov=true": "optimizer.nesterov=true applies only to sgd, not adamw; remove it",
    "optimizer.name=sgd optimizer.nesterov=true optimizer.momentum=0": "optimizer.nesterov=true needs momentum, but",
    "optimizer.name=adam optimizer.weight_decay=0.1": "optimizer.weight_decay=0.1 does not apply to adam; use name=",
    "optimizer.milestones=[0.5]": r"optimizer.milestones=\[0.5\] applies only to schedule='step', not 'cosine'",
    "optimizer.factor=0.5": "optimizer.factor=0.5 applies only to schedule='step' or schedule='plateau', not 'cosine'",
    "optimizer.patience=3": "optimizer.patience=3 applies only to schedule='plateau', not 'cosine'",
    "optimizer.schedule=plateau optimizer.warmup=0.1": "optimizer.warmup=0.1 cannot be combined with sched",
    "optimizer.schedule=step optimizer.milestones=[0.5,90]": r"optimizer.milestones=\[0.5, 90\] mixes shares",
    "optimizer.schedule=step optimizer.milestones=[90,80]": r"optimizer.milestones=\[90, 80\] must be in rising order",
    "optimizer.clip_norm=1.0 optimizer.clip_value=0.5": "optimizer.clip_norm=1.0 and clip_value=0.5 exclude each other",
    "optimizer.ema=0.9 optimizer.accumulate=2": "optimizer.ema=0.9 cannot be combined with accumulate=2",
    "training.focal_gamma=2": "training.focal_gamma=2.0 applies only to loss='focal', not the network's own loss",
    "training.loss=quadratic training.label_smoothing=0.1": "training.label_smoothing=0.1 cannot be combined with",
}


@pytest.mark.parametrize("settings", BAD)
def test_bad_recipes_are_refused_in_one_line(settings):
    said = refusal(recipe, *([settings] if settings.startswith("optimizer.milestones") else settings.split()))
    assert said.startswith(("recipe key ", "recipe: ", "the recipe has no key ", "devices must "))
    assert re.search(BAD[settings], said), said


def test_what_is_missing_is_named():
    assert "recipe key data is missing; name the data (--data)" in refusal(make_recipe, {"model": {"name": "mlp"}})
    assert "recipe key model.name is missing" in refusal(make_recipe, {"model": {}, "data": {"path": "x"}})
    # the unknown key is why the other is missing
    assert "did you mean model.name" in refusal(make_recipe, {"model": {"nam": "mlp"}, "data": {"path": "x"}})


def test_defaults_are_what_they_were():
    made = recipe()
    part, training = made.optimizer, made.training
    assert (part.name, part.learning_rate, part.weight_decay, part.schedule, part.warmup, part.accumulate) == (
        "adamw", 0.01, 1e-4, "cosine", 0.05, 1,
    )  # fmt: skip
    assert (part.clip_norm, part.clip_value, part.ema, training.early_stopping) == (None,) * 4
    assert (training.epochs, training.batch_size, training.loss, training.label_smoothing) == (15, 128, None, 0)
    assert recipe("optimizer.name=sgd").optimizer.nesterov is True
    assert recipe("optimizer.name=sgd", "optimizer.momentum=0").optimizer.nesterov is False
    assert recipe("optimizer.name=adam").optimizer.weight_decay == 0


@pytest.mark.parametrize(
    "settings",
    [
        [], ["optimizer.schedule=step"], ["optimizer.schedule=plateau"], ["optimizer.schedule=one_cycle"],
        ["training.loss=focal"], ["training.batch_size=all", "optimizer.name=sgd"], ["optimizer.name=adam"],
        ["optimizer.warmup=20", "optimizer.clip_norm=1", "optimizer.ema=0.99", "training.early_stopping=3"],
    ],
)  # fmt: skip
def test_a_recipe_is_written_resolved_and_reads_back(settings):
    made = recipe(*settings)
    assert make_recipe(tomllib.loads(made.to_toml())) == made


def test_recipes_that_older_runs_kept_are_read():
    kept = {
        "training": {"epochs": 15, "batch_size": 128, "drop_last": True, "balance": "none"},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "warmup": 0.05},
    }
    assert recipe(**kept) == recipe()


# -- defaults of networks -----------------------------------------------------------------------------------------

OWN = {"optimizer": {"name": "sgd", "learning_rate": 0.2, "schedule": "step"}, "training": {"batch_size": 32}}


def test_defaults_stand_where_nothing_was_asked_and_are_not_asked_for():
    made = recipe("optimizer.learning_rate=0.1", "training.epochs=3", defaults=OWN)
    assert (made.optimizer.name, made.optimizer.learning_rate, made.training.batch_size) == ("sgd", 0.1, 32)
    assert made.training.model_fields_set == {"epochs"}
    assert check_against(made, 5).training.batch_size == 5
    assert "batch_size=32 is larger" in refusal(check_against, recipe("training.batch_size=32", defaults=OWN), 5)
    assert OWN["optimizer"] == {"name": "sgd", "learning_rate": 0.2, "schedule": "step"}


def test_the_defaults_of_one_optimizer_are_not_those_of_another():
    made = recipe("optimizer.name=adamw", defaults=OWN)
    assert (made.optimizer.learning_rate, made.optimizer.schedule, made.training.batch_size) == (0.01, "cosine", 32)
    assert recipe("optimizer.name=sgd", defaults=OWN).optimizer.learning_rate == 0.2


# -- beside the data and the devices ------------------------------------------------------------------------------


def test_the_batch_is_no_larger_than_the_data():
    assert check_against(recipe(), 1000).training.batch_size == 128
    assert check_against(recipe(), 45).training.batch_size == 45
    assert check_against(recipe("training.batch_size=all"), 45).training.batch_size == 45
    assert check_against(recipe("training.batch_size=45"), 45).training.batch_size == 45
    said = refusal(check_against, recipe("training.batch_size=46"), 45)
    assert said == (
        'training.batch_size=46 is larger than the number of training examples, 45; use at most 45, or "all"'
    )
    # what a run keeps is what it trained by, and can be run again
    again = make_recipe(tomllib.loads(check_against(recipe(), 45).to_toml()))
    assert check_against(again, 45).training.batch_size == 45


@pytest.mark.parametrize("settings", [[], ["training.batch_size=all"], ["training.batch_size=40"]])
def test_the_same_command_again_is_the_same_recipe(settings):
    kept = make_recipe(tomllib.loads(check_against(recipe(*settings), 45).to_toml()))
    assert with_recorded_batch_size(recipe(*settings), kept) == kept
    assert with_recorded_batch_size(recipe(*settings, "training.epochs=7"), kept) != kept
    assert with_recorded_batch_size(recipe("training.batch_size=41"), kept) != kept


def test_no_data_is_refused():
    assert "x has no training example" in refusal(check_against, recipe(), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["optimizer.warmup=30"],
            r"optimizer.warmup=30 must be shorter than the run, which has 30 steps \(training.epochs=3\); use",
        ),
        (
            ["optimizer.schedule=step", "optimizer.milestones=[20,30]"],
            "optimizer.milestones: 30 must be within the run",
        ),
        (["optimizer.accumulate=31"], "optimizer.accumulate=31 is longer than the run, .* use at most 30"),
    ],
)
def test_a_schedule_is_no_longer_than_the_run(settings, message):
    made = recipe("training.batch_size=10", "training.epochs=3", *settings)
    assert re.search(message, refusal(check_against, made, 100))
    assert check_against(made, 110)
    assert check_against(made.model_copy(update={"training": made.training.model_copy(update={"epochs": 0})}), 100)


def test_steps_of_a_run():
    assert steps_of(recipe("training.epochs=2"), 105, 10) == 20
    assert steps_of(recipe("training.epochs=2", "training.drop_last=false"), 105, 10) == 22


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "training.precision=mixed_float16",
            "precision='mixed_float16' does not work on 2 replicas .* use 'mixed_bfloat",
        ),
        ("optimizer.accumulate=2", "optimizer.accumulate=2 does not work on 2 replicas .* use a larger batch"),
        ("optimizer.clip_norm=1", "optimizer.clip_norm=1.0 does not work on 2 replicas .* remove it"),
        ("optimizer.clip_value=1", "optimizer.clip_value=1.0 does not work on 2 replicas"),
    ],
)
def test_what_goes_wrong_on_replicas_is_refused(setting, message):
    check_replicas(recipe(setting), 1)
    assert re.search(message, refusal(check_replicas, recipe(setting), 2))
    for good in ("training.precision=mixed_bfloat16", "optimizer.ema=0.9"):
        check_replicas(recipe(good), 2)


# -- the zoo's own ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_zoos_recipes_hold(path):
    values = read_recipe(path)
    assert "path" not in values["data"], "data is named with --data"
    values["data"]["path"] = "x"
    made = make_recipe(values)
    assert made.model.name == (path.stem if path in OF_NETWORKS else "fast_cnn")
    assert made.transfer is None
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"kerazoo train recipes/zoo/{path.name} --data" in line for line in header)
    assert any(line.startswith("# Cost: ") for line in header)
    assert any(line.startswith(("# Expected", "# Published")) for line in header)


@pytest.mark.parametrize("path", OF_NETWORKS, ids=lambda path: path.stem)
def test_by_name_a_network_starts_from_its_file(path):
    written = Recipe.read(path, **{"data.path": "x"})
    named = Recipe.for_training(path.stem, "x")
    assert (named.model, named.optimizer, named.augmentation) == (
        written.model, written.optimizer, written.augmentation,
    )  # fmt: skip
    assert named.training == recipe().training  # how long depends on the data


def test_the_recipe_of_bottleneck_cnn_is_the_measured_one():
    made = Recipe.for_training("bottleneck_cnn", "x")
    assert made == Recipe.read(ZOO / "bottleneck_cnn.toml", **{"data.path": "x"})
    own = {
        "optimizer": {"name": "sgd", "learning_rate": 0.2, "weight_decay": 5e-4},
        "augmentation": {"shift": 0.07, "rotate": 7.0, "zoom": 0.05},
    }
    assert made == recipe(model={"name": "bottleneck_cnn"}, **own)
    assert Recipe.for_training("bottleneck_cnn", "x", optimizer={"momentum": 0.0}).optimizer.nesterov is False


@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_the_recipe_of_a_resnet_is_the_papers(name):
    made = Recipe.read(ZOO / f"{name}.toml", **{"data.path": "x"})
    assert f"{steps_of(made, 49_000, 128):,} steps" in (ZOO / f"{name}.toml").read_text()
    assert made.optimizer.weight_decay * (1 - made.optimizer.momentum) == pytest.approx(1e-4)
    assert made.override("model.name", "resnet20") == Recipe.read(ZOO / "resnet20.toml", **{"data.path": "x"})


def test_a_recipe_of_the_zoo_is_trained_by_its_name():
    """`fast` is no network: its name is that of the file, which is taken whole. A network's name is the network's."""
    made = Recipe.for_training("fast", "x", seed=3)
    assert made == Recipe.read(ZOO / "fast.toml", **{"data.path": "x", "seed": 3})
    assert (made.model.name, made.training.label_smoothing) == ("fast_cnn", 0.2)
    assert f"{steps_of(made, 48_964, 250):,} steps" in (ZOO / "fast.toml").read_text()
    assert Recipe.for_training("resnet20", "x").training.epochs == 15
    with pytest.raises(ModelError, match="no model is called 'fastest'"):
        Recipe.for_training("fastest", "x")


# -- the same words, the same recipe ------------------------------------------------------------------------------


def of_command(monkeypatch, *words):
    """The recipe that `kerazoo WORDS` would run by."""
    import typer
    from typer.testing import CliRunner

    from kerazoo.api import training
    from kerazoo.cli.app import app

    made = []

    def note(recipe, **where):
        made.append(recipe)
        raise typer.Exit

    monkeypatch.setattr(training, "_train", note)
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return made[0]


def same(made, other):
    assert made == other
    assert made.model_dump(exclude_unset=True) == other.model_dump(exclude_unset=True)
    return True


SETTING = "optimizer.learning_rate=0.05"


@pytest.mark.parametrize("model", ["resnet20", "bottleneck_cnn", "mlp", "fast", str(RECIPES[0])])
def test_the_library_trains_by_the_recipe_of_the_command_line(monkeypatch, model):
    made = of_command(monkeypatch, "train", model, "--data", "x", "--epochs", "7", "--set", SETTING, "--seed", "3")
    settings = {"training": {"epochs": 7}, "optimizer": {"learning_rate": 0.05}, "seed": 3}
    assert same(made, Recipe.for_training(model, Path("x"), **settings))
    dotted = {"training.epochs": 7, "optimizer.learning_rate": 0.05, "seed": 3}
    assert same(made, Recipe.for_training(model, "x", **dotted))
    plain = Recipe.for_training(model, "x")
    for key, value in dotted.items():
        plain = plain.override(key, value)
    assert same(made, plain)


@pytest.mark.parametrize("preset", [None, "linear", "full", "bit"])
def test_the_library_fine_tunes_by_the_recipe_of_the_command_line(monkeypatch, preset):
    words = ["finetune", "x", "--backbone", "mobilenet_025", "--seed", "3"]
    words += ["--preset", preset] if preset else []
    made = of_command(monkeypatch, *words)
    more = {"preset": preset} if preset else {}
    assert same(made, Recipe.for_finetuning("mobilenet_025", Path("x"), **more, seed=3))
    assert same(made, Recipe.for_finetuning("mobilenet_025", "x", **more).override("seed", 3))
    assert made.transfer.preset == preset or made.transfer.preset == "light"


NESTED = {
    "data": {"validation": 0.2, "size": 16},
    "model": {"arguments": {"dropout": 0.2}},
    "transfer": {"unfreeze": 3},
    "augmentation.flip": True,
}
DOTTED = {
    "data.validation": 0.2,
    "data.size": 16,
    "model.arguments.dropout": 0.2,
    "transfer.unfreeze": 3,
    "augmentation.flip": True,
}


def of_call(monkeypatch, call, *words, **more):
    """The recipe that `kerazoo.CALL(*words)` would run by."""
    from kerazoo.api import training

    made = []
    monkeypatch.setattr(training, "_train", lambda recipe, **where: made.append(recipe))
    getattr(training, call)(*words, **more)
    return made[0]


@pytest.mark.parametrize(("call", "words"), [("train", ["mlp", "x"]), ("finetune", ["x", "mobilenet_025"])])
def test_nested_settings_mean_what_dotted_ones_do(monkeypatch, tmp_path, call, words):
    keys = {key: value for key, value in DOTTED.items() if call == "finetune" or not key.startswith("transfer")}
    nested = {name: value for name, value in NESTED.items() if call == "finetune" or name != "transfer"}
    dotted = of_call(monkeypatch, call, *words, settings=keys)
    assert (dotted.data.validation, dotted.data.size, dotted.data.path) == (0.2, 16, "x")
    assert dotted.model.arguments == {"dropout": 0.2}
    assert same(of_call(monkeypatch, call, *words, settings=nested), dotted)
    lines = [f"{name}={str(value).lower()}" for name, value in keys.items()]
    assert same(of_call(monkeypatch, call, *words, settings=lines), dotted)
    tables = ["data={validation=0.2, size=16}", "model={arguments={dropout=0.2}}", "augmentation.flip=true"]
    tables += ["transfer={unfreeze=3}"] if call == "finetune" else []
    assert same(of_call(monkeypatch, call, *words, settings=tables), dotted)
    if call == "finetune":
        assert (dotted.transfer.preset, dotted.transfer.unfreeze, dotted.training.epochs) == ("light", 3, 24)
        assert same(Recipe.for_finetuning("mobilenet_025", "x", **{k: v for k, v in NESTED.items() if k != "data"},
                                          **{"data.validation": 0.2, "data.size": 16}), dotted)  # fmt: skip
    else:
        data = {"path": "x", "validation": 0.2, "size": 16}
        made = Recipe.for_training("mlp", data=data, model={"arguments": {"dropout": 0.2}}, augmentation={"flip": True})
        assert same(made, dotted)
        plain = Recipe.for_training("mlp", "x")
        assert same(of_call(monkeypatch, call, plain, settings=nested), dotted)
        (tmp_path / "mine.toml").write_text('[model]\nname = "mlp"\n[data]\npath = "x"\n')
        read = of_call(monkeypatch, call, tmp_path / "mine.toml", settings=nested)
        assert (read.data.validation, read.model.arguments) == (0.2, {"dropout": 0.2})


def test_a_key_that_is_set_twice_is_refused(monkeypatch):
    both = {"data": {"validation": 0.2}, "data.validation": 0.3}
    assert refusal(of_call, monkeypatch, "train", "mlp", "x", settings=both) == (
        "data.validation is set twice, to 0.2 and to 0.3; remove one of them"
    )
    other = {"data": {"path": "y"}}
    assert "data.path is set twice" in refusal(of_call, monkeypatch, "train", "mlp", "x", settings=other)
    assert "data.path is set twice" in refusal(of_call, monkeypatch, "finetune", "x", settings=other)
    assert of_call(monkeypatch, "train", "mlp", "x", settings="seed=7").seed == 7  # not an argument list of letters


def test_a_recipe_starts_from_the_networks_own():
    made = Recipe.for_training("resnet20", "x")
    part = made.optimizer
    assert (part.name, part.learning_rate, part.schedule, part.milestones) == ("sgd", 0.1, "step", [0.5, 0.75])
    assert (made.augmentation.shift, made.augmentation.flip, made.training.epochs) == (0.125, True, 15)
    other = made.override("optimizer.name", "adamw")
    assert same(other, Recipe.for_training("resnet20", "x", optimizer={"name": "adamw"}))
    assert (other.optimizer.learning_rate, made.optimizer.learning_rate) == (0.01, 0.1)


def test_a_recipe_that_was_read_is_changed_in_that_key_alone(tmp_path):
    made = Recipe.for_training("bottleneck_cnn", "x", **{"augmentation.shift": 0.0})
    (tmp_path / "kept.toml").write_text(made.to_toml())
    kept = Recipe.read(tmp_path / "kept.toml")
    assert kept == made
    assert kept.override("seed", 5).model_dump() == {**made.model_dump(), "seed": 5}
    assert Recipe.read(str(tmp_path / "kept.toml"), seed=5) == kept.override("seed", 5)
    assert Recipe.read(tmp_path / "kept.toml", **{"data.path": Path("y")}).data.path == "y"
    (tmp_path / "short.toml").write_text('[model]\nname = "bottleneck_cnn"\n[data]\npath = "x"\n')
    short = Recipe.read(tmp_path / "short.toml")  # a file starts from the defaults, not from another file
    assert short.override("seed", 5).optimizer == short.optimizer == recipe().optimizer


def test_augmentation_is_resolved_and_follows_its_policy(tmp_path):
    made = recipe(augmentation={"policy": "standard", "flip": False})
    assert (made.augmentation.crop, made.augmentation.erase, made.augmentation.flip) == (0.35, 0.1, False)
    assert tomllib.loads(made.to_toml())["augmentation"] == {"policy": "standard", "flip": False}
    (tmp_path / "kept.toml").write_text(made.to_toml())
    for start in (made, Recipe.read(tmp_path / "kept.toml")):
        strong = start.override("augmentation.policy", "strong").augmentation
        assert strong == recipe(augmentation={"policy": "strong", "flip": False}).augmentation
        assert (strong.cutmix, strong.brightness, strong.mixes) == (1.0, 0.0, True)
    own = Recipe.for_training("resnet20", "x")  # what was not asked for is kept, too
    assert tomllib.loads(own.to_toml())["augmentation"] == {"policy": "none", "shift": 0.125, "flip": True}


def test_settings_are_refused_by_their_keys():
    assert "did you mean training.epochs" in refusal(Recipe.for_training, "mlp", "x", epochs=3)
    assert "recipe key optimizer.learning_rate" in refusal(
        Recipe.for_training, "mlp", "x", optimizer={"learning_rate": 0}
    )
    assert "recipe key seed" in refusal(Recipe.for_training("mlp", "x").override, "seed", -1)
    assert "recipe key data is missing" in refusal(Recipe.for_training, "mlp")


def test_the_reference_is_what_the_fields_say(monkeypatch):
    for key, value in {"log": list(LOGGERS), "findings": True, "report": True}.items():  # conftest.py sets others
        monkeypatch.setattr(Recipe.model_fields[key], "default", value)
    folder = Path(__file__).parents[1] / "docs" / "reference"
    made = runpy.run_path(str(folder / "make.py"))
    page = made["page"]()
    assert made["python_page"]() == (folder / "python.md").read_text(), "run `python docs/reference/make.py`"
    assert made["commands_page"]() == (folder / "commands.md").read_text(), "run `python docs/reference/make.py`"
    assert page == (folder / "recipe.md").read_text(), "run `python docs/reference/make.py`"
    for key in ("data.path", "optimizer.milestones", "augmentation.hue", "transfer.preset", "devices", "log"):
        assert f"| `{key}` | " in page


LOGGERS = ("gradients", "weights", "feature_maps")
GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def test_the_guide_has_the_numbers_of_the_presets():
    text = (GUIDES / "fine-tuning.md").read_text()
    rows = dict(re.findall(r"^\| `(linear|light|full|norm|lora)`[^|]*\| [^|]*\| (.*) \|$", text, re.MULTILINE))
    for name, row in rows.items():
        values = preset_values(name, images=100, stages=5)
        rate = values.get("optimizer", {}).get("learning_rate", "")
        assert row == f"{values['training']['epochs']} | {values['training']['batch_size']} | {rate}".rstrip(), name
    assert set(rows) == {"linear", "light", "full", "norm", "lora"}
    bit = preset_values("bit", images=10_000, stages=5)
    assert f"| {bit['training']['batch_size']} | {bit['optimizer']['learning_rate']} |" in text
    assert bit["training"]["epochs"] * (10_000 // 128) >= BIT_RULE[0][1] == 500


def test_the_recipe_of_the_guide_is_read(tmp_path):
    section = (GUIDES / "training.md").read_text().split("\n## Your own recipe\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```toml\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "mine.toml").write_text(block)
    made = Recipe.read(tmp_path / "mine.toml")
    assert (made.model.name, made.data.path, made.augmentation.policy) == ("cnn", "photos", "light")
    construct(made.model.name, **made.model.arguments)


def test_presets_for_transformers_fix_what_learns():
    """`norm` and `lora` say it themselves; many stages are blocks, whose rates fall more slowly."""
    made = Recipe.for_finetuning("vgg16", "photos", preset="lora", **{"transfer.rank": 4})
    assert (made.transfer.method, made.transfer.rank, made.transfer.decay) == ("lora", 4, 1.0)
    with pytest.raises(RecipeError, match="transfer.method='all' contradicts|transfer.method='norm' contradicts"):
        Recipe.for_finetuning("vgg16", "photos", preset="lora", **{"transfer.method": "norm"})
    with pytest.raises(RecipeError, match="transfer.method='norm' contradicts.*use the preset norm"):
        Recipe.for_finetuning("vgg16", "photos", preset="full", **{"transfer.method": "norm"})
    with pytest.raises(RecipeError, match="rank=4 applies only to method='lora'"):
        Recipe.for_finetuning("vgg16", "photos", preset="full", **{"transfer.rank": 4})
    assert preset_values("full", images=100, stages=13)["transfer"] == {"decay": 0.75}
    light = {"unfreeze": 2, "stored_views": 4, "decay": 0.75}
    assert preset_values("light", images=100, stages=13)["transfer"] == light
    assert preset_values("norm", images=100, stages=13)["transfer"]["decay"] == 1.0
    hub = Recipe.for_finetuning("hub:dinov2_base", "photos")
    assert hub.transfer.weights == "preset"
    assert Recipe.for_finetuning("hub:dinov2_base", "photos", weights="none").transfer.weights == "none"
