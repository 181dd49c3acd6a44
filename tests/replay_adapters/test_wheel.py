"""The wheel, installed into an empty environment, runs the demonstration outside the checkout."""

import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-q", "-w", folder, CHECKOUT], check=True)
    (built,) = folder.glob("activation_replay-*.whl")
    return built


def test_the_wheel_carries_tasks_and_configs_inside_the_package_only(wheel):
    names = ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"replay_core", "replay_adapters", f"{wheel.name.split('-py3')[0]}.dist-info"}
    data = "replay_adapters/_data"
    for needed in (
        f"{data}/tasks/replay_demo/replay_demo.yaml",
        f"{data}/tasks/replay_demo/splits/test.json",
        f"{data}/configs/pairs/demo.yaml",
        f"{data}/configs/pairs/demo/policy/model.safetensors",
    ):
        assert needed in names


def test_the_installed_wheel_runs_the_demonstration(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    # The dependencies are the ones of this environment; its editable install is not among them,
    # since a path file's own path files are not read.
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    where = subprocess.run(
        [python, "-c", "import replay_core; print(replay_core.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(home) in where.stdout
    ended = subprocess.run(
        [home / "bin" / "activation-replay", "demo", "--limit", "4", "--batch-size", "2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "items (n)                       4" in ended.stdout
    assert (tmp_path / "results" / "demo" / "replay.png").stat().st_size > 10_000
    for arm in ("none", "replay"):
        assert list((tmp_path / "results" / "demo" / arm).rglob("*_results.json"))
