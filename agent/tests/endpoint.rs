//! The endpoint source against a real Go program with `net/http/pprof`.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agent::config::EndpointChoice;
use agent::source::Collected;
use agent::source::endpoint::{
    Client, EndpointError, EndpointSource, Plan, TargetState, find_once,
};
use agent::target::{Selection, Tracker};
use proto::value_type::Temporality;
use proto::window::SystemClock;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Spins with a sample label, allocates, and prints where it listens.
const PROGRAM: &str = r#"
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"runtime"
	"runtime/pprof"
	"time"
)

var kept [][]byte

func spin(ctx context.Context) {
	for n := 0; ; n++ {
		if n%100000000 == 0 && ctx.Err() != nil {
			return
		}
	}
}

func allocate() {
	for {
		kept = append(kept, make([]byte, 1<<20))
		if len(kept) > 16 {
			kept = kept[1:]
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func main() {
	runtime.SetBlockProfileRate(1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go pprof.Do(context.Background(), pprof.Labels("queue", "hot", "pod", "forged"), spin)
	go pprof.Do(context.Background(), pprof.Labels("queue", "hot"), spin)
	go allocate()
	fmt.Println("ready")
	panic(http.Serve(listener, nil))
}
"#;

/// Builds the program once per run of the tests.
fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("endpoint-go");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("main.go"), PROGRAM).unwrap();
        let output = folder.join("spinner");
        let built = Command::new("go")
            .args(["build", "-o"])
            .args([&output, &folder.join("main.go")])
            .env("CGO_ENABLED", "0")
            .status();
        match built {
            Ok(status) if status.success() => output,
            Ok(status) => panic!("go build ended with {status}"),
            Err(error) => panic!("cannot run go ({error}); type: apt-get install -y golang-go"),
        }
    });
    built.clone()
}

struct Running(Child);

