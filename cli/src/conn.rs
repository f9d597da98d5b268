//! Which socket a command talks to, and the channel to it.
//!
//! Owns SPIRE's precedence of flags and environment, the dial over a Unix socket and the metadata
//! of our calls. Knows no service.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use steeple_spiffe_core::random::{Random as _, SystemRandom};
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{DialError, Error, RpcError};
use crate::flags::FlagSet;
use crate::io::Io;

/// The longest a call to the server may take. SPIRE's tool waits for ever; the server itself gives
/// up on a write after 5 s, on a lost quorum at once and on an upstream authority after 110 s, so this
/// only ends a call to a server that has stopped answering.
const SERVER_CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// The largest reply taken. gRPC's own default of 4 MiB is too small for a batch of thousands of
/// entries with long selectors.
pub(crate) const REPLY_BYTES_MAX: usize = 64 << 20;

/// A write carries this, so that the server can tell a repeated attempt from a second wish.
const REQUEST_ID_KEY: &str = "steeple-request-id";

/// Where a daemon listens by default, and which variables move it.
#[derive(Debug)]
struct Daemon {
    name: &'static str,
    before_path: &'static str,
    default_socket: &'static str,
    /// Holds a path.
    socket_variable: &'static str,
    /// Holds a path with `%i` in place of the instance.
    template_variable: &'static str,
    template_missing: &'static str,
    /// Defaults of old releases.
    old_sockets: &'static [&'static str],
}

const SERVER: Daemon = Daemon {
    name: "server",
    before_path: "//",
    default_socket: "/tmp/spire-server/private/api.sock",
    socket_variable: "SPIRE_SERVER_PRIVATE_SOCKET",
    template_variable: "SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE",
    template_missing: "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag",
    old_sockets: &["/tmp/spire-registration.sock"],
};

const AGENT: Daemon = Daemon {
    name: "agent",
    before_path: "",
    default_socket: "/tmp/spire-agent/public/api.sock",
    socket_variable: "SPIRE_AGENT_PUBLIC_SOCKET",
    template_variable: "SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE",
    // The blank at the start is SPIRE's.
    template_missing: " SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE environment variable must be defined when using the instance flag",
    old_sockets: &["/tmp/agent.sock", "./spire_api"],
};

/// The flags that choose the server's admin socket.
#[derive(Debug)]
pub(crate) struct ServerSocket {
    path: String,
    old_path: String,
    instance: String,
}

impl Default for ServerSocket {
    fn default() -> Self {
        Self {
            path: SERVER.default_socket.to_owned(),
            old_path: String::new(),
            instance: String::new(),
        }
    }
}

impl ServerSocket {
    /// Declares `-socketPath`, `-instance` and the old `-registrationUDSPath`.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag("socketPath", &mut self.path, "Path to the SPIRE Server API socket");
        flags.flag(
            "instance",
            &mut self.instance,
            "Instance name to substitute into socket templates (env SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE).",
        );
        flags.old_flag("registrationUDSPath", &mut self.old_path);
    }

    /// A channel to the server.
    pub(crate) async fn connect(&self, io: &mut Io<'_>) -> Result<Channel, Error> {
        self.dial(io, Some(SERVER_CALL_TIMEOUT)).await
    }

    /// A channel to the server; if it is not there, the error says what was being done.
    pub(crate) async fn connect_for(&self, io: &mut Io<'_>, doing: &str) -> Result<Channel, Error> {
        self.connect(io).await.map_err(|error| error.during_call(doing))
    }

    /// A channel for calls that take as long as the registry is large.
    pub(crate) async fn connect_for_long(&self, io: &mut Io<'_>) -> Result<Channel, Error> {
        self.dial(io, None).await
    }

    async fn dial(&self, io: &mut Io<'_>, timeout: Option<Duration>) -> Result<Channel, Error> {
        let mut chosen = self.path.as_str();
        if !self.old_path.is_empty() {
            if chosen != SERVER.default_socket {
                return Err(Error::invalid(
                    "use the -socketPath flag or the old -registrationUDSPath flag, not both",
                ));
            }
            io.warn("-registrationUDSPath is an old spelling; use -socketPath")?;
            chosen = &self.old_path;
        }
        let path = SERVER.choose(chosen, &self.instance, io.env)?;
        SERVER.dial(&path, timeout).await
    }
}

/// The flags that choose the agent's Workload API socket.
#[derive(Debug)]
pub(crate) struct AgentSocket {
    path: String,
    instance: String,
}

impl Default for AgentSocket {
    fn default() -> Self {
        Self { path: AGENT.default_socket.to_owned(), instance: String::new() }
    }
}

