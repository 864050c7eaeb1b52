//! A webhook that takes Alertmanager's JSON, signed as
//! [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)
//! has it: an id that is the same at each try, the time of the try, and with a
//! secret a signature of both and the body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::window::UnixNanos;
use ring::hmac;

use super::http::Post;
use super::notice::Notice;
use super::payload;
use super::template::Templates;

/// Begins a secret of Standard Webhooks.
const SECRET_PREFIX: &str = "whsec_";

/// A secret that both sides know.
pub(super) struct Signer(hmac::Key);

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Reads secrets, one or several separated by white space: while one is
    /// replaced, each signs. `None` if one is no secret of Standard Webhooks.
    pub(super) fn parse(secrets: &str) -> Option<Vec<Self>> {
        let one = |secret: &str| {
            let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
            let key = (24..=64).contains(&key.len()).then_some(key)?;
            Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
        };
        secrets.split_whitespace().map(one).collect()
    }

    fn sign(&self, id: &str, seconds: i64, body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{id}.{seconds}.").as_bytes());
        context.update(body);
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

/// What is posted for `notice`.
pub(super) fn post(
    notice: &Notice,
    templates: &Templates,
    signers: &[Signer],
    now: UnixNanos,
) -> Post {
    let body = payload::body(notice, &templates.words(notice));
    let seconds = now.seconds();
    let mut headers = vec![
        ("webhook-id", notice.id.clone()),
        ("webhook-timestamp", seconds.to_string()),
    ];
    if !signers.is_empty() {
        let signatures = signers
            .iter()
            .map(|signer| signer.sign(&notice.id, seconds, &body));
        headers.push((
            "webhook-signature",
            signatures.collect::<Vec<_>>().join(" "),
        ));
    }
    Post { headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_signature_of_the_specification() {
        let [signer] = Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
            .unwrap()
            .try_into()
            .unwrap_or_else(|_| panic!("one secret"));
        let signature = signer.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        for (secrets, count) in [
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", Some(1)),
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx\n",
                Some(2),
            ),
            ("", Some(0)),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", None),
            ("whsec_short", None),
            ("whsec_c2hvcnQ=", None),
        ] {
            let parsed = Signer::parse(secrets).map(|signers| signers.len());
            assert_eq!(parsed, count, "{secrets}");
        }
    }
}
