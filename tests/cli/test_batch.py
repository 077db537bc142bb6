"""Folders, resume, locks, the report and run files, through the command as a process of its own."""

import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import PIL.Image
import pytest
import tifffile

from knit_cli.work import file_seed
from knitcore.errors import RecipeError
from knitcore.recipe import make_recipe
from knitcore.run_file import RunFile, load_run, save_run

ROOT = Path(__file__).resolve().parents[2]
# no fit at all: what is tested is what happens around it
QUICK = ("--mask", "value=0", "--start", "harmonic", "--knit-depth", "99")
ENV = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
    "OMP_NUM_THREADS": "1",
}
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")


def knit(*words, code=0, **settings):
    command = [sys.executable, "-m", "knit_cli", *map(os.fsencode, map(str, words))]
    settings.setdefault("stdin", subprocess.DEVNULL)
    said = subprocess.run(command, env=ENV, capture_output=True, **settings)
    said.out, said.err = (
        os.fsdecode(text).replace("\r", "") for text in (said.stdout, said.stderr)
    )
    assert said.returncode == code, said.err + said.out
    assert "Traceback" not in said.err
    return said


def image(path, seed=0):
    values = np.random.default_rng(seed).integers(1, 200, (16, 20), dtype=np.uint8)
    values[4:7, 5:9] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        PIL.Image.fromarray(values).save(path)