impl AgentSocket {
    /// Declares `-socketPath` and `-instance`.
    pub(crate) fn declare<'a>(&'a mut self, flags: &mut FlagSet<'a>) {
        flags.flag("socketPath", &mut self.path, "Path to the SPIRE Agent API Unix domain socket");
        flags.flag(
            "instance",
            &mut self.instance,
            "Instance name to substitute into socket templates (env SPIRE_AGENT_PUBLIC_SOCKET_TEMPLATE).",
        );
    }

    /// A channel to the agent. Calls end when the caller's own deadline does.
    pub(crate) async fn connect(&self, io: &Io<'_>) -> Result<Channel, Error> {
        let path = AGENT.choose(&self.path, &self.instance, io.env)?;
        AGENT.dial(&path, None).await
    }
}

impl Daemon {
    /// A path other than the default wins, then the instance, then the environment.
    fn choose(
        &self,
        path: &str,
        instance: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<PathBuf, Error> {
        let chosen = if path != self.default_socket {
            path.to_owned()
        } else if !instance.is_empty() {
            let template = env(self.template_variable).filter(|template| !template.is_empty());
            let template = template.ok_or_else(|| Error::invalid(self.template_missing))?;
            if !template.contains("%i") {
                let text = format!("failed to find %i in {}", self.template_variable);
                return Err(Error::invalid(text));
            }
            template.replace("%i", instance)
        } else {
            let moved = env(self.socket_variable).filter(|path| !path.is_empty());
            moved.unwrap_or_else(|| path.to_owned())
        };
        if chosen.is_empty() {
            return Err(RpcError::no_address().into());
        }
        Ok(std::path::absolute(chosen)?)
    }

    async fn dial(&self, path: &Path, timeout: Option<Duration>) -> Result<Channel, Error> {
        // Dialled here rather than inside tonic, so that the reason is ours to word.
        let stream = UnixStream::connect(path).await.map_err(|source| DialError {
            path: path.display().to_string(),
            before_path: self.before_path,
            daemon: self.name,
            old_socket: self.old_socket(path),
            source,
        })?;
        let mut first = Some(stream);
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let (first, path) = (first.take(), path.clone());
            async move {
                let stream = match first {
                    Some(stream) => stream,
                    None => UnixStream::connect(path).await?,
                };
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        // gRPC-Go names a Unix socket's authority so.
        let mut endpoint = Endpoint::from_static("http://localhost");
        if let Some(timeout) = timeout {
            endpoint = endpoint.timeout(timeout);
        }
        Ok(endpoint.connect_with_connector_lazy(connector))
    }

    /// The socket of an old release, if the new default was tried and the old one is there.
    fn old_socket(&self, tried: &Path) -> Option<&'static str> {
        let default = tried == Path::new(self.default_socket);
        let present = |old: &&&str| default && Path::new(old).exists();
        self.old_sockets.iter().find(present).copied()
    }
}

/// A request that changes something: it carries an id of its own.
pub(crate) fn write_request<T>(message: T) -> Result<tonic::Request<T>, Error> {
    // The first half would say which revision we have seen: none. Our retries end with us.
    let mut id = [0; 16];
    if let Some(drawn) = id.last_chunk_mut::<8>() {
        SystemRandom.fill(drawn);
    }
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let value: MetadataValue<Ascii> =
        hex.parse().map_err(|_bad| Error::Internal("hex digits are no metadata".to_owned()))?;
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(REQUEST_ID_KEY, value);
    Ok(request)
}

/// A request to the Workload API, which refuses all that lack this header: a browser cannot be
/// made to send it.
pub(crate) fn workload_request<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_chosen_in_spires_order() {
        let template = ("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", "/run/%i/api.sock");
        let moved = ("SPIRE_SERVER_PRIVATE_SOCKET", "/run/env.sock");
        let default = SERVER.default_socket;
        for (path, instance, variables, expected) in [
            (default, "", &[][..], Ok(default)),
            (default, "", &[moved][..], Ok("/run/env.sock")),
            (default, "a", &[moved, template][..], Ok("/run/a/api.sock")),
            ("/own.sock", "a", &[moved, template][..], Ok("/own.sock")),
            // Recorded from SPIRE 1.15.3.
            (
                "",
                "",
                &[][..],
                Err(
                    "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial unix: missing address\"",
                ),
            ),
            (
                default,
                "a",
                &[moved][..],
                Err(
                    "you must define SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE to use the instance flag",
                ),
            ),
            (
                default,
                "a",
                &[("SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE", "/run/api.sock")][..],
                Err("failed to find %i in SPIRE_SERVER_PRIVATE_SOCKET_TEMPLATE"),
            ),
        ] {
            let env = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            };
            let chosen = SERVER.choose(path, instance, &env);
            let chosen = chosen.map(|path| path.display().to_string()).map_err(|e| e.chain());
            assert_eq!(chosen, expected.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
