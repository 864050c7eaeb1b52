//! What a spool promises, on real folders.

use super::index::BLOCK_BYTES;
use super::*;
use proto::labels::LabelSet;
use proto::profile::{Column, Facts};
use proto::stack::{Frame, FrameKind, Stack};
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

const ROOM: u64 = 1 << 20;
const ONE: [u8; 16] = [1; 16];
const TWO: [u8; 16] = [2; 16];
const THREE: [u8; 16] = [3; 16];

fn profile(second: i64, frames: &[String]) -> Profile {
    let start = UnixNanos::new(second * 1_000_000_000);
    let stack: Stack = frames
        .iter()
        .map(|name| Frame::named(FrameKind::Native, name))
        .collect();
    let column = Column {
        profile_type: ProfileType::cpu(),
        temporality: Temporality::Delta,
        period: 10,
        weight: 10,
        values: vec![7],
    };
    Profile::new(
        LabelSet::new([("service", "s")]).unwrap(),
        Window::from_start(start, 1_000_000_000).unwrap(),
        vec![stack],
        vec![column],
        Facts::default(),
    )
    .unwrap()
}

fn small(second: i64) -> Profile {
    profile(second, &["leaf".to_owned(), "main".to_owned()])
}

fn sequences(spool: &Spool) -> Vec<(u8, u64)> {
    let mut found: Vec<(u8, u64)> = Vec::new();
    let mut after = None;
    while let Some(batch) = spool.next(after.as_ref()) {
        after = Some(batch.id);
        found.push((batch.id.instance[0], batch.id.sequence));
    }
    found
}

fn batch_file(dir: &Path, instance: u8, sequence: u64) -> PathBuf {
    let folder = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().ends_with(&format!("{instance:02x}")))
        .unwrap();
    folder.join(file_name(sequence))
}

#[test]
fn batches_keep_their_identity_and_order_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::open(dir.path(), ROOM, ONE).unwrap();
    first.append(&[small(0), small(1)]).unwrap();
    first.append(&[small(2)]).unwrap();
    let bodies = [first.next(None).unwrap(), {
        let id = first.next(None).unwrap().id;
        first.next(Some(&id)).unwrap()
    }];
    drop(first);

    let second = Spool::open(dir.path(), ROOM, TWO).unwrap();
    second.append(&[small(3)]).unwrap();
    assert_eq!(sequences(&second), [(1, 1), (1, 2), (2, 1)]);
    assert_eq!(second.next(None).unwrap(), bodies[0]);
    assert_eq!(second.next(Some(&bodies[0].id)).unwrap(), bodies[1]);
    assert_eq!(second.stats().windows, 4);

    // Batch 1 was acknowledged; nobody sees it again, and an emptied
    // folder keeps its place in the order.
    second.remove(&bodies[0].id);
    second.remove(&bodies[1].id);
    assert_eq!(second.next(Some(&bodies[1].id)).unwrap().id.instance, TWO);
    drop(second);
    let third = Spool::open(dir.path(), ROOM, THREE).unwrap();
    assert_eq!(sequences(&third), [(2, 1)]);
    assert_eq!(third.stats().dropped_batches, 0);
}

#[test]
fn the_oldest_go_first_and_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 3 * BLOCK_BYTES, ONE).unwrap();
    for second in 0..5 {
        spool.append(&[small(second), small(second + 100)]).unwrap();
    }
    assert_eq!(sequences(&spool), [(1, 3), (1, 4), (1, 5)]);
    let expected = SpoolStats {
        batches: 3,
        windows: 6,
        bytes: 3 * BLOCK_BYTES,
        dropped_batches: 2,
        dropped_windows: 4,
    };
    assert_eq!(spool.stats(), expected);
    drop(spool);
    // A smaller bound holds from the start, and for older instances first.
    let spool = Spool::open(dir.path(), 2 * BLOCK_BYTES, TWO).unwrap();
    spool.append(&[small(9)]).unwrap();
    assert_eq!(sequences(&spool), [(1, 5), (2, 1)]);
    assert_eq!(spool.stats().dropped_windows, 4);
}

#[test]
fn an_empty_spool_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
    spool.append(&[]).unwrap();
    spool.append(&[small(0)]).unwrap();
    let id = spool.next(None).unwrap().id;
    spool.remove(&id);
    spool.remove(&id);
    drop(spool);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock: {left:?}");
}

#[test]
fn two_agents_do_not_take_from_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let one = Spool::open(dir.path(), ROOM, ONE).unwrap();
    one.append(&[small(0)]).unwrap();
    let two = Spool::open(dir.path(), ROOM, TWO).unwrap();
    two.append(&[small(1)]).unwrap();
    assert_eq!(sequences(&one), [(1, 1)]);
    assert_eq!(sequences(&two), [(2, 1)]);
    assert!(matches!(
        Spool::open(dir.path(), ROOM, ONE),
        Err(SpoolError::InstanceUsed { .. })
    ));
    drop(one);
    let three = Spool::open(dir.path(), ROOM, THREE).unwrap();
    assert_eq!(sequences(&three), [(1, 1)]);
}

