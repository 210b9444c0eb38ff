"""What is written gets its name whole: only files.py writes to a final path, and what else writes says why."""

import ast
from collections.abc import Iterator

import house

WRITERS = {
    "write_text", "write_bytes", "to_csv", "tofile", "savez", "savez_compressed", "open_memmap", "save_weights",
    "copy2", "copyfile", "move", "savefig", "TFRecordWriter", "create_file_writer", "rename", "copytree",
    "urlretrieve",
}  # fmt: skip
SAVERS = {"save", "export"}  # allowed into memory


def writes(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(function, what it calls) for each call in `tree` that writes to a path, or gives a file its name."""

    def visit(node: ast.AST, function: str, memory: frozenset[str]) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            function = node.name
            memory = frozenset(
                target.id
                for each in ast.walk(node)
                if isinstance(each, ast.Assign) and ast.unparse(each.value) == "io.BytesIO()"
                for target in each.targets
                if isinstance(target, ast.Name)
            )
        if isinstance(node, ast.Call) and _writes(node, memory):
            yield function, ast.unparse(node.func)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, memory)

    return visit(tree, "", frozenset())


def _writes(call: ast.Call, memory: frozenset[str]) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = ast.unparse(call.args[0]) if call.args else ""
    if name in ("open", "fdopen", "File"):
        modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return any(set(mode[:3]) & set("wax+") and set(mode) <= set("wax+rbt:") for mode in modes)
    if name == "replace":  # of a path; that of a text takes two
        return len(call.args) == 1 and not call.keywords
    if name in SAVERS:
        return bool(call.args) and first not in memory
    return name in WRITERS


# module:function -> why it need not go through files.py
ALLOWED = {
    "files:write_whole": "into the temporary name that it gets",
    "files:put": "what is whole gets its name",
    "files:set_aside": "moves what is damaged out of the way",
    "callbacks.checkpoints:newest_checkpoint": "moves a damaged checkpoint out of the way",
    "callbacks.diagnostics:_save_batch": "into memory",
    "callbacks.metrics:_append": "a log that only grows; a torn last line counts as none",
    "callbacks.writers.folder:_append": "a log that only grows; a torn last line counts as none",
    "callbacks.writers.mlflow:_write_blocks": "into a temporary folder, which MLflow copies from",
    "callbacks.writers.histograms:encode": "into memory",
    "callbacks.writers.tensorboard:_open": "TensorBoard's own files, which only grow",
    "callbacks.writers.tensorboard:_cut_events": "TensorFlow's format, renamed; TensorBoard does not read its name",
    "cli.export:export": "api.export, which is no way of writing of its own",
    "exports.export:_put": "the folder of an export, whole and checked, gets its name",
    "exports.gate:check_export": "a copy of the export in the gate's scratch folder",
    "exports.signatures:write_saved_model": "TensorFlow writes it into the workplace of the export",
    "exports.warm_up:write_warm_up": "TensorFlow writes it into the workplace of the export",
    "exports.questions:_written": "the gate's scratch folder",
    "exports.questions:_saved": "the gate's scratch folder",
    "exports.questions:_encoded": "the gate's scratch folder",
    "exports.asking:ask": "the gate's scratch folder",
    "exports.asking:answer": "the gate's scratch folder",
    "exports.formats.measuring:measure": "the gate's scratch folder",
    "exports.web.chromium:chromium": "the browser's own log, in the gate's scratch folder",
    "exports.formats.format_gate:_measured": "the gate's scratch folder",
    "insight.curves:curves_of": "a drawing's `save` is whole (insight/drawing.py)",
    "insight.curves:draw_curves": "a drawing's `save` is whole (insight/drawing.py)",
    "models.engines:_onnx_by_keras": "a temporary folder",
    "models.engines:_openvino": "a temporary folder",
    "models.hub.bundles:write_presets": "tarfile writes to the temporary name of files.replacing",
    "models.hub.bundles:unpack_presets": "a folder gets its name once all files were checked",
    "models.hub.bundles:_extract": "a file in PID.tmp in the cache, checked before its folder gets its name",
    "models.weights.bundles:write_bundle": "tarfile writes to the temporary name of files.replacing",
    "models.weights.bundles:_extract": "NAME.PID.tmp in the cache, checked before it gets its name by files.put",
    "models.weights.download:_copy": "NAME.part in the cache, checked before it gets its name by files.put",
    "models.weights.http:_attempt": "NAME.part in the cache: begun anew",
    "models.weights.http:_write": "NAME.part in the cache: a download that is cut goes on where it was",
    "models.weights.h5_copy:main": "a copy in a temporary folder",
    "models.weights.weights_file:_read": "a copy in a temporary folder",
    "pipelines.data.tfds:_write_out": "a folder of images under a temporary name, renamed when it is whole",
    "pipelines.devices.opening:_keep_standard_output": "no file: standard output",
    "pipelines.input.kept:open_rows": "a memory map for reading",
    "runs.begin:_make": "the folder of a run, whole, gets its name; the one it replaces goes aside",
    "serving.deploy.writing:_put": "a folder whose files are whole gets its name; the one it replaces goes aside",
    "serving.looking:answer": "no file: standard output",
    "startup:quiet_start": "no file: standard error",
}  # fmt: skip
PLANTS = (
    'open(path, "w")', 'path.open("ab")', 'open(path, mode="xb")', "path.write_text(text)", "path.write_bytes(b)",
    "np.save(path, x)", "np.savez(path, x)", "image.save(path)", "frame.to_csv(path)", "part.replace(path)",
    "part.rename(path)", "shutil.move(part, path)", 'h5py.File(path, "w")', "model.save_weights(path)",
)  # fmt: skip


def test_only_files_py_writes_to_a_final_path():
    found = set()
    for name, path in house.modules().items():
        calls = writes(ast.parse(path.read_text(encoding="utf-8")))
        found |= {f"{name.removeprefix('kerazoo.')}:{function}" for function, _ in calls}
    assert not found - set(ALLOWED), "write it by files.write_whole or files.replacing, or say here why not"
    assert not set(ALLOWED) - found, "it writes no more; take it out of the list"


def test_every_way_to_write_is_found():
    for plant in PLANTS:
        assert list(writes(ast.parse(f"def f():\n    {plant}"))), plant
    for harmless in ("open(path)", 'path.open("rb")', 'text.replace("a", "b")', "files.write_whole(path, text)"):
        assert not list(writes(ast.parse(f"def f():\n    {harmless}"))), harmless
    assert not list(writes(ast.parse("def f():\n    png = io.BytesIO()\n    image.save(png, 'PNG')")))
