//! Caps that both ends of the wire keep.

/// Version of the push protocol.
pub const PROTOCOL_VERSION: u32 = 2;
/// Largest message on the wire, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 17 << 20;
/// Largest packed batch body, in bytes.
pub const MAX_BATCH_BYTES: usize = 16 << 20;
/// Largest unpacked batch body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 20;
/// Most windows of one batch.
pub const MAX_WINDOWS: usize = 1024;
/// Most samples of one window.
pub const MAX_SAMPLES: usize = 256 * 1024;
/// Most frames and stacks of one stream's dictionary and strings of one batch,
/// together.
pub const MAX_DICTIONARY_ENTRIES: usize = 256 * 1024;
/// Most bytes of one stream's dictionary, as [`crate::dictionary`] counts them.
pub const MAX_DICTIONARY_BYTES: usize = 16 << 20;
/// Longest string of a dictionary, in bytes.
pub const MAX_STRING_BYTES: usize = 16 * 1024;
/// Most frames of one stack.
pub const MAX_STACK_FRAMES: usize = 1025;
/// Most columns of one window.
pub const MAX_COLUMNS: usize = 16;
/// Bytes of an agent instance's id.
pub const INSTANCE_BYTES: usize = 16;
