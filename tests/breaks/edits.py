"""Edits of `common` in a git worktree, for the tools that break its behaviours."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Failure(Exception):
    """Why an edit could not be tried, or was not noticed."""


class Tree:
    """A worktree of the last commit, with a target directory of its own."""

    def __init__(self, name):
        self.path = ROOT / "target" / name / "tree"
        self.target = ROOT / "target" / name / "target"

    @contextlib.contextmanager
    def checked_out(self):
        """The worktree, as long as this lasts."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        git("worktree", "prune")
        git("worktree", "add", "--force", "--detach", self.path, "HEAD")
        try:
            yield
        finally:
            git("worktree", "remove", "--force", self.path)

    def cargo(self, arguments, limit):
        """Runs cargo in the tree, up to a limit in seconds. Returns its exit code and output."""
        process = subprocess.Popen(
            ["cargo", *arguments],
            cwd=self.path,
            env={**os.environ, "CARGO_TARGET_DIR": str(self.target)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Failure(f"cargo {' '.join(arguments)} did not end in {limit} s") from None
        return process.returncode, output

    def find(self, text):
        """The only file of common/src with this text, and where in it."""
        words = re.compile(r"\s+".join(map(re.escape, text.split())))
        sources = sorted((self.path / "common/src").rglob("*.rs"))
        found = [(file, match) for file in sources for match in words.finditer(file.read_text())]
        if len(found) != 1:
            places = ", ".join(str(file.relative_to(self.path)) for file, _ in found) or "no file"
            raise Failure(f"the text must be in one place, and is in {places}: {text}")
        return found[0]

    def edit(self, search, replace):
        """Replaces a text. Returns its file, and what was in it before."""
        file, match = self.find(search)
        whole = match.string
        file.write_text(whole[: match.start()] + replace + whole[match.end() :])
        return file, whole


def git(*arguments):
    subprocess.run(["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.DEVNULL)


def selected(all_of_them, wanted):
    """Those that have one of the wanted texts in their name."""
    return [one for one in all_of_them if not wanted or any(part in one.name for part in wanted)]
