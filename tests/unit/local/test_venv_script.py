"""scripts/venv: the environment that it makes works wherever the folder is, and in every locale."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_a_folder_with_blanks_and_umlauts_does_in_a_locale_that_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "Plätze und Züge"
    for name in ("scripts", "tally"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "venv", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "lock.txt").touch()
    (folder / "tally" / "__init__.py").touch()
    (folder / "tally" / "__main__.py").write_text("print('it runs')")
    environ = {**os.environ, "LC_ALL": "C"}
    made = subprocess.run(
        ["scripts/venv", "lock.txt"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    command = str(folder / ".venv" / "bin" / "tally")
    done = subprocess.run([command], cwd="/", env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("it runs\n", "")
