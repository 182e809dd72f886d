"""The page of `silofl report`: well formed, small, closed to all that is outside, and true to its files."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from silofl.cli import app
from silofl.errors import DataError
from silofl.report.page.html import page_of
from silofl.report.page.shared_files import read_run
from tests.report.synthetic_run import HOSTILE, write_run

MOST_BYTES = 400_000
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements and text of a page; it fails where an element is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def check_closed(text: str) -> Page:
    """No script, no style of an element's own, nothing that is fetched; every figure says what it shows."""
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "iframe", "object", "embed", "link", "img", "image", "a", "foreignobject"} & {*tags}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "xmlns")]
        if "href" in attributes:
            assert tag == "use"
            assert (attributes["href"] or "").startswith("#")
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert not re.search(r"url\(|@import|http", style[0])
    assert "http" not in re.sub(r"http-equiv|&lt;.*?&gt;", "", text)
    labels = [attributes.get("aria-label") or "" for tag, attributes in page.elements if tag == "svg"]
    assert labels
    assert all(len(label) > 20 for label in labels)
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    return page


def test_a_page_of_200_rounds_and_8_silos_is_small_and_whole(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", 200, 8))
    text = page_of([run])
    page = check_closed(text)
    assert len(text.encode()) < MOST_BYTES
    assert text == page_of([run])
    assert "silo 2 failed; the others went on after 0.01 s" in page.text
    assert "silo 2 came back" in page.text
    assert "195 of 200" in page.text
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 7
    assert "Content-Security-Policy" in text


@pytest.mark.parametrize("ended", [True, False])
def test_text_of_another_s_run_is_text(tmp_path: Path, ended: bool) -> None:
    path = write_run(tmp_path / "run", text=HOSTILE, ended=ended, task={"options": {HOSTILE: HOSTILE}})
    rows = [{"model": HOSTILE, "data": f"/home/me/{HOSTILE}", "samples": 1, "metrics": {HOSTILE: 0.5}}]
    (path / "cross-site.json").write_text(json.dumps(rows))
    page = check_closed(page_of([read_run(path)] * 2))
    assert "<script>alert(1)</script>" in page.text
    assert not {"\x1b", "\u202e"} & {*page.text}


def test_paths_and_secrets_are_not_shown(tmp_path: Path) -> None:
    options = {
        **{"api_key": "sesame", "depth": 3, "dsn": "postgres://me:sesame@db", "where": "sesame"},
        **{"servers": [{"password": "sesame"}], "names": ["sesame"]},
    }
    path = write_run(tmp_path / "of_mine", secure={"identity": "/home/me/x.pem"}, task={"options": options})
    text = page_of([read_run(path)])
    assert not [word for word in ("sesame", "/home/me", str(tmp_path)) if word in text]
    assert "task.options.depth" in text


def test_what_silos_keep_to_themselves_is_not_looked_at(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", private=True)
    (path / "silo-0001").mkdir(mode=0o700)
    (path / "silo-0001" / "own.log").write_text("a value of mine")
    page = check_closed(page_of([read_run(path)]))
    assert "a value of mine" not in page.text
    assert "Silos do not share metrics of their own" in page.text
    assert "max 4.0000" in page.text  # beside what was spent
    assert "spent 0.4899" in page.text


def test_runs_are_compared_by_curves_results_and_keys(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"lr-{lr}", train={"lr": lr}) for lr in (0.1, 0.5)]
    page = check_closed(page_of([read_run(path) for path in runs]))
    assert "2 runs compared" in page.text
    assert "train.lr 0.1 0.5" in page.text
    assert page.text.count("lr-0.5 0.8571") == 1  # where its curve of accuracy ends


def test_the_commands_of_the_document_write_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs/report.md").read_text()
    lines = [line.split("#")[0] for line in re.findall(r"^silofl (report .*)$", text, re.MULTILINE)]
    for name in ("digits", "returned"):
        write_run(tmp_path / "runs" / name, 2, 3)
    monkeypatch.chdir(tmp_path)
    for line in lines[:2]:
        done = CliRunner().invoke(app, shlex.split(line))
        assert done.exit_code == 0, done.exception
    check_closed((tmp_path / "report.html").read_text())
    assert "2 runs compared" in (tmp_path / "compared.html").read_text()


def test_the_table_across_sites_has_the_best_of_each_column_in_bold(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    found = {
        ("shared", "a.csv"): 0.8,
        ("shared", "b.csv"): 0.7,
        ("silo 0", "a.csv"): 0.9,
        ("silo 0", "b.csv"): 0.4,
    }
    rows = [
        {"model": m, "data": f"/data/{d}", "samples": 5, "metrics": {"auc": v}} for (m, d), v in found.items()
    ]
    (path / "cross-site.json").write_text(json.dumps(rows))
    text = page_of([read_run(path)])
    assert re.findall(r'class="n best">([\d.]+)', text)[:2] == ["0.7000", "0.9000"]
    assert "model a.csv b.csv shared 0.8000 0.7000 silo 0 0.9000 0.4000" in check_closed(text).text


def test_a_run_that_goes_on_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", ended=False)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 7, "metr')
    page = check_closed(page_of([read_run(path)]))
    assert "This run has not ended: 6 of 6 rounds" in page.text
    assert "The last line was being written" in page.text
    (path / "metrics.jsonl").write_text("")
    text = page_of([read_run(path)])
    assert "0 of 6 rounds" in Page(text).text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", '{"round": 1, "metrics": {"x": [[]]}}\n'),
        ("metrics.jsonl", '{"round": 1, "metrics": {"x": ' + "[" * 900 + "1" + "]" * 900 + "}}\n"),
        ("config.toml", "[task.options" + ".a" * 2000 + "]\nx = 1\n"),
    ],
)
def test_odd_shapes_have_a_page_or_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    path = write_run(tmp_path / "run")
    (path / name).write_text(content)
    done = CliRunner().invoke(app, ["report", str(path), "-o", str(tmp_path / "page.html")])
    assert done.exit_code == 0 or isinstance(done.exception, DataError), done.exception


def test_many_silos_with_many_metrics_are_no_endless_page(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    silos = 400
    own = [{f"m{silo}": 1.0} for silo in range(silos)]
    line = {"round": 1, "survivors": [0], "per_silo": own, "metrics": {"loss": 1.0}}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    sites = [{"model": f"a{k}", "data": f"b{k}", "metrics": {"x": 1.0}} for k in range(200)]
    (path / "cross-site.json").write_text(json.dumps(sites))
    text = page_of([read_run(path)])
    assert len(text) < 2_000_000
    assert "350 metrics are left out: of 400 silos" in text
    assert "200 models on 200 data sets are too many cells" in text


def test_a_silo_that_was_excluded_has_its_row(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 3, 2)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines, 1):
        line["scores"] = {"0": {"deviation": 0.25}, "1": {"deviation": 12.5 * number}}
        line |= {"suspicious": [1], "left_out": [1] * (number > 1)}
        line["excluded"] = {"1": HOSTILE} if number == 1 else {}
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = check_closed(page_of([read_run(path)]))
    told = page.text[page.text.index("Updates by silo") :]
    assert re.search(r"0\s+0\.25\s+0\s+0\s+–\s+–\s+1\s+37\.5\s+3\s+2\s+1\s+–", told)
