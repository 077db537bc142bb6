"""Work that goes wrong, for the executor: functions at the top of a module, as workers need them."""

import os
import signal
import time
from pathlib import Path

from knit_cli.executors import POISONED, Together
from knit_cli.work import is_poison


def work(task, emit, cancel):
    """A task is a word, or a word and a file that counts how often it was tried."""
    word, _, counter = task.partition(" ")
    if counter:
        with open(counter, "a") as handle:
            handle.write("x")
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "once":
        if Path(counter).stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    elif word == "poison":
        error = RuntimeError("CUDA error: an illegal memory access was encountered")
        os._exit(POISONED if is_poison(error) else 1)
    elif word == "hang":
        hang()
    elif word == "memory":
        held = [b"x" * 2**24 for _ in range(40)]
        time.sleep(60)
        return {"status": "done", "held": len(held)}
    elif word == "slow":
        emit({"progress": 0.5, "stage": "slow"})
        if cancel.wait(60):
            return {"status": "stopped"}
    elif word.startswith("nap"):
        time.sleep(0.3)
    elif word == "raise":
        raise ValueError("odd\nthing")
    elif word == "environment":
        return {"status": "done", "told": os.environ.get("CUDA_VISIBLE_DEVICES")}
    elif word == "allocator":
        return {"status": "done", "told": os.environ.get("MALLOC_TRIM_THRESHOLD_")}
    return {"status": "done", "pid": os.getpid()}


def work_together(task, emit, cancel):
    """As `work`, and several of them one after the other."""
    if not isinstance(task, Together):
        return work(task, emit, cancel)
    for number, one in enumerate(task.tasks):
        emit({"file": number, "progress": 0.5, "stage": one})
        if one == "all":
            raise ValueError("odd")
        outcome = work(one, lambda event, number=number: emit({"file": number, **event}), cancel)
        if outcome["status"] == "stopped":
            return outcome
        emit({"file": number, "outcome": outcome})
    return {"status": "over"}


def hang():
    while True:
        time.sleep(0.01)


def die_at_start():
    os._exit(7)


def work_watched(task, emit, cancel):
    """As `work`, where some words are aimed at the process that watches this one."""
    word, _, counter = task.partition(" ")
    if word in ("kill-watcher", "kill-watcher-once"):
        with open(counter, "a") as handle:
            handle.write("x")
        if word == "kill-watcher" or Path(counter).stat().st_size == 1:
            emit({"progress": 0.0, "stage": "begun"})
            time.sleep(0.5)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)
        return {"status": "done"}
    return work(task, emit, cancel)


def die_where_told():
    if os.environ.get("KNIT_TEST_DIE"):
        os._exit(7)
