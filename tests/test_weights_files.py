"""Weights files of anybody's: what is damaged, hostile or of another kind is one line, soon, at a bounded cost."""

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import kerazoo
from kerazoo.errors import WeightsError
from kerazoo.files import DamagedError
from kerazoo.models.description import ModelSpec
from kerazoo.models.heads.classifier import feature_extractor
from kerazoo.models.registry import find
from kerazoo.models.saved import load_model, save_model
from kerazoo.models.weights import weights_file
from kerazoo.models.weights.loading import load_features
from kerazoo.models.weights.sources import check_weights
from kerazoo.models.weights.weights_file import copy_of
from kerazoo.preprocessing.preprocessing import Preprocessing

REAL = "mobilenet_2_5_224_tf_no_top.h5"


@pytest.fixture(scope="module")
def mlp():
    return kerazoo.build("mlp", input_shape=(4, 4, 1), units=(8,), num_classes=3)


@pytest.fixture
def saved(mlp, tmp_path):
    """The features of `mlp`, in the newer format."""
    path = tmp_path / "features.weights.h5"
    feature_extractor(mlp).save_weights(path)
    return path


def test_a_copy_has_every_number(saved, mlp, shared):
    for path, legacy in ((saved, False), (shared / "weights" / REAL, True)):
        with copy_of(path, 1_000_000) as file, h5py.File(path) as old, h5py.File(file.copy) as new:
            assert file.legacy == legacy
            assert file.numbers == (218_544 if legacy else 4 * 4 * 8 + 8)
            for name, shape in file.arrays:
                np.testing.assert_array_equal(old[name][()], new[name][()])
                assert (shape, old[name].dtype) == (new[name].shape, new[name].dtype)
        assert not file.copy.exists()


def test_a_file_that_holds_hdf5_for_ever_is_given_up(saved, mlp, monkeypatch, tmp_path):
    """The process that reads is a real one; a script that never ends stands for HDF5's endless loop."""
    loop = tmp_path / "loop.py"
    loop.write_text("while True: pass")
    monkeypatch.setattr(weights_file, "READER", loop)
    monkeypatch.setattr(weights_file, "PATIENCE", 0.3)
    start = time.monotonic()
    with pytest.raises(WeightsError, match=r"features.weights.h5 is not a complete .*HDF5 did not finish reading it"):
        load_features(mlp, saved)
    loop.write_text("import os; os.kill(os.getpid(), 11)")
    with pytest.raises(WeightsError, match=r"HDF5 crashed \(SIGSEGV\) while reading it"):
        load_features(mlp, saved)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform != "linux", reason="the processor time of a process is limited on Linux only")
def test_the_process_that_reads_ends_even_if_nobody_waits_for_it():
    code = "import h5_copy; h5_copy.limit(1 << 30, 1)\nwhile True: pass"
    done = subprocess.run([sys.executable, "-c", code], cwd=weights_file.READER.parent, check=False, timeout=60)
    assert done.returncode == -signal.SIGXCPU


def zeros(path, shape, name="layers/dense/vars/0"):
    """A small file with an array of zeros of any size."""
    with h5py.File(path, "w") as file:
        made = file.create_dataset(name, shape, "f4", chunks=(1, 1 << 20), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(bytes(4 << 20)))
    return path


HOLDER = """
import re, resource, sys
from pathlib import Path
from kerazoo.files import DamagedError
from kerazoo.models.weights.weights_file import copy_of
try:
    with copy_of(Path(sys.argv[1]), 100) as file:
        print(file.copy)
except DamagedError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024)
"""


def one_large_block(path):
    """An array of ten numbers, of which HDF5 reads a block of 512 MB."""
    packer, zero = zlib.compressobj(1), bytes(1 << 20)
    packed = b"".join([packer.compress(zero) for _ in range(512)]) + packer.flush()
    with h5py.File(path, "w") as file:
        made = file.create_dataset("a", (1, 10), "f4", chunks=(1, 1 << 27), maxshape=(1, None), compression="gzip")
        made.id.write_direct_chunk((0, 0), packed)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the memory of a process is limited on Linux only")
