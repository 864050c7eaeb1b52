//! Who calls: one layer before gRPC and HTTP alike, which turns a bearer token
//! into a [`Principal`] or refuses.
//!
//! Without a token file everybody is `anonymous` and may do everything; the
//! configuration allows that only on loopback or on demand. With one, a caller
//! sends `Authorization: Bearer TOKEN`, or Basic with the token as password,
//! because `go tool pprof` and browsers can send nothing else:
//! `http://any:TOKEN@host/…`. Tokens are compared in constant time.
//! `/ready` and `grpc.health.v1` stay open for probes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use proto::status::Kind;
use subtle::ConstantTimeEq;

use crate::http::error::ApiError;
use crate::metrics::Metrics;

/// Tenant of callers without a token.
pub const ANONYMOUS: &str = "anonymous";
/// Shortest token, in bytes: below it, guessing is too easy.
pub const MIN_TOKEN_BYTES: usize = 16;
/// Longest line of a token file, in bytes.
const MAX_LINE_BYTES: usize = 4_096;
/// Longest `Authorization` value that is looked at, in bytes.
const MAX_HEADER_BYTES: usize = 8_192;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May push.
    Agent,
    /// May ask.
    Reader,
    /// May do both, and keep the collector: back it up, delete.
    Admin,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose data it sees and adds to.
    pub tenant: String,
    /// What it may do.
    pub role: Role,
}

/// What a path asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Open,
    Push,
    Read,
    Administer,
}

/// Why a token file is not used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A line is wrong. The line itself is not shown: it may hold a token.
    #[error("line {line} of the token file {}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What it must be.
        reason: &'static str,
    },
    /// It has no token.
    #[error("the token file {} has no token; add a line \"ROLE TENANT TOKEN\"", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

struct Token {
    secret: Vec<u8>,
    principal: Principal,
}

/// Tells who calls.
pub struct Authenticator {
    /// `None` lets everybody in.
    tokens: Option<Vec<Token>>,
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("tokens", &self.tokens.as_ref().map(Vec::len))
            .finish()
    }
}

impl Authenticator {
    /// Returns the one that takes everybody for [`ANONYMOUS`] with every right.
    pub fn anonymous() -> Self {
        Self { tokens: None }
    }

    /// Reads a token file; warns when others than its owner and group may.
    ///
    /// # Errors
    ///
    /// [`TokenFileError`] if it cannot be read, a line is wrong, or no line
    /// has a token.
    pub fn from_file(path: &Path) -> Result<Self, TokenFileError> {
        use std::os::unix::fs::PermissionsExt;
        let read = |source| TokenFileError::Read {
            path: path.to_owned(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let mode = std::fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o004 != 0 {
            tracing::warn!(
                path = %path.display(),
                mode = format_args!("{:o}", mode & 0o777),
                "every user of this machine can read the token file"
            );
        }
        Self::from_text(path, &text)
    }

    /// Reads the text of the token file `path`.
    ///
    /// # Errors
    ///
    /// As [`Authenticator::from_file`].
    pub fn from_text(path: &Path, text: &str) -> Result<Self, TokenFileError> {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = parse_line(line)
                .and_then(|token| {
                    let known = tokens.iter().any(|other| other.secret == token.secret);
                    match known {
                        true => Err("the token stands in an earlier line already"),
                        false => Ok(token),
                    }
                })
                .map_err(|reason| TokenFileError::Line {
                    path: path.to_owned(),
                    line: index + 1,
                    reason,
                })?;
            tokens.push(token);
        }
        if tokens.is_empty() {
            return Err(TokenFileError::Empty {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            tokens: Some(tokens),
        })
    }

    /// Who sends this `Authorization` header; `None` for an unknown token.
    fn principal(&self, header: Option<&HeaderValue>) -> Option<Principal> {
        let Some(tokens) = &self.tokens else {
            return Some(Principal {
                tenant: ANONYMOUS.to_owned(),
                role: Role::Admin,
            });
        };
        let secret = secret(header?)?;
        // Every token is compared, so that time tells nothing of which one.
        let mut found = None;
        for token in tokens {
            if bool::from(token.secret.ct_eq(&secret)) {
                found = Some(&token.principal);
            }
        }
        found.cloned()
    }
}

fn parse_line(line: &str) -> Result<Token, &'static str> {
    if line.len() > MAX_LINE_BYTES {
        return Err("the line is too long");
    }
    let mut words = line.split_whitespace();
    let (Some(role), Some(tenant), Some(token), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("it must read ROLE TENANT TOKEN");
    };
    let role = match role {
        "agent" => Role::Agent,
        "reader" => Role::Reader,
        "admin" => Role::Admin,
        _ => return Err("the role must be agent, reader or admin"),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if tenant.len() > 64 || !tenant.chars().all(plain) {
        return Err("the tenant must be at most 64 letters, digits, '.', '_' and '-'");
    }
    if token.len() < MIN_TOKEN_BYTES {
        return Err("the token must have at least 16 characters");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token must be plain ASCII");
    }
    Ok(Token {
        secret: token.as_bytes().to_vec(),
        principal: Principal {
            tenant: tenant.to_owned(),
            role,
        },
    })
}

/// The token in an `Authorization` header.
fn secret(header: &HeaderValue) -> Option<Vec<u8>> {
    let text = header.to_str().ok()?;
    if text.len() > MAX_HEADER_BYTES {
        return None;
    }
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.as_bytes().to_vec())
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = decode_base64(rest)?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        pair.get(colon + 1..).map(<[u8]>::to_vec)
    } else {
        None
    }
}

