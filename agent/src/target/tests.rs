use super::*;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Ends its process, and its children with it, when the test is over.
struct Running(Child);

impl Running {
    fn shell(script: &str) -> Self {
        let child = Command::new("/bin/sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn scan_until(
    tracker: &mut Tracker,
    what: &str,
    holds: impl Fn(&Tracker, &Changes) -> bool,
) -> Changes {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let changes = tracker.scan().unwrap();
        if holds(tracker, &changes) {
            return changes;
        }
        std::thread::yield_now();
    }
    panic!("never saw {what}");
}

fn pids(tracker: &Tracker) -> Vec<i32> {
    tracker.processes().iter().map(|p| p.pid).collect()
}

#[test]
fn a_target_holds_its_children() {
    // The second command keeps the shell from turning into the first.
    let mut parent = Running::shell("sleep 600 & wait");
    let mut tracker = Tracker::new(Selection::Pid(parent.pid())).unwrap();
    scan_until(&mut tracker, "the child", |tracker, _| {
        // The child is the shell until it runs the command.
        matches!(&tracker.processes()[..], [_, child] if child.name == "sleep")
    });
    let processes = tracker.processes();
    assert_eq!(processes[0].pid, parent.pid());
    let usage = tracker.take_usage();
    assert_eq!(usage.processes_count, 2);
    assert!(usage.threads_count >= 2 && usage.rss_bytes > 0);
    assert_eq!(usage.started, processes[0].started);

    let child = processes[1].pid;
    parent.end();
    let changes = tracker.scan().unwrap();
    assert_eq!(changes.removed, [parent.pid()]);
    // The orphan stays a member until it ends, too.
    assert_eq!(pids(&tracker), [child]);
    assert!(!tracker.is_over());
    let killed = Command::new("kill")
        .arg(child.to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    scan_until(&mut tracker, "the end", |tracker, _| tracker.is_over());
}

#[test]
fn a_restart_is_a_new_match_with_a_new_start() {
    let mark = format!("{}-restart", std::process::id());
    let script = format!("read line # {mark}");
    let selection = Selection::Command(Regex::new(&mark).unwrap());
    let mut tracker = Tracker::new(selection).unwrap();
    tracker.scan().unwrap();
    assert!(tracker.processes().is_empty());

    let mut first = Running::shell(&script);
    scan_until(&mut tracker, "the first", |tracker, _| {
        pids(tracker) == [first.pid()]
    });
    first.end();
    let changes = tracker.scan().unwrap();
    assert_eq!(changes.removed, [first.pid()]);

    let second = Running::shell(&script);
    let changes = scan_until(&mut tracker, "the second", |_, changes| {
        !changes.added.is_empty()
    });
    assert_eq!(changes.added, [second.pid()]);
    assert!(!tracker.is_over());
}

#[test]
fn a_program_is_found_by_name_also_after_exec() {
    let mut shell = Running::shell("read line; exec sleep 600");
    let mut tracker = Tracker::new(Selection::Name("sleep".to_owned())).unwrap();
    tracker.scan().unwrap();
    assert!(!pids(&tracker).contains(&shell.pid()));
    let mut input = shell.0.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"\n").unwrap();
    scan_until(&mut tracker, "the program", |tracker, _| {
        pids(tracker).contains(&shell.pid())
    });
}

#[test]
fn others_are_neither_self_nor_parents_nor_children() {
    let child = Running::shell("read line");
    let mut tracker = Tracker::new(Selection::Others).unwrap();
    tracker.scan().unwrap();
    let found = pids(&tracker);
    let own = i32::try_from(std::process::id()).unwrap();
    for excluded in [own, child.pid(), process::read(own).unwrap().parent] {
        assert!(!found.contains(&excluded), "{excluded} in {found:?}");
    }
}

#[test]
fn cpu_time_of_ended_children_counts_once() {
    // Each child burns some CPU and ends before the next begins.
    let script = "for n in 1 2 3; do sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done'; done; read line";
    let parent = Running::shell(script);
    let mut tracker = Tracker::new(Selection::Pid(parent.pid())).unwrap();
    let start = Instant::now();
    let mut counted_ns = 0;
    let mut quiet_scans = 0;
    let mut first = None;
    let mut last = None;
    // The parent waits for its input when no child shows up for a while.
    while quiet_scans < 50 && start.elapsed() < Duration::from_secs(60) {
        tracker.scan().unwrap();
        counted_ns += tracker.take_usage().cpu_ns;
        let reading = process::read(parent.pid()).unwrap();
        quiet_scans = if pids(&tracker).len() == 1 && reading.children_ticks > 0 {
            quiet_scans + 1
        } else {
            0
        };
        let sum = reading.own_ticks + reading.children_ticks;
        first.get_or_insert(sum);
        last = Some(sum);
    }
    let used = last.unwrap() - first.unwrap();
    let used_ns = used * 1_000_000_000 / procfs::ticks_per_second();
    assert!(used_ns > 0, "the children used no CPU");
    assert_eq!(counted_ns, used_ns);
}

#[test]
fn a_pause_container_is_known_by_name() {
    let mut reading = process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(!is_pause(&reading, &["/app".to_owned()]));
    assert!(is_pause(&reading, &["/pause".to_owned()]));
    reading.short_name = "pause".to_owned();
    assert!(is_pause(&reading, &[]));
}
