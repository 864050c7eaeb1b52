//! Load is only ever put on this machine.

use std::net::IpAddr;

use anyhow::{Context, bail};
use http::Uri;

/// Returns `url` as a URI, when it is plain `http` and names this machine.
///
/// # Errors
///
/// When it is no URL, speaks another protocol, or names any other machine.
pub(crate) fn check(url: &str) -> anyhow::Result<Uri> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
    if uri.scheme_str() != Some("http") {
        bail!("{url:?} does not begin with http://");
    }
    let host = uri.host().unwrap_or("").trim_matches(['[', ']']);
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !is_loopback && host != "localhost" {
        bail!("{url:?} is not on this machine; load is only put on loopback addresses");
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loaded() {
        for (url, allowed) in [
            ("http://127.0.0.1:4040", true),
            ("http://[::1]:4040/", true),
            ("http://localhost:1", true),
            ("https://127.0.0.1:4040", false),
            ("http://192.0.2.1:4040", false),
            ("http://localhost.example.org", false),
            ("http://0.0.0.0:1", false),
            ("127.0.0.1:4040", false),
        ] {
            assert_eq!(check(url).is_ok(), allowed, "{url}");
        }
    }
}
