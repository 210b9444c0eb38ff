"""Write ../terminal.svg, a picture of the terminal: `python docs/reference/terminal.py`.

The command runs in a terminal of its own, and Rich draws what it printed.
"""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parent.parent / "terminal.svg"
COMMAND = ["kerazoo", "inspect", "bottleneck_cnn"]
WIDTH = 116  # columns
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)  # they would come from another host


def main() -> None:
    """Run the command and draw it."""
    program = Path(sys.executable).with_name(COMMAND[0])
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(WIDTH), "LINES": "60", "TERM": "xterm-256color"}
    done = subprocess.Popen([program, *COMMAND[1:]], stdout=theirs, env=os.environ | size)
    os.close(theirs)
    printed = b""
    while True:
        try:
            printed += os.read(ours, 65_536)
        except OSError:  # its end, on Linux
            break
    if done.wait():
        raise SystemExit(done.returncode)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere)
        console.print(Text(f"$ {' '.join(COMMAND)}", "bold green"))
        console.print(Text.from_ansi(printed.decode().replace("\r\n", "\n")))
    made = console.export_svg(
        title="kerazoo", theme=MONOKAI, code_format=FONTS.sub("", CONSOLE_SVG_FORMAT), unique_id="kerazoo"
    )
    PICTURE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