@pytest.fixture
def night(tmp_path, monkeypatch):
    """Five good images, one in a sub-folder, one with a name of all sorts; an empty file."""
    for number in range(3):
        image(tmp_path / "in" / f"{number}.tif", number)
    image(tmp_path / "in" / "day 2" / "d.tif", 3)
    image(tmp_path / "in" / "naïve\nµ 'x' -.tif", 4)
    (tmp_path / "in" / "empty.tif").touch()
    (tmp_path / "in" / ".hidden.tif").touch()
    (tmp_path / "in" / "Thumbs.db").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder):
    """Hash of each image below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.tif")
    }


def report(folder):
    return [json.loads(line) for line in (folder / "knit-report.jsonl").read_text().splitlines()]


def test_a_night_its_report_and_its_second_start(night):
    before = results(night / "in")
    said = knit("inpaint", "in", "-r", "-o", "out", *QUICK, code=1)
    assert "done 5 · skipped 0 · failed 1 · not started 0" in said.err
    assert "empty.tif" in said.err.split("done 5")[1]
    again = shlex.join(["knit", "inpaint", "--retry-failed", "in", "-r", "-o", "out", *QUICK])
    assert said.err.rstrip().endswith(f"To repeat only the failed: {again}")
    assert set(results(night / "out")) >= {"0_inpainted.tif", "day 2/d_inpainted.tif"}
    lines = {line["file"]: line for line in report(night / "out")}
    assert len(lines) == 6
    one = lines["0.tif"]
    assert (one["state"], one["output"]) == ("done", "0_inpainted.tif")
    assert one["sha256"]["output"] == results(night / "out")["0_inpainted.tif"]
    assert one["sha256"]["input"] == before["0.tif"]
    assert one["bytes"] == (night / "out" / "0_inpainted.tif").stat().st_size
    assert one["peak_memory"] > 0 < one["seconds"]
    assert lines["empty.tif"]["reason"] == "file is empty (0 bytes)"
    assert str(night) not in json.dumps(lines)  # no places outside the run

    stamps = {p: p.stat().st_mtime_ns for p in (night / "out").rglob("*.tif*")}
    os.utime(night / "in" / "0.tif", (0, 0))  # clocks and time stamps do not count
    said = knit("inpaint", "in", "-r", "-o", "out", *QUICK, "--retry-failed", code=1)
    assert "done 0 · skipped 0 · failed 1 · not started 5" in said.err
    image(night / "in" / "empty.tif", 9)
    said = knit("inpaint", "in", "-r", "-o", "out", *QUICK, "--verify")
    assert "done 1 · skipped 5 · failed 0 · not started 0" in said.err
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())

    # another recipe, or an output changed by hand: not ours to replace
    said = knit("inpaint", "in", "-o", "out", *QUICK, "--seed", 4, code=1)
    assert "exists, made from another input, mask or recipe" in said.err
    (night / "out" / "1_inpainted.tif").write_bytes(b"mine")
    said = knit("inpaint", "in", "-o", "out", *QUICK, code=1)
    assert "1_inpainted.tif: was changed since it was written" in said.err
    assert (night / "out" / "1_inpainted.tif").read_bytes() == b"mine"
    (night / "out" / "1_inpainted.tif").unlink()
    assert "done 1 · skipped" in knit("inpaint", "in", "-o", "out", *QUICK).err
    knit("inpaint", "in", "-o", "out", *QUICK, "--overwrite")
    assert {k: v for k, v in results(night / "in").items() if k != "empty.tif"} == {
        k: v for k, v in before.items() if k != "empty.tif"
    }


@posix
def test_killed_at_any_moment_a_new_start_ends_with_the_same_files(night):
    """Twenty kills at random moments, and two as soon as a file is half written."""
    (night / "in" / "empty.tif").unlink()
    for number in range(5, 12):
        image(night / "in" / f"{number}.tif", number)
    words = ["inpaint", "in", "-r", "-o", "out", *QUICK, "--save-std"]
    knit(*words)
    wanted = results(night / "out")
    chance, out, hits = random.Random(0), night / "out", 0
    shutil.rmtree(out)
    for number in range(22):
        if number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "knit_cli", *words, "--events", "json"]
        with subprocess.Popen(
            command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            if number < 20:
                # most of a run is start-up: only some of the kills are to fall there
                awaited = b'"start"' if chance.random() < 0.25 else b'"file"'
                next((line for line in process.stdout if awaited in line), None)
                time.sleep(chance.uniform(0, 0.3))
            else:
                while not half_written(out) and process.poll() is None:
                    pass
            process.kill()
        hits += bool(half_written(out))
        whole = {k: v for k, v in results(out).items() if not Path(k).name.startswith(".")}
        assert whole.items() <= wanted.items()
    assert hits > 0
    print(f"{hits} of 22 kills left a file half written")
    knit(*words)
    assert results(out) == wanted
    assert not list(out.rglob("*.part"))
    states = {line["output"]: line["state"] for line in report(out)}
    assert set(states.values()) == {"done"}
    assert len(states) == 12


def half_written(folder):
    return [path for path in folder.rglob("*.part") if not path.name.startswith(".knit.")]


def test_a_run_killed_between_its_moves_is_finished_by_the_next(night):
    """All files of a job are written before the first is moved; the record is moved last."""
    words = ["inpaint", "in/0.tif", "in/1.tif", "-o", "out", *QUICK, "--save-std"]
    knit(*words)
    out, wanted = night / "out", results(night / "out")
    for names in (("0_inpainted.tif.knit.json",), ("0_inpainted.tif", "0_inpainted.tif.knit.json")):
        for name in names:
            (out / name).rename(out / f".{name}.0123abcd.part")
        said = knit(*words)
        assert "done 0 · skipped 2" in said.err
        assert results(out) == wanted
    # a torn record: nothing had been moved; all of it goes
    (out / "0_inpainted.tif.knit.json").unlink()
    (out / "0_inpainted.tif").rename(out / ".0_inpainted.tif.0123abcd.part")
    (out / "0_inpainted_std.tif").unlink()
    (out / ".0_inpainted.tif.knit.json.0123abcd.part").write_text('{"record_ver')
    assert "done 1 · skipped 1" in knit(*words).err
    assert results(out) == wanted


def test_order_workers_and_shards_change_no_pixel(night):
    (night / "in" / "empty.tif").unlink()
    words = ("--steps", "3", "--ensemble", "1", "--width", "8", "--frequencies", "8")
    words += ("--mask", "value=0", "--knit-depth", "0")
    knit("inpaint", "in", "-o", "a", *words)
    knit("inpaint", "in", "-o", "b", *words, "--jobs", 2)
    for shard in ("2/2", "1/2"):
        knit("inpaint", "in", "-o", "c", *words, "--shard", shard)
    assert len(results(night / "a")) == 4
    assert results(night / "a") == results(night / "b") == results(night / "c")
    # the record repeats its file alone
    knit("inpaint", "in/1.tif", "--recipe", "a/1_inpainted.tif.knit.json", "-o", "one.tif")
    assert (night / "one.tif").read_bytes() == (night / "a" / "1_inpainted.tif").read_bytes()
    assert file_seed(0, "a.tif") != file_seed(1, "a.tif") != file_seed(1, "b.tif")


def test_patterns_and_nothing_found(night):
    rows = knit(
        "inpaint", "in", "-r", "--include", "*d.tif", "--include", "[01].tif", "--exclude", "0*",
        *QUICK, "-o", "out", "--dry-run",
    ).out.splitlines()  # fmt: skip
    assert [row.split("  ")[0] for row in rows] == ["1.tif", "day 2/d.tif"]
    assert all("would run" in row and "about" in row for row in rows)
    said = knit("inpaint", "in", "--include", "*.bmp", *QUICK, "-o", "out", code=2)
    assert "no image in the folder in (looked for *.bmp)" in said.err
    assert not (night / "out").exists()


def test_results_in_the_input_folder_are_no_inputs(night):
    (night / "in" / "empty.tif").unlink()
    for out in ("in", "in/results"):
        knit("inpaint", "in", "-r", "-o", out, *QUICK)
        said = knit("inpaint", "in", "-r", "-o", out, *QUICK)
        assert "done 0 · skipped 5 · failed 0" in said.err
    names = [path.name for path in (night / "in").rglob("*.tif")]
    assert not [name for name in names if "_inpainted_inpainted" in name]


@posix
def test_links(night):
    (night / "in" / "loop").symlink_to(night / "in", target_is_directory=True)
    (night / "in" / "dangling.tif").symlink_to("nowhere.tif")
    (night / "in" / "link.tif").symlink_to("0.tif")
    os.link(night / "in" / "1.tif", night / "hard.tif")
    said = knit("inpaint", "in", "-r", "-o", "out", *QUICK, code=1)
    assert "done 5 · skipped 0 · failed 2" in said.err  # a link to 0.tif is 0.tif
    assert "dangling.tif  cannot read: no such file or directory" in said.err
    knit("inpaint", "in/1.tif", "-o", "hard.tif", "--overwrite", *QUICK, code=2)


def test_outputs_of_one_name_are_refused_before_any_fit(night):
    image(night / "two" / "a.png")
    PIL.Image.open(night / "two" / "a.png").save(night / "two" / "a.jpg")
    said = knit("inpaint", "two", "-o", "out", *QUICK, code=2)
    text = " ".join(said.err.split())
    assert "two/a.jpg and two/a.png would both be written to" in text
    assert "--keep-extension" in text
    assert not (night / "out").exists()
    knit("inpaint", "two", "-o", "out", *QUICK, "--keep-extension")
    found = {path.name for path in (night / "out").glob("*.png")}
    assert found == {"a.jpg_inpainted.png", "a.png_inpainted.png"}


def test_masks_by_suffix_and_by_sub_folder(night):
    for place in ("in/day 2/d_hole.png", "masks/day 2/d.png"):
        path = night / place
        path.parent.mkdir(parents=True, exist_ok=True)
        hole = np.zeros((16, 20), np.uint8)
        hole[3, 3] = 1
        PIL.Image.fromarray(hole).save(path)
    quick = QUICK[2:]
    for mask, out in (("suffix:_hole", "a"), ("masks", "b")):
        said = knit("inpaint", "in", "-r", "--include", "d.tif", "--mask", mask, "-o", out, *quick)
        assert "1 pixel filled" in said.out
        assert list(results(night / out)) == ["day 2/d_inpainted.tif"]


def test_names_on_stdin_and_a_result_on_stdout(night):
    names = b"\0".join(os.fsencode(night / "in" / n) for n in ("0.tif", "naïve\nµ 'x' -.tif"))
    said = knit("inpaint", "-", "-o", "out", *QUICK, input=names, stdin=None)
    assert len(results(night / "out")) == 2
    assert said.out.count("\n") == 2
    said = knit("inpaint", "in/0.tif", "-o", "-", "--format", "png", *QUICK)
    assert said.stdout.startswith(b"\x89PNG")
    knit("inpaint", "in/0.tif", "-o", "out/0.tif", *QUICK)
    assert "no names on stdin" in knit("inpaint", "-", *QUICK, code=2).err
    assert "give one file" in knit("inpaint", "in", "-o", "-", *QUICK, code=2).err


@posix
def test_names_that_are_no_text_and_names_too_long(night):
    try:
        image(night / "odd" / os.fsdecode(b"\xff\xfe.tif"))
    except OSError:
        pytest.skip("this disk takes only UTF-8")
    image(night / "odd" / ("x" * 251 + ".tif"))
    said = knit("inpaint", "odd", "-o", "out", *QUICK, code=1)
    assert "done 1 · skipped 0 · failed 1" in said.err
    assert "longer than 255 bytes" in said.err
    line = next(one for one in report(night / "out") if one["state"] == "done")
    assert os.fsencode(line["file"]) == b"\xff\xfe.tif"
    assert line["file_base64"] == "//4udGlm"


@posix
def test_two_runs_exclude_each_other(night):
    long = ("inpaint", "in", "--mask", "value=0", "--steps", "1000000", "--knit-depth", "0")
    command = [sys.executable, "-m", "knit_cli", *long, "-o", "out", "--events", "json"]
    with subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as first:
        first.stdout.readline()
        for more in ((), ("--shard", "1/2")):
            said = knit("inpaint", "in", "-o", "out", *QUICK, *more, code=3)
            assert f"out: in use by pid {first.pid} on host" in said.err
        for line in first.stdout:
            if json.loads(line)["event"] == "progress":
                break
        # the first Ctrl-C: running files have a second
        first.send_signal(signal.SIGINT)
        assert first.wait(30) == 130
    assert results(night / "out") == {}
    assert not list((night / "out").rglob("*.part"))
    knit("inpaint", "in/0.tif", "in/1.tif", "-o", "out", *QUICK)  # the lock went with its process


@posix
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_once_and_twice(night, times):
    """As a terminal sends it: to the whole group, workers and all."""
    import psutil

    words = ("inpaint", "in", "--mask", "value=0", "--steps", "1000000", "--knit-depth", "0")
    command = [sys.executable, "-m", "knit_cli", *words, "-o", "out", "--events", "json"]
    with subprocess.Popen(
        command,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        next(line for line in process.stdout if b'"progress"' in line)
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        told = next(line for line in process.stderr if line.startswith(b"Note"))
        assert told.rstrip().endswith(
            b"stopping: 1 running image may end within a second; Ctrl-C again: at once"
        )
        if times == 2:
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        end = json.loads(process.stdout.read().splitlines()[-1])
        shown = process.stderr.read().decode()
    assert (end["event"], end["exit"], end["done"], end["not started"]) == ("end", 130, 0, 5)
    assert "To go on: the same command again" in shown
    assert "Traceback" not in shown
    assert not psutil.wait_procs(children, timeout=30)[1]
    assert results(night / "out") == {}
    assert not list((night / "out").rglob("*.part"))


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_terminated_batch_leaves_whole_files_only(night, number, code):
    words = ("inpaint", "in", "--mask", "value=0", "--steps", "1000000", "--knit-depth", "0")
    command = [sys.executable, "-m", "knit_cli", *words, "-o", "out", "--events", "json"]
    with subprocess.Popen(
        command,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    ) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "progress":
                break
        process.send_signal(number)
        assert process.wait(30) == code
        assert "not started 5" in process.stderr.read().decode()
    assert results(night / "out") == {}


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_keeps_what_is_done_and_leaves_no_part(night):
    disk = night / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        (disk / "ballast").write_bytes(b"x" * 150_000)
        values = np.ones((150, 150), np.uint8)
        values[3:5, 3:5] = 0
        tifffile.imwrite(night / "in" / "z.tif", values)
        (night / "in" / "empty.tif").unlink()
        said = knit("inpaint", "in", "-o", "disk/out", *QUICK, code=3)
        assert "disk full" in said.err
        assert not list(disk.rglob("*.part"))
        (disk / "ballast").unlink()
        knit("inpaint", "in", "-o", "disk/out", *QUICK)
        assert len(results(disk / "out")) == 5
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_events_and_log(night):
    said = knit(
        "inpaint", "in", "-o", "out", *QUICK, "--events", "json", "--log", "a.log", "-q", code=1
    )
    events = [json.loads(line) for line in said.out.splitlines()]
    assert events[0] == {"event": "start", "task": "inpaint", "files": 5}
    assert events[-1]["event"] == "end"
    assert (events[-1]["exit"], events[-1]["done"], events[-1]["failed"]) == (1, 4, 1)
    files = [line for line in events if line["event"] == "file"]
    assert files == report(night / "out")
    log = (night / "a.log").read_text()
    assert "Error: in/empty.tif: file is empty (0 bytes)" in log
    assert "done 4 · skipped 0 · failed 1" in log


def test_a_torn_line_of_the_report_is_passed_over(night):
    (night / "in" / "empty.tif").unlink()
    knit("inpaint", "in", "-o", "out", *QUICK)
    path = night / "out" / "knit-report.jsonl"
    path.write_bytes(path.read_bytes() + b'{"event": "file", "out')
    image(night / "in" / "more.tif", 8)
    assert "done 1 · skipped 4" in knit("inpaint", "in", "-o", "out", *QUICK).err
    assert json.loads(path.read_text().splitlines()[-1])["file"] == "more.tif"


# Run files


def test_a_run_file_does_the_night(night):
    recipe = make_recipe("inpaint", start="harmonic", knit_depth=99)
    run = RunFile(recipe=recipe)
    run = run.model_copy(
        update={
            "source": run.source.model_copy(
                update={"images": ["in"], "exclude": ["empty*"], "mask": "value=0"}
            ),
            "target": run.target.model_copy(update={"folder": "out", "save": ["std"]}),
        }
    )
    (night / "plan").mkdir()
    save_run(run, night / "night.yaml")
    said = knit("run", "night.yaml")
    assert "done 4 · skipped 0 · failed 0" in said.err
    assert (night / "out" / "0_inpainted_std.tif").exists()
    assert "done 0 · skipped 4" in knit("run", night / "night.yaml", cwd=night / "plan").err
    assert knit("recipe", "check", "night.yaml").out == "night.yaml: valid\n"
    knit("run", "night.yaml", "in/0.tif", "-o", "other")
    assert (
        list(results(night / "other")) == ["0_inpainted.tif", "0_inpainted_std.tif"]
        or len(results(night / "other")) == 2
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("target:\n  folder: ../out", "`target.folder`: ../out leads out of the file's folder"),
        ("source:\n  images: [/etc]", "`source.images`: /etc leads out"),
        ("source:\n  images: [link]", "`source.images`: link leads out"),
        ("source:\n  mask: ../m.png", "`source.mask`: ../m.png leads out"),
        ("executor:\n  jobz: 2", "line 3: in `executor`: unknown key `jobz`; did you mean `jobs`?"),
        ("source: 5\nexecutor:\n  jobz: 2", "line 2: in `source`: must hold `name: value` lines\n"),
        ("source: 5\nexecutor:\n  jobz: 2", "line 4: in `executor`: unknown key `jobz`"),
        ("executor:\n  jobs: true", "in `executor`: `jobs`"),
        ("source: 3", "in `source`"),
    ],
)
def test_a_wrong_run_file_starts_nothing(tmp_path, section, message):
    folder = tmp_path / "runs"
    folder.mkdir()
    if sys.platform != "win32":
        (folder / "link").symlink_to(tmp_path)
    (folder / "r.yaml").write_text(f"task: denoise\n{section}\n")
    with pytest.raises(RecipeError) as caught:
        load_run(folder / "r.yaml")
    assert message in str(caught.value)
    if "leads out" in message:
        load_run(folder / "r.yaml", allow_outside=True)


def test_the_time_told_beforehand_follows_holes_pixels_and_what_was_measured(night):
    def planned(*words):
        said = knit(*words, "-o", "out", "--dry-run", "--json")
        rows = [json.loads(line) for line in said.out.splitlines()]
        return {row["file"]: row["seconds"] for row in rows}, said.err

    values = np.full((128, 128), 90, np.uint8)
    values[40:42, 20:90] = 0  # shallow: only kriged
    tifffile.imwrite(night / "in" / "line.tif", values)
    values[40:80, 40:80] = 0  # deep: knitted
    tifffile.imwrite(night / "in" / "block.tif", values)
    words = ("inpaint", "in", "--include", "[lb]*", "--mask", "value=0")
    told, basis = planned(*words)
    assert told["block.tif"] > 10 * told["line.tif"] > 0
    assert planned(*words, "--ensemble", 8)[0]["block.tif"] > 1.5 * told["block.tif"]
    assert "a guess until files have been done here" in basis
    large = np.pad(values, 256, mode="symmetric")
    np.save(night / "in" / "large.npy", large)
    denoise = ("denoise", "in", "--include", "*l*.*")
    told, _ = planned(*denoise)
    assert 8 < told["large.npy"] / told["line.tif"] < large.size / values.size

    # from then on what files took here counts, whatever the guess was
    knit(*words[:3], "line.tif", *words[4:], "-o", "out")
    path = night / "out" / "knit-report.jsonl"
    line = json.loads(path.read_text()) | {"seconds": 12.5}
    path.write_text(json.dumps(line) + "\n")
    (night / "out" / "line_inpainted.tif").unlink()
    (night / "out" / "line_inpainted.tif.knit.json").unlink()
    told, basis = planned(*words)
    assert told["line.tif"] == pytest.approx(12.5)
    assert "as measured here" in basis


def test_what_would_take_weeks_is_asked_about(night):
    words = ("inpaint", "in", "-o", "out", "--mask", "value=0", "--steps", "1000000")
    said = knit(*words, "--ensemble", 64, "--max-time", "1", code=2)
    assert "this would take about" in said.err
    assert not (night / "out").exists()


@posix
def test_a_worker_killed_from_outside_costs_nothing(night):
    import psutil

    (night / "in" / "empty.tif").unlink()
    words = ("inpaint", "in", "--mask", "value=0", "--steps", "150", "--knit-depth", "0")
    command = [sys.executable, "-m", "knit_cli", *words, "-o", "out", "--events", "json"]
    with subprocess.Popen(
        command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for line in process.stdout:
            if json.loads(line)["event"] == "progress":
                break
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        rest = process.stdout.read().decode().splitlines()
        assert process.wait(60) == 0, process.stderr.read()
    assert json.loads(rest[-1])["done"] == 4


# found by trying to break the promises by hand


def test_a_log_is_never_written_into_a_picture_or_a_recipe(night):
    before = results(night / "in")
    (night / "run.yaml").write_text("seed: 3\n")
    for victim in ("in/0.tif", "run.yaml"):
        said = knit("inpaint", "in", "-o", "out", *QUICK, "--log", victim, code=2)
        assert f"--log {victim}: is no log of knit's" in said.err
    assert results(night / "in") == before
    assert (night / "run.yaml").read_text() == "seed: 3\n"
    for times in (1, 2):  # one of ours is added to
        knit("inpaint", "in/0.tif", "-o", "out.tif", *QUICK, "--log", "night.log")
        assert len((night / "night.log").read_text().splitlines()) == times


@posix
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="for root to give a right away")
def test_a_folder_that_cannot_be_read_is_a_failure_of_its_own(night):
    closed = night / "in" / "closed"
    image(closed / "x.tif")
    closed.chmod(0)
    words = ["inpaint", "in", "-r", "-o", "out", *QUICK]
    command = [sys.executable, "-m"]
    if os.geteuid() == 0:  # who may read anything, unless the right is given away
        rights = "-dac_override,-dac_read_search,-fowner"
        command = ["setpriv", f"--bounding-set={rights}", "--inh-caps=-all", *command]
    try:
        said = subprocess.run([*command, "knit_cli", *words], env=ENV, capture_output=True)
    finally:
        closed.chmod(0o755)
    assert said.returncode == 1
    assert b"done 5" in said.stderr
    told = {line["file"]: line for line in report(night / "out")}["closed"]
    assert told["state"] == "failed"
    assert "permission denied" in told["reason"]


def test_a_name_that_no_file_can_have_costs_itself_only(night):
    long = "a" * 300 + ".tif"
    said = knit(
        "inpaint",
        "-",
        "-o",
        "out",
        *QUICK,
        code=1,
        stdin=None,
        input=f"in/0.tif\n{long}\n".encode(),
    )
    assert "done 1 · skipped 0 · failed 1" in said.err
    assert "unexpected" not in said.err
    assert "the same names on stdin" in said.err
    assert "no such file" in knit("inpaint", "in", "--mask", long, "-o", "out", code=2).err


@posix
def test_a_recipe_without_an_end_is_refused(night):
    os.mkfifo("pipe.yaml")
    for endless in ("pipe.yaml", "/dev/zero"):
        assert "not a file" in knit("recipe", "check", endless, code=2, timeout=60).err
    with open("large.yaml", "wb") as handle:
        handle.truncate(2**34)
    assert "too large for a recipe" in knit("recipe", "check", "large.yaml", code=2).err
    Path("half.yaml").write_text('source: {images: ["a\\ud800"]}\n')
    assert "half a character" in knit("recipe", "check", "half.yaml", code=2).err
    Path("home.yaml").write_text("target: {folder: ~/there}\n")
    assert "~ stands for no folder" in knit("recipe", "check", "home.yaml", code=2).err


def test_a_single_file_tells_its_events_and_heeds_the_lock(night):
    words = ("inpaint", "in/0.tif", *QUICK, "-o", "out/0.tif", "--events", "json")
    (night / "out").mkdir()
    events = [json.loads(line) for line in knit(*words).out.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["start", "end"]
    told = next(one for one in events if one["event"] == "file")
    assert (told["state"], told["output"], events[-1]["exit"]) == ("done", "0.tif", 0)
    states = [json.loads(line).get("state") for line in knit(*words).out.splitlines()]
    assert "skipped" in states
    (night / "out" / ".knit").mkdir()
    with filelock.FileLock(night / "out" / ".knit" / "lock"):
        assert "in use by" in knit(*words, code=3).err


def test_words_that_contradict_each_other_are_not_dropped(night):
    said = knit("inpaint", "in/0.tif", *QUICK, "-o", "a.tif", "--format", "png", code=2)
    assert "-o a.tif and --format png contradict each other" in said.err
    said = knit("inpaint", "in/0.tif", *QUICK, "-o", "-", "--save-std", code=2)
    assert "leave out --save-std" in said.err
    for more in ((), ("--dry-run",)):
        said = knit("inpaint", "in", *QUICK, "-o", "p/q/r", *more, code=3)
        assert "no such file or directory: p; make that folder first" in said.err
    image(night / "more" / "0.tif")
    said = knit("inpaint", "in", "more", *QUICK, "-o", "out", "--keep-extension", code=2)
    assert "Use --keep-extension" not in said.err
