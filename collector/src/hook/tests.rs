//! Queues and workers against receivers that fail, with told clocks; the doors
//! against a socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proto::window::UnixNanos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::http::Try;
use super::template::Templates;
use super::worker::MAX_FAILURES;
use super::*;
use crate::alert::AlertState;
use crate::config::{MatchConfig, ReceiverConfig, ReceiverKind};
use crate::store::KeyValue;

/// 2026-11-24T14:02:00Z.
const NOW: i64 = 1_795_528_920_000_000_000;

/// A state store that lives as long as the test, and takes nothing when it is full.
#[derive(Debug, Default)]
struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>, AtomicBool);

impl StateStore for Memory {
    fn scan(&self, prefix: &[u8]) -> Result<Vec<KeyValue>, StoreError> {
        let map = self.0.lock().unwrap();
        let found = map.iter().filter(|(key, _)| key.starts_with(prefix));
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(StoreError::Write("the disk is full".into()));
        }
        let mut map = self.0.lock().unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }
}

/// A clock that a test sets.
#[derive(Debug)]
struct Told(AtomicI64);

impl Default for Told {
    fn default() -> Self {
        Self(AtomicI64::new(NOW))
    }
}

impl Told {
    fn add(&self, length: Duration) {
        let nanos = i64::try_from(length.as_nanos()).unwrap();
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for Told {
    fn now(&self) -> UnixNanos {
        UnixNanos::new(self.0.load(Ordering::SeqCst))
    }
}

fn alert(id: &str, resolved: bool) -> Alert {
    Alert {
        id: id.to_owned(),
        tenant: "anonymous".to_owned(),
        kind: "spin".to_owned(),
        state: if resolved {
            AlertState::Resolved
        } else {
            AlertState::Firing
        },
        severity: "critical".to_owned(),
        namespace: "prod".to_owned(),
        service: "logger".to_owned(),
        anchor: "main.startSink".to_owned(),
        path: Vec::new(),
        cores: if resolved { 0.5 } else { 0.94 },
        baseline_cores: Some(0.0),
        title: "logger spins in main.startSink: 0.94 cores".to_owned(),
        wait_share: Some(0.99),
        shift: None,
        measure: None,
        progress_share: None,
        leaf_eff: 4.0,
        throttled_share: 0.0,
        top_leaves: Vec::new(),
        samples: 10,
        since: "2026-11-24T14:02:00Z".to_owned(),
        last_seen: "2026-11-24T14:12:00Z".to_owned(),
        fired_at: Some("2026-11-24T14:07:15Z".to_owned()),
        resolved_at: resolved.then(|| "2026-11-24T15:00:00Z".to_owned()),
        acknowledged_at: None,
        note: String::new(),
        version: "1.8.3".to_owned(),
        previous_version: "1.8.2".to_owned(),
        pods: vec!["a".to_owned(), "b".to_owned()],
        summary: "main.startSink has used 0.94 cores.".to_owned(),
        links: BTreeMap::from([("flamegraph".to_owned(), "http://c/service".to_owned())]),
    }
}

fn happening(resolved: bool) -> Happening {
    match resolved {
        true => Happening::Resolved,
        false => Happening::Firing,
    }
}

pub(super) fn notice(id: &str, resolved: bool) -> Notice {
    let now = UnixNanos::new(NOW);
    Notice::new(&alert(id, resolved), happening(resolved), "http://c", now)
}

fn webhook(name: &str, url: &str) -> ReceiverConfig {
    ReceiverConfig {
        name: name.to_owned(),
        kind: Some(ReceiverKind::Webhook),
        url: url.to_owned().into(),
        ..ReceiverConfig::default()
    }
}

/// A receiver that forgets, and is told of one service or of all.
fn alertmanager(service: Option<&str>) -> ReceiverConfig {
    ReceiverConfig {
        kind: Some(ReceiverKind::Alertmanager),
        matches: MatchConfig {
            service: service.map(|service| vec![service.to_owned()]),
            ..MatchConfig::default()
        },
        ..webhook("a", "http://127.0.0.1:9/")
    }
}

fn open_with(store: &Arc<Memory>, clock: &Arc<Told>, receivers: Vec<ReceiverConfig>) -> Arc<Hooks> {
    let config = HookConfig {
        receivers,
        ..HookConfig::default()
    };
    let receivers = Receivers::new(&config).unwrap();
    let shared: Arc<dyn StateStore> = Arc::<Memory>::clone(store);
    let clock: Arc<dyn Clock> = Arc::<Told>::clone(clock);
    Arc::new(Hooks::open(receivers, shared, &Metrics::default(), clock).unwrap())
}

fn open(store: &Arc<Memory>, clock: &Arc<Told>) -> Arc<Hooks> {
    open_with(store, clock, vec![webhook("a", "http://127.0.0.1:9/")])
}

fn add(hooks: &Hooks, store: &Memory, id: &str, resolved: bool) {
    let entries = hooks.entries(&alert(id, resolved), happening(resolved), "http://c");
    let changes = entries.iter().map(Entry::change).collect();
    store.write(changes).unwrap();
    hooks.push(entries);
}

/// Keys of `store` that begin with `prefix`.
fn rows(store: &Memory, prefix: &str) -> usize {
    store.scan(prefix.as_bytes()).unwrap().len()
}

/// A receiver that answers as a test says, or else takes all.
#[derive(Default)]
struct Script {
    /// What it answers, in order, and then [`Try::Delivered`].
    answers: Mutex<Vec<Try>>,
    /// Alerts that it never takes.
    hates: Vec<String>,
    repeats: bool,
    /// What came: ids of alerts, what happened, and when by the told clock.
    came: Mutex<Vec<(String, String, i64)>>,
}

impl Script {
    fn answering(answers: Vec<Try>) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers),
            ..Self::default()
        })
    }

    /// Alerts and what happened to them, in the order in which they came.
    fn came(&self) -> Vec<String> {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        came.iter()
            .map(|(id, what, _)| format!("{id} {what}"))
            .collect()
    }
}

