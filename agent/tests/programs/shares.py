"""Spends seven tenths of its CPU time in `hot` and the rest in `cold`."""
import random
import threading
import time


def hot(until):
    while time.thread_time() < until:
        pass


def cold(until):
    while time.thread_time() < until:
        pass


def sleeper():
    time.sleep(100_000)


def locker(lock):
    lock.acquire()


def descend(depth):
    if depth > 0:
        descend(depth - 1)
        return
    print("ready", flush=True)
    while True:
        # Of no fixed length: neither looks nor slices of time keep step with it.
        now, length = time.thread_time(), random.uniform(0.005, 0.025)
        hot(now + 0.7 * length)
        cold(now + length)


lock = threading.Lock()
lock.acquire()
threading.Thread(target=sleeper, daemon=True).start()
threading.Thread(target=locker, args=(lock,), daemon=True).start()
descend(25)
