//! Raw windows leave a collector as files that another one takes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use collector::store::rocks::RocksStore;
use collector::store::tier::Tier;
use collector::store::{Store, WriteGroup, rows};
use proto::labels::LabelSet;
use proto::pprof::Pprof;
use proto::profile::{Column, Facts, Profile};
use proto::stack::FrameKind;
use proto::value_type::Temporality;
use proto::window::{Clock, SystemClock, UnixNanos, Window};

use crate::cli::run;
use crate::push::{Answer, Pusher, stack};
use crate::server::{Server, start_in};

const INSTANCE: [u8; 16] = [6; 16];

/// A window of a pod with these types and values of two stacks.
fn profile(pod: &str, start: UnixNanos, columns: &[(&str, u64, [i64; 2])]) -> Profile {
    let labels = [("service", "logger"), ("namespace", "prod"), ("pod", pod)];
    let columns = columns.iter().map(|(name, weight, values)| Column {
        profile_type: name.parse().unwrap(),
        temporality: match name.contains("inuse") {
            true => Temporality::Gauge,
            false => Temporality::Delta,
        },
        period: i64::try_from(*weight).unwrap(),
        weight: *weight,
        values: values.to_vec(),
    });
    Profile::new(
        LabelSet::new(labels).unwrap(),
        Window::from_start(start, 10_000_000_000).unwrap(),
        vec![stack(&["main", "work"]), stack(&["main", "idle", pod])],
        columns.collect(),
        Facts::default(),
    )
    .unwrap()
}

const CPU: &str = "process_cpu:cpu:nanoseconds:cpu:nanoseconds";
const ALLOC: &str = "memory:alloc_space:bytes:space:bytes";
const IN_USE: &str = "memory:inuse_space:bytes:space:bytes";

/// Pushes six windows of each of two pods; every third brings a heap profile.
async fn fill(url: &str) {
    let first = SystemClock.now().saturating_sub(Duration::from_secs(600));
    let mut pusher = Pusher::connect(url, INSTANCE).await.unwrap();
    for n in 0..6_u32 {
        let start = first.saturating_add(Duration::from_secs(10) * n);
        let value = i64::from(n) + 1;
        let of = |pod: &str| match n % 3 {
            0 => profile(
                pod,
                start,
                &[
                    (CPU, 10_000_000, [value, 7]),
                    (ALLOC, 1, [value * 1_000, 1]),
                    (IN_USE, 1, [1 << 40, value]),
                ],
            ),
            // At another rate.
            1 => profile(pod, start, &[(CPU, 10_101_010, [value, -3])]),
            _ => profile(pod, start, &[(CPU, 10_000_000, [value, 0])]),
        };
        let sequence = u64::from(n) + 1;
        pusher.send(INSTANCE, sequence, &[of("a"), of("b")]).await;
        match pusher.answer().await.unwrap() {
            Answer::Ack(ack) => assert!(ack.refused.is_empty(), "{ack:?}"),
            Answer::Refusal(refusal) => panic!("{refusal:?}"),
        }
    }
}

async fn folded(url: &str, profile_type: &str) -> String {
    let ended = run(&[
        "query",
        "--server",
        url,
        "--service",
        "prod/logger",
        "--type",
        profile_type,
        "--since",
        "1h",
        "--format",
        "folded",
    ])
    .await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    ended.stdout
}