#[test]
fn damaged_files_are_dropped_and_counted() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage, bool); 6] = [
        ("empty", |file| fs::write(file, b"").unwrap(), true),
        (
            "cut in the header",
            |file| {
                let bytes = fs::read(file).unwrap();
                fs::write(file, &bytes[..20]).unwrap();
            },
            true,
        ),
        (
            "newer version",
            |file| {
                let mut bytes = fs::read(file).unwrap();
                bytes[4] = 9;
                fs::write(file, &bytes).unwrap();
            },
            true,
        ),
        (
            "another batch's file",
            |file| {
                let mut bytes = fs::read(file).unwrap();
                bytes[16] = 77;
                fs::write(file, &bytes).unwrap();
            },
            true,
        ),
        (
            "cut in the body",
            |file| {
                let bytes = fs::read(file).unwrap();
                fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
            },
            false,
        ),
        (
            "flipped bit",
            |file| {
                let mut bytes = fs::read(file).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(file, &bytes).unwrap();
            },
            false,
        ),
    ];
    for (what, damage, seen_at_open) in damages {
        let dir = tempfile::tempdir().unwrap();
        let one = Spool::open(dir.path(), ROOM, ONE).unwrap();
        for second in 0..3 {
            one.append(&[small(second)]).unwrap();
        }
        drop(one);
        let file = batch_file(dir.path(), 1, 2);
        damage(&file);
        fs::write(file.with_extension("tmp"), b"unfinished").unwrap();
        let two = Spool::open(dir.path(), ROOM, TWO).unwrap();
        assert_eq!(two.stats().dropped_batches == 1, seen_at_open, "{what}");
        assert_eq!(sequences(&two), [(1, 1), (1, 3)], "{what}");
        assert_eq!(two.stats().dropped_batches, 1, "{what}");
        assert_eq!(two.stats().batches, 2, "{what}");
        assert!(!file.exists(), "{what}");
        assert!(!file.with_extension("tmp").exists(), "{what}");
    }
}

#[test]
fn an_unusable_folder_is_named_with_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let failure = Spool::open(&file.join("spool"), ROOM, ONE).unwrap_err();
    assert!(matches!(failure, SpoolError::Folder { .. }));
    assert!(failure.to_string().contains("file/spool"));
    assert!(
        failure
            .to_string()
            .contains("set spool.directory (--spool DIR)")
    );
}

#[test]
fn a_failed_write_is_counted_and_takes_no_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
    let in_the_way = batch_file(dir.path(), 1, 1);
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    assert!(matches!(
        spool.append(&[small(0)]),
        Err(SpoolError::Write { .. })
    ));
    assert_eq!(spool.stats().dropped_windows, 1);
    fs::remove_dir_all(&in_the_way).unwrap();
    spool.append(&[small(1)]).unwrap();
    assert_eq!(sequences(&spool), [(1, 1)]);
}

#[test]
fn what_is_too_large_for_a_batch_becomes_several() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), 256 << 20, ONE).unwrap();
    let many: Vec<Profile> = (0..1500).map(small).collect();
    spool.append(&many).unwrap();
    assert_eq!(spool.stats().batches, 2);
    assert_eq!(spool.stats().windows, 1500);

    // Names of 10 KB: 900 fill over half of a dictionary, 2000 more than all.
    let frames = |tag: &str, names: usize| -> Vec<String> {
        (0..names).map(|n| format!("{tag}{n:>10000}")).collect()
    };
    let heavy: Vec<Profile> = (0..2)
        .map(|n| profile(n, &frames(&format!("p{n}"), 900)))
        .collect();
    spool.append(&heavy).unwrap();
    assert_eq!(spool.stats().batches, 4);
    let parts: Vec<Stack> = (0..4)
        .map(|n| {
            frames(&format!("q{n}"), 900)
                .iter()
                .map(|name| Frame::named(FrameKind::Native, name))
                .collect()
        })
        .collect();
    let one = small(0);
    let mut column = one.columns()[0].clone();
    column.values = vec![1; parts.len()];
    let impossible = Profile::new(
        one.labels().clone(),
        one.window(),
        parts,
        vec![column],
        Facts::default(),
    )
    .unwrap();
    assert!(matches!(
        spool.append(&[small(1), impossible, small(2)]),
        Err(SpoolError::TooLarge(_))
    ));
    assert_eq!(spool.stats().dropped_windows, 1);
    assert_eq!(spool.stats().windows, 1504);
}

#[tokio::test]
async fn an_append_wakes_the_waiter_also_when_it_came_first() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), ROOM, ONE).unwrap();
    spool.append(&[small(0)]).unwrap();
    spool.wait().await;
    tokio::join!(spool.wait(), async {
        spool.append(&[small(1)]).unwrap();
    });
}

proptest::proptest! {
    #[test]
    fn no_folder_name_panics(name in "\\PC{0,40}|[0-9a-f]{1,8}-[0-9a-fg+]{32}") {
        let _whatever = parse_folder_name(&name);
    }
}
