//! Alerts arrive, in order and none lost: at receivers that fail, hang,
//! throttle, refuse and restart, from collectors that are killed, at a real
//! Alertmanager, and signed so that another's verifier accepts them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use collector::config::{ReceiverConfig, ReceiverKind};
use proto::window::{Clock, SystemClock, UnixNanos};
use serde_json::Value;

use crate::push::{Answer, Pusher, profile};
use crate::receiver::{Manner, Receiver, TAKE, Taken};
use crate::restart::{self, free_port};
use crate::server::Server;
use crate::spin::recorded;

const INSTANCE: [u8; 16] = [9; 16];
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const STEP: Duration = Duration::from_secs(10);
/// How often a collector is killed, unless the variable says otherwise. All of
/// it: `TEPUI_HOOK_KILLS=100 cargo test --release --workspace --test it killed`.
const KILLS: &str = "12";
const KILLS_VARIABLE: &str = "TEPUI_HOOK_KILLS";

/// A collector that finds a spin in half a minute of it.
async fn server(receivers: Vec<ReceiverConfig>) -> Server {
    Server::start_with(|config, _| {
        config.detect.step = STEP;
        config.detect.hold = Duration::from_secs(30);
        config.detect.keep = STEP;
        config.hook.timeout = Duration::from_secs(2);
        config.hook.receivers = receivers;
    })
    .await
}

fn receiver(name: &str, kind: ReceiverKind, url: &str) -> ReceiverConfig {
    ReceiverConfig {
        name: name.to_owned(),
        kind: Some(kind),
        url: url.to_owned().into(),
        ..ReceiverConfig::default()
    }
}

/// Windows of `service`, one after another: a minute of a spin that ends at
/// `end`, or 20 seconds of work that begin there.
fn windows(service: &str, end: UnixNanos, spins: bool) -> Vec<proto::profile::Profile> {
    let (shape, cores) = if spins {
        ("select2", 1)
    } else {
        ("healthy", 1)
    };
    let stacks = recorded(shape, cores);
    let samples: Vec<(&[&str], i64)> = stacks.iter().map(|(s, n)| (s.as_slice(), *n)).collect();
    let starts: Vec<UnixNanos> = match spins {
        true => (1..=6)
            .map(|back| end.saturating_sub(STEP * back))
            .collect(),
        false => (0..2).map(|on| end.saturating_add(STEP * on)).collect(),
    };
    let mut starts = starts;
    starts.sort();
    starts
        .into_iter()
        .map(|start| profile(service, start, &samples))
        .collect()
}

/// Pushes until it is acknowledged, also while the collector comes and goes;
/// returns whether it was.
async fn push(url: &str, sequence: u64, windows: &[proto::profile::Profile]) -> bool {
    let Ok(mut pusher) = Pusher::connect(url, INSTANCE).await else {
        return false;
    };
    pusher.send(INSTANCE, sequence, windows).await;
    match pusher.answer().await {
        Ok(Answer::Ack(ack)) => {
            assert!(ack.refused.is_empty(), "{ack:?}");
            true
        }
        Ok(Answer::Refusal(refusal)) => panic!("{refusal:?}"),
        Err(_gone) => false,
    }
}

/// When a spin ends that is over by now, so that all after it is over soon.
fn spin_end() -> UnixNanos {
    SystemClock.now().floor(STEP).saturating_sub(2 * STEP)
}

/// Status and id of an alert in Alertmanager's JSON.
fn told(taken: &Taken) -> (String, String) {
    let json = taken.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (
        text(&json["status"]),
        text(&json["alerts"][0]["labels"]["service"]),
    )
}

