"""The wheel, installed into an empty environment, runs the demonstration outside the checkout."""

import os
import re
import site
import subprocess
import sys
import tarfile
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


def tooling(names) -> list[str]:
    """Return what only makes and measures the embedded pairs."""
    return [
        name
        for name in names
        if re.search(r"configs/pairs/demo/([^/]*\.py|logs/|results/|RESULTS\.md|search\.csv)", name)
    ]


def test_the_wheel_leaves_out_what_makes_and_measures_the_pairs(wheel):
    names = ZipFile(wheel).namelist()
    assert tooling(names) == []
    data = "replay_adapters/_data"
    here = {name.removeprefix(f"{data}/") for name in names if name.startswith(f"{data}/")}
    checkpoints = [*CHECKOUT.glob("configs/pairs/demo/*/*.*")]
    wanted = [
        *(path for path in checkpoints if path.parent.name not in ("logs", "results")),
        *CHECKOUT.glob("configs/*.yaml"),
        *CHECKOUT.glob("configs/pairs/*.yaml"),
        *CHECKOUT.glob("configs/vlmevalkit/*.json"),
        *CHECKOUT.glob("tasks/*/*.*"),
    ]
    wanted = {str(path.relative_to(CHECKOUT)) for path in wanted if path.suffix != ".pyc"}
    assert len(wanted) > 60
    assert wanted - here == set()


def test_the_source_archive_has_them_for_its_tests(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory"]
    subprocess.run([*command, tmp_path], cwd=CHECKOUT, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = archive.getnames()
    assert any(name.endswith("configs/pairs/demo/policy/model.safetensors") for name in names)
    assert tooling(names)
    assert any(name.endswith("tests/configs/test_page.py") for name in names)


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
    assert re.search(r"items \(n\) +4 +4\n", ended.stdout)
    assert (tmp_path / "results" / "demo" / "replay.png").stat().st_size > 10_000
    for pair in ("demo_narrow", "demo"):
        for arm in ("none", "replay", "random"):
            assert list((tmp_path / "results" / "demo" / pair / arm).rglob("*_results.json"))
