//! The program: verbs, exit codes, what goes to stdout and what to stderr.

use std::process::Stdio;

use proto::pprof::Pprof;
use proto::stack::FrameKind;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::server::Server;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn both(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_collector"));
    command
        .stdin(Stdio::null())
        .env_remove("RUST_LOG")
        .kill_on_drop(true);
    command
}

/// Runs the program to its end.
pub(crate) async fn run(arguments: &[&str]) -> Ended {
    let output = program().args(arguments).output().await.unwrap();
    Ended {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn answers_go_to_stdout_and_nothing_to_stderr() {
    let server = Server::start().await;
    server.push("logger").await;
    let url = server.url();
    for (arguments, part) in [
        (vec!["services"], "logger"),
        (vec!["services", "--format", "json"], "\"services\": ["),
        (vec!["labels", "--service", "logger"], "pod\nservice\n"),
        (
            vec!["labels", "--service", "logger", "--name", "pod"],
            "p-1\n",
        ),
        (
            vec!["labels", "--service", "logger", "--format", "json"],
            "\"names\"",
        ),
        (
            vec!["series", "--service", "logger"],
            "SERIES  LABELS\n     1  {pod=\"p-1\", service=\"logger\"}\n",
        ),
        (
            vec!["series", "--service", "logger", "--format", "json"],
            "\"id\": 1",
        ),
        (vec!["anomalies"], "no alerts\n"),
        (vec!["anomalies", "--format", "json"], "\"anomalies\": []"),
        (vec!["status"], "1 batches"),
        (vec!["status", "--format", "json"], "\"ready\": true"),
        (vec!["query", "--service", "logger"], "runtime.selectgo"),
        (
            vec!["query", "--service", "logger", "--format", "top"],
            "main.work",
        ),
        (
            vec![
                "query",
                "--service",
                "logger",
                "--format",
                "folded",
                "--focus",
                "startSink",
            ],
            "main.main;main.startSink;runtime.selectgo 900000000\n",
        ),
        (
            vec![
                "query",
                "--service",
                "logger",
                "--format",
                "folded",
                "--ignore",
                "selectgo",
            ],
            "main.main;main.work 100000000\n",
        ),
        (
            vec![
                "query",
                "--service",
                "logger",
                "--select",
                "{pod=\"p-1\"}",
                "--format",
                "json",
            ],
            "\"coverage\"",
        ),
    ] {
        let arguments = [arguments, vec!["--server", &url]].concat();
        let ended = run(&arguments).await;
        assert_eq!(ended.code, 0, "{arguments:?}: {ended:?}");
        assert!(ended.stdout.contains(part), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stderr, "", "{arguments:?}");
        assert!(
            !ended.stdout.contains('\u{1b}'),
            "colours in a pipe: {arguments:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_file_is_written_in_the_format_of_its_name() {
    let server = Server::start().await;
    server.push("logger").await;
    for (name, is_right) in [
        (
            "p.pb.gz",
            (|bytes| Pprof::parse(bytes, FrameKind::Go).is_ok()) as fn(&[u8]) -> bool,
        ),
        ("p.svg", |bytes| {
            bytes.windows(4).any(|four| four == b"<svg")
        }),
        ("p.folded", |bytes| bytes.ends_with(b"\n")),
    ] {
        let path = server.folder().join(name).display().to_string();
        let ended = run(&[
            "query",
            "--service",
            "logger",
            "-o",
            &path,
            "--server",
            &server.url(),
        ])
        .await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(ended.both(), "", "{name}");
        assert!(is_right(&std::fs::read(&path).unwrap()), "{name}");
    }
    server.stop().await;
}

#[tokio::test]
async fn errors_say_what_was_done_and_what_to_do() {
    let server = Server::start().await;
    server.push("logger").await;
    let url = server.url();
    let query = ["query", "--service", "logger"];
    for (arguments, code, parts) in [
        (vec!["query"], 2, ["--service", "Usage"]),
        (
            vec!["query", "--service", "loger"],
            1,
            ["\"loger\"", "known are: logger"],
        ),
        (
            [&query[..], &["--since", "x"]].concat(),
            2,
            ["since = \"x\"", "90m"],
        ),
        (
            [&query[..], &["--since", "1m", "--until", "2m"]].concat(),
            2,
            ["empty", "--since"],
        ),
        (
            [&query[..], &["--select", "{"]].concat(),
            2,
            ["--select", "label name"],
        ),
        (
            [&query[..], &["--focus", "("]].concat(),
            2,
            ["--focus", "regular expression"],
        ),
        (
            [&query[..], &["--format", "png"]].concat(),
            2,
            ["png", "speedscope"],
        ),
        (
            [&query[..], &["--type", "wall"]].concat(),
            1,
            ["\"wall\"", "cpu"],
        ),
        (
            [&query[..], &["-o", "/nonexistent/x.svg"]].concat(),
            1,
            ["cannot write", "/nonexistent"],
        ),
        (vec!["anomalies", "--state", "loud"], 2, ["loud", "firing"]),
        (
            vec!["anomalies", "show", "none"],
            1,
            ["\"none\"", "collector anomalies"],
        ),
    ] {
        let connection = match arguments.contains(&"show") || arguments.len() > 1 {
            true => vec!["--server", &url],
            false => vec![],
        };
        let arguments = [arguments, connection].concat();
        let ended = run(&arguments).await;
        assert_eq!(ended.code, code, "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{arguments:?}");
        for part in parts {
            assert!(
                ended.stderr.contains(part),
                "{arguments:?}: {part}: {}",
                ended.stderr
            );
        }
    }
    server.stop().await;
    let gone = run(&["services", "--server", &url]).await;
    assert_eq!(gone.code, 1);
    assert!(gone.stderr.contains("collector serve"), "{}", gone.stderr);
}

#[tokio::test]
async fn a_wrong_configuration_ends_with_64_before_the_port_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let unknown = path("unknown.toml", "[store]\nkeep = \"1d\"\n");
    let tokens = path("tokens", "reader one short\n");
    let receiver = |name: &str, more: &str| {
        let url = "url = \"http://127.0.0.1:9/\"";
        let text = format!("[[hook.receivers]]\nname = \"a\"\nkind = \"slack\"\n{url}\n{more}\n");
        path(name, &text)
    };
    let template = receiver("template.toml", "title = \"{{ labels.srevice }}\"");
    let pattern = receiver("pattern.toml", "match.service = [\"(\"]");
    let data = folder.path().join("data").display().to_string();
    for (arguments, part) in [
        (vec!["--config", &unknown], "keep"),
        (vec!["--config", "/nonexistent.toml"], "/nonexistent.toml"),
        (vec!["--listen", "0.0.0.0:0"], "--allow-unauthenticated"),
        (vec!["--detect-step", "7s"], "detect.step"),
        (vec!["--hook-url", "nowhere"], "hook.url"),
        (vec!["--data", &data, "--config", &template], "title"),
        (vec!["--data", &data, "--config", &pattern], "match.service"),
        (
            vec![
                "--listen",
                "127.0.0.1:0",
                "--data",
                &data,
                "--token-file",
                &tokens,
            ],
            "line 1",
        ),
    ] {
        let arguments = [vec!["serve"], arguments].concat();
        let ended = run(&arguments).await;
        assert_eq!(ended.code, 64, "{arguments:?}: {ended:?}");
        assert!(
            ended.stderr.contains(part),
            "{arguments:?}: {}",
            ended.stderr
        );
    }
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn every_verb_has_examples() {
    for verb in [
        "serve",
        "query",
        "services",
        "labels",
        "anomalies",
        "status",
        "backup",
        "restore",
        "delete",
        "export",
        "series",
    ] {
        let help = run(&[verb, "--help"]).await;
        assert_eq!(help.code, 0);
        assert!(help.stdout.contains("Examples:"), "{verb}");
        assert!(help.stdout.contains(&format!("collector {verb}")), "{verb}");
    }
}

#[tokio::test]
async fn sigterm_ends_a_collector_in_peace() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = program()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(folder.path().join("data"))
        .env("TEPUI__COLLECTOR__SELF_PROFILE__ENABLED", "false")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = Vec::new();
    while let Some(line) = log.next_line().await.unwrap() {
        let serves = line.contains("serving");
        seen.push(line);
        if serves {
            break;
        }
    }
    let pid = child.id().unwrap().to_string();
    let killed = Command::new("kill").args(["-TERM", &pid]).status().await;
    assert!(killed.unwrap().success(), "{seen:?}");
    assert!(child.wait().await.unwrap().success(), "{seen:?}");
}