impl Running {
    fn start() -> Self {
        let mut child = Command::new(program())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn state(&self) -> TargetState {
        let pid = i32::try_from(self.0.id()).unwrap();
        let mut tracker = Tracker::new(Selection::Pid(pid)).unwrap();
        tracker.scan().unwrap();
        let processes = tracker.processes();
        TargetState {
            started: processes[0].started,
            processes,
            may_be_unseen: false,
            is_sampled_from_outside: Some(false),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn plan() -> Plan {
    Plan {
        choice: EndpointChoice::Auto,
        with_cpu: true,
        window: Duration::from_secs(1),
        cpu_length: Duration::from_secs(1),
        cpu_every: Duration::from_secs(2),
        snapshot_every: Duration::from_secs(2),
    }
}

/// Reads yields until `holds` of all of them.
async fn read_until(
    yields: &mut mpsc::Receiver<Vec<Collected>>,
    holds: impl Fn(&[Collected]) -> bool,
) -> Vec<Collected> {
    let mut seen = Vec::new();
    let reading = async {
        while !holds(&seen) {
            seen.extend(yields.recv().await.expect("the source ended"));
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert!(ended.is_ok(), "only saw {:?}", types(&seen));
    seen
}

fn types(seen: &[Collected]) -> BTreeSet<String> {
    let columns = seen.iter().flat_map(|c| &c.groups).flat_map(|g| &g.columns);
    columns
        .map(|column| column.profile_type.to_string())
        .collect()
}

fn has(seen: &[Collected], profile_type: &str) -> bool {
    types(seen).contains(profile_type)
}

fn sum(seen: &Collected, at: usize) -> i64 {
    seen.groups.iter().flat_map(|g| &g.columns[at].values).sum()
}

#[tokio::test]
async fn every_profile_comes_with_its_type_window_and_labels() {
    let target = Running::start();
    let (_keep, state) = watch::channel(target.state());
    let (send, mut yields) = mpsc::channel(64);
    let source = EndpointSource::new(plan(), Arc::new(SystemClock), state, send).unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(shutdown.clone()));

    const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
    const ALLOCATED: &str = "memory:alloc_space:bytes:space:bytes";
    let wanted = [
        CPU,
        ALLOCATED,
        "memory:alloc_objects:count:space:bytes",
        "memory:inuse_space:bytes:space:bytes",
        "memory:inuse_objects:count:space:bytes",
        "goroutine:goroutine:count:goroutine:count",
        "threadcreate:threadcreate:count:threadcreate:count",
        "block:contentions:count:contentions:count",
        "block:delay:nanoseconds:contentions:count",
    ];
    let seen = read_until(&mut yields, |seen| wanted.iter().all(|t| has(seen, t))).await;

    let cpu = seen
        .iter()
        .find(|c| has(std::slice::from_ref(c), CPU))
        .unwrap();
    assert_eq!(cpu.window.duration(), Duration::from_secs(1));
    assert_eq!(cpu.window.start().get() % 1_000_000_000, 0);
    assert!((900_000_000..1_500_000_000).contains(&cpu.observed_ns));
    let hot = cpu
        .groups
        .iter()
        .find(|g| g.labels.iter().any(|(n, v)| n == "queue" && v == "hot"));
    let hot = hot.unwrap();
    let column = &hot.columns[0];
    assert_eq!((column.weight, column.period), (10_000_000, 10_000_000));
    let (at, _) = column
        .values
        .iter()
        .enumerate()
        .max_by_key(|(_, value)| **value)
        .unwrap();
    assert!(
        hot.stacks[at]
            .iter()
            .any(|frame| &*frame.function == "main.spin")
    );

    let allocated = seen
        .iter()
        .find(|c| has(std::slice::from_ref(c), ALLOCATED))
        .unwrap();
    let column = &allocated.groups[0].columns[1];
    assert_eq!(column.temporality, Temporality::Delta);
    // 50 MiB a second at most, over the two seconds since the last picture.
    let bytes = sum(allocated, 1);
    assert!(bytes > 1 << 20 && bytes < 400 << 20, "{bytes}");

    let shown = |c: &&Collected| {
        has(
            std::slice::from_ref(*c),
            "memory:inuse_space:bytes:space:bytes",
        )
    };
    let in_use: Vec<&Collected> = seen.iter().filter(shown).collect();
    assert_eq!(
        in_use[0].groups[0].columns[0].temporality,
        Temporality::Gauge
    );
    for pair in in_use.windows(2) {
        assert_eq!(
            pair[0].window.end(),
            pair[1].window.start(),
            "gauges tile time"
        );
    }
    shutdown.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn a_restart_is_seen_and_counts_from_zero() {
    let target = Running::start();
    let (state, follow) = watch::channel(target.state());
    let (send, mut yields) = mpsc::channel(64);
    let only_pictures = Plan {
        with_cpu: false,
        ..plan()
    };
    let source = EndpointSource::new(only_pictures, Arc::new(SystemClock), follow, send).unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(shutdown.clone()));
    let is_allocated = |seen: &[Collected]| has(seen, "memory:alloc_space:bytes:space:bytes");
    read_until(&mut yields, is_allocated).await;

    drop(target);
    let next = Running::start();
    state.send_replace(next.state());
    let seen = read_until(&mut yields, is_allocated).await;
    let delta = seen
        .iter()
        .find(|c| is_allocated(std::slice::from_ref(c)))
        .unwrap();
    assert!(
        delta
            .groups
            .iter()
            .flat_map(|g| &g.columns)
            .flat_map(|c| &c.values)
            .all(|v| *v >= 0)
    );
    assert!(sum(delta, 1) > 0);
    shutdown.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn the_agent_steps_back_for_a_person() {
    let target = Running::start();
    let client = Client::new().unwrap();
    let found = find_once(&client, &EndpointChoice::Auto, &target.state())
        .await
        .unwrap();
    // A person takes a profile first.
    let mut person = JoinSet::new();
    let (person_client, url) = (client.clone(), found.url.clone());
    person.spawn(async move { person_client.cpu(&url, Duration::from_secs(4)).await });
    let is_held = async {
        while !matches!(
            client.cpu(&found.url, Duration::from_secs(1)).await,
            Err(EndpointError::Busy { .. })
        ) {}
    };
    tokio::time::timeout(Duration::from_secs(20), is_held)
        .await
        .unwrap();

    let (_keep, state) = watch::channel(target.state());
    let (send, mut yields) = mpsc::channel(64);
    let source = EndpointSource::new(plan(), Arc::new(SystemClock), state, send).unwrap();
    let counters = source.counters();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(shutdown.clone()));
    let is_cpu = |seen: &[Collected]| has(seen, "process_cpu:cpu:nanoseconds:cpu:nanoseconds");
    read_until(&mut yields, is_cpu).await;
    assert!(counters.busy.load(Ordering::Relaxed) >= 1);
    let theirs = person.join_all().await.remove(0);
    assert!(theirs.is_ok(), "{theirs:?}");
    shutdown.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn cpu_is_not_asked_for_while_perf_samples() {
    let target = Running::start();
    let sampled = TargetState {
        is_sampled_from_outside: Some(true),
        ..target.state()
    };
    let (_keep, state) = watch::channel(sampled);
    let (send, mut yields) = mpsc::channel(64);
    let source = EndpointSource::new(plan(), Arc::new(SystemClock), state, send).unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(shutdown.clone()));
    let seen = read_until(&mut yields, |seen| {
        has(seen, "block:delay:nanoseconds:contentions:count")
    })
    .await;
    assert!(!has(&seen, "process_cpu:cpu:nanoseconds:cpu:nanoseconds"));
    shutdown.cancel();
    tasks.join_all().await;
}

#[tokio::test]
async fn a_port_of_another_process_is_not_taken() {
    let target = Running::start();
    let other = Running::start();
    let client = Client::new().unwrap();
    let found = find_once(&client, &EndpointChoice::Auto, &target.state())
        .await
        .unwrap();
    assert_eq!(found.pid, i32::try_from(target.0.id()).unwrap());
    let found_other = find_once(&client, &EndpointChoice::Auto, &other.state())
        .await
        .unwrap();
    assert_ne!(found.url, found_other.url);
    let sleeper = Command::new("sleep").arg("600").spawn().unwrap();
    let sleeper = Running(sleeper);
    assert_eq!(
        find_once(&client, &EndpointChoice::Auto, &sleeper.state()).await,
        None
    );
}