@pytest.mark.parametrize("bomb", ["an array of 4.3 GB", "a block of 512 MB"])
def test_a_small_file_of_many_zeros_takes_no_memory(tmp_path, bomb):
    path = tmp_path / "zeros.weights.h5"
    if bomb == "an array of 4.3 GB":
        zeros(path, (1024, 1 << 20))
    else:
        one_large_block(path)
    assert path.stat().st_size < 3_000_000
    done = subprocess.run([sys.executable, "-c", HOLDER, path], capture_output=True, text=True, timeout=60, check=True)
    said, *peaks = done.stdout.splitlines()
    assert max(map(int, peaks)) < 400_000_000
    assert said == "None" if bomb == "an array of 4.3 GB" else "read" in said


def test_the_shape_is_said_and_the_zeros_are_not(mlp, tmp_path):
    with pytest.raises(WeightsError, match="do not fit mlp: their 1 arrays have other shapes than its 2"):
        load_features(mlp, zeros(tmp_path / "zeros.weights.h5", (1024, 1 << 20)))


def test_links_text_and_arrays_elsewhere_are_refused(tmp_path, saved):
    def soft(file):
        file["a"] = h5py.SoftLink("/b")

    def external(file):
        file["a"] = h5py.ExternalLink(str(saved), "/")

    def elsewhere(file):
        file.create_dataset("a", (3,), "u1", external=[("/etc/hostname", 0, 3)])

    def virtual(file):
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(str(saved), "layers/dense/vars/0", (3,))
        file.create_virtual_dataset("a", layout)

    def text(file):
        file["a"] = "text"

    def deep(file):
        file.create_group("/".join("a" * 100))

    def round_in_circles(file):
        file.create_group("a")["b"] = file["/"]

    def many(file):
        for number in range(1200):
            file.attrs[f"a{number}"] = 1

    expected = {
        soft: "is a link", external: "is a link", elsewhere: "are in another file", virtual: "are in another file",
        text: "does not contain numbers", deep: "more than 32 deep", round_in_circles: "more than 32 deep",
        many: "more than 1,000 attributes",
    }  # fmt: skip
    for build, message in expected.items():
        path = tmp_path / f"{build.__name__}.h5"
        with h5py.File(path, "w") as file:
            build(file)
        with pytest.raises(DamagedError, match=message), copy_of(path, 100):
            pass


def test_weights_with_their_classifier_name_the_file_without_it(tmp_path, shared):
    backbone = kerazoo.build("mobilenet_025", input_shape=(32, 32, 3), num_classes=2)
    path = tmp_path / "top.h5"
    path.write_bytes((shared / "weights" / REAL).read_bytes())
    with h5py.File(path, "a") as file:
        made = file.create_group("conv_preds/conv_preds")
        made["kernel:0"], made["bias:0"] = np.zeros((1, 1, 256, 1000), "f4"), np.zeros(1000, "f4")
        file["conv_preds"].attrs["weight_names"] = [b"conv_preds/kernel:0", b"conv_preds/bias:0"]
        file.attrs["layer_names"] = [*file.attrs["layer_names"], b"conv_preds"]
    with pytest.raises(
        WeightsError,
        match=rf"top.h5 contains mobilenet_025 with its classifier .*; use the file without it, {REAL}: "
        "`kerazoo weights fetch mobilenet_025`",
    ):
        load_features(backbone, path)


def test_weights_of_a_whole_network_name_its_run(mlp, tmp_path):
    mlp.save_weights(tmp_path / "all.weights.h5")
    with pytest.raises(
        WeightsError, match=r"contains mlp with its classifier \(2 more arrays\); use the folder of its"
    ):
        load_features(mlp, tmp_path / "all.weights.h5")


