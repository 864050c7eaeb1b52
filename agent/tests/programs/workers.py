"""Two forked workers compute, the parent waits for them."""
import os


def first_worker():
    while True:
        sum(range(1000))


def second_worker():
    while True:
        sum(range(1000))


def wait_for_workers():
    os.wait()


for work in (first_worker, second_worker):
    if os.fork() == 0:
        work()
print("ready", flush=True)
wait_for_workers()
