"""A results folder's report: figures right, bytes the same, what is missing told, nothing trusted in what it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.reporting.test_report import Page
from tests.reproduce.sample_results import ODD, made_folder, made_profile, made_run
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run, save_run
from vrbench.core.schemas import AnswerProvenance
from vrbench.reporting.formatting import interval
from vrbench.reproduce.build import ExperimentRequest, build
from vrbench.reproduce.plan import save_plan
from vrbench.reproduce.report import origins, report_content, write_report
from vrbench.reproduce.results import read_results
from vrbench.reproduce.tables import PUBLISHED
from vrbench.statistics.bootstrap import score

MISSING = "train-top-s1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = made_folder(tmp_path_factory.mktemp("results") / "pocket", without=[MISSING])
    made_profile(made, 0.7)
    write_report(made)
    return made


def page(folder: Path, form: str) -> str:
    return (folder / f"report.{form}").read_text(encoding="utf-8")


def line(folder: Path, start: str) -> list[str]:
    """Cells of the first Markdown row that starts so."""
    found = next(text for text in page(folder, "md").splitlines() if text.startswith(f"| {start}"))
    return [cell.strip().replace("\N{NO-BREAK SPACE}", " ") for cell in found.strip("|").split(" | ")]


def test_figures_are_those_of_the_runs(folder: Path) -> None:
    name, visual, kept, each, sd, text, points, words, seeds = line(folder, "sparse-uniform ")
    scores = {
        (model, seed, task): score("mean", made_run(model, seed).samples[task]).value
        for model in ("full", "region") for seed in (0, 1) for task in ("seen", "read")
    }  # fmt: skip
    own = [100 * scores["region", s, "seen"] / scores["full", s, "seen"] for s in (0, 1)]
    gained = [scores["region", s, "read"] - scores["full", s, "read"] for s in (0, 1)]
    assert name == "sparse-uniform" and seeds == "2"
    assert visual == f"{np.mean([scores['region', s, 'seen'] for s in (0, 1)]):.1f}"
    assert kept.split(" [")[0] == f"{np.mean(own):.1f}"
    assert each == ", ".join(f"{value:.1f}" for value in own)
    assert sd == f"{np.std(own, ddof=1):.1f}"
    assert text == f"{np.mean([scores['region', s, 'read'] for s in (0, 1)]):.1f}"
    assert points.split(" [")[0] == f"{np.mean(gained):+.1f}".replace("-", "\N{MINUS SIGN}")
    assert re.fullmatch(r"\d+\.\d \[.+, .+\]", words)


def test_every_format_shows_the_same_interval(folder: Path) -> None:
    results = read_results(folder)
    row = results.region()
    assert row is not None
    found = results.retention(row, ("seen",))
    assert found is not None and found.ends is not None
    shown = interval(found.value, *found.ends, 1)
    assert shown in page(folder, "html")
    assert shown.replace("\N{MINUS SIGN}", "$-$") in page(folder, "tex")
    assert shown.replace(", ", ",\N{NO-BREAK SPACE}") in page(folder, "md")


def test_the_same_records_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(folder, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("report.*", "plots")))
    program = (
        "import sys; from pathlib import Path; from vrbench.reproduce.report import write_report; "
        "write_report(Path(sys.argv[1])); assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    command = [sys.executable, "-c", program]
    subprocess.run([*command, str(again)], check=True)
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(again)) for file in again.rglob("*") if file.is_file())
    assert {"report.md", "report.html", "report.tex", "plots/strategies.png", "plots/profile.svg"} <= set(names)
    assert [name for name in names if (folder / name).read_bytes() != (again / name).read_bytes()] == []


def test_published_layers_and_guesses_are_told(tmp_path: Path) -> None:
    of = build(ExperimentRequest("layers", "llava-1.5-7b", 1))
    save_plan(of, tmp_path)
    (told,) = [line for line in report_content(read_results(tmp_path))["lead"] if "are published in" in line]
    assert told.startswith("Layers 1,5,9,13,19,23,27,31 (sparse-uniform, 8 layers, region)") and "a guess" in told
    pocket = build(ExperimentRequest("layers", "pocket", 1))
    save_plan(pocket, tmp_path)
    assert not any("a guess" in line for line in report_content(read_results(tmp_path))["lead"])


def test_what_is_missing_is_told(folder: Path) -> None:
    assert line(folder, "top ")[-1] == f"1 of 2; not done: {MISSING}"
    assert line(folder, "top ")[2].endswith("*")  # an interval over items alone
    for form in ("md", "html"):
        assert "one seed: the seed's part is unknown" in page(folder, form).replace("&#39;", "'")
        assert "2 of 28 steps are not done" in page(folder, form)
    assert f"% Not done: {MISSING}" in page(folder, "tex")
    assert f"\n- {MISSING}\n" in page(folder, "md")


def test_where_nothing_published_is_at_hand_it_is_said(folder: Path) -> None:
    sections = page(folder, "md").split("\n## ")
    said = [section.split("\n")[0] for section in sections if "No figures of this table were published" in section]
    assert said == ["Layers removed", "Layers restored"]


def test_a_failed_step_is_named_and_pictures_without_data_are_removed(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "logs").mkdir()
    (copy / "logs" / f"{MISSING}.log").write_text("it died")
    (copy / "profile.json").unlink()
    assert (copy / "plots" / "profile.png").is_file()
    write_report(copy)
    assert f"- {MISSING} (begun, and failed or stopped)\n" in page(copy, "md")
    assert not (copy / "plots" / "profile.png").exists() and (copy / "plots" / "layers.png").is_file()


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    everything = [f"train-{m}-s{s}" for m in ("full", "region", "top", "odd") for s in (0, 1)]
    everything += [f"{k}-{m}-s{s}" for k, m in (("prune", "pruned"), ("prune", "full-pruned")) for s in (0, 1)]
    made = made_folder(tmp_path, without=[*everything, "restore-restored-s0", "restore-restored-s1"])
    written = write_report(made)
    assert [file.name for file in written] == ["report.md", "report.html", "report.tex"]  # no data, no plots
    text = page(made, "md")
    assert text.count("? undecided: no evidence has been measured") == 5
    assert "Not measured: there is no profile.json." in text
    assert "No step is done yet." in text


def test_no_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(VrbenchError, match="no plan in"):
        write_report(tmp_path)


def test_runs_over_other_items_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    run = load_run(copy / "runs" / "run-odd-s0")
    settings = run.record.settings.model_copy(update={"limit": 7})
    save_run(run.path or copy, run.record.model_copy(update={"settings": settings}), run.samples, compressed=True)
    with pytest.raises(VrbenchError, match=r"run-odd-s0: limit 7 against the baseline's 240"):
        write_report(copy)


def test_html_stands_alone_and_escapes(folder: Path) -> None:
    found = Page(page(folder, "html"))
    assert "b" not in found.tags and "script" not in found.tags and "link" not in found.tags
    assert ODD in found.words
    assert all(address.startswith("data:image/svg+xml;base64,") for address in found.addresses)
    assert len(found.addresses) == 2 * found.tags.count("figure") > 8  # each light and dark
    assert "http" not in re.sub(r"base64,[^\"]*", "", page(folder, "html"))


def test_every_picture_is_told_in_words(folder: Path) -> None:
    alts = re.findall(r'<img src="[^"]+" alt="([^"]*)"', page(folder, "html"))
    assert len(alts) == page(folder, "html").count("<img ")
    assert all(re.search(r"\d", alt) and len(alt) > 60 for alt in alts)


def test_markdown_escapes_and_names_its_pictures(folder: Path) -> None:
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    found = Page(reader.render(page(folder, "md")))
    assert "b" not in found.tags and ODD in found.words
    named = re.findall(r"\]\((plots/[a-z-]+\.png)\)$", page(folder, "md"), re.M)
    assert named and all((folder / name).is_file() for name in named)


def test_latex_is_well_formed(folder: Path) -> None:
    text = re.sub(r"(?<!\\)%.*", "", page(folder, "tex"))
    plain = text.replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 10
    assert not re.search(r"(?<!\\)[_#^~]", plain.replace(r"\begin", "").replace(r"\end", ""))
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [row for row in table[1].splitlines() if row.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(table[0]) - 1}


def test_published_figures_stand_apart_and_are_marked(folder: Path) -> None:
    text = page(folder, "html")
    blocks = re.findall(r'<div class="sheet published">(.*?)\n</div>', text, re.S)
    shown = [
        key for key in ("strategies", "layers", "text", "savings") if any(PUBLISHED[key].title in b for b in blocks)
    ]
    assert shown == ["strategies", "layers", "text", "savings"]
    assert all("N: a published reading note of the ACL version, second hand; not measured here" in b for b in blocks)
    rest = re.sub(r'<div class="sheet published">.*?\n</div>', "", text, flags=re.S)
    assert "74.74" not in rest and "74.74" in text
    assert all("sparse-uniform" not in block for block in blocks)


def test_layer_sets_and_how_alike_they_are(folder: Path) -> None:
    start = page(folder, "md").index("the tuned layers")
    rows = {
        r.split("|")[1].strip(): [c.strip() for c in r.split("|")[2:5]]
        for r in page(folder, "md")[start:].splitlines()[2:7]
        if "|" in r
    }
    assert rows["sparse-uniform"] == ["0,3,7,11,15,18,22,26", "1.00", "1.00"]
    assert rows["top"] == ["22-29", "-", "0.14"]  # one seed; 22 and 26 in common of 14


def test_what_it_cost_is_told(folder: Path) -> None:
    text = page(folder, "md")
    assert "Spent on a card: 21.5 min of steps in all" in text
    assert "vrbench 0.1 (0123456), torch 2.11.0, Python 3.12.3, Linux" in text
    assert "Peak GPU memory of a step: 2.0 GiB." in text


def test_the_points_of_a_line_rest_on_the_same_seeds(tmp_path: Path) -> None:
    rows = read_results(made_folder(tmp_path, without=["run-pruned-s1"])).rows["pruning"]
    region = [row for row in rows if row.series == "region, by angular"]
    assert [row.x for row in region] == [0, 3]
    assert [tuple(row.pairs) for row in region] == [(0,), (0,)]  # the region itself was measured with both seeds
    assert {row.missing[1] for row in region} == {"run-pruned-s1"}
    assert {tuple(row.pairs) for row in rows if row.series == "full, by angular"} == {(0, 1)}
    none_whole = read_results(made_folder(tmp_path / "b", without=["run-pruned-s0", "run-pruned-s1"])).rows["pruning"]
    assert [tuple(r.pairs) for r in none_whole if r.series == "region, by angular"] == [(0, 1), ()]


def test_runs_of_other_code_and_stored_answers_are_told(folder: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "mixed"))
    assert not any("versions of vrbench's code" in text for text in origins(read_results(place)))
    made = load_run(run := place / "runs/run-region-s0")
    when = "2026-01-01T10:00:00+00:00"
    by = AnswerProvenance(requests=3, reused=True, first=when, last=when, vrbench="0.1", packages={}, device="a card")
    changed = tuple(result.model_copy(update={"code": {"decoding": 2}}) for result in made.record.results)
    provenance = made.record.provenance.model_copy(update={"answered": (by,)})
    update = {"results": changed, "provenance": provenance}
    save_run(run, made.record.model_copy(update=update), made.samples, compressed=True)
    said = list(origins(read_results(place)))
    assert "Not all runs were answered and scored by the same versions of vrbench's code: seen, read, words." in said
    assert any(text.startswith("run-region-s0: 3 of 3 answers were stored before this run") for text in said)
