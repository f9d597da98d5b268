//! Why a command fails, in the words SPIRE's scripts know.
//!
//! Owns the error of the crate and its one-line rendering. Exit codes and prefixes are the
//! dispatcher's.

use std::fmt;
use std::io::ErrorKind;

use tonic::Code;

use crate::output::go_quote;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What was asked for cannot be asked: the text says why.
    #[error("{0}")]
    Invalid(String),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The call failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// Some step of the command failed.
    #[error("{doing}")]
    While {
        /// What was being done.
        doing: String,
        /// What went wrong.
        #[source]
        source: Box<Error>,
    },
    /// A daemon does not serve, or nobody can tell.
    #[error("{text}")]
    Unhealthy {
        /// What is known.
        text: String,
        /// What to do, where we know.
        hint: Option<String>,
    },
    /// Items of a batch failed; they have been named on stderr.
    #[error("{0}")]
    Batch(String),
    /// A stream of our own or a file failed.
    #[error(transparent)]
    Stream(#[from] std::io::Error),
    /// A mistake of this program.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// A refusal with a text of its own.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// This error with what was being done before it.
    pub(crate) fn during(self, doing: impl Into<String>) -> Self {
        Self::While { doing: doing.into(), source: Box::new(self) }
    }

    /// As [`Error::during`] if a call failed, which a dead socket is too: gRPC-Go dials in the call.
    pub(crate) fn during_call(self, doing: &str) -> Self {
        if self.code().is_some() { self.during(doing) } else { self }
    }

    /// The whole chain on one line, outermost first, as Go's `%v` shows a wrapped error.
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::While { doing, source } => format!("{doing}: {}", source.chain()),
            Self::Invalid(_)
            | Self::Dial(_)
            | Self::Rpc(_)
            | Self::Unhealthy { .. }
            | Self::Batch(_)
            | Self::Stream(_)
            | Self::Internal(_) => self.to_string(),
        }
    }

    /// What the user can do about it, where we know.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Dial(error) => error.hint(),
            Self::Unhealthy { hint, .. } => hint.clone(),
            Self::While { source, .. } => source.hint(),
            Self::Invalid(_)
            | Self::Rpc(_)
            | Self::Batch(_)
            | Self::Stream(_)
            | Self::Internal(_) => None,
        }
    }

    /// The code of the failed call, if a call failed.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Rpc(error) => Some(error.code),
            Self::Dial(_) => Some(Code::Unavailable),
            Self::While { source, .. } => source.code(),
            Self::Invalid(_)
            | Self::Unhealthy { .. }
            | Self::Batch(_)
            | Self::Stream(_)
            | Self::Internal(_) => None,
        }
    }
}

/// An error of another crate with all its causes on one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(RpcError::from(status))
    }
}

/// A failed call as gRPC-Go prints it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", steeple_api::status::code_name(*.code))]
pub(crate) struct RpcError {
    /// The code.
    pub(crate) code: Code,
    /// The server's words.
    pub(crate) message: String,
}

impl From<tonic::Status> for RpcError {
    fn from(status: tonic::Status) -> Self {
        // tonic has a text of its own for a deadline that passed here; scripts know Go's.
        if status.message() == "Timeout expired" {
            return Self::deadline();
        }
        // The server ended before it answered, and did not say so itself; scripts try again what is
        // unavailable.
        if status.code() == Code::Unknown && std::error::Error::source(&status).is_some() {
            let message = "error reading from server: EOF".to_owned();
            return Self { code: Code::Unavailable, message };
        }
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

impl RpcError {
    /// The path of the socket is empty.
    pub(crate) fn no_address() -> Self {
        let message = "connection error: desc = \"transport: Error while dialing: dial unix: missing address\"";
        Self { code: Code::Unavailable, message: message.to_owned() }
    }

    /// The deadline passed.
    pub(crate) fn deadline() -> Self {
        Self { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }
    }

    /// The user interrupted the call.
    pub(crate) fn canceled() -> Self {
        Self { code: Code::Cancelled, message: "context canceled".to_owned() }
    }
}

/// A socket that does not answer, as gRPC-Go prints it.
#[derive(Debug)]
pub(crate) struct DialError {
    /// The socket's path.
    pub(crate) path: String,
    /// What gRPC-Go writes before the path: SPIRE's server tool dials an address with two slashes.
    pub(crate) before_path: &'static str,
    /// The daemon that should listen there, `server` or `agent`.
    pub(crate) daemon: &'static str,
    /// Where the daemon of an older release listens, if something is there.
    pub(crate) old_socket: Option<&'static str>,
    /// Why it does not answer.
    pub(crate) source: std::io::Error,
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        None // Display tells it already, in gRPC-Go's form.
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = errno_text(&self.source);
        let inner = format!(
            "transport: Error while dialing: dial unix {}{}: connect: {reason}",
            self.before_path, self.path
        );
        write!(
            f,
            "rpc error: code = Unavailable desc = connection error: desc = {}",
            go_quote(&inner)
        )
    }
}

impl DialError {
    fn hint(&self) -> Option<String> {
        let daemon = self.daemon;
        if let Some(old) = self.old_socket {
            return Some(format!(
                "{old} exists, the default of old releases: to use it, add -socketPath {old}"
            ));
        }
        let (path, kind) = (&self.path, self.source.kind());
        if kind == ErrorKind::NotFound {
            return Some(format!(
                "no socket at {path}: is the {daemon} running? If it listens elsewhere, name its socket with -socketPath"
            ));
        }
        if kind == ErrorKind::ConnectionRefused {
            return Some(format!(
                "nobody listens on {path}: the {daemon} has stopped or is still starting"
            ));
        }
        if kind == ErrorKind::PermissionDenied {
            return Some(format!(
                "this user may not open {path}: run the command as the {daemon}'s user or group"
            ));
        }
        None
    }
}

/// The C library's words, which Go prints in lower case and without the number.
pub(crate) fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_reads_as_grpc_go_prints_it() {
        let error = Error::from(tonic::Status::not_found("entry not found"));
        assert_eq!(error.chain(), "rpc error: code = NotFound desc = entry not found");
        assert_eq!(
            error.during("could not look").chain(),
            "could not look: rpc error: code = NotFound desc = entry not found"
        );
    }

    #[test]
    fn a_server_that_ends_before_it_answers_reads_as_grpc_go_prints_it() {
        let gone = std::io::Error::other("connection closed");
        let error = Error::from(tonic::Status::from_error(Box::new(gone)));
        let expected = "rpc error: code = Unavailable desc = error reading from server: EOF";
        assert_eq!(error.chain(), expected);
        let error = Error::from(tonic::Status::unknown("something else"));
        assert_eq!(error.chain(), "rpc error: code = Unknown desc = something else");
    }

    #[test]
    fn a_dead_socket_reads_as_grpc_go_prints_it_and_names_the_fix() {
        for (kind, number, expected, hint) in [
            ("absent", 2, "no such file or directory", "is the server running?"),
            ("refused", 111, "connection refused", "nobody listens on"),
            ("denied", 13, "permission denied", "may not open"),
        ] {
            let error = DialError {
                path: "/x.sock".to_owned(),
                before_path: "//",
                daemon: "server",
                old_socket: None,
                source: std::io::Error::from_raw_os_error(number),
            };
            assert_eq!(
                error.to_string(),
                format!(
                    "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix ///x.sock: connect: {expected}\""
                ),
                "{kind}"
            );
            assert!(error.hint().is_some_and(|text| text.contains(hint)), "{kind}");
        }
    }
}
