import threading, time

def square(n):
    return sum(i * i for i in range(n))

def cube(n):
    return sum(i * i * i for i in range(n))

def loop(fn, seconds):
    end = time.time() + seconds
    while time.time() < end:
        fn(2000)

def main():
    other = threading.Thread(target=loop, args=(cube, 1), name="cuber")
    other.start()
    loop(square, 1)
    other.join()

main()
