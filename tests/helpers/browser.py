"""Run a headless browser on a page of ours, where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def browse(folder: Path, page: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Open a page without a network; the test is skipped where no browser is installed, which no package of ours is."""
    program = next((found for found in map(shutil.which, NAMES) if found), None)
    if program is None:
        # what a page looks like only a browser can tell, and pip brings none
        pytest.skip(f"no browser found, looked for {', '.join(NAMES)}")
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    switches = ("headless", "no-sandbox", "disable-gpu", *quiet, f"user-data-dir={folder / 'profile'}")
    command = [program, *(f"--{switch}" for switch in switches), *options, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
