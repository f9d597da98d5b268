//! The Workload API socket.
//!
//! Owns the file (removed before binding, open to everybody), the accept loop with its bound on open
//! connections, and the pinned caller of each connection. Knows no service.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use steeple_api::c_core::AuthorityFilter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;
use tracing::warn;

use crate::attest::workload::Peer;
use crate::limits::WORKLOAD_CONNECTIONS_MAX;

/// The socket can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct ListenError {
    action: &'static str,
    path: String,
    source: io::Error,
}

/// Who is at the other end of a connection; in the extensions of each request.
#[derive(Clone, Debug)]
pub struct Caller(pub Arc<Peer>);

/// The bound socket.
#[derive(Debug)]
pub struct WorkloadSocket {
    listener: UnixListener,
    open: Arc<Semaphore>,
}

impl WorkloadSocket {
    /// Binds the path. Its folder is created if missing; whoever may enter the folder may connect.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |action| {
            let path = path.display().to_string();
            move |source| ListenError { action, path, source }
        };
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            fs::create_dir_all(folder).map_err(failed("create folder of"))?;
            // The process's umask would shut workloads of other users out.
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(folder, open).map_err(failed("open folder of"))?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove old")(error));
            }
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(path, everybody).map_err(failed("open"))?;
        Ok(Self { listener, open: Arc::new(Semaphore::new(WORKLOAD_CONNECTIONS_MAX)) })
    }

    /// Connections as they come. A caller that can't be pinned is turned away.
    pub fn connections(self) -> impl Stream<Item = io::Result<Connection>> {
        futures::stream::unfold(self, |socket| async {
            let connection = socket.accept().await;
            Some((connection, socket))
        })
    }

    async fn accept(&self) -> io::Result<Connection> {
        loop {
            let open = Arc::clone(&self.open).acquire_owned().await.map_err(io::Error::other)?;
            let (stream, _address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close theirs.
                    warn!(%error, "Failed to accept workload connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            };
            match Peer::of(&stream) {
                Ok(peer) => {
                    let caller = Caller(Arc::new(peer));
                    let stream = AuthorityFilter::new(stream);
                    return Ok(Connection { stream, caller, _open: open });
                }
                Err(failure) => {
                    let error = crate::upstream::chain(&failure);
                    warn!(error, "Connection failed during accept");
                }
            }
        }
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    stream: AuthorityFilter<UnixStream>,
    caller: Caller,
    _open: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