/// Decodes base64 in RFC 4648's standard alphabet, with or without padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xFFFF;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(out)
}

fn access(path: &str) -> Access {
    if path == "/ready" || path.starts_with("/grpc.health.v1.Health/") {
        Access::Open
    } else if path == "/api/v1/ingest" || path.starts_with("/tepui.v1.Ingest/") {
        Access::Push
    } else if path.starts_with("/tepui.v1.Admin/") {
        Access::Administer
    } else {
        Access::Read
    }
}

fn may(role: Role, access: Access) -> bool {
    match (role, access) {
        (_, Access::Open) | (Role::Admin, _) => true,
        (Role::Agent, Access::Push) | (Role::Reader, Access::Read) => true,
        (Role::Agent, Access::Read | Access::Administer)
        | (Role::Reader, Access::Push | Access::Administer) => false,
    }
}

#[derive(Clone)]
struct Door {
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
}

/// Puts the layer before every route of `router`.
///
/// A request that passes carries its [`Principal`] in its extensions.
pub fn protect(
    router: axum::Router,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
) -> axum::Router {
    let door = Door {
        authenticator,
        metrics,
    };
    router.layer(middleware::from_fn_with_state(door, check))
}

async fn check(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let access = access(request.uri().path());
    if access == Access::Open {
        return next.run(request).await;
    }
    let header = request.headers().get(AUTHORIZATION);
    let refusal = match door.authenticator.principal(header) {
        Some(principal) if may(principal.role, access) => {
            request.extensions_mut().insert(principal);
            return next.run(request).await;
        }
        Some(_) => match access {
            Access::Push => ApiError::new(
                Kind::Forbidden,
                "this token may not push; use one with the role agent or admin",
            ),
            Access::Administer => ApiError::new(
                Kind::Forbidden,
                "this token may not administer; use one with the role admin",
            ),
            Access::Read | Access::Open => ApiError::new(
                Kind::Forbidden,
                "this token may not read; use one with the role reader or admin",
            ),
        },
        None => ApiError::new(
            Kind::Unauthenticated,
            match header {
                Some(_) => {
                    "the token is not known here; it must stand in the collector's token file"
                }
                None => {
                    "a token is needed: send \"Authorization: Bearer TOKEN\" (--token-file FILE)"
                }
            },
        ),
    };
    door.metrics.auth_refusals.inc();
    refuse(&request, refusal)
}

