//! Takes windows from agents: the gRPC door ([`stream`]), and the one writer
//! behind it ([`writer`]) that maps stacks to the service's tree and commits
//! batches in groups.

mod coarse;
pub mod dedupe;
mod gather;
pub mod resolve;
pub mod stream;
pub mod writer;

#[cfg(test)]
mod tests;
