//! What Tepui's agent and collector agree on.
//!
//! Wire messages ([`pb`]) stop at the door: [`dictionary`] turns them into
//! checked domain types ([`profile`], [`labels`], [`stack`], [`window`],
//! [`value_type`]) and back. [`pprof`] reads and writes the field's common file
//! format, [`codec`] compresses under a cap, [`status`] holds the one map from
//! failures to codes. This crate does no I/O.

#![forbid(unsafe_code)]

pub mod codec;
pub mod dictionary;
pub mod labels;
pub mod limits;
pub mod pprof;
pub mod profile;
pub mod stack;
pub mod status;
pub mod value_type;
pub mod varint;
pub mod window;

/// Generated bindings; they stop at the door.
pub mod pb {
    /// `tepui.v1`: ingest and query.
    #[allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        clippy::restriction,
        reason = "generated code"
    )]
    pub mod tepui {
        include!("generated/tepui.v1.rs");
    }
    /// `perftools.profiles`: pprof's file format.
    #[allow(
        missing_docs,
        unused_qualifications,
        clippy::all,
        clippy::restriction,
        reason = "generated code"
    )]
    pub mod pprof {
        include!("generated/perftools.profiles.rs");
    }
}
