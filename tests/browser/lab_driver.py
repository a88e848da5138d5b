"""A real JupyterLab and a real chromium, for the tests in this folder.

`start_lab` gives a server whose settings, workspaces and runtime files live in a folder of its
own; `open_notebook` a page on which one notebook has been run to its end.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--no-first-run",
]
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


def find_chromium() -> str | None:
    """The path of a chromium: from the environment variable CHROMIUM, or on the search path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def wait_until(ask: Callable, what: str, seconds: float = 60):
    """The first true answer of `ask`, which may fail with OSError or ValueError until then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if answer := ask():
                return answer
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")


@dataclass(frozen=True)
class Lab:
    """A running server: its address, its token, the folder that it serves."""

    address: str
    token: str
    folder: Path


@contextlib.contextmanager
def start_lab(home: Path, theme: str = "light") -> Iterator[Lab]:
    """A JupyterLab that serves `home`/notebooks and knows nothing of the user's own settings."""
    folder = home / "notebooks"
    folder.mkdir(parents=True)
    _write_settings(home / "settings", theme)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *(f"--ServerApp.root_dir={folder}", "--LabApp.extension_manager=readonly"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = home / "jupyter.log"
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(
            command, env=_environment(home), stdout=file, stderr=subprocess.STDOUT
        )
    lab = Lab(f"http://127.0.0.1:{port}", token, folder)

    def answers() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"JupyterLab ended:\n{log.read_text(encoding='utf-8')[-3000:]}")
        with urllib.request.urlopen(f"{lab.address}/api?token={token}", timeout=5) as reply:
            return reply.status == 200

    try:
        wait_until(answers, "JupyterLab answers", seconds=120)
        yield lab
    finally:
        server.terminate()  # it shuts its kernels down itself
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def _environment(home: Path) -> dict[str, str]:
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    own = {name: str(home / folder) for name, folder in folders.items()}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1"}


def _write_settings(folder: Path, theme: str) -> None:
    settings = {
        "notification": {"fetchNews": "false", "checkForUpdates": False},
        "themes": {"theme": THEMES[theme]},
    }
    for name, values in settings.items():
        path = folder / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")


class Problems:
    """What a page should not do: write errors to its console, ask other hosts for anything."""

    def __init__(self, page, lab: Lab):
        self.console: list[str] = []
        self.foreign: list[str] = []
        own = (lab.address, lab.address.replace("http", "ws"), "data:", "blob:")
        page.on("console", lambda m: self.console.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(own) else self.foreign.append(r.url))
        page.on(
            "websocket", lambda s: None if s.url.startswith(own) else self.foreign.append(s.url)
        )


def write_notebook(path: Path, cells: list[str]) -> None:
    """A notebook of code cells for the kernel `python3`."""
    import nbformat.v4 as v4

    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    path.write_text(v4.writes(notebook), encoding="utf-8")


@contextlib.contextmanager
def open_notebook(browser, lab: Lab, name: str, cells: list[str]) -> Iterator:
    """A page with the notebook made of `cells`, all of them run; `page.problems` is its record."""
    write_notebook(lab.folder / name, cells)
    page = browser.new_page(viewport={"width": 1180, "height": 1300})
    page.set_default_timeout(60_000)
    page.problems = Problems(page, lab)
    workspace = secrets.token_hex(4)  # a fresh layout
    page.goto(f"{lab.address}/lab/workspaces/{workspace}/tree/{name}?token={lab.token}")
    try:
        _run_all(page)
        yield page
    except BaseException:
        page.screenshot(path=lab.folder / f"{Path(name).stem}-failed.png")
        raise
    finally:
        page.close()


def _run_all(page) -> None:
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    # A Run All before the kernel is connected is dropped silently.
    page.wait_for_function(
        "() => /\\| Idle/.test(document.querySelector('#jp-main-statusbar')?.textContent || '')"
    )
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const prompts = [...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")];
            const texts = prompts.map((prompt) => prompt.textContent.trim());
            return texts.length && texts.every((t) => t !== "[*]:" && t !== "[ ]:");
        }"""
    )
