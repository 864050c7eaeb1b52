//! No bytes panic, and what comes of damaged files keeps its promises.

use proptest::prelude::*;
use proto::labels::LabelSet;
use proto::profile::Profile;
use proto::window::Window;

use super::*;

fn small() -> Limits {
    Limits {
        file_bytes: 1 << 20,
        decoded_bytes: 8 << 20,
        stacks: 8,
        depth: 4,
        name_bytes: 8,
        dictionary_bytes: 2_000,
    }
}

/// Reads `bytes` in every way; whatever comes out keeps what it promises.
fn survives(bytes: &[u8]) {
    let formats = Format::ALL.map(Some).into_iter().chain([None]);
    for format in formats {
        let Ok(all) = read(bytes, format, &assumed(), &small()) else {
            continue;
        };
        for imported in all {
            // The pool is one stack more.
            assert!(imported.stacks.len() <= small().stacks + 1);
            for frames in &imported.stacks {
                // The mark of a lost root is one frame more.
                assert!(frames.len() <= small().depth + 1);
            }
            assert_ne!(imported.duration, Some(Duration::ZERO));
            let window = Window::new(UnixNanos::new(0), UnixNanos::new(1)).unwrap();
            Profile::new(
                LabelSet::default(),
                window,
                imported.stacks,
                imported.columns,
                Facts::default(),
            )
            .unwrap();
        }
    }
}

/// Words of which every text format is made.
const WORDS: [&str; 24] = [
    "a",
    ";",
    " ",
    "\n",
    "\t",
    "1",
    "-1",
    "1.5",
    "_[k]",
    "(",
    ")",
    "+0x1",
    "[unknown]",
    "spin 12 1.5: 4 cycles:",
    "ffffffff81c3fa21",
    "{",
    "}",
    "[",
    "]",
    "\"shared\":",
    "\"profiles\":",
    "{\"frames\":[]}",
    ",",
    "#",
];

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        survives(&bytes);
    }

    #[test]
    fn no_words_panic(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..60)) {
        survives(words.concat().as_bytes());
    }

    #[test]
    fn no_damage_panics(
        file_at in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end: prop::sample::Index,
        is_cut: bool,
    ) {
        let bytes = file(FILES[file_at].0);
        let mut bytes = unpack(&bytes, &Limits::default()).unwrap().into_owned();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(end.index(bytes.len()));
        }
        survives(&bytes);
    }

    #[test]
    fn folding_keeps_the_sum(
        counts in prop::collection::vec((0u32..30, 0u32..4, 0i64..1_000_000), 1..100),
    ) {
        let lines: String = counts
            .iter()
            .map(|(leaf, root, count)| format!("root{root};leaf {leaf} {count}\n"))
            .collect();
        let sum: i64 = counts.iter().map(|(_, _, count)| count).sum();
        prop_assert_eq!(total(&folded(&lines, &Limits::default())), sum);
        prop_assert_eq!(total(&folded(&lines, &small())), sum);
    }
}