def test_a_folder_that_is_no_run_says_what_to_name(tmp_path, mlp):
    entry = find("mlp")
    (tmp_path / "empty").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.h5").touch()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").touch()
    (tmp_path / "runs" / "mnist-1").mkdir(parents=True)
    (tmp_path / "runs" / "mnist-1" / "model.json").touch()
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "saved_model.pb").touch()
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "empty": "it has no model.json; give a weights file", "files": "it contains a.h5: use one",
        "half": "it did not finish", "runs": "it contains mnist-1: use one", "pipe": "must be a regular file",
        "export": "use the run that it was made from",
    }  # fmt: skip
    for name, message in expected.items():
        for act in (lambda p: check_weights(entry, str(p)), lambda p: load_features(mlp, p)):
            with pytest.raises(WeightsError, match=message) as error:
                act(tmp_path / name)
            assert str(tmp_path / name) in str(error.value)


def test_a_model_with_weights_of_another_network_is_one_line(mlp, tmp_path, monkeypatch):
    """As of a stranger's folder, in which the sha256 is right."""
    spec = ModelSpec(
        "mlp", {"input_shape": (4, 4, 1), "units": (9,), "num_classes": 3}, Preprocessing(4, 4, 1), ("a", "b", "c")
    )
    digest = save_model(tmp_path, spec, mlp)
    monkeypatch.setattr("kerazoo.models.saved._WRITTEN", set())
    with pytest.raises(
        WeightsError, match=r"model.weights.h5 do not fit mlp.*use the model.json that was written with"
    ):
        load_model(tmp_path)
    right = ModelSpec("mlp", {**spec.arguments, "units": (8,)}, spec.preprocessing, spec.class_names)
    assert save_model(tmp_path, right, mlp) == digest
    monkeypatch.setattr("kerazoo.models.saved._WRITTEN", set())
    for old, new in zip(mlp.get_weights(), load_model(tmp_path)[1].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# -- mutated files ------------------------------------------------------------------------------------------------


def mutated(contents: bytes, number: int) -> bytes:
    """The same with some bytes changed, cut or filled with zeros; mostly near HDF5's own tables."""
    rng, changed = random.Random(number), bytearray(contents)
    tables = [found.start() for found in re.finditer(rb"\x89HDF|OHDR|TREE|SNOD|HEAP|GCOL|FRHP", contents)]
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        near = number % 4 and tables
        at = min(rng.choice(tables) + rng.randrange(600) if near else rng.randrange(len(changed)), len(changed) - 1)
        changed[at] = changed[at] ^ 1 << rng.randrange(8) if rng.random() < 0.5 else rng.choice([0, 1, 127, 255])
    if number % 16 == 5:
        changed[rng.randrange(len(changed)) :] = b""
    return bytes(changed)


def survive(model, path, real, numbers):
    """Every mutated file loads, or is one line that names it; the memory of those who read stays bounded."""

    def peak():  # a child begins with the memory of this process
        return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before, lines = peak(), []
    for number in numbers:
        path.write_bytes(mutated(real, number))
        start = time.monotonic()
        try:
            load_features(model, path)
        except WeightsError as error:
            lines.append(str(error))
        assert time.monotonic() - start < weights_file.PATIENCE + 10
    assert all(str(path) in line and "\n" not in line for line in lines)
    assert lines
    assert peak() - before < 500_000  # kB


def test_mutated_files_are_refused_or_read(saved, mlp, tmp_path):
    survive(mlp, tmp_path / "mutated.weights.h5", saved.read_bytes(), range(5))


@pytest.mark.slow  # a process for each of 900 files: 10 minutes
def test_many_mutated_files_are_refused_or_read(saved, mlp, tmp_path, shared, monkeypatch):
    monkeypatch.setattr(weights_file, "PATIENCE", 10.0)
    survive(mlp, tmp_path / "mutated.weights.h5", saved.read_bytes(), range(5, 300))
    backbone = kerazoo.build("mobilenet_025", input_shape=(32, 32, 3), num_classes=2)
    survive(backbone, tmp_path / "mutated.h5", (shared / "weights" / REAL).read_bytes(), range(600))


def test_reading_elsewhere_costs_less_than_a_second(shared):
    """Of the real file, in processor time: others may be busy."""

    def used():
        times = resource.getrusage(resource.RUSAGE_CHILDREN)
        return times.ru_utime + times.ru_stime

    before = used()
    with copy_of(shared / "weights" / REAL, 300_000):
        assert used() - before < 1
