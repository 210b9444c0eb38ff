"""Fresh Python processes that import installed code only, whatever lies in the current folder or in PYTHONPATH.

`python -m` and `python -c` put the current folder first in `sys.path`, where a file called json.py would be run.
"""

import sys
from pathlib import Path

# -I leaves out the current folder, PYTHON* variables and the user's packages; kerazoo itself is loaded from the folder
# that runs now (an editable install, or one that is not installed), and `more` comes last, behind what is installed
START = """
import importlib, importlib.util, sys
package, more, module, function, *arguments = sys.argv[1:]
sys.path += [folder for folder in more.splitlines() if folder not in sys.path]
spec = importlib.util.spec_from_file_location("kerazoo", package + "/__init__.py", submodule_search_locations=[package])
sys.modules["kerazoo"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["kerazoo"])
getattr(importlib.import_module(module), function)(*arguments)
"""
HEAVY = ("numpy", "tensorflow", "h5py")  # as this process found them, they may be outside of the standard folders


def fresh_python(module: str, function: str, *arguments: str) -> list[str]:
    """The command that calls `function(*arguments)` of the kerazoo module `module` in a fresh process."""
    loaded = [getattr(sys.modules.get(name), "__file__", None) for name in HEAVY]
    folders = dict.fromkeys(Path(file).resolve().parents[1] for file in loaded if file)
    folders.pop(Path.cwd().resolve(), None)
    package = str(Path(__file__).resolve().parent)
    return [sys.executable, "-I", "-c", START, package, "\n".join(map(str, folders)), module, function, *arguments]
