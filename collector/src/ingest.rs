//! Takes windows: the gRPC door of agents ([`stream`]), the way from every door
//! to the writer ([`intake`]), and the one writer behind it ([`writer`]) that maps
//! stacks to the service's tree and commits batches in groups.

mod coarse;
pub mod dedupe;
mod gather;
pub mod intake;
mod messages;
mod packed;
pub mod resolve;
pub mod stream;
mod symbols;
mod whole;
pub mod writer;

#[cfg(test)]
mod tests;
