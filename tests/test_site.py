"""The documentation as a site: it builds in silence and without a network, and its links lead somewhere."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
OFFLINE = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"}
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}  # what a browser asks for


class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if values.get(LOADED.get(tag, "")) and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(the folder, what the builder printed, {path in the site: page}) of the documentation."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs", dirs_exist_ok=True)
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--strict"], cwd=folder, capture_output=True, text=True, env=OFFLINE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = folder / "site"
    pages = {p.relative_to(site).as_posix(): Page(p.read_text()) for p in site.rglob("*.html")}
    return folder, done.stdout + done.stderr, pages


def faults(folder, pages):
    """The links that lead nowhere, and what is loaded from elsewhere."""
    site = folder / "site"
    for name, page in pages.items():
        if name == "404.html":  # its links are of the root of a server
            continue
        for address in [*page.links, *page.loads]:
            there = urlsplit(address)
            if there.scheme in ("http", "https") or there.netloc:
                if address in page.loads:
                    yield name, address
                continue
            if there.scheme in ("data", "mailto"):
                continue
            path = (site / name).parent / unquote(there.path) if there.path else site / name
            path = path / "index.html" if path.is_dir() else path
            target = path.resolve().relative_to(site.resolve()).as_posix() if path.exists() else None
            if target is None or (target in pages and unquote(there.fragment) not in pages[target].anchors):
                yield name, address


def test_the_site_builds_without_a_warning_and_every_link_leads_somewhere(built):
    folder, printed, pages = built
    assert "No issues found" in printed
    written = {p.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert written <= set(pages)
    assert list(faults(folder, pages)) == []
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p for p in written if f"- {p.removesuffix('.html')}.md\n" not in menu] == []


def test_a_link_that_leads_nowhere_is_found(built):
    folder, _, pages = built
    bad = ["nowhere.html", "index.html#nowhere"]
    page = "".join(f'<a href="{one}">x</a>' for one in bad) + '<img src="https://x/y.png"><a href="https://x">x</a>'
    assert [address for _, address in faults(folder, pages | {"tutorial.html": Page(page)})] == [
        *bad,
        "https://x/y.png",
    ]


@pytest.mark.slow  # two trainings, an export: a minute
def test_the_tutorial_does_what_it_shows(tmp_path):
    """Every command runs, and prints the lines that are shown, but for their numbers."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    blocks = re.findall(r"```console\n\$ (.*?)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 8
    for command, shown in blocks:
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed = {plain(line.replace(f"{tmp_path}/", "")) for line in (done.stdout + done.stderr).splitlines()}
        for line in shown.splitlines():
            wanted = plain(line)
            cut = wanted.removesuffix("...")
            assert any(one == wanted or (cut != wanted and one.startswith(cut)) for one in printed), line


def plain(line):
    """`line` with N for every number, and single spaces."""
    return " ".join(re.sub(r"[\d,.]*\d(e-?\d+)?", "N", line).split())
