//! Takes all pictures of an endpoint and turns counters into deltas.

use proto::value_type::Temporality;
use proto::window::{UnixNanos, Window};

use super::convert::{PICTURES, Part, Picture};
use super::discover::Found;
use super::http::{Client, EndpointError};
use crate::delta::{Basis, Cumulative};
use crate::source::Collected;

/// What one round of requests gave.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Yields, at most two per picture.
    pub(super) collected: Vec<Collected>,
    /// Requests that failed.
    pub(super) errors: Vec<EndpointError>,
}

#[derive(Debug, Default)]
struct Counter {
    values: Cumulative,
    last: Option<UnixNanos>,
}

/// What the pictures of an endpoint said last.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    counters: [Counter; PICTURES.len()],
}

impl Counter {
    /// Returns what happened since the last picture, which ends at `end`.
    fn advance(&mut self, part: &Part, started: UnixNanos, end: UnixNanos) -> Option<Collected> {
        let delta = self.values.advance(started, part.unlabelled());
        let start = self.last.replace(end)?;
        let window = Window::new(start, end).ok()?;
        if delta.basis == Basis::First || delta.changes.is_empty() {
            return None;
        }
        let groups = vec![(Vec::new(), delta.changes)];
        Some(part.yielding(groups, Temporality::Delta, window))
    }
}

impl Snapshots {
    /// Takes every picture. Gauges stand for `window`; counters for the time
    /// from the last picture to the start of `window`.
    pub(super) async fn take(&mut self, client: &Client, found: &Found, window: Window) -> Taken {
        let mut taken = Taken::default();
        for (picture, counter) in PICTURES.iter().zip(&mut self.counters) {
            let profile = match client.picture(&found.url, picture.path).await {
                Ok(profile) => profile,
                Err(error) => {
                    let is_over = error.is_contact_lost();
                    taken.errors.push(error);
                    if is_over {
                        break;
                    }
                    continue;
                }
            };
            if let Some(part) = cumulative_part(picture, &profile) {
                let change = counter.advance(&part, found.started, window.start());
                taken.collected.extend(change);
            }
            if !picture.gauges.is_empty()
                && let Some(part) = Part::of(&profile, picture.name, picture.gauges)
                && !part.groups.is_empty()
            {
                let groups = part.groups.clone();
                let now = part.yielding(groups, Temporality::Gauge, window);
                taken.collected.push(now);
            }
        }
        taken
    }

    /// Takes the counters once more, up to `end`, before the agent stops.
    pub(super) async fn take_last(
        &mut self,
        client: &Client,
        found: &Found,
        end: UnixNanos,
    ) -> Vec<Collected> {
        let mut collected = Vec::new();
        for (picture, counter) in PICTURES.iter().zip(&mut self.counters) {
            if picture.cumulative.is_empty() || counter.last.is_none() {
                continue;
            }
            let Ok(profile) = client.picture(&found.url, picture.path).await else {
                break;
            };
            if let Some(part) = cumulative_part(picture, &profile) {
                collected.extend(counter.advance(&part, found.started, end));
            }
        }
        collected
    }
}

fn cumulative_part(picture: &Picture, profile: &proto::pprof::Pprof) -> Option<Part> {
    if picture.cumulative.is_empty() {
        return None;
    }
    Part::of(profile, picture.name, picture.cumulative)
}
