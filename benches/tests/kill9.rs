//! One sudden end at each kind of place, as `make bench-store` has 200 of.

use benches::child::ServerConfig;
use benches::kills;
use proto::window::UnixNanos;

/// 2026-01-01T13:37:00Z.
const START: UnixNanos = UnixNanos::new((20_454 * 86_400 + 49_020) * 1_000_000_000);

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_doubled_wherever_a_collector_ends() {
    let data = tempfile::tempdir().unwrap();
    let config = ServerConfig {
        data: data.path().to_owned(),
        now: START,
        settings: Vec::new(),
        port: 0,
        core: None,
        kill_at: None,
    };
    let tale = kills::run(config, kills::ONE_OF_EACH, 5).await.unwrap();
    println!("{tale}");
    assert_eq!(tale.kills, kills::ONE_OF_EACH);
    assert_eq!(tale.missed(), [""; 0], "{tale}");
    assert!(tale.samples > 0);
    assert_eq!(tale.ranges.len(), 4, "{tale}");
    assert!(tale.ranges.values().all(|ranges| *ranges > 0), "{tale}");
}
