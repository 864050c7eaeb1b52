//! Finds the `/debug/pprof` endpoint of a target among its listening ports.
//!
//! A port belongs to the target when one of its processes has the listening
//! socket open. Go's usual 127.0.0.1:6060 is tried too, also where open files
//! cannot be read; then the answer must be the command line of a process of
//! the target. Only `GET …/cmdline` is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use procfs::net::TcpState;
use procfs::process::FDTarget;
use rustc_hash::FxHashMap;

use super::TargetState;
use super::http::Client;
use crate::config::EndpointChoice;
use crate::target::process::command_line;

/// Where Go's documentation puts it.
const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6060);
/// Most ports that are tried in one search.
const MAX_PORTS: usize = 64;
/// Most processes whose open files are read in one search.
const MAX_PROCESSES: usize = 256;

/// An endpoint and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Base address, without a slash at its end.
    pub url: String,
    /// The process that serves it; 0 when it cannot be told.
    pub pid: i32,
    /// When that process, or the target, started.
    pub started: proto::window::UnixNanos,
}

impl Found {
    /// Whether it is still that of the target.
    pub(super) fn belongs_to(&self, state: &TargetState) -> bool {
        if self.pid == 0 {
            return self.started == state.started;
        }
        let mut processes = state.processes.iter();
        processes.any(|process| process.pid == self.pid && process.started == self.started)
    }
}

/// A port that may be the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    address: SocketAddr,
    /// The process that has it open, when that could be seen.
    pid: Option<i32>,
}

/// Looks for the endpoint of the target.
pub(super) async fn find(
    client: &Client,
    choice: &EndpointChoice,
    state: &TargetState,
) -> Option<Found> {
    match choice {
        EndpointChoice::Off => None,
        EndpointChoice::Url(url) => Some(Found {
            url: url.clone(),
            pid: 0,
            started: state.started,
        }),
        EndpointChoice::Auto => {
            if state.processes.is_empty() && !state.may_be_unseen {
                return None;
            }
            let pids: Vec<i32> = state.processes.iter().map(|p| p.pid).collect();
            let candidates = tokio::task::spawn_blocking(move || candidates(&pids))
                .await
                .unwrap_or_default();
            for candidate in candidates {
                if let Some(found) = probe(client, &candidate, state).await {
                    return Some(found);
                }
            }
            None
        }
    }
}

/// The usual port first, then the target's ports in order of process.
fn candidates(pids: &[i32]) -> Vec<Candidate> {
    let listening = listening();
    let mut owned: Vec<Candidate> = Vec::new();
    for pid in pids.iter().take(MAX_PROCESSES) {
        for inode in sockets(*pid) {
            if let Some(address) = listening.get(&inode) {
                owned.push(Candidate {
                    address: *address,
                    pid: Some(*pid),
                });
            }
        }
    }
    let usual = owned
        .iter()
        .position(|candidate| candidate.address.port() == USUAL.port())
        .map(|at| owned.remove(at));
    let mut candidates = vec![usual.unwrap_or(Candidate {
        address: USUAL,
        pid: None,
    })];
    for candidate in owned {
        let known = |other: &Candidate| other.address.port() == candidate.address.port();
        if !candidates.iter().any(known) && candidates.len() < MAX_PORTS {
            candidates.push(candidate);
        }
    }
    candidates
}

/// Listening sockets of this network namespace that loopback reaches, by inode.
fn listening() -> FxHashMap<u64, SocketAddr> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let entries = tables.into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.state == TcpState::Listen)
        .filter_map(|entry| {
            let address = match entry.local_address.ip() {
                ip if ip.is_loopback() => ip,
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                // Most listen for both versions; loopback of version 4 is
                // there on every machine.
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V4(_) | IpAddr::V6(_) => return None,
            };
            let port = entry.local_address.port();
            Some((entry.inode, SocketAddr::new(unmapped(address), port)))
        })
        .collect()
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(Ipv6Addr::LOCALHOST) | IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
    }
}

/// Inodes of the sockets that `pid` has open; none where that may not be read.
fn sockets(pid: i32) -> Vec<u64> {
    let Ok(files) = procfs::process::Process::new(pid).and_then(|process| process.fd()) else {
        return Vec::new();
    };
    files
        .flatten()
        .filter_map(|file| match file.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect()
}

/// Whether `answer` is the command line of `arguments` as Go writes it.
fn is_command_line(answer: &[u8], arguments: &[String]) -> bool {
    let joined = arguments.join("\0");
    !joined.is_empty() && joined.as_bytes() == answer
}

async fn probe(client: &Client, candidate: &Candidate, state: &TargetState) -> Option<Found> {
    let url = format!("http://{}/debug/pprof", candidate.address);
    let answer = client.text(&format!("{url}/cmdline")).await.ok()?;
    let owner = state
        .processes
        .iter()
        .find(|process| is_command_line(&answer.body, &command_line(process.pid)));
    let holder = candidate
        .pid
        .and_then(|pid| state.processes.iter().find(|process| process.pid == pid));
    // A program that changes its arguments is known by the port it holds.
    let process = match (owner, holder) {
        (_, Some(holder)) if owner.is_some() || answer.is_like_go => Some(holder),
        (owner, _) => owner,
    };
    match process {
        Some(process) => Some(Found {
            url,
            pid: process.pid,
            started: process.started,
        }),
        None if state.processes.is_empty() && state.may_be_unseen && answer.is_like_go => {
            Some(Found {
                url,
                pid: 0,
                started: state.started,
            })
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_listening_port_is_a_candidate() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let found = candidates(&[own]);
        assert_eq!(found[0].address.port(), USUAL.port());
        assert!(found.contains(&Candidate {
            address: listener.local_addr().unwrap(),
            pid: Some(own),
        }));
    }

    #[test]
    fn a_command_line_is_compared_as_go_writes_it() {
        let arguments = ["/app".to_owned(), "-x".to_owned()];
        assert!(is_command_line(b"/app\0-x", &arguments));
        assert!(!is_command_line(b"/app", &arguments));
        assert!(!is_command_line(b"", &[]));
    }
}
