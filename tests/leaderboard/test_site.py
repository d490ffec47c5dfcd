"""The site: whole, the same each time, closed to the outside, and harmless whatever a submission says."""

from __future__ import annotations

import csv
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

import pytest

from tests.leaderboard.made import Made, make_board
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.leaderboard.schema import SUBMISSIONS, Leaderboard
from vrbench.leaderboard.site import board as board_page
from vrbench.leaderboard.site import columns, pages
from vrbench.leaderboard.site.build import build
from vrbench.leaderboard.site.content import load_content
from vrbench.leaderboard.site.pages import Frame
from vrbench.leaderboard.site.serve import serve, served
from vrbench.leaderboard.validate import validate, write_leaderboards
from vrbench.tasks import registry

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&lt;b&gt; $(touch gone) `id`"


class Page(HTMLParser):
    """What a browser would see in a page: elements with their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two families of four submissions, one pruned each, scored and written."""
    board = make_board(tmp_path_factory.mktemp("site"), submissions=4, families=2)
    write_leaderboards(validate(board.root, include_path=board.tasks, jobs=1))
    return board


@pytest.fixture(scope="module")
def site(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(made.root, tmp_path_factory.mktemp("out") / "site", made.tasks).parent


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    """A copy of the boards to be changed."""
    return Path(shutil.copytree(made.root, tmp_path / "boards"))


def table_of(root: Path) -> Leaderboard:
    return Leaderboard.model_validate_json((root / "made" / "leaderboard.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def html(folder: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.rglob("*.html")):
        yield path, path.read_text(encoding="utf-8")


def test_the_same_boards_give_the_same_bytes_also_over_an_older_site(made: Made, site: Path, tmp_path: Path) -> None:
    again = build(made.root, tmp_path / "again", made.tasks).parent
    assert contents(again) == contents(site)
    (again / "left over.html").write_text("of an older site")
    build(made.root, again, made.tasks)
    assert contents(again) == contents(site)
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_the_manifest_names_every_file_with_its_digest(site: Path) -> None:
    files = contents(site)
    named = json.loads(files.pop(pages.MANIFEST))
    assert named == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_there_is_a_page_of_every_board_submission_and_task(made: Made, site: Path) -> None:
    table = table_of(made.root)
    wanted = {pages.HOME, pages.board_page("made")}
    wanted |= {pages.submission_page("made", row) for row in table.rows}
    wanted |= {pages.task_page("made", task.id) for task in table.tasks}
    assert len(table.rows) == 8 and len(table.tasks) == 4
    wanted |= {pages.samples_page("made", row, task.id) for row in table.rows for task in table.tasks}
    assert {path.relative_to(site).as_posix() for path, _ in html(site)} == wanted


def test_every_page_has_the_policy_and_nothing_that_it_forbids(site: Path) -> None:
    for path, text in html(site):
        page = Page(text)
        policies = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        assert policies == [pages.POLICY], path
        assert "unsafe" not in pages.POLICY and "http" not in pages.POLICY
        assert not page.all("style")
        for tag, attributes in page.elements:
            assert "style" not in attributes, (path, tag)
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
        assert all(script.get("src") for script in page.all("script"))


def test_every_address_is_a_file_of_the_site_but_for_what_a_submitter_links_to(site: Path) -> None:
    for path, text in html(site):
        for tag, attributes in Page(text).elements:
            for name in ("href", "src", "action", "srcset", "data"):
                address = attributes.get(name)
                if address is None or (address.startswith("#") and tag in ("a", "use")):
                    continue
                if tag == "a" and urlsplit(address).scheme:
                    assert address == "https://example.org/made" and "noopener" in (attributes["rel"] or "")
                    continue
                target = (path.parent / unquote(urlsplit(address).path)).resolve()
                assert target.is_file() and target.is_relative_to(site.resolve()), (path, address)


def test_pages_have_what_a_screen_reader_goes_by(site: Path) -> None:
    for path, text in html(site):
        page = Page(text)
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids)), path
        assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1 and len(page.all("main")) == 1
        for _, attributes in page.elements:
            for name in ("aria-labelledby", "for"):
                assert set((attributes.get(name) or "").split()) <= set(ids), path
        for svg in page.all("svg"):
            assert svg.get("aria-hidden") == "true" or svg.get("role") == "group", path
        assert all(th.get("scope") for th in page.all("th")), path
        for div in page.all("div"):
            if div.get("class") == "scroll":
                assert div["tabindex"] == "0" and div["role"] == "region"


def test_the_table_says_what_leaderboard_json_says(made: Made, site: Path) -> None:
    page = Page((site / "index.html").read_text())
    rows = {a["data-key"]: a for a in page.all("tr") if "data-key" in a}
    table = table_of(made.root)
    assert list(rows) == [row.key for row in table.rows]
    for row in table.rows:
        assert rows[row.key]["data-family"] == row.family
        assert float(rows[row.key]["data-tuned"] or 0) == row.region.tuned_share
        for figure in (row.visual, row.text):
            assert figure is not None
            kept = figure.retention
            assert f"{kept.value:.1f} [{kept.low:.1f}, {kept.high:.1f}]" in page.text
    verdicts = [v.verdict for row in table.rows for v in row.verdicts]
    assert sum(page.text.count(f"✓ {word}") + page.text.count(f"✕ {word}") + page.text.count(f"? {word}")
               for word in ("supported", "refuted", "undecided")) == len(verdicts)  # fmt: skip
    for row in table.rows:
        rank = row.visual.score.rank if row.visual else None
        assert rank is not None
        assert (f"{rank.best}–{rank.worst}" if rank.best < rank.worst else f"{rank.best} ") in page.text


def test_a_column_is_one_entry_from_which_headings_cells_and_csv_follow(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(made.root)
    entry = columns.TableColumn({"dtype": columns.getter("dtype")}, "Type", columns.MEASURED, lambda row: row.dtype)
    monkeypatch.setattr(board_page, "columns_of", lambda table: [*columns.columns_of(table), entry])
    (content,) = load_content(made.root, registry.load(made.tasks))
    page = Page(board_page.page(content, Frame(()), "index.html"))
    spans = [int(th["colspan"] or 0) for th in page.all("th") if th.get("scope") == "colgroup"]
    assert sum(spans) * len(table.rows) == len(page.all("td"))
    assert "Type" in page.text and page.text.count("float32") == len(table.rows)
    rows = list(csv.DictReader(board_page.csv_text(table).splitlines()))
    assert [row["dtype"] for row in rows] == ["float32"] * len(table.rows)


def test_every_plot_links_each_submission_once(made: Made, site: Path) -> None:
    page = Page((site / "index.html").read_text())
    points = [a for a in page.all("a") if "point" in (a.get("class") or "").split()]
    keys = sorted(row.key for row in table_of(made.root).rows)
    assert len([s for s in page.all("svg") if s.get("class") == "plot"]) == 3
    assert sorted(a["data-key"] or "" for a in points) == sorted(3 * keys)
    assert {a["tabindex"] for a in points} == {"-1"}


def test_a_submission_is_shown_against_its_baseline_task_by_task(made: Made, site: Path) -> None:
    table = table_of(made.root)
    baselines = {row.key: row for row in table.rows if row.is_baseline}
    row = next(row for row in table.rows if row.region.removed_share and row.family == "tiny2")
    page = Page((site / pages.submission_page("made", row)).read_text())
    assert f"against {baselines[row.baseline].name}" in page.text
    for task, base in zip(row.tasks, baselines[row.baseline].tasks, strict=True):
        digits = 2 if task.task == "made_pydoc" else 1
        for figure in (task.score, base.score):
            assert f"{figure.value:.{digits}f} [{figure.low:.{digits}f}, {figure.high:.{digits}f}]" in page.text
    assert "pruned by angular" in page.text and "2 of 12 layers: 10-11" in page.text
    assert page.text.index("tiny2-base") < page.text.index("trained (tune) by lora") < page.text.index("pruned by")
    assert "name: made-region" in page.text, "the recipe"
    record = json.loads((made.board / SUBMISSIONS / f"{row.org}__{row.name}" / row.revision / "run.json").read_text())
    groups = {name for result in record["results"] for name in result["groups"] if len(result["groups"]) > 1}
    assert groups and all(name in page.text for name in groups)
    assert record["provenance"]["commit"] in page.text and "float32" in page.text


def test_a_baseline_is_compared_with_nothing(made: Made, site: Path) -> None:
    row = next(row for row in table_of(made.root).rows if row.is_baseline)
    page = Page((site / pages.submission_page("made", row)).read_text())
    assert "the family’s baseline" in page.text and "Difference" not in page.text


def test_the_csv_has_every_row_with_the_figures_as_they_are(made: Made, site: Path) -> None:
    with (site / pages.csv_file("made")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = table_of(made.root)
    assert [(r["org"], r["name"]) for r in rows] == [(r.org, r.name) for r in table.rows]
    for cells, row in zip(rows, table.rows, strict=True):
        assert row.text is not None and row.visual is not None and row.visual.score.rank is not None
        assert float(cells["text_retention_low"]) == row.text.retention.low
        assert int(cells["visual_score_rank_worst"]) == row.visual.score.rank.worst
        assert cells["visual>=99%"] == (row.verdicts[0].verdict if row.verdicts else "")
        assert float(cells["made_words"]) == next(t.score.value for t in row.tasks if t.task == "made_words")
    assert json.loads((site / pages.json_file("made")).read_text()) == json.loads(
        (made.board / "leaderboard.json").read_text()
    )


def test_no_text_is_a_formula_to_a_spreadsheet(made: Made) -> None:
    table = table_of(made.root)
    odd = table.rows[0].model_copy(update={"description": '=HYPERLINK("http://evil","x")'})
    rows = list(csv.DictReader(board_page.csv_text(table.model_copy(update={"rows": (odd,)})).splitlines()))
    assert rows[0]["description"].startswith("'=")


def spoil(root: Path, number: int = 1) -> Path:
    """Put markup and commands into every text of a submission that its schema leaves free."""
    folder = sorted((root / "made" / SUBMISSIONS).glob("lab*/*"))[number]
    record = json.loads((folder / "run.json").read_text())
    record["checkpoint"]["id"] = HOSTILE
    for key in ("python", "platform", "device", "command", "commit", "started"):
        record["provenance"][key] = HOSTILE
    record["provenance"]["packages"] = {HOSTILE: HOSTILE}
    for line in record["checkpoint"]["lineage"]:
        line["id"] = HOSTILE
        for step in line["steps"]:
            step |= {"method": HOSTILE, "stage": HOSTILE, "recipe": HOSTILE, "note": json.dumps({HOSTILE: HOSTILE})}
    for result in record["results"]:
        result["groups"] = {HOSTILE + name: score for name, score in result["groups"].items()}
    text = json.dumps(record)
    (folder / "run.json").write_text(text)
    (folder / "recipe.yaml").write_text(f"name: {json.dumps(HOSTILE)}\n")
    submission = json.loads((folder / "submission.json").read_text())
    submission |= {"description": HOSTILE, "licence": HOSTILE[:90].strip(), "vrbench": HOSTILE[:90].strip()}
    submission["run_digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "submission.json").write_text(json.dumps(submission))
    file = root / "made" / "leaderboard.json"
    board: dict[str, Any] = json.loads(file.read_text())
    for row in board["rows"]:
        if row["revision"] == folder.name:
            row |= {"description": HOSTILE, "dtype": HOSTILE, "checkpoint": HOSTILE}
            row["region"]["tuning"] = HOSTILE
            row["cost"] |= {"device": HOSTILE, "measured_on": HOSTILE}
            row["status"]["by"] = HOSTILE
    file.write_text(json.dumps(board))
    return folder


def test_markup_of_a_stranger_is_text_wherever_it_stands(copied: Path, made: Made, tmp_path: Path) -> None:
    folder = spoil(copied)
    site = build(copied, tmp_path / "site", made.tasks).parent
    own = {"datatables.js", "theme.js", "board.js", "samples.js"}
    for path, text in html(site):
        page = Page(text)
        for script in page.all("script"):
            source = (path.parent / (script["src"] or "")).resolve().relative_to(site.resolve())
            assert source.name in own or source.parts[:2] == ("made", "samples"), path
        assert not page.all("img"), path
        assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)], path
    page = Page((site / "made" / folder.parent.name / folder.name / "index.html").read_text())
    assert page.text.count("<script>alert(1)</script>") >= 15


def test_commands_keep_a_strangers_text_in_one_word(copied: Path, made: Made, tmp_path: Path) -> None:
    from vrbench.leaderboard.site.commands import commands
    from vrbench.leaderboard.site.content import load_content
    from vrbench.tasks import registry

    folder = spoil(copied)
    (content,) = load_content(copied, registry.load(made.tasks))
    entry = next(e for e in content.entries if e.folder == folder)
    found = commands(content, entry)
    assert [f"checkpoints/{HOSTILE.replace('/', '-')}"] == [
        w for _, line in found if line.startswith("vrbench run") for w in shlex.split(line) if "(" in w
    ]
    for _, line in found:
        words = shlex.split(line, comments=False)
        assert words[0] in ("cp", "git", "vrbench")
        assert not {"$(touch", "`id`", "gone)"} & set(words), line


def test_the_commands_follow_the_lineage(made: Made, site: Path) -> None:
    row = next(row for row in table_of(made.root).rows if row.region.removed_share and row.family == "tiny")
    text = Page((site / pages.submission_page("made", row)).read_text()).text
    folder = f"leaderboards/made/submissions/{row.org}__{row.name}/{row.revision}"
    run = "vrbench run --ckpt checkpoints/tiny-region-3-pruned --tasks made_mme,made_words,made_facts,made_pydoc"
    steps = [
        "git checkout ",
        "vrbench prune checkpoints/tiny-region-3 --layers 10-11 ",
        f"{run} --dtype float32",
        "git checkout -",
        f"vrbench leaderboard validate {folder}",
        f"vrbench compare {folder} --baseline leaderboards/made/submissions/maker__tiny-full/",
    ]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)
    assert "cp leaderboards" not in text


def test_a_recipe_is_kept_before_the_code_goes_back_to_where_it_is_not(made: Made, site: Path) -> None:
    row = next(row for row in table_of(made.root).rows if not row.region.removed_share and not row.is_baseline)
    text = Page((site / pages.submission_page("made", row)).read_text()).text
    folder = f"leaderboards/made/submissions/{row.org}__{row.name}/{row.revision}"
    steps = [f"cp {folder}/recipe.yaml recipe.yaml", "git checkout ", "vrbench train recipe.yaml", "git checkout -"]
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def test_what_does_not_belong_together_is_told_at_once(copied: Path, made: Made, tmp_path: Path) -> None:
    folders = sorted((copied / "made" / SUBMISSIONS).glob("lab*/*"))
    shutil.rmtree(folders[0])
    (folders[1] / "run.json").write_text((folders[1] / "run.json").read_text() + " ")
    folders[2].rename(folders[2].with_name("0" * 16))
    with pytest.raises(MultipleErrors) as error:
        build(copied, tmp_path / "site", made.tasks)
    told = str(error.value)
    assert "which was not submitted" in told and "its sha256 differs" in told and "has no row" in told
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("spoilt", ["{", '{"schema_version": 1}', "[]"])
def test_a_leaderboard_json_that_cannot_be_read_is_told_in_a_sentence(
    spoilt: str, copied: Path, made: Made, tmp_path: Path
) -> None:
    (copied / "made" / "leaderboard.json").write_text(spoilt)
    with pytest.raises(VrbenchError, match=r"leaderboard\.json"):
        build(copied, tmp_path / "site", made.tasks)


def test_submissions_without_a_leaderboard_json_are_refused(copied: Path, made: Made, tmp_path: Path) -> None:
    (copied / "made" / "leaderboard.json").unlink()
    with pytest.raises(VrbenchError, match="validate --write"):
        build(copied, tmp_path / "site", made.tasks)


def test_another_folder_is_never_replaced(made: Made, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(VrbenchError, match="holds other files"):
        build(made.root, tmp_path, made.tasks)
    with pytest.raises(VrbenchError, match="is not a folder"):
        build(made.root, tmp_path / "thesis.txt", made.tasks)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_build_that_dies_leaves_the_old_site(
    made: Made, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(shutil.copytree(site, tmp_path / "site"))

    def die(*_: object) -> Iterator[tuple[str, str]]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("vrbench.leaderboard.site.submission_page.submission_pages", die)
    with pytest.raises(KeyboardInterrupt):
        build(made.root, old, made.tasks)
    assert contents(old) == contents(site)
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


def test_a_board_without_submissions_has_a_page_that_says_so(tmp_path: Path) -> None:
    shutil.copytree("leaderboards/paper", tmp_path / "boards" / "paper")
    site = build(tmp_path / "boards", tmp_path / "site").parent
    page = Page((site / "paper" / "index.html").read_text())
    assert "No submission yet." in page.text and "mmlu" in page.text
    assert (site / "paper" / "tasks" / "mmlu.html").is_file()


def test_the_server_shows_the_site_to_this_machine_alone(site: Path) -> None:
    import threading

    with served(site) as (address, server):
        assert server.server_address[0] == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urlopen(address) as answer:
            assert answer.read() == (site / "index.html").read_bytes()
        with pytest.raises(VrbenchError, match="cannot be used"), served(site, server.server_address[1]):
            pass
        server.shutdown()


def test_serve_builds_says_where_and_ends_when_interrupted(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    def interrupted(server: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    serve(made.root, 0, True, told.append, include_path=made.tasks)
    assert told == opened and told[0].startswith("http://127.0.0.1:")
