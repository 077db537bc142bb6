"""A dask cluster in place of local processes: the same files, and the same words about faults."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

pytest.importorskip("distributed")
pytest.importorskip("zarr")

sys.path.insert(0, str(Path(__file__).parent))  # workers find the module by name
import faulty_workers
from distributed import LocalCluster

import knit_cli.cluster
from knit_cli.cluster import DaskWorkers, job_options
from knit_cli.executors import ExecutorError, Limits, without_interrupts
from knitcore.axes import Image
from knitcore.files import read_record, write_image
from knitcore.run_file import Executor, load_run

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals"),
    # of dask's own making: sockets and event loops that it leaves to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def address():
    """A cluster of two workers, as somebody else may have started it."""
    import dask

    knit_cli.cluster._quiet()
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        without_interrupts(),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
    ):
        yield cluster.scheduler_address


def executor(address, folder, **settings):
    told = Executor(kind="dask", address=address, worker_timeout=settings.pop("wait", None))
    return DaskWorkers(faulty_workers.work_watched, told, folder, device="cpu", **settings)


def outcomes(address, folder, tasks, **settings):
    return dict(executor(address, folder, **settings).run(tasks))


def test_one_file_s_fault_costs_that_file_and_is_told_as_on_one_machine(address, tmp_path):
    tries = tmp_path / "tries"
    tasks = ["fine1", f"segfault {tries}", "fine2", "hang", "raise", "memory", "fine3"]
    found = outcomes(
        address, tmp_path, tasks, limits=Limits(timeout=8, memory=300 * 2**20, retries=1)
    )
    assert [found[f"fine{i}"]["status"] for i in (1, 2, 3)] == ["done"] * 3
    crashed = found[tasks[1]]["error"]
    assert tries.read_text() == "xx"
    assert crashed.startswith("crashed: segmentation fault, in faulty_workers.py:")
    assert crashed.endswith("tried 2 times")
    assert found["hang"]["error"].startswith("no end after 8 s, in faulty_workers.py:")
    assert found["raise"]["error"] == "unexpected ValueError: odd thing"
    assert found["memory"]["error"] == "needed over 0.293 GiB (--max-memory)"
    assert not list(tmp_path.glob(".knit/run-*"))


def test_the_memory_dask_would_give_back_at_once_is_kept_for_the_next_step(address, tmp_path):
    """Otherwise a fit takes up to twice as long, for getting the same pages again and again."""
    assert outcomes(address, tmp_path, ["allocator"])["allocator"]["told"] is None


def test_a_lost_worker_is_replaced_and_its_file_done_again(address, tmp_path):
    tries = tmp_path / "tries"
    again = f"kill-watcher-once {tries}"
    notes, cleaned = [], []
    found = outcomes(
        address,
        tmp_path,
        [again, *(f"fine{i}" for i in range(8))],
        on_event=lambda _, task, event: notes.append((task, event.get("note", ""))),
        clean=cleaned.append,
    )
    assert {one["status"] for one in found.values()} == {"done"}
    assert tries.read_text() == "xx"
    assert [task for task, note in notes if "its worker was lost" in note] == [again]
    assert cleaned == [again]


def test_a_file_that_costs_two_workers_is_given_up_and_no_other_is_blamed(address, tmp_path):
    tries = tmp_path / "tries"
    killer = f"kill-watcher {tries}"
    found = outcomes(address, tmp_path, ["fine0", killer, *(f"fine{i}" for i in range(1, 8))])
    assert tries.read_text() == "xx"
    assert found.pop(killer)["error"] == (
        "its worker was lost (killed, or its machine is gone), tried 2 times"
    )
    assert len(found) == 8
    assert {one["status"] for one in found.values()} == {"done"}


def test_only_a_window_of_files_is_with_the_cluster(address, tmp_path):
    read = []

    def tasks():
        for number in range(40):
            read.append(number)
            yield f"fine{number}"

    for over, _ in enumerate(executor(address, tmp_path).run(tasks())):
        assert len(read) <= over + 2 * 2 + 1
    assert len(read) == 40


def test_stopping_drops_what_runs_and_what_waits(address, tmp_path):
    level, began = [0], []

    def on_event(*_):
        level[0] = 1
        began.append(time.monotonic())

    found = outcomes(
        address,
        tmp_path,
        ["slow", "slow", *(f"slow {tmp_path / str(i)}" for i in range(6))],
        on_event=on_event,
        pressed=lambda: level[0],
    )
    assert {one["status"] for one in found.values()} == {"stopped"}
    assert all("worker" in one for one in found.values())  # they said so themselves
    assert len(list(tmp_path.glob("[0-9]"))) <= 1


def test_workers_of_another_version_are_refused(address, tmp_path, monkeypatch):
    monkeypatch.setattr(knit_cli.cluster, "versions", lambda: {"method": "99"})
    (outcome,) = outcomes(address, tmp_path, ["fine"]).values()
    assert outcome["abort"]
    assert "the run is of method 99" in outcome["error"]


def test_no_worker_or_no_scheduler_ends_the_run(tmp_path):
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=50) as empty:
        address = empty.scheduler_address
        with pytest.raises(ExecutorError, match=r"no worker has come within 1 s .*dask worker tcp"):
            outcomes(address, tmp_path, ["fine"], wait=1)

        ending = threading.Thread(target=empty.close)

        def tasks():
            yield "fine"
            ending.start()

        with pytest.raises(ExecutorError, match="scheduler is gone"):
            outcomes(address, tmp_path, tasks(), wait=120)
        ending.join()


@pytest.fixture
def images(folder):
    """Two images and a stack that can be done, and a file that cannot."""
    (folder / "in").mkdir()
    cells = tifffile.imread(folder / "cells.tif")
    for number in range(2):
        tifffile.imwrite(folder / "in" / f"{number}.tif", cells[number:, :])
    (folder / "in" / "bad.tif").write_bytes(b"")
    planes = np.stack([np.roll(cells, 3 * number, 1) for number in range(3)])
    write_image(Image(planes, "TYX"), folder / "in" / "stack.ome.zarr")
    return folder / "in"


def test_the_same_files_as_local_processes_and_none_twice(address, images, knit, monkeypatch):
    """By option, and the rest by a run file; the stack is split over the workers."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    knit("denoise", "in", "-o", "here", "--jobs", 2, code=1)
    (images / "1.tif").rename("1.tif")
    knit("denoise", "in", "-o", "there", "--dask", address, code=1)
    Path("1.tif").rename(images / "1.tif")
    Path("night.yaml").write_text(
        "task: denoise\nsteps: 10\nwidth: 8\npasses: 1\nsource:\n  images: [in]\n"
        f"target:\n  folder: there\nexecutor:\n  kind: dask\n  address: {address}\n"
    )
    said = knit("run", "night.yaml", code=1)
    assert "done 1 · skipped 2 · failed 1" in said.stderr
    assert "bad.tif  file is empty" in said.stderr
    assert contents("here") == contents("there")
    assert len([name for name in contents("there") if name.endswith(".tif")]) == 2
    assert read_record("there/stack_denoised.ome.zarr.knit.json")["parts"] == 3
    assert "parts" not in read_record("here/stack_denoised.ome.zarr.knit.json")
    assert len(Path("there/knit-report.jsonl").read_text().splitlines()) == 3 + 2


