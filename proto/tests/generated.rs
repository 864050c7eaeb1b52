//! The committed bindings are what the `.proto` files produce today.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;

/// Regenerates into a scratch folder and compares; `UPDATE_EXPECT=1` accepts.
#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let committed = root.join("src/generated");
    let fresh = tempfile::tempdir().unwrap();
    // protox compiles the schema in Rust, so nobody needs a `protoc`.
    let descriptors = protox::compile(
        [
            "tepui/v1/admin.proto",
            "tepui/v1/ingest.proto",
            "tepui/v1/query.proto",
            "perftools/profiles.proto",
        ],
        [root.join("proto")],
    )
    .unwrap();
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .out_dir(fresh.path())
        .compile_fds(descriptors)
        .unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(fresh.path()).unwrap() {
        let entry = entry.unwrap();
        let target = committed.join(entry.file_name());
        let generated = std::fs::read_to_string(entry.path()).unwrap();
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&target, &generated).unwrap();
        }
        let on_disk = std::fs::read_to_string(&target).unwrap_or_default();
        assert!(
            on_disk == generated,
            "{} is stale: run `make bless`",
            target.display()
        );
        files += 1;
    }
    assert_eq!(files, 2, "one file per proto package");
}
