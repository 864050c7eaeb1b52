//! The one map from kinds of failure to gRPC and HTTP codes.

use tonic::{Code, Status};

use crate::pb::tepui::RefusalCode;

/// What kind of failure a caller sees. A kind exists because a caller acts
/// differently on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong; sending it again cannot help.
    Invalid,
    /// What was asked for is not there.
    NotFound,
    /// No or unknown credentials.
    Unauthenticated,
    /// The credentials do not allow this.
    Forbidden,
    /// A limit is reached; later it may work.
    Exhausted,
    /// The server cannot do it now; later it may work.
    Unavailable,
    /// The answer took too long.
    Timeout,
    /// A defect or a damaged store; a person is needed.
    Internal,
}

impl Kind {
    /// The gRPC code.
    pub const fn grpc(self) -> Code {
        match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Forbidden => Code::PermissionDenied,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::Timeout => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// The HTTP status code.
    pub const fn http(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::Exhausted => 429,
            Self::Unavailable => 503,
            Self::Timeout => 504,
            Self::Internal => 500,
        }
    }

    /// Whether the same request may succeed later.
    pub const fn is_retriable(self) -> bool {
        match self {
            Self::Exhausted | Self::Unavailable | Self::Timeout => true,
            Self::Invalid
            | Self::NotFound
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::Internal => false,
        }
    }

    /// The kind of a refused batch or window, for who pushes without a stream.
    pub const fn of_refusal(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Overloaded | RefusalCode::SeriesLimit => Self::Exhausted,
            RefusalCode::DictionaryReset | RefusalCode::Unavailable => Self::Unavailable,
            RefusalCode::Malformed
            | RefusalCode::ClockAhead
            | RefusalCode::TooOld
            | RefusalCode::TooLarge
            | RefusalCode::UnsupportedVersion => Self::Invalid,
            RefusalCode::Unspecified => Self::Internal,
        }
    }

    /// The gRPC status with this kind's code and `message`.
    pub fn status(self, message: impl Into<String>) -> Status {
        Status::new(self.grpc(), message)
    }
}

/// An error together with everything that caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries say the words of their cause themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passing_failures_are_retried() {
        for (kind, code, http, retriable) in [
            (Kind::Invalid, Code::InvalidArgument, 400, false),
            (Kind::NotFound, Code::NotFound, 404, false),
            (Kind::Unauthenticated, Code::Unauthenticated, 401, false),
            (Kind::Forbidden, Code::PermissionDenied, 403, false),
            (Kind::Exhausted, Code::ResourceExhausted, 429, true),
            (Kind::Unavailable, Code::Unavailable, 503, true),
            (Kind::Timeout, Code::DeadlineExceeded, 504, true),
            (Kind::Internal, Code::Internal, 500, false),
        ] {
            assert_eq!(
                (kind.grpc(), kind.http(), kind.is_retriable()),
                (code, http, retriable)
            );
        }
    }
}
