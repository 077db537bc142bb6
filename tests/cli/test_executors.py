"""Worker processes: one bad file, crash, hang or hunger costs that file and no other."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from knit_cli.executors import (
    ExecutorError,
    Limits,
    Processes,
    Together,
    _guard,
    worker_environments,
)

sys.path.insert(0, str(Path(__file__).parent))  # workers find the module by name
import faulty_workers

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def outcomes(folder, tasks, count=1, **settings):
    executor = Processes(faulty_workers.work, count, scratch=folder, **settings)
    return dict(executor.run(tasks))


def test_one_worker_does_many_files(tmp_path):
    found = outcomes(tmp_path, [f"fine{i}" for i in range(20)])
    assert [one["status"] for one in found.values()] == ["done"] * 20
    assert len({one["pid"] for one in found.values()}) == 1
    assert os.getpid() not in {one["pid"] for one in found.values()}
    assert all(one["peak_memory"] > 2**20 for one in found.values())
    assert list(tmp_path.iterdir()) == []


def test_a_crash_is_tried_again_and_told_and_costs_no_other_file(tmp_path):
    tries = tmp_path / "tries"
    tasks = ["fine1", f"segfault {tries}", "fine2", "fine3"]
    found = outcomes(tmp_path, tasks)
    assert tries.read_text() == "xx"
    crashed = found[tasks[1]]
    assert crashed["status"] == "failed"
    assert crashed["error"].startswith("crashed: segmentation fault, in faulty_workers.py:")
    assert crashed["error"].endswith("tried 2 times")
    assert "Segmentation fault" in crashed["stack"]
    assert [found[f"fine{i}"]["status"] for i in (1, 2, 3)] == ["done"] * 3


def test_a_killed_worker_s_file_is_tried_again(tmp_path):
    task = f"once {tmp_path / 'tries'}"
    assert outcomes(tmp_path, [task])[task]["status"] == "done"
    assert outcomes(tmp_path, ["kill"], limits=Limits(retries=0))["kill"]["error"].startswith(
        "worker killed (signal 9"
    )


def test_a_worker_whose_gpu_is_lost_is_replaced(tmp_path):
    found = outcomes(tmp_path, ["poison", "fine1", "fine2"])
    told = "the GPU failed (CUDA error), and its worker with it, tried 2 times"
    assert found["poison"]["error"] == told
    assert [found[f"fine{i}"]["status"] for i in (1, 2)] == ["done"] * 2


def test_tasks_done_side_by_side_have_an_outcome_each(tmp_path):
    told = []
    executor = Processes(
        faulty_workers.work_together, scratch=tmp_path, on_event=lambda *event: told.append(event)
    )
    found = dict(executor.run([Together(("fine1", "fine2")), "fine3"]))
    assert [found[f"fine{i}"]["status"] for i in (1, 2, 3)] == ["done"] * 3
    assert [found[f"fine{i}"]["worker"] for i in (1, 2, 3)] == [0] * 3
    assert told == [(0, f"fine{i}", {"progress": 0.5, "stage": f"fine{i}"}) for i in (1, 2)]


def test_those_that_a_dead_worker_did_side_by_side_are_tried_one_by_one(tmp_path):
    tries, notes, cleaned = tmp_path / "tries", [], []
    tasks = ("fine1", f"segfault {tries}", "fine2", "fine3")
    executor = Processes(
        faulty_workers.work_together,
        scratch=tmp_path,
        clean=cleaned.append,
        on_event=lambda *event: notes.append(event[2]["note"]) if "note" in event[2] else None,
    )
    found = dict(executor.run([Together(tasks)]))
    assert [found[f"fine{i}"]["status"] for i in (1, 2, 3)] == ["done"] * 3
    assert found[tasks[1]]["error"].endswith("tried 2 times")
    assert tries.read_text() == "xxx"  # in company nobody is blamed
    assert notes[0].startswith("crashed: segmentation fault")
    assert notes[0].endswith("; trying its 3 files one by one")
    assert cleaned[:3] == list(tasks[1:])  # what is done stays


def test_an_exception_of_ours_costs_none_of_those_done_side_by_side(tmp_path):
    tasks = ("fine1", "all", "fine2")
    found = dict(Processes(faulty_workers.work_together, scratch=tmp_path).run([Together(tasks)]))
    assert [found[task]["status"] for task in tasks] == ["done"] * 3


def test_stopping_drops_all_that_are_done_side_by_side(tmp_path):
    level = [0]
    executor = Processes(
        faulty_workers.work_together,
        scratch=tmp_path,
        on_event=lambda worker, task, event: level.__setitem__(0, int(task == "slow")),
        pressed=lambda: level[0],
    )
    found = dict(executor.run([Together(("fine", "slow", "never begun")), "nor this"]))
    assert {task: one["status"] for task, one in found.items()} == {
        "fine": "done",
        "slow": "stopped",
        "never begun": "stopped",
    }


def test_a_hang_ends_at_the_limit_and_tells_where(tmp_path):
    found = outcomes(tmp_path, ["hang", "fine"], limits=Limits(timeout=1.0))
    assert found["hang"]["error"].startswith("no end after 1 s, in faulty_workers.py:")
    assert found["fine"]["status"] == "done"


def test_a_hungry_worker_is_ended_alone(tmp_path):
    found = outcomes(tmp_path, ["memory", "fine"], limits=Limits(memory=300 * 2**20))
    assert found["memory"]["error"] == "needed over 0.293 GiB (--max-memory)"
    assert found["fine"]["status"] == "done"


def test_an_exception_of_ours_is_one_line(tmp_path):
    found = outcomes(tmp_path, ["raise", "fine"])
    assert found["raise"]["error"] == "unexpected ValueError: odd thing"
    assert found["fine"]["status"] == "done"


def test_tasks_are_read_as_workers_become_free(tmp_path):
    read = []

    def tasks():
        for number in range(10):
            read.append(number)
            yield f"fine{number}"

    for over, _ in enumerate(Processes(faulty_workers.work, 1, scratch=tmp_path).run(tasks())):
        assert len(read) <= over + 3


def test_no_task_no_worker(tmp_path):
    assert outcomes(tmp_path, []) == {}


def test_stopping_drops_what_does_not_end(tmp_path):
    level = [0]
    executor = Processes(
        faulty_workers.work,
        1,
        scratch=tmp_path,
        on_event=lambda *_: level.__setitem__(0, 1),
        pressed=lambda: level[0],
    )
    found = dict(executor.run(["slow", "never begun"]))
    assert found["slow"]["status"] == "stopped"
    assert "never begun" not in found


def test_workers_that_die_at_their_start_end_the_run(tmp_path):
    executor = Processes(faulty_workers.work, 1, warm=faulty_workers.die_at_start, scratch=tmp_path)
    with pytest.raises(ExecutorError, match="exit code 7"):
        list(executor.run(["fine"]))


def test_a_worker_that_cannot_start_costs_nothing_while_another_works(tmp_path):
    """As where there is memory for one process, not for two."""
    told = []
    found = outcomes(
        tmp_path,
        [f"nap{i}" for i in range(20)],
        count=2,
        warm=faulty_workers.die_where_told,
        environments=[{}, {"KNIT_TEST_DIE": "1"}],
        on_event=lambda worker, task, event: told.append(event["note"]),
    )
    assert [one["status"] for one in found.values()] == ["done"] * 20
    hint = _guard()  # for scripts, of which the one that started this test may be one
    assert told == [
        f"workers die at their start: worker ended by itself (exit code 7){hint}; going on with 1"
    ]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_needs_its_guard_and_is_told_so(tmp_path, guarded):
    """Workers import the script that started them; without a guard it would start them again."""
    code = (
        "import sys; sys.path[:0] = {!r}\n"
        "import faulty_workers as f; from pathlib import Path\n"
        "from knit_cli.executors import Processes\n"
        "{} print(list(Processes(f.work, 1, scratch=Path('.')).run(['fine'])))\n"
    ).format(
        [str(Path(__file__).parent), *sys.path], "if __name__ == '__main__':" if guarded else ""
    )
    script = tmp_path / "script.py"
    script.write_text(code.replace("\n print", "\nprint"))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == guarded
    hint = 'call it under `if __name__ == "__main__":`'
    assert (hint in done.stderr.splitlines()[-1]) if not guarded else ("'done'" in done.stdout)


def test_neither_a_line_of_code_nor_a_notebook_needs_a_guard(tmp_path):
    """What has no file is not imported by the workers."""
    code = (
        "import sys; sys.path[:0] = %r\n"
        "import faulty_workers as f; from pathlib import Path\n"
        "from knit_cli.executors import Processes\n"
        "print(list(Processes(f.work, 1, scratch=Path('.')).run(['fine'])))\n"
    ) % [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert "'done'" in done.stdout, done.stderr


def test_workers_are_gone_when_their_parent_is_killed(tmp_path):
    code = (
        "import sys; sys.path[:0] = %r\n"
        "if __name__ == '__main__':\n"
        "    import faulty_workers as f; from pathlib import Path\n"
        "    from knit_cli.executors import Processes\n"
        "    told = lambda n, t, e: print([w.process.pid for w in p._workers][0], flush=True)\n"
        "    p = Processes(f.work, 1, scratch=Path('.'), on_event=told)\n"
        "    list(p.run(['slow']))\n"
    ) % [str(Path(__file__).parent), *sys.path]
    script = tmp_path / "parent.py"
    script.write_text(code)
    with subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, stdout=subprocess.PIPE
    ) as parent:
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while _alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_cores_and_cards_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = worker_environments(3, "auto")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in found] == ["2", "5", "2"]
    assert int(found[0]["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 3)
    assert "CUDA_VISIBLE_DEVICES" not in worker_environments(3, "cpu")[0]


def test_stopping_at_once_ends_even_what_does_not_listen(tmp_path):
    level = [0]

    def tasks():
        yield "hang"
        raise AssertionError("a task was begun after the stop")

    class Later:
        """Pressed twice, a moment after the file was begun."""

        def __call__(self):
            if executor._workers and executor._workers[0].task:
                level[0] = 2
            return level[0]

    executor = Processes(faulty_workers.work, 1, scratch=tmp_path, pressed=Later())
    assert dict(executor.run(tasks()))["hang"]["status"] == "stopped"