impl Tell for Script {
    async fn tell(&self, notices: &[Notice], now: UnixNanos) -> Try {
        let mut came = self.came.lock().unwrap();
        for notice in notices {
            let what = notice.happening.word().to_owned();
            came.push((notice.alert_id.clone(), what, now.get()));
        }
        if notices.iter().any(|n| self.hates.contains(&n.alert_id)) {
            return Try::Again("hated".to_owned(), None);
        }
        let mut answers = self.answers.lock().unwrap();
        match answers.is_empty() {
            true => Try::Delivered,
            false => answers.remove(0),
        }
    }

    fn repeats(&self) -> bool {
        self.repeats
    }
}

fn again() -> Try {
    Try::Again("busy".to_owned(), None)
}

/// Lets `script` be told what waits until `done`. Time is paused, so pauses pass
/// at once.
async fn work_until(
    hooks: &Hooks,
    script: &Arc<Script>,
    clock: &Arc<Told>,
    done: impl Fn() -> bool,
) {
    let shutdown = CancellationToken::new();
    let (_, queue) = &hooks.active[0];
    let working = work(
        Arc::clone(queue),
        Arc::clone(script),
        Arc::<Told>::clone(clock),
        shutdown.clone(),
    );
    let watching = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
    };
    tokio::join!(working, watching);
}