/// The line that installs what a test lacks.
fn missing(what: &str) -> String {
    format!("cannot run {what}; type: deploy/setup.sh")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_gets_what_it_understands_and_the_signature_is_accepted_by_anothers_verifier() {
    let mut webhook = Receiver::start(&[TAKE]).await;
    let mut slack = Receiver::start(&[TAKE]).await;
    let mut pagerduty = Receiver::start(&[Manner::Answer("202 Accepted", "")]).await;
    let mut other = Receiver::start(&[TAKE]).await;
    let folder = tempfile::tempdir().unwrap();
    let secret_file = folder.path().join("secret");
    std::fs::write(&secret_file, format!("{SECRET}\n")).unwrap();
    let lines = folder.path().join("lines");
    let script = format!(
        "cat >{lines}.json; echo \"$TEPUI_ALERT_STATUS $TEPUI_ALERT_SERVICE $TEPUI_ALERT_TITLE\" >>{lines}",
        lines = lines.display()
    );
    let mut elsewhere = receiver("elsewhere", ReceiverKind::Webhook, &other.url());
    elsewhere.matches.service = Some(vec!["other-.*".to_owned()]);
    let server = server(vec![
        ReceiverConfig {
            secret_file,
            ..receiver("signed", ReceiverKind::Webhook, &webhook.url())
        },
        ReceiverConfig {
            title: "{{ status }}: <{{ flamegraph_url }}|{{ labels.service }}>".to_owned(),
            ..receiver("chat", ReceiverKind::Slack, &slack.url())
        },
        ReceiverConfig {
            routing_key: "R0UT1NG".to_owned().into(),
            ..receiver("pager", ReceiverKind::PagerDuty, &pagerduty.url())
        },
        ReceiverConfig {
            name: "script".to_owned(),
            kind: Some(ReceiverKind::Command),
            command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
            title: "{{ alert.anchor }} {{ status }}".to_owned(),
            timeout: Some(Duration::from_secs(60)),
            ..ReceiverConfig::default()
        },
        elsewhere,
    ])
    .await;
    let end = spin_end();
    assert!(push(&server.url(), 1, &windows("logger", end, true)).await);
    let firing = webhook.next().await;
    assert_eq!(told(&firing), ("firing".to_owned(), "logger".to_owned()));
    verify(&firing);
    let message = slack.next().await.json();
    let title = message["text"].as_str().unwrap();
    assert!(title.starts_with("firing: <http://"), "{title}");
    let event = pagerduty.next().await.json();
    assert_eq!(event["event_action"], "trigger");
    assert_eq!(event["routing_key"], "R0UT1NG");
    assert_eq!(event["payload"]["severity"], "critical");
    let key = event["dedup_key"].clone();
    assert_eq!(key, firing.json()["alerts"][0]["fingerprint"]);

    assert!(push(&server.url(), 2, &windows("logger", end, false)).await);
    let resolved = webhook.next().await;
    assert_eq!(told(&resolved).0, "resolved");
    verify(&resolved);
    let message = slack.next().await.json();
    assert!(message["text"].as_str().unwrap().starts_with("resolved: "));
    let event = pagerduty.next().await.json();
    assert_eq!(
        (&event["event_action"], &event["dedup_key"]),
        (&"resolve".into(), &key)
    );
    let expected =
        "firing logger main.startSink2 firing\nresolved logger main.startSink2 resolved\n";
    while std::fs::read_to_string(&lines).unwrap_or_default() != expected {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let input = std::fs::read_to_string(lines.with_extension("json")).unwrap();
    let input: Value = serde_json::from_str(&input).unwrap();
    assert_eq!(input["status"], "resolved");
    assert_eq!(
        input["alerts"][0]["annotations"]["summary"],
        "main.startSink2 resolved"
    );
    server.stop().await;
    assert!(other.all().is_empty(), "not for this receiver");
}

/// Has the library `standardwebhooks` verify a request, and refuse it changed.
fn verify(taken: &Taken) {
    const PROGRAM: &str = "
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
webhook = Webhook(given['secret'])
webhook.verify(given['body'], given['headers'])
try:
    webhook.verify(given['body'] + ' ', given['headers'])
except WebhookVerificationError:
    sys.exit(0)
sys.exit('a changed body was accepted')
";
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: BTreeMap<&str, &str> = names.map(|name| (name, taken.header(name))).into();
    let given = serde_json::json!({"secret": SECRET, "body": taken.body, "headers": headers});
    let mut python = Command::new(tools().join("venv/bin/python"))
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|_| panic!("{}", missing("the Python of the tools")));
    let mut stdin = python.stdin.take().unwrap();
    // It may have ended: what it said tells why.
    let _ended = stdin.write_all(given.to_string().as_bytes());
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let hint = missing("the verifier");
    assert!(
        output.status.success(),
        "{said}\nif a module is missing: {hint}"
    );
}

/// Where `deploy/setup.sh` puts tools.
fn tools() -> PathBuf {
    match std::env::var_os("TEPUI_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tepui-tools"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_fail_hang_throttle_close_refuse_or_restart_get_all_and_delay_nobody() {
    let busy = Manner::Answer("503 Busy", "");
    let wait = Manner::Answer("429 Too Many Requests", "Retry-After: 1");
    let mut steady = Receiver::start(&[TAKE]).await;
    let mut others = vec![
        (
            "fails",
            Receiver::start(&[busy.clone(), busy.clone(), busy, TAKE]).await,
        ),
        (
            "hangs",
            Receiver::start(&[Manner::Hang, TAKE, Manner::Hang, TAKE]).await,
        ),
        (
            "throttles",
            Receiver::start(&[wait.clone(), wait, TAKE]).await,
        ),
        (
            "closes",
            Receiver::start(&[Manner::Close, Manner::Close, TAKE]).await,
        ),
    ];
    let refuses = Receiver::start(&[Manner::Answer("400 Bad Request", "")]).await;
    let dead = Receiver::start(&[Manner::Hang]).await;
    // Its port is known, and nobody listens there yet.
    let restarts = Receiver::start(&[TAKE]).await.address;
    let mut receivers: Vec<ReceiverConfig> = others
        .iter()
        .map(|(name, other)| receiver(name, ReceiverKind::Webhook, &other.url()))
        .collect();
    receivers.extend([
        receiver("dead", ReceiverKind::Webhook, &dead.url()),
        receiver("refuses", ReceiverKind::Webhook, &refuses.url()),
        receiver(
            "restarts",
            ReceiverKind::Webhook,
            &format!("http://{restarts}/alerts"),
        ),
        receiver("steady", ReceiverKind::Webhook, &steady.url()),
    ]);
    let server = server(receivers).await;
    let end = spin_end();
    assert!(push(&server.url(), 1, &windows("logger", end, true)).await);
    assert!(push(&server.url(), 2, &windows("logger", end, false)).await);
    // Nobody waits for those that are gone.
    for status in ["firing", "resolved"] {
        assert_eq!(told(&steady.next().await).0, status);
    }
    let restarted = Receiver::start_at(restarts, &[TAKE]).await;
    others.push(("restarts", restarted));
    for (name, other) in &mut others {
        for status in ["firing", "resolved"] {
            assert_eq!(told(&other.next().await).0, status, "{name}");
        }
    }
    // What was refused is seen.
    let status = loop {
        let status = server.get("/api/v1/status", &[]).await.json();
        if status["dead_letters"].as_array().unwrap().len() == 2 {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let letter = &status["dead_letters"][0];
    assert_eq!(letter["receiver"], "refuses");
    assert_eq!(
        (&letter["status"], &letter["kind"]),
        (&"firing".into(), &"spin".into())
    );
    assert_eq!(letter["reason"], "the receiver answered 400 Bad Request");
    assert!(
        letter["alert"].is_string() && letter["at"].is_string(),
        "{letter}"
    );
    let names: Vec<&str> = status["receivers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["receiver"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "fails",
            "hangs",
            "throttles",
            "closes",
            "dead",
            "refuses",
            "restarts",
            "steady"
        ]
    );
    let shown = crate::cli::run(&["status", "--server", &server.url()]).await;
    for part in ["RECEIVER", "steady", "NOT TOLD", "answered 400 Bad Request"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let metrics = server.get("/metrics", &[]).await.text();
    for line in [
        "tepui_hook_deliveries_total{receiver=\"steady\",outcome=\"delivered\"} 2",
        "tepui_hook_deliveries_total{receiver=\"fails\",outcome=\"retried\"} 3",
        "tepui_hook_deliveries_total{receiver=\"refuses\",outcome=\"dropped\"} 2",
        "tepui_hook_waiting{receiver=\"dead\"} 2",
        "tepui_hook_dead_letters{receiver=\"refuses\"} 2",
    ] {
        assert!(
            metrics.lines().any(|shown| shown == line),
            "{line}: {metrics}"
        );
    }
    server.stop().await;
}

/// Ends with the test, also when it fails.
struct Alertmanager(Child);

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Starts Alertmanager as if it had never run, with one receiver.
fn start_alertmanager(folder: &Path, port: u16, told: &str) -> Alertmanager {
    let config = folder.join("alertmanager.yml");
    let text = format!(
        "route: {{receiver: all, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
         receivers: [{{name: all, webhook_configs: [{{url: '{told}', send_resolved: true}}]}}]\n"
    );
    std::fs::write(&config, text).unwrap();
    let storage = folder.join("storage");
    let _none = std::fs::remove_dir_all(&storage);
    let child = Command::new("prometheus-alertmanager")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.path={}", storage.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=")
        .arg("--log.level=error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|_| panic!("{}", missing("prometheus-alertmanager")));
    Alertmanager(child)
}

/// The alerts that an Alertmanager knows, once there are some.
async fn known(port: u16) -> Vec<Value> {
    loop {
        let url = format!("http://127.0.0.1:{port}/api/v2/alerts");
        if let Some(text) = crate::spin::try_get(&url).await
            && let Ok(Value::Array(alerts)) = serde_json::from_str(&text)
            && !alerts.is_empty()
        {
            return alerts;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn seconds(time: &Value) -> i64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_second()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alertmanager_is_told_also_one_that_restarted_and_forgot() {
    let folder = tempfile::tempdir().unwrap();
    let mut pager = Receiver::start(&[TAKE]).await;
    let port = free_port();
    let alertmanager = start_alertmanager(folder.path(), port, &pager.url());
    let url = format!("http://127.0.0.1:{port}");
    let server = server(vec![receiver("am", ReceiverKind::Alertmanager, &url)]).await;
    let end = spin_end();
    assert!(push(&server.url(), 1, &windows("logger", end, true)).await);
    let firing = pager.next().await;
    assert_eq!(told(&firing), ("firing".to_owned(), "logger".to_owned()));
    let alerts = known(port).await;
    assert_eq!(alerts.len(), 1);
    let labels: BTreeMap<String, String> =
        serde_json::from_value(alerts[0]["labels"].clone()).unwrap();
    let names: Vec<&str> = labels.keys().map(String::as_str).collect();
    assert_eq!(names, ["alertname", "frame", "kind", "service", "severity"]);
    assert_eq!(labels["alertname"], "TepuiSpin");
    let link = alerts[0]["generatorURL"].as_str().unwrap();
    assert!(link.contains("/service?name=logger"), "{link}");
    let annotations = &alerts[0]["annotations"];
    assert!(annotations["path"].as_str().unwrap().contains("selectgo"));
    // It ends by itself, should the collector never be heard again.
    let lasts = seconds(&alerts[0]["endsAt"]) - seconds(&alerts[0]["updatedAt"]);
    assert!((1..=300).contains(&lasts), "{lasts}");

    // One that forgot everything hears of it with the next repetition.
    drop(alertmanager);
    let alertmanager = start_alertmanager(folder.path(), port, &pager.url());
    let again = pager.next().await;
    assert_eq!(told(&again), told(&firing));
    let fingerprint = |alert: &Value| alert["fingerprint"].as_str().unwrap().to_owned();
    assert_eq!(fingerprint(&known(port).await[0]), fingerprint(&alerts[0]));

    assert!(push(&server.url(), 2, &windows("logger", end, false)).await);
    let resolved = pager.next().await;
    assert_eq!(
        told(&resolved),
        ("resolved".to_owned(), "logger".to_owned())
    );
    let ended = &resolved.json()["alerts"][0];
    assert!(
        seconds(&ended["endsAt"]) >= seconds(&ended["startsAt"]),
        "{ended}"
    );
    server.stop().await;
    drop(alertmanager);
}

/// What a receiver took of each service, in order, without repeats of the same.
#[derive(Debug, Default)]
struct Ledger {
    told: BTreeMap<String, Vec<(String, String)>>,
    repeats: usize,
}

impl Ledger {
    fn add(&mut self, service: String, status: String, id: String) {
        let told = self.told.entry(service).or_default();
        match told.last() {
            Some((_, last)) if *last == id => self.repeats += 1,
            _ => told.push((status, id)),
        }
    }

    fn take(&mut self, taken: &Taken) {
        let (status, service) = told(taken);
        self.add(service, status, taken.header("webhook-id").to_owned());
    }

    /// How many services were told that all is over.
    fn complete(&self) -> usize {
        let over = |told: &&Vec<(String, String)>| told.iter().any(|(s, _)| s == "resolved");
        self.told.values().filter(over).count()
    }

    /// Each service was told once that it fires and then once that it is over;
    /// repeats had the same id and came before what followed.
    fn check(&self, name: &str, services: usize) {
        assert_eq!(self.told.len(), services, "{name}");
        for (service, told) in &self.told {
            let statuses: Vec<&str> = told.iter().map(|(status, _)| status.as_str()).collect();
            assert_eq!(
                statuses,
                ["firing", "resolved"],
                "{name} {service} {told:?}"
            );
            let ids: BTreeSet<&str> = told.iter().map(|(_, id)| id.as_str()).collect();
            assert_eq!(ids.len(), 2, "{name} {service} {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_killed_again_and_again_loses_no_alert() {
    let kills = std::env::var(KILLS_VARIABLE).unwrap_or_else(|_| KILLS.to_owned());
    let kills: u64 = kills.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (data, lines) = (folder.path().join("data"), folder.path().join("lines"));
    let mut steady = Receiver::start(&[TAKE]).await;
    let moods = [
        TAKE,
        Manner::Answer("503 Busy", ""),
        TAKE,
        Manner::Close,
        TAKE,
        TAKE,
        Manner::Answer("429 Too Many Requests", "Retry-After: 0"),
        TAKE,
    ];
    let moods: Vec<Manner> = moods.iter().cycle().take(7_000).cloned().collect();
    let mut moody = Receiver::start(&moods).await;
    let hangs = Receiver::start(&[Manner::Hang]).await;
    let config = folder.path().join("collector.toml");
    let text = format!(
        "[detect]\nstep = \"10s\"\nfor = \"30s\"\nkeep = \"10s\"\n\
         [hook]\nurl = \"{}\"\n\
         [[hook.receivers]]\nname = \"moody\"\nkind = \"webhook\"\nurl = \"{}\"\n\
         [[hook.receivers]]\nname = \"hangs\"\nkind = \"webhook\"\nurl = \"{}\"\n\
         [[hook.receivers]]\nname = \"script\"\nkind = \"command\"\n\
         command = [\"/bin/sh\", \"-c\", \
         \"echo $TEPUI_ALERT_SERVICE $TEPUI_ALERT_STATUS $TEPUI_ALERT_ID >>{}\"]\n",
        steady.url(),
        moody.url(),
        hangs.url(),
        lines.display()
    );
    std::fs::write(&config, text).unwrap();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let (mut first, mut second) = (Ledger::default(), Ledger::default());
    let mut waiting: Vec<(u64, UnixNanos)> = Vec::new();
    let mut after_alert = 0;
    for round in 0..kills {
        let collector = restart::start_with(&data, port, Some(&config));
        waiting.push((round + 1, spin_end()));
        steady.all().iter().for_each(|taken| first.take(taken));
        let pushing = async {
            while let Some((number, end)) = waiting.first().copied() {
                let service = format!("service-{number}");
                let mut both = windows(&service, end, true);
                both.extend(windows(&service, end, false));
                if push(&url, number, &both).await {
                    waiting.remove(0);
                } else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(120), pushing)
            .await
            .expect("the collector takes profiles");
        // Killed when it tells somebody, before it can know the answer or a little
        // later; or at another moment each time.
        match round % 3 {
            2 => tokio::time::sleep(Duration::from_millis(1_500 + 97 * (round % 23))).await,
            kind => {
                first.take(&steady.next().await);
                after_alert += 1;
                tokio::time::sleep(Duration::from_millis(kind * 7 * (round % 13))).await;
            }
        }
        drop(collector);
    }
    let _collector = restart::start_with(&data, port, Some(&config));
    let services = usize::try_from(kills).unwrap();
    let whole = |lines: &Path| {
        let mut ledger = Ledger::default();
        for line in std::fs::read_to_string(lines).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            ledger.add(
                words[0].to_owned(),
                words[1].to_owned(),
                words[2].to_owned(),
            );
        }
        ledger
    };
    let arriving = async {
        loop {
            steady.all().iter().for_each(|taken| first.take(taken));
            moody.all().iter().for_each(|taken| second.take(taken));
            let complete = [
                first.complete(),
                second.complete(),
                whole(&lines).complete(),
            ];
            if complete == [services; 3] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let arrived = tokio::time::timeout(Duration::from_secs(900), arriving).await;
    let repeats = [first.repeats, second.repeats, whole(&lines).repeats];
    println!("{kills} kills, {after_alert} of them at a delivery; told again: {repeats:?}");
    assert!(
        arrived.is_ok(),
        "{first:?}\n{second:?}\n{:?}",
        whole(&lines)
    );
    first.check("steady", services);
    second.check("moody", services);
    whole(&lines).check("script", services);
}