fn extract(archive: &Path, to: &Path) -> Vec<String> {
    std::fs::create_dir_all(to).unwrap();
    let extracted = Command::new("tar")
        .arg("--extract")
        .arg("--directory")
        .arg(to)
        .arg("--file")
        .arg(archive)
        .status()
        .expect("cannot run tar; type: apt-get install -y tar");
    assert!(extracted.success());
    let files = std::fs::read_dir(to.join("prod/logger")).unwrap();
    let files = files.map(|file| file.unwrap().path().display().to_string());
    let mut files: Vec<String> = files.collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_is_exported_has_the_same_sums_where_it_is_imported() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (url, other_url) = (server.url(), other.url());
    fill(&url).await;
    let archive = server.folder().join("logger.tar");
    let path = archive.display().to_string();
    let export = ["export", "--service", "logger", "--server", &url];
    let ended = run(&[&export[..], &["--since", "1h", "-o", &path]].concat()).await;
    assert_eq!((ended.code, ended.both()), (0, String::new()));
    let files = extract(&archive, &server.folder().join("files"));
    // Six of CPU and two of the heap for each pod.
    assert_eq!(files.len(), 16, "{files:?}");
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        let read = Pprof::parse(&bytes, FrameKind::Go).unwrap();
        let kinds: Vec<&str> = read.sample_types.iter().map(|t| t.kind()).collect();
        match file.ends_with("_memory.pb.gz") {
            true => assert_eq!(kinds, ["alloc_space", "inuse_space"], "{file}"),
            false => assert_eq!(kinds, ["cpu"], "{file}"),
        }
        let start = collector::time_range::rfc3339(UnixNanos::new(read.time_ns));
        assert!(file.contains(&format!("/{start}_")), "{file}");
        assert_eq!(read.duration_ns, 10_000_000_000, "{file}");
    }
    let import = ["import", "--service", "prod/logger", "--server", &other_url];
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let ended = run(&[&import[..], &names].concat()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    for profile_type in ["cpu", "alloc_space", "inuse_space"] {
        let sums = folded(&url, profile_type).await;
        assert!(sums.contains("main;work "), "{sums}");
        assert_eq!(
            folded(&other_url, profile_type).await,
            sums,
            "{profile_type}"
        );
    }

    // Imported windows are windows: they can be exported again.
    let again = other.folder().join("again.tar");
    let again_path = again.display().to_string();
    let export = ["export", "--service", "logger", "--server", &other_url];
    let only = ["--since", "1h", "--type", "cpu", "-o", &again_path];
    let ended = run(&[&export[..], &only].concat()).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(extract(&again, &other.folder().join("files")).len(), 6);
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn only_what_is_asked_for_is_exported_and_mistakes_leave_no_file() {
    let server = Server::start().await;
    let url = server.url();
    fill(&url).await;
    let path = server.folder().join("x.tar").display().to_string();
    for (arguments, code, files, part) in [
        (vec!["--type", "inuse_space"], 0, 4, ""),
        (vec!["--select", "{pod=\"a\"}"], 0, 8, ""),
        (vec!["--select", "{pod=\"c\"}"], 0, 0, "archive is empty"),
        (vec!["--since", "1m"], 0, 0, "archive is empty"),
        (vec!["--type", "wall"], 1, 0, "it has: alloc_space"),
        (vec!["--select", "{"], 2, 0, "--select"),
        (vec!["-o", "/nonexistent/x"], 1, 0, "/nonexistent/x"),
    ] {
        let to = match arguments.contains(&"-o") {
            true => vec![],
            false => vec!["-o", &path],
        };
        let common = vec!["export", "--service", "logger", "--server", &url];
        let arguments = [common, arguments, to].concat();
        let ended = run(&arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (code, ""), "{ended:?}");
        assert!(ended.stderr.contains(part), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr.is_empty(), part.is_empty(), "{ended:?}");
        match code {
            0 => {
                let folder = tempfile::tempdir().unwrap();
                std::fs::create_dir_all(folder.path().join("prod/logger")).unwrap();
                let found = extract(Path::new(&path), folder.path());
                assert_eq!(found.len(), files, "{arguments:?}");
                std::fs::remove_file(&path).unwrap();
            }
            _ => assert!(!Path::new(&path).exists(), "{arguments:?}"),
        }
    }
    let left = std::fs::read_dir(server.folder()).unwrap().count();
    assert_eq!(left, 1, "only the data");
    server.stop().await;
}

#[tokio::test]
async fn what_is_kept_as_sums_only_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = folder.path().join("x.tar").display().to_string();
    let now_s = u64::try_from(SystemClock.now().seconds()).unwrap();
    for round in 0..2 {
        let (url, stop) = start_in(&data).await;
        if round == 0 {
            fill(&url).await;
        }
        let export = [
            "export",
            "--service",
            "logger",
            "--server",
            &url,
            "-o",
            &path,
        ];
        let ended = run(&export).await;
        assert_eq!(ended.code, 0, "{ended:?}");
        let told = ended.stderr.contains("are kept as sums only");
        assert_eq!(told, round == 1, "{ended:?}");
        stop.await;
        let gone = WriteGroup {
            dictionary: vec![rows::dropped(Tier::Window, now_s - 900)],
            ..WriteGroup::default()
        };
        Store::write(&RocksStore::open(&data, 8 << 20).unwrap(), &gone).unwrap();
    }
}
