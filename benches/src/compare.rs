//! Compares what a collector answers with what it acknowledged, exactly.

use std::time::Duration;

use anyhow::{Context, bail};
use proto::pb::tepui as pb;
use proto::pb::tepui::query_client::QueryClient;
use proto::window::{UnixNanos, Window};

use crate::corpus::{PERIOD_NS, ROOT_FINGERPRINT, fingerprint, pod_name, version_of};
use crate::ledger::{Ledger, Sum};
use crate::loopback;

/// Most nodes that may be asked for: the whole tree of any corpus here.
const ALL_NODES: u32 = 1 << 20;

/// What an answer holds, in the ledger's terms. The number of windows is not
/// compared: coarser tiers may count them otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Samples times the period, in nanoseconds.
    pub value: i128,
    /// Stacks' fingerprints times their values, modulo 2^64.
    pub hash: u64,
}

impl Held {
    /// What an answer must hold when it rests on `sum`.
    pub fn of(sum: &Sum) -> Self {
        Self {
            value: i128::from(sum.samples) * i128::from(PERIOD_NS),
            hash: sum.hash.wrapping_mul(PERIOD_NS),
        }
    }
}

/// Reads the tree of an answer.
///
/// # Errors
///
/// When it names a frame, string or parent that it does not have.
pub fn held(answer: &pb::ProfileResponse) -> anyhow::Result<Held> {
    let at = |id: u32| usize::try_from(id).unwrap_or(usize::MAX);
    let mut prints: Vec<u64> = Vec::with_capacity(answer.parents.len());
    let mut held = Held { value: 0, hash: 0 };
    let nodes = answer
        .parents
        .iter()
        .zip(&answer.node_frames)
        .zip(&answer.self_values);
    for ((&parent, &frame), &value) in nodes {
        let print = match frame.checked_sub(1) {
            None => ROOT_FINGERPRINT,
            Some(frame) => {
                let frame = answer
                    .frames
                    .get(at(frame))
                    .context("an answer without its frame")?;
                let function = match frame.function.checked_sub(1) {
                    None => "",
                    Some(text) => answer
                        .strings
                        .get(at(text))
                        .context("an answer without its string")?,
                };
                let parent = prints
                    .get(at(parent))
                    .context("an answer without its parent")?;
                fingerprint(*parent, function)
            }
        };
        prints.push(print);
        held.value += i128::from(value);
        let value = u64::from_ne_bytes(value.to_ne_bytes());
        held.hash = held.hash.wrapping_add(print.wrapping_mul(value));
    }
    Ok(held)
}

/// Asks the collector at `url` for the whole tree of a service.
///
/// # Errors
///
/// When it does not answer, or leaves nodes out.
pub async fn ask(url: &str, service: &str, selector: &str, range: Window) -> anyhow::Result<Held> {
    loopback::check(url)?;
    let mut client = QueryClient::connect(url.to_owned())
        .await?
        .max_decoding_message_size(usize::MAX);
    let request = pb::ProfileRequest {
        service: service.to_owned(),
        start_unix_nanos: range.start().get(),
        end_unix_nanos: range.end().get(),
        selector: selector.to_owned(),
        max_nodes: ALL_NODES,
        ..pb::ProfileRequest::default()
    };
    let answer = client.profile(request).await?.into_inner();
    if let Some(pruned) = answer.coverage.as_ref().map(|c| c.pruned_nodes)
        && pruned > 0
    {
        bail!("{pruned} nodes were left out of the answer");
    }
    held(&answer)
}

/// Compares all that `ledger` has within `range`, service by service. Returns
/// how many samples agreed.
///
/// # Errors
///
/// When an answer differs, by how much.
pub async fn all(url: &str, ledger: &Ledger, range: Window) -> anyhow::Result<u64> {
    let mut samples = 0;
    for service in ledger.services() {
        let sum = ledger.sum(service, range, |_| true);
        if sum.windows == 0 {
            continue;
        }
        equal(url, service, "", range, &sum).await?;
        samples += sum.samples;
    }
    Ok(samples)
}

/// Compares one answer with what it must rest on.
async fn equal(
    url: &str,
    service: &str,
    selector: &str,
    range: Window,
    sum: &Sum,
) -> anyhow::Result<()> {
    let found = ask(url, service, selector, range).await?;
    let expected = Held::of(sum);
    if found == expected {
        return Ok(());
    }
    let missing = (expected.value - found.value) / i128::from(PERIOD_NS);
    let stacks = if missing == 0 {
        ", or in other stacks"
    } else {
        ""
    };
    bail!(
        "{service}{selector}: {} acknowledged samples, {missing} of them not in the answer{stacks}",
        sum.samples
    )
}

/// What is asked of each range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selections {
    /// The service, one pod and the pods of one version, one of them in turn.
    InTurn,
    /// Each of those.
    Each,
}

/// Compares every aligned stretch of `length` that starts at `from` or later and
/// in which `ledger` has a window. Returns how many answers were equal.
///
/// # Errors
///
/// When one differs, by how much.
pub async fn stretches(
    url: &str,
    ledger: &Ledger,
    length: Duration,
    from: UnixNanos,
    selections: Selections,
) -> anyhow::Result<u64> {
    // The pods of one version are a group, of which sums are kept.
    const POD: u32 = 1;
    let mut compared = 0;
    let length_s = i64::try_from(length.as_secs())?;
    let first_s = from.seconds();
    for service in ledger.services() {
        let starts = ledger.stretches(service, length_s).into_iter();
        for (turn, start_s) in starts.filter(|start| *start >= first_s).enumerate() {
            let start = UnixNanos::new(start_s.saturating_mul(1_000_000_000));
            let range = Window::new(start, start.saturating_add(length))?;
            for (number, selector) in [
                String::new(),
                format!("{{pod=\"{}\"}}", pod_name(service, POD)),
                format!("{{version=\"{}\"}}", version_of(POD)),
            ]
            .into_iter()
            .enumerate()
            {
                let sum = ledger.sum(service, range, |pod| match number {
                    0 => true,
                    1 => pod == POD,
                    _ => version_of(pod) == version_of(POD),
                });
                let is_turn = selections == Selections::Each || turn % 3 == number;
                if is_turn && sum.windows > 0 {
                    let compare = equal(url, service, &selector, range, &sum).await;
                    compare.with_context(|| format!("from second {start_s} for {length_s} s"))?;
                    compared += 1;
                }
            }
        }
    }
    Ok(compared)
}
