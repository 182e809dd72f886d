"""Standard streams that are closed, full, left by their reader, or of a locale with few characters."""

import os
import subprocess
import sys

import pytest

from silofl import __version__

SILOFL = f"{sys.executable} -m silofl"
PRINTS = (
    f"{sys.executable} -c 'import sys, tempfile; from silofl import console; console.open_streams(); "
    'file = tempfile.TemporaryFile(); print("é \\u2211 \\udcff"); print("x" * 200000, flush=True); '
    "file.seek(0); sys.exit(3 + len(file.read()))'"
)


def shell(line, **more):
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        env={**os.environ, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("more", [">&-", ">&- 2>&- <&-", "> /dev/full", "2>&-", "| head -c 1 > /dev/null"])
def test_output_that_goes_nowhere_ends_nothing(more):
    """Nor does what is printed get into a file that is opened later, under the number of a closed stream."""
    code, _, err = shell(f"{PRINTS} {more}")
    assert (code, err) == (3, "")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", "é \u2211 \\udcff"), ("ascii", r"\xe9 \u2211 \udcff"), ("latin-1", r"é \u2211 \udcff")],
)
def test_characters_that_a_locale_has_not_are_written_as_escapes(encoding, text):
    code, out, _ = shell(PRINTS, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert code == 3
    assert out.decode(encoding).splitlines()[0] == text


@pytest.mark.parametrize(
    ("more", "code", "err"),
    [
        ("> /dev/full", 74, "silofl: standard output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
        ("| head -n 0", 0, ""),
    ],
)
def test_a_command_whose_output_is_all_it_does(more, code, err):
    assert shell(f"{SILOFL} --version {more}") == (code, b"", err)


def test_the_version_is_printed_as_ever():
    assert shell(f"{SILOFL} --version") == (0, f"{__version__}\n".encode(), "")
