//! Profiles of real programs, recorded once; `data/README.md` says how.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// What was recorded.
    pub name: &'static str,
    /// The gzipped pprof file.
    pub bytes: &'static [u8],
}

macro_rules! recorded {
    ($name:literal) => {
        Recorded {
            name: $name,
            bytes: include_bytes!(concat!("../data/", $name, ".pb.gz")),
        }
    };
}

/// All of them.
pub const RECORDED: [Recorded; 6] = [
    recorded!("go-cpu"),
    recorded!("go-heap"),
    recorded!("rust-cpu"),
    recorded!("cpp-cpu"),
    recorded!("python-cpu"),
    recorded!("node-cpu"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use collector::import::{Limits, read_pprof};

    #[test]
    fn every_recorded_profile_is_read_whole() {
        let read = RECORDED.map(|recorded| {
            let dense = read_pprof(recorded.bytes, &Limits::default()).unwrap();
            assert_eq!(dense.left_out.pooled_samples, 0, "{}", recorded.name);
            let values = dense.columns.iter().flat_map(|column| &column.values);
            assert!(values.sum::<i64>() > 0, "{}", recorded.name);
            (
                recorded.name,
                dense.columns.len(),
                dense.words.stack_count(),
            )
        });
        let expected = expect_test::expect![[r#"
            [
                (
                    "go-cpu",
                    1,
                    89,
                ),
                (
                    "go-heap",
                    4,
                    24,
                ),
                (
                    "rust-cpu",
                    1,
                    294,
                ),
                (
                    "cpp-cpu",
                    1,
                    312,
                ),
                (
                    "python-cpu",
                    1,
                    82,
                ),
                (
                    "node-cpu",
                    1,
                    80,
                ),
            ]
        "#]];
        expected.assert_debug_eq(&read);
    }
}