#[tokio::test(start_paused = true)]
async fn alerts_are_told_in_order_however_often_it_fails() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open(&store, &clock);
    for (id, resolved) in [("1", false), ("2", false), ("1", true), ("2", true)] {
        add(&hooks, &store, id, resolved);
    }
    let script = Script::answering(vec![again(), again(), again(), again(), again()]);
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    let taken: Vec<String> = script.came().split_off(5);
    assert_eq!(taken.len(), 4);
    for id in ["1", "2"] {
        let of = taken.iter().filter(|came| came.starts_with(id));
        let of: Vec<&str> = of.map(|came| &came[2..]).collect();
        assert_eq!(of, ["firing", "resolved"]);
    }
    assert_eq!(store.0.lock().unwrap().len(), 0, "nothing is left");
    let report = &hooks.report()[0];
    assert_eq!(
        (report.delivered, report.retried, report.dropped),
        (4, 5, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_a_receiver_stumbles_over_does_not_delay_the_others() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open(&store, &clock);
    for (id, resolved) in [("bad", false), ("bad", true), ("1", false), ("1", true)] {
        add(&hooks, &store, id, resolved);
    }
    let script = Arc::new(Script {
        hates: vec!["bad".to_owned()],
        ..Script::default()
    });
    work_until(&hooks, &script, &clock, || hooks.len() == 2).await;
    let came = script.came();
    assert_eq!(came[..3], ["bad firing", "1 firing", "1 resolved"]);
    // It is given up after a day, and then so is what comes after it.
    clock.add(Duration::from_secs(24 * 3_600));
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    let dead = hooks.dead_letters("anonymous");
    assert_eq!(dead.len(), 2);
    assert_eq!(
        (dead[0].alert.as_str(), dead[0].status.as_str()),
        ("bad", "firing")
    );
    assert_eq!(
        (dead[0].receiver.as_str(), dead[0].reason.as_str()),
        ("a", "hated")
    );
    assert_eq!(dead[0].service, "prod/logger");
    assert_eq!(hooks.dead_letters("others").len(), 0, "of its tenant alone");
    assert_eq!(hooks.report()[0].dropped, 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_person_must_mend_is_tried_some_times_and_what_is_refused_once() {
    for (answers, tries) in [
        (vec![Try::Refused("no".to_owned())], 1),
        (
            (0..MAX_FAILURES)
                .map(|_| Try::Failed("no".to_owned()))
                .collect(),
            10,
        ),
    ] {
        let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
        let hooks = open(&store, &clock);
        add(&hooks, &store, "1", false);
        let script = Script::answering(answers);
        work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
        assert_eq!(script.came().len(), tries);
        // A dead letter is still known after a restart, for a week.
        let hooks = open(&store, &clock);
        let dead = hooks.dead_letters("anonymous");
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].reason, "no");
        clock.add(Duration::from_secs(8 * 86_400));
        assert_eq!(hooks.dead_letters("anonymous").len(), 0);
        drop(open(&store, &clock));
        assert_eq!(store.0.lock().unwrap().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open(&store, &clock);
    add(&hooks, &store, "1", false);
    let asked = Duration::from_secs(1_234);
    let script = Script::answering(vec![Try::Again("busy".to_owned(), Some(asked))]);
    let began = tokio::time::Instant::now();
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    // The time of the test, which is paused, not of the machine.
    assert!(began.elapsed() >= asked, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_forgets_hears_of_what_fires_each_minute_and_of_an_end_for_five() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open_with(&store, &clock, vec![alertmanager(None)]);
    let script = Arc::new(Script {
        repeats: true,
        ..Script::default()
    });
    let tells = |count: usize| {
        let script = Arc::clone(&script);
        move || script.came().len() >= count
    };
    add(&hooks, &store, "1", false);
    let began = tokio::time::Instant::now();
    work_until(&hooks, &script, &clock, tells(4)).await;
    assert_eq!(script.came(), ["1 firing"; 4]);
    assert!(
        began.elapsed() >= Duration::from_secs(180),
        "{:?}",
        began.elapsed()
    );
    // Also after a restart.
    work_until(&hooks, &script, &clock, tells(6)).await;
    assert_eq!(rows(&store, "repeat/"), 1);
    add(&hooks, &store, "1", true);
    work_until(&hooks, &script, &clock, tells(9)).await;
    assert_eq!(script.came()[7..], ["1 resolved"; 2], "{:?}", script.came());
    assert_eq!(rows(&store, "repeat/"), 1);
    // Five minutes later there is nothing to be told again.
    clock.add(Duration::from_secs(301));
    work_until(&hooks, &script, &clock, || rows(&store, "repeat/") == 0).await;
    assert_eq!(store.0.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_again_and_what_is_new_do_not_hold_up_each_other() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open_with(&store, &clock, vec![alertmanager(None)]);
    add(&hooks, &store, "old", false);
    let told = Arc::new(Script {
        repeats: true,
        ..Script::default()
    });
    work_until(&hooks, &told, &clock, || hooks.is_empty()).await;
    let script = Arc::new(Script {
        repeats: true,
        hates: vec!["old".to_owned(), "bad".to_owned()],
        ..Script::default()
    });
    add(&hooks, &store, "bad", false);
    add(&hooks, &store, "new", false);
    let count = |what: &str| script.came().iter().filter(|came| *came == what).count();
    work_until(&hooks, &script, &clock, || {
        count("old firing") >= 5 && count("bad firing") >= 5
    })
    .await;
    assert!(count("new firing") >= 1, "{:?}", script.came());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_told_and_not_noted_is_told_once_more() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open(&store, &clock);
    let script = Arc::new(Script {
        repeats: true,
        ..Script::default()
    });
    add(&hooks, &store, "1", false);
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    add(&hooks, &store, "1", true);
    store.1.store(true, Ordering::SeqCst);
    let ends = || {
        script
            .came()
            .iter()
            .filter(|came| *came == "1 resolved")
            .count()
    };
    work_until(&hooks, &script, &clock, || ends() >= 1).await;
    assert_eq!(hooks.len(), 1, "it waits for the disk");
    store.1.store(false, Ordering::SeqCst);
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    assert!(ends() >= 2, "{:?}", script.came());
    // What is told again from now on is the end.
    let repeats = hooks.active[0].1.repeats(clock.now()).unwrap();
    let words: Vec<&str> = repeats.iter().map(|n| n.happening.word()).collect();
    assert_eq!(words, ["resolved"]);
    assert_eq!(hooks.report()[0].delivered, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_meant_for_a_receiver_any_more_is_not_told_again() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open_with(&store, &clock, vec![alertmanager(None)]);
    add(&hooks, &store, "1", false);
    let script = Arc::new(Script {
        repeats: true,
        ..Script::default()
    });
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    assert_eq!(rows(&store, "repeat/"), 1);
    drop(open_with(
        &store,
        &clock,
        vec![alertmanager(Some("logger"))],
    ));
    assert_eq!(rows(&store, "repeat/"), 1, "it still is");
    drop(open_with(&store, &clock, vec![alertmanager(Some("pay"))]));
    assert_eq!(rows(&store, "repeat/"), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_told_the_end_is_not_told_the_beginning_again() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open_with(&store, &clock, vec![alertmanager(None)]);
    add(&hooks, &store, "1", false);
    add(&hooks, &store, "1", true);
    let script = Arc::new(Script {
        repeats: true,
        answers: Mutex::new(vec![Try::Delivered, Try::Refused("no".to_owned())]),
        ..Script::default()
    });
    work_until(&hooks, &script, &clock, || hooks.is_empty()).await;
    assert_eq!((rows(&store, "repeat/"), rows(&store, "dead/")), (0, 1));
}

#[test]
fn a_queue_and_its_dead_letters_are_bounded() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open(&store, &clock);
    for number in 0..MAX_WAITING + MAX_DEAD + 7 {
        add(&hooks, &store, &number.to_string(), false);
    }
    assert_eq!(hooks.len(), MAX_WAITING);
    let dead = hooks.dead_letters("anonymous");
    assert_eq!(dead.len(), MAX_DEAD);
    assert_eq!(dead[0].alert, "7", "the oldest are forgotten");
    let dropped = u64::try_from(MAX_DEAD + 7).unwrap();
    assert_eq!(hooks.report()[0].dropped, dropped, "and counted");
    let all = store.0.lock().unwrap().len();
    assert_eq!(all, MAX_WAITING + MAX_DEAD);
}

#[test]
fn each_receiver_gets_what_it_asked_for() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let only = |name: &str, severity: &str| ReceiverConfig {
        matches: MatchConfig {
            severity: Some(vec![severity.to_owned()]),
            ..MatchConfig::default()
        },
        ..webhook(name, "http://127.0.0.1:9/")
    };
    let receivers = vec![
        only("critical", "critical"),
        only("warning", "warning"),
        webhook("all", "http://127.0.0.1:9/"),
    ];
    let hooks = open_with(&store, &clock, receivers);
    add(&hooks, &store, "1", false);
    let waiting: Vec<(String, usize)> = hooks
        .report()
        .into_iter()
        .map(|report| (report.receiver, report.waiting))
        .collect();
    let expected = [("critical", 1), ("warning", 0), ("all", 1)];
    assert_eq!(
        waiting,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
}

#[test]
fn what_waits_for_a_receiver_that_is_gone_becomes_a_dead_letter() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let hooks = open_with(
        &store,
        &clock,
        vec![
            webhook("old", "http://127.0.0.1:9/"),
            webhook("a", "http://127.0.0.1:9/"),
        ],
    );
    add(&hooks, &store, "1", false);
    let hooks = open(&store, &clock);
    assert_eq!(hooks.len(), 1);
    let dead = hooks.dead_letters("anonymous");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].receiver, "old");
}

#[test]
fn what_a_release_of_one_webhook_kept_is_told() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    for (number, resolved) in [(3_u64, false), (4, true)] {
        let body = payload::body(&notice("00ff", resolved), &own_words(resolved));
        let entry = serde_json::json!({
            "id": notice("00ff", resolved).id,
            "body": String::from_utf8(body).unwrap(),
        });
        let value = [&[1], entry.to_string().as_bytes()].concat();
        let key = [RENDERED, &number.to_be_bytes()].concat();
        store.write(vec![(key, Some(value))]).unwrap();
    }
    let config = HookConfig {
        url: "http://127.0.0.1:9/".to_owned(),
        ..HookConfig::default()
    };
    for _again in 0..2 {
        let shared: Arc<dyn StateStore> = Arc::<Memory>::clone(&store);
        let receivers = Receivers::new(&config).unwrap();
        let clock: Arc<dyn Clock> = Arc::<Told>::clone(&clock);
        let hooks = Hooks::open(receivers, shared, &Metrics::default(), clock).unwrap();
        assert_eq!(hooks.len(), 2);
        assert_eq!(rows(&store, "hook/"), 0);
        let (_, queue) = &hooks.active[0];
        assert_eq!(queue.name(), "default");
        let first = queue.read(queue.next().unwrap()).unwrap().unwrap();
        let expected = notice("00ff", false);
        assert_eq!(first.id, expected.id);
        let words = own_words(false);
        assert_eq!(
            String::from_utf8(payload::body(&first, &words)).unwrap(),
            String::from_utf8(payload::body(&expected, &words)).unwrap()
        );
    }
}

fn own_words(resolved: bool) -> template::Words {
    Templates::none().words(&notice("00ff", resolved))
}

#[test]
fn what_each_kind_is_posted() {
    let plain = Templates::none();
    let slack = Templates::new("", "", template::Markup::Slack).unwrap();
    let now = UnixNanos::new(NOW);
    for resolved in [false, true] {
        let notice = notice("00ff", resolved);
        let name = happening(resolved).word();
        for (kind, post) in [
            ("hook", webhook::post(&notice, &plain, &[], now)),
            (
                "alertmanager",
                alertmanager::post(std::slice::from_ref(&notice), &plain, now),
            ),
            ("slack", slack::post(&notice, &slack)),
            ("pagerduty", pagerduty::post(&notice, &plain, "R0UT1NG")),
        ] {
            let body: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
            let golden = format!(
                "{}/tests/data/{kind}-{name}.json",
                env!("CARGO_MANIFEST_DIR")
            );
            let shown = serde_json::to_string_pretty(&body).unwrap();
            expect_test::expect_file![golden].assert_eq(&shown);
        }
    }
    let labels = |resolved| notice("00ff", resolved).labels;
    assert_eq!(labels(false), labels(true), "labels are the identity");
}

/// What makes a receiver unusable.
type Mistake<'a> = &'a dyn Fn(&mut ReceiverConfig);

#[test]
fn a_receiver_that_cannot_be_used_is_named_and_its_secrets_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let config = |change: &dyn Fn(&mut ReceiverConfig)| {
        let mut receiver = webhook("mine", "http://127.0.0.1:9/hush");
        change(&mut receiver);
        HookConfig {
            receivers: vec![receiver],
            ..HookConfig::default()
        }
    };
    let wrong: [(Mistake<'_>, &str); 8] = [
        (&|r| r.url = "nowhere/hush".to_owned().into(), "http://"),
        (&|r| r.secret = "whsec_hush".to_owned().into(), "whsec_"),
        (&|r| r.secret_file = file("empty", "\n"), "empty"),
        (&|r| r.secret_file = folder.path().join("none"), "none"),
        (
            &|r| r.secret_file = file("long", &"x".repeat(5_000)),
            "4096",
        ),
        (&|r| r.title = "{{ statu }}".to_owned(), "title"),
        (&|r| r.text = "{{".to_owned(), "text"),
        (
            &|r| r.matches.kind = Some(vec!["(".to_owned()]),
            "match.kind",
        ),
    ];
    for (change, expected) in wrong {
        let error = Receivers::new(&config(change)).unwrap_err().to_string();
        assert!(error.contains("\"mine\""), "{error}");
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
    let from_files = config(&|r| {
        r.url = String::new().into();
        r.url_file = file("url", "http://127.0.0.1:9/hush\n");
        r.secret_file = file("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    });
    let receivers = Receivers::new(&from_files).unwrap();
    let shown = format!("{receivers:?} {from_files:?}");
    assert!(
        !shown.contains("hush") && !shown.contains("MfKQ"),
        "{shown}"
    );
}

/// A request that came.
struct Request {
    head: String,
    body: String,
}

/// Answers each POST with the next of `answers`; returns what came.
async fn receive(listener: TcpListener, answers: &[&str]) -> Vec<Request> {
    let mut came = Vec::new();
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        while !text.ends_with('}') {
            let mut chunk = [0; 8192];
            let read = stream.read(&mut chunk).await.unwrap();
            assert_ne!(read, 0, "{text}");
            text.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
        let reply = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(reply.as_bytes()).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        came.push(Request {
            head: head.to_owned(),
            body: body.to_owned(),
        });
    }
    came
}

#[tokio::test]
async fn over_a_socket_a_repeat_has_the_same_id_and_body() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let hooks = open_with(&store, &clock, vec![webhook("a", &url)]);
    add(&hooks, &store, "1", false);
    add(&hooks, &store, "1", true);
    let shutdown = CancellationToken::new();
    let running = Arc::clone(&hooks).run(shutdown.clone());
    let answers = ["500 Oops", "429 Busy\r\nRetry-After: 0", "200 OK", "400 No"];
    let receiving = async {
        let came = receive(listener, &answers).await;
        while !hooks.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        shutdown.cancel();
        came
    };
    let ((), came) = tokio::join!(running, receiving);
    let id = |request: &Request| {
        let mut lines = request.head.lines();
        let id = lines.find_map(|line| line.strip_prefix("webhook-id: "));
        id.unwrap().to_owned()
    };
    for repeat in &came[1..3] {
        assert_eq!((id(repeat), &repeat.body), (id(&came[0]), &came[0].body));
    }
    assert_ne!(id(&came[3]), id(&came[0]));
    let dead = hooks.dead_letters("anonymous");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].reason, "the receiver answered 400 Bad Request");
}

#[tokio::test]
async fn a_receiver_that_hangs_is_left_and_a_redirect_is_not_followed() {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hooks = open_with(
        &store,
        &clock,
        vec![ReceiverConfig {
            timeout: Some(Duration::from_millis(200)),
            ..webhook("a", &format!("http://{address}/secret-path"))
        }],
    );
    let (receiver, _) = &hooks.active[0];
    let sent = [notice("1", false)];
    let now = UnixNanos::new(NOW);
    // Accepted by the system, and never read.
    let came = receiver.tell(&sent, now).await;
    let Try::Again(reason, None) = came else {
        panic!("{came:?}");
    };
    assert!(!reason.contains("secret-path"), "{reason}");
    let (mut stuck, _) = listener.accept().await.unwrap();
    let _gone = stuck.shutdown().await;
    let redirect = format!("307 Elsewhere\r\nLocation: http://{address}/other");
    let answers = [redirect.as_str()];
    let (came, _) = tokio::join!(receiver.tell(&sent, now), receive(listener, &answers));
    assert!(
        matches!(&came, Try::Failed(reason) if reason.contains("not followed")),
        "{came:?}"
    );
}

/// What comes of a command, with this time limit.
async fn run(script: &str, timeout: Duration) -> Try {
    let (store, clock): (Arc<Memory>, Arc<Told>) = Default::default();
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let hooks = open_with(
        &store,
        &clock,
        vec![ReceiverConfig {
            name: "a".to_owned(),
            kind: Some(ReceiverKind::Command),
            command,
            timeout: Some(timeout),
            ..ReceiverConfig::default()
        }],
    );
    let (receiver, _) = &hooks.active[0];
    receiver
        .tell(&[notice("00ff", false)], UnixNanos::new(NOW))
        .await
}

#[tokio::test]
async fn a_command_says_by_its_exit_code_what_came_of_it() {
    let generous = Duration::from_secs(60);
    for (script, expected) in [
        ("exit 0", Try::Delivered),
        // One that does not read what it is given.
        ("exec </dev/null; sleep 0.1", Try::Delivered),
        ("exit 75", Try::Again("exit status: 75".to_owned(), None)),
        (
            "echo no such  channel >&2; exit 1",
            Try::Failed("exit status: 1: no such channel".to_owned()),
        ),
        (
            "test \"$TEPUI_ALERT_STATUS $TEPUI_ALERT_SERVICE\" = 'firing logger' || exit 3",
            Try::Delivered,
        ),
        (
            "grep -q '\"fingerprint\":\"00ff\"' || exit 3",
            Try::Delivered,
        ),
        // What the collector was given for itself is not passed on.
        (
            "env | grep -q CARGO_MANIFEST_DIR && exit 3; exit 0",
            Try::Delivered,
        ),
    ] {
        assert_eq!(run(script, generous).await, expected, "{script}");
    }
    let hooks = HookConfig {
        receivers: vec![ReceiverConfig {
            name: "a".to_owned(),
            kind: Some(ReceiverKind::Command),
            command: vec!["/nonexistent/program".to_owned()],
            ..ReceiverConfig::default()
        }],
        ..HookConfig::default()
    };
    let receivers = Receivers::new(&hooks).unwrap();
    let came = receivers.0[0]
        .tell(&[notice("00ff", false)], UnixNanos::new(NOW))
        .await;
    assert!(
        matches!(&came, Try::Failed(reason) if reason.contains("cannot run")),
        "{came:?}"
    );
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! $$ >{pids}.new; mv {pids}.new {pids}; wait",
        pids = pids.display()
    );
    // It had time to start its child: else it is run again.
    let mut limit = Duration::from_millis(500);
    let pids = loop {
        let came = run(&script, limit).await;
        assert!(
            matches!(&came, Try::Again(reason, None) if reason.contains("killed")),
            "{came:?}"
        );
        match std::fs::read_to_string(&pids) {
            Ok(pids) => break pids,
            Err(_) => limit *= 2,
        }
    };
    for pid in pids.split_whitespace() {
        // Gone, or dead and not yet waited for.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while state()
            .rsplit(") ")
            .next()
            .is_some_and(|s| s.starts_with(['R', 'S', 'D']))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
