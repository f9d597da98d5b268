//! The administrator's socket: plaintext HTTP/2 over a Unix socket that file permissions guard.
//!
//! Owns the folder (0750), the socket file (0770) and the removal of a stale one. Whoever can open
//! the socket administers the server, as in SPIRE.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use steeple_api::c_core::AuthorityFilter;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::{self, Application, ConnectionSignals};
use super::peer::{LocalCredentials, Peer};

/// Mode of the folder when it has to be made.
const FOLDER_MODE: u32 = 0o750;

/// Mode of the socket.
const SOCKET_MODE: u32 = 0o770;

/// Local connections at a time: operators and sidecars, not agents.
const CONNECTIONS_MAX: usize = 1024;

/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UdsError {
    /// The folder cannot be made.
    #[error(
        "could not create folder {path} of the admin socket; make it writable or change socket_path"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another process answers on the socket.
    #[error("another process serves {path}; stop it or change socket_path")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the name.
    #[error("{path} exists and is no socket; remove it or change socket_path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("could not listen on {path}; make its folder writable or change socket_path")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The bound admin socket.
#[derive(Debug)]
pub struct AdminListener {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminListener {
    /// Makes the folder, removes a stale socket and binds.
    ///
    /// # Errors
    ///
    /// [`UdsError`], with the fix in its text.
    pub fn bind(path: &Path) -> Result<Self, UdsError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)
                .map_err(|source| UdsError::Folder { path: folder.to_owned(), source })?;
        }
        remove_stale(path)?;
        let bind = |source| UdsError::Bind { path: path.to_owned(), source };
        let listener = UnixListener::bind(path).map_err(bind)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(bind)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts until the shutdown signal, then waits for the open connections to drain. No one here is
    /// told to look for another replica: who asks at this socket means this one.
    pub async fn run<A: Application>(self, application: A, signals: ConnectionSignals) {
        let signals = ConnectionSignals { go_away: watch::channel(0).1, ..signals };
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = signals.shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            };
            match accepted {
                Ok((stream, _unnamed)) => {
                    let peer = Arc::new(Peer::Local { credentials: credentials(&stream) });
                    connections.spawn(connection::serve(
                        AuthorityFilter::new(stream),
                        peer,
                        application.clone(),
                        signals.clone(),
                        None,
                    ));
                }
                Err(error) => {
                    tracing::warn!(%error, "Failed to accept a connection on the admin socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "Admin socket was gone already");
        }
    }
}

fn credentials(stream: &UnixStream) -> Option<LocalCredentials> {
    let credentials = stream.peer_cred().ok()?;
    Some(LocalCredentials {
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

/// Removes what a dead process left. A live one is found by dialling it: two servers on one socket
/// would take each other's administrators.
fn remove_stale(path: &Path) -> Result<(), UdsError> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if !found.file_type().is_socket() {
        return Err(UdsError::NotASocket { path: path.to_owned() });
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(UdsError::InUse { path: path.to_owned() });
    }
    fs::remove_file(path).map_err(|source| UdsError::Bind { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use prost::bytes::Bytes;
    use tokio_util::sync::CancellationToken;
    use tonic::body::Body;

    use super::*;

    /// Answers everything with nothing.
    #[derive(Clone)]
    struct Silent;

    impl Application for Silent {
        async fn answer(
            &self,
            _peer: Arc<Peer>,
            _request: http::Request<Incoming>,
        ) -> http::Response<Body> {
            http::Response::new(Body::empty())
        }
    }

    #[tokio::test]
    async fn a_replica_that_agents_should_leave_keeps_its_operators() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("api.sock");
        let listener = AdminListener::bind(&path).expect("bound");
        let (go_away, _) = watch::channel(0);
        let stop = CancellationToken::new();
        let signals = ConnectionSignals {
            shutdown: stop.clone(),
            abort: CancellationToken::new(),
            go_away: go_away.subscribe(),
        };
        let serving = tokio::spawn(listener.run(Silent, signals));
        let stream = UnixStream::connect(&path).await.expect("connected");
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .expect("HTTP/2");
        let mut connection = tokio::spawn(connection);
        for _ in 0..2 {
            client.ready().await.expect("the connection is there");
            let request = http::Request::new(Empty::<Bytes>::new());
            client.send_request(request).await.expect("an answer");
            go_away.send_modify(|generation| *generation += 1);
            let ended = tokio::time::timeout(ACCEPT_PAUSE, &mut connection).await;
            assert!(ended.is_err(), "{ended:?}");
        }
        stop.cancel();
        drop(client);
        serving.await.expect("no panic");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("private/api.sock");
        let first = AdminListener::bind(&path).expect("first bind");
        assert!(matches!(AdminListener::bind(&path), Err(UdsError::InUse { .. })));
        drop(first);
        let second = AdminListener::bind(&path).expect("stale socket replaced");
        let mode = fs::metadata(second.path()).expect("socket").permissions().mode() & 0o777;
        assert_eq!(mode, SOCKET_MODE);
    }

    #[tokio::test]
    async fn a_file_in_place_of_the_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("api.sock");
        fs::write(&path, "precious").expect("write");
        assert!(matches!(AdminListener::bind(&path), Err(UdsError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).expect("read"), "precious");
    }
}
