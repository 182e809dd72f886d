"""Standard streams that are closed, full, left by their reader, or of a locale with few characters."""

import os
import subprocess
import sys

import pytest

from silofl import __version__, console
from silofl.errors import SiloflError
from silofl.report.display import Displays
from silofl.report.text_display import TextDisplay

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


@pytest.mark.covering(0)
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


@pytest.mark.covering(0)
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


SPOILED = "a\x1b[2J\x1b[31mb\nc\u202ed\u2028e\x9b1mf\tg\x00h\udcffi\u200b"


def test_what_a_terminal_would_obey_is_shown_as_text():
    shown = console.printable(SPOILED)
    assert shown == r"a\x1b[2J\x1b[31mb\nc\u202ed\u2028e\x9b1mf\tg\x00h\udcffi\u200b"
    assert console.printable("Ärzte, 東京 ∑") == "Ärzte, 東京 ∑"


@pytest.mark.parametrize("way", ["error", "log", "notice"])
def test_texts_of_peers_are_cleaned_wherever_they_are_shown(way, capsys):
    """Each of the places where text that may be a peer's becomes something to look at."""
    if way == "error":
        assert str(SiloflError(SPOILED)).isprintable()
        return
    if way == "log":
        console.log(SPOILED)
    else:
        Displays(TextDisplay(sys.stdout)).notice(SPOILED)
    found = capsys.readouterr()
    (line,) = (found.out + found.err).splitlines()
    assert line.isprintable()
