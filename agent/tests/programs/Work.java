import java.lang.management.ManagementFactory;
import java.lang.management.ThreadMXBean;
import java.util.concurrent.locks.LockSupport;

/** Uses CPU, allocates and waits for locks in methods whose shares are known. */
public final class Work {
    private static final ThreadMXBean THREADS = ManagementFactory.getThreadMXBean();
    private static final Object LOCK = new Object();
    private static volatile long sink;
    private static volatile Object kept;

    private static long hot(int turns) {
        long value = 1;
        for (int n = 0; n < turns; n++) {
            value = value * 6364136223846793005L + 1442695040888963407L;
            value ^= value >>> 17;
        }
        return value;
    }

    private static long cold(int turns) {
        long value = 7;
        for (int n = 0; n < turns; n++) {
            value = value * 6364136223846793005L + 1442695040888963407L;
            value ^= value >>> 17;
        }
        return value;
    }

    /** Tells after each turn the CPU time of both methods so far, in nanoseconds. */
    private static void spin() {
        long hotTime = 0;
        long coldTime = 0;
        while (true) {
            long begun = THREADS.getCurrentThreadCpuTime();
            sink = hot(28_000_000);
            long between = THREADS.getCurrentThreadCpuTime();
            sink = cold(12_000_000);
            hotTime += between - begun;
            coldTime += THREADS.getCurrentThreadCpuTime() - between;
            System.out.println(hotTime + " " + coldTime);
        }
    }

    private static void allocateMuch() {
        for (int n = 0; n < 45; n++) {
            kept = new byte[20_000];
        }
    }

    private static void allocateLittle() {
        for (int n = 0; n < 5; n++) {
            kept = new int[5_000];
        }
    }

    private static void allocate() throws InterruptedException {
        while (true) {
            allocateMuch();
            allocateLittle();
            Thread.sleep(1);
        }
    }

    private static void hold() throws InterruptedException {
        while (true) {
            synchronized (LOCK) {
                Thread.sleep(50);
            }
            Thread.sleep(5);
        }
    }

    private static void enter() throws InterruptedException {
        while (true) {
            synchronized (LOCK) {
                sink++;
            }
            Thread.sleep(5);
        }
    }

    private static void park() {
        while (true) {
            LockSupport.parkNanos(60_000_000);
        }
    }

    private interface Part {
        void run() throws InterruptedException;
    }

    private static void start(Part part) {
        new Thread(() -> {
            try {
                part.run();
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
        }).start();
    }

    public static void main(String[] parts) {
        for (String part : parts) {
            switch (part) {
                case "spin" -> start(Work::spin);
                case "allocate" -> start(Work::allocate);
                case "contend" -> {
                    start(Work::hold);
                    start(Work::enter);
                    start(Work::park);
                }
                default -> throw new IllegalArgumentException(part);
            }
        }
        System.out.println("ready");
    }
}
