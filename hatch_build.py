"""Build hook: compiles the worker's kernels into the wheel where there is a C compiler.

Without one the installation goes on; the worker then attends through plain torch operators.
Run as a program, it compiles them where they are, for a checkout whose sources have changed.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("worker/headrace_worker/execute/native")
SOURCES = ("kernels.c",)
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_V4 = ("-march=x86-64-v4", "-mprefer-vector-width=512")
X86_SETS = {"avx512vnni": (*_V4, "-mavx512vnni"), "avx512": _V4, "avx2": ("-march=x86-64-v3",)}
"""Instruction sets beside the plainest one; the machine that runs the code picks."""


class KernelBuildHook(BuildHookInterface[Any]):
    """Adds ``kernels.so`` to the wheel and marks the wheel as made for this platform."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        library = Path(self.root) / NATIVE / "kernels.so"
        problem = build_kernels(library)
        if problem is not None:
            self.app.display_warning(f"native kernels are left out: {problem}")
            return
        build_data["artifacts"].append(f"{NATIVE}/kernels.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def build_kernels(library: Path) -> str | None:
    """Compile every source once per instruction set and link all into ``library``; returns what went wrong."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        return "no C compiler (cc, gcc or clang)"
    sets = {"base": (), **(X86_SETS if platform.machine() in {"x86_64", "AMD64"} else {})}
    folder = library.parent
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        digest = f'-DHR_SOURCES="{sources_digest(folder)}"'
        commands = [[compiler, *FLAGS, digest, "-c", str(folder / "isa.c"), "-o", str(built / "isa.o")]]
        for name, flags in sets.items():
            commands += [
                [
                    *(compiler, *FLAGS, *flags, "-Wno-psabi", f"-DHR_ISA={name}"),
                    *("-c", str(folder / source), "-o", str(built / f"{source}.{name}.o")),
                ]
                for source in SOURCES
            ]
        # Linked without an OpenMP library on purpose: the symbols come from the one that torch has
        # loaded, so that both share one pool of threads.
        objects = [command[-1] for command in commands]
        commands.append([compiler, "-shared", "-o", str(built / library.name), *objects])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own flags and paths
            if done.returncode != 0:
                return f"{compiler} failed: {done.stderr.strip().partition(chr(10))[0]}"
        # Moved into place as a whole: a process that has the old one mapped keeps it.
        fresh = library.with_suffix(".so.new")
        shutil.copyfile(built / library.name, fresh)
        fresh.replace(library)
    return None


def sources_digest(folder: Path) -> str:
    """Of the C sources in ``folder``; the worker refuses a library that has another one."""
    found = hashlib.sha256()
    for path in sorted([*folder.glob("*.c"), *folder.glob("*.h")]):
        found.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


if __name__ == "__main__":
    sys.exit(build_kernels(Path(__file__).parent / NATIVE / "kernels.so"))
