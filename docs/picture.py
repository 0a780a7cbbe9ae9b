"""Draw the picture at the top of the README, as the demo does: ``python docs/picture.py``."""

import shutil
import tempfile
from pathlib import Path

from lightning_unlearn.cli.demo import run

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run(output=Path(folder))
        shutil.copy(Path(folder) / "demo.png", Path(__file__).parent / "images")