def contents(folder):
    """Bytes of all results below a folder."""
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in found
        if ".knit" not in str(path.relative_to(folder)) and path.name != "knit-report.jsonl"
    }


def test_a_scheduler_that_does_not_answer_is_told_and_nothing_begun(images, knit, monkeypatch):
    monkeypatch.setattr(knit_cli.cluster, "REACH", 0.5)
    said = knit("denoise", "in", "-o", "out", "--dask", "tcp://127.0.0.1:9", code=2)
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in said.stderr
    assert "no dask scheduler answers at nonsense" in (
        knit("denoise", "in", "-o", "out", "--dask", "nonsense:x:y", code=2).stderr
    ).replace("nonsense:x:y", "nonsense")
    assert not Path("out").exists()


def test_without_dask_it_is_told_how_to_get_it(images, knit, monkeypatch):
    monkeypatch.setattr(knit_cli.cluster, "find_spec", lambda name: None)
    said = knit("denoise", "in", "-o", "out", "--dask-local", 2, code=2)
    assert "pip install 'napari-knitworks[cluster]'" in said.stderr
    said = knit("denoise", "in", "-o", "out", "--dask-local", 2, "--dask", "tcp://a:1", code=2)
    assert "give one" in said.stderr


def test_ctrl_c_ends_a_cluster_of_this_machine_quietly(images):
    command = [sys.executable, "-m", "knit_cli", "denoise", "in", "-o", "out", "--dask-local", "2"]
    command += ["--method", "knitwork", "--steps", "100000", "--yes", "--events", "json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        for line in run.stdout:
            if '"progress"' in line:
                break
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to everybody
        _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "stopped" in said
    assert "Traceback" not in said
    assert "resource_tracker" not in said
    assert not list(Path("out").glob(".*.part"))


QUEUE = """\
task: denoise
executor:
  kind: {kind}
  workers: 20
  cores: 4
  memory: 16GB
  walltime: "02:00:00"
  queue: gpu
  account: lab
  directives: ['{more}']
  prologue: ['module load cuda']
  options:
    death_timeout: 120
"""


@pytest.mark.parametrize(
    ("kind", "more", "lines"),
    [
        (
            "slurm",
            "--gres=gpu:1",
            [
                "#SBATCH -p gpu",
                "#SBATCH -A lab",
                "#SBATCH --cpus-per-task=4",
                "#SBATCH --mem=15G",
                "#SBATCH -t 02:00:00",
                "#SBATCH --gres=gpu:1",
            ],
        ),
        (
            "pbs",
            "-l ngpus=1",
            [
                "#PBS -q gpu",
                "#PBS -A lab",
                "#PBS -l select=1:ncpus=4:mem=16gb",
                "#PBS -l walltime=02:00:00",
                "#PBS -l ngpus=1",
            ],
        ),
        (
            "lsf",
            "-gpu num=1",
            ["#BSUB -q gpu", '#BSUB -P "lab"', "#BSUB -n 4", "#BSUB -W 02:00:00"],
        ),
        ("sge", "-pe smp 4", ["#$ -q gpu", "#$ -P lab", "#$ -l h_rt=02:00:00", "#$ -pe smp 4"]),
    ],
)
def test_a_job_asks_the_queue_for_what_the_run_file_says(tmp_path, kind, more, lines):
    import dask_jobqueue

    told = tmp_path / "run.yaml"
    told.write_text(QUEUE.format(kind=kind, more=more))
    settings = load_run(told).executor
    options = job_options(settings, tmp_path / "jobs")
    if kind == "lsf":
        options["lsf_units"] = "mb"  # else asked of the queue, which is not here
    name = knit_cli.cluster.QUEUES[kind][0]
    with getattr(dask_jobqueue, name)(**options) as cluster:
        script = cluster.job_script()
    for line in lines:
        assert line in script.splitlines()
    assert "module load cuda" in script
    assert "--nthreads 1" in script
    assert "--death-timeout 120" in script
    assert f"{tmp_path}/jobs" in script


def test_jobs_of_a_queue_do_the_files_and_are_taken_back(tmp_path, monkeypatch):
    """What SLURM's commands do, in two lines of shell: start a job script, end its processes."""
    commands = {
        "sbatch": f'echo x >> {tmp_path}/jobs; cp "$1" {tmp_path}/script; setsid sh {tmp_path}/script >/dev/null 2>&1 & echo "job $!"',
        "scancel": f'echo x >> {tmp_path}/ended; for job; do kill -TERM -- "-$job"; done',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    told = Executor(
        kind="slurm",
        workers=1,
        memory="1GB",
        walltime="00:10:00",
        interface="lo",
        prologue=[f"export PYTHONPATH='{path}'"],
    )
    executor = DaskWorkers(faulty_workers.work, told, tmp_path / "out", device="cpu")
    found = dict(executor.run([f"fine{i}" for i in range(5)]))
    assert {one["status"] for one in found.values()} == {"done"}
    assert (tmp_path / "jobs").read_text() == "x\n"
    assert (tmp_path / "ended").exists()


def test_run_files_of_the_docs_are_right(tmp_path):
    page = (ROOT / "docs" / "cluster.md").read_text()
    found = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    kinds = []
    for text in found:
        (tmp_path / "run.yaml").write_text(text)
        kinds.append(load_run(tmp_path / "run.yaml").executor.kind)
    assert kinds == ["slurm", "dask"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("kind: slurm\n  workers: 2\n  memory: 4G", "kind slurm needs `walltime`"),
        ("kind: dask", "kind dask needs `address`"),
        ("jobs: 2\n  queue: gpu", "`queue` is for kind: slurm, pbs, lsf, sge; not for processes"),
        ('kind: dask\n  address: "a\\nb"', "must be one line of plain text"),
        ("kind: condor", "`kind`"),
    ],
)
def test_a_wrong_executor_is_told_before_anything_starts(images, knit, told, said):
    Path("night.yaml").write_text(
        f"task: denoise\nsource:\n  images: [in]\ntarget:\n  folder: out\nexecutor:\n  {told}\n"
    )
    assert said in knit("run", "night.yaml", code=2).stderr
    assert not Path("out").exists()


def test_without_a_queue_that_is_told(images, knit):
    Path("night.yaml").write_text(
        "task: denoise\nsource:\n  images: [in]\ntarget:\n  folder: out\nexecutor:\n  kind: slurm\n"
        '  workers: 2\n  memory: 4GB\n  walltime: "01:00:00"\n'
    )
    assert "no sbatch here" in knit("run", "night.yaml", code=2).stderr
    assert not Path("out").exists()
