"""What a release contains: a build back end that silently skips a missing folder must not be trusted."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a freshly built wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("headrace-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.parametrize(
    "room", ["shared/headrace_shared", "api/headrace_api", "worker/headrace_worker", "deploy/headrace_cli"]
)
def test_a_wheel_holds_every_source_file_of_every_room(names: set[str], room: str) -> None:
    folder = ROOT / room
    tracked = subprocess.run(["git", "-C", str(folder), "ls-files"], check=True, capture_output=True, text=True).stdout
    wanted = {f"{folder.name}/{name}" for name in tracked.splitlines()}
    assert f"{folder.name}/py.typed" in wanted
    assert wanted <= names


def test_a_wheel_holds_what_is_read_at_run_time(names: set[str]) -> None:
    assert {
        "headrace_shared/queue/enqueue.lua",
        "headrace_shared/queue/claim.lua",
        "headrace_shared/queue/append.lua",
    } <= names


def test_a_wheel_holds_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "headrace_shared",
        "headrace_api",
        "headrace_worker",
        "headrace_cli",
    }
    assert not [name for name in names if name.endswith(".pyc")]
