"""A Hugging Face cache as if two revisions of a repository had been downloaded."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

MODEL = "someone/tiny"


def cached(folder: Path, revisions: dict[str, Path]) -> Path:
    """``folder`` holding ``MODEL``: by the name of each revision, the files in a directory. The first one is main."""
    repository = folder / f"models--{MODEL.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for number, (name, files) in enumerate(revisions.items()):
        commit = f"{number + 1:040x}"
        shutil.copytree(files, repository / "snapshots" / commit)
        for reference in (name, "main") if number == 0 else (name,):
            (repository / "refs" / reference).write_text(commit)
    return folder


def offline(patch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the network until the patch is undone."""
    patch.setattr(constants, "HF_HUB_OFFLINE", True)