fn refuse(request: &Request, refusal: ApiError) -> Response {
    let content_type = request.headers().get(CONTENT_TYPE);
    let is_grpc = content_type.is_some_and(|text| text.as_bytes().starts_with(b"application/grpc"))
        || request.uri().path().starts_with("/tepui.v1.");
    if is_grpc {
        return refusal.status().into_http();
    }
    let unauthenticated = refusal.kind() == Kind::Unauthenticated;
    // A browser asks its user for a password only when told of Basic.
    let is_page = !request.uri().path().starts_with("/api/");
    let mut response = refusal.into_response();
    if unauthenticated {
        let challenges = response.headers_mut();
        challenges.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        if is_page {
            challenges.append(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"Tepui: any user, token as password\""),
            );
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n\nagent  prod agent-token-0123456\nreader prod reader-token-012345\n  admin ops admin-token-0123456\n";

    fn parse(text: &str) -> Result<Authenticator, TokenFileError> {
        Authenticator::from_text(Path::new("tokens"), text)
    }

    #[test]
    fn wrong_lines_are_named_and_not_shown() {
        for (text, expected) in [
            ("", "no token"),
            ("# only a comment", "no token"),
            ("agent prod", "line 1"),
            ("\nagent prod secretsecretsecret more", "line 2"),
            ("root prod secretsecretsecret", "role"),
            ("agent pr/od secretsecretsecret", "tenant"),
            ("agent prod secret", "16"),
            ("agent prod secretsecretsecretü", "ASCII"),
            (
                "agent a secretsecretsecret\nreader b secretsecretsecret",
                "line 2",
            ),
        ] {
            let shown = parse(text).unwrap_err().to_string();
            assert!(shown.contains(expected), "{text:?}: {shown}");
            assert!(!shown.contains("secretsecret"), "{shown}");
        }
    }

    #[test]
    fn a_principal_comes_from_its_exact_token() {
        let authenticator = parse(FILE).unwrap();
        // "any:reader-token-012345" in base64, and the same with an empty user.
        let basic = "Basic YW55OnJlYWRlci10b2tlbi0wMTIzNDU=";
        let no_user = "basic OnJlYWRlci10b2tlbi0wMTIzNDU";
        for (header, expected) in [
            (
                Some("Bearer agent-token-0123456"),
                Some(("prod", Role::Agent)),
            ),
            (
                Some("bearer  reader-token-012345"),
                Some(("prod", Role::Reader)),
            ),
            (
                Some("Bearer admin-token-0123456"),
                Some(("ops", Role::Admin)),
            ),
            (Some(basic), Some(("prod", Role::Reader))),
            (Some(no_user), Some(("prod", Role::Reader))),
            (Some("Bearer agent-token-012345"), None),
            (Some("Bearer agent-token-01234567"), None),
            (Some("Bearer "), None),
            (Some("Bearer"), None),
            (Some("agent-token-0123456"), None),
            (Some("Basic !!!"), None),
            (Some("Basic YW55"), None),
            (None, None),
        ] {
            let header = header.map(|text| HeaderValue::from_str(text).unwrap());
            let principal = authenticator.principal(header.as_ref());
            let found = principal.as_ref().map(|p| (p.tenant.as_str(), p.role));
            assert_eq!(found, expected, "{header:?}");
        }
    }

    #[test]
    fn without_a_file_everybody_is_anonymous_and_may_do_all() {
        let principal = Authenticator::anonymous().principal(None).unwrap();
        assert_eq!(principal.tenant, "anonymous");
        for access in [Access::Open, Access::Push, Access::Read, Access::Administer] {
            assert!(may(principal.role, access));
        }
    }

    #[test]
    fn paths_ask_for_roles() {
        for (path, expected) in [
            ("/ready", Access::Open),
            ("/grpc.health.v1.Health/Check", Access::Open),
            ("/grpc.health.v1.Healthy", Access::Read),
            ("/ready/", Access::Read),
            ("/tepui.v1.Ingest/Push", Access::Push),
            ("/tepui.v1.Query/Profile", Access::Read),
            ("/tepui.v1.Admin/Backup", Access::Administer),
            ("/api/v1/ingest", Access::Push),
            ("/api/v1/ingests", Access::Read),
            ("/api/v1/profile", Access::Read),
            ("/metrics", Access::Read),
            ("/", Access::Read),
        ] {
            assert_eq!(access(path), expected, "{path}");
        }
        for (role, expected) in [
            (Role::Agent, [true, true, false, false]),
            (Role::Reader, [true, false, true, false]),
            (Role::Admin, [true, true, true, true]),
        ] {
            let all = [Access::Open, Access::Push, Access::Read, Access::Administer];
            assert_eq!(all.map(|access| may(role, access)), expected, "{role:?}");
        }
    }

    #[test]
    fn nothing_of_a_token_is_printed() {
        let shown = format!("{:?}", parse(FILE).unwrap());
        assert_eq!(shown, "Authenticator { tokens: Some(3) }");
    }

    #[test]
    fn base64_is_read_as_rfc_4648_gives_it() {
        for (text, expected) in [
            ("", Some("")),
            ("Zg==", Some("f")),
            ("Zm8=", Some("fo")),
            ("Zm9v", Some("foo")),
            ("Zm9vYg==", Some("foob")),
            ("Zm9vYmFy", Some("foobar")),
            ("Zm9v YmFy", None),
            ("Zm-v", None),
        ] {
            let decoded = decode_base64(text);
            assert_eq!(decoded.as_deref(), expected.map(str::as_bytes), "{text}");
        }
    }
}
