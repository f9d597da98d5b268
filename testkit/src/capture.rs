//! What went over this machine's network interfaces meanwhile. Needs root.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// The largest packet of loopback, with its header.
const PACKET_BYTES: usize = 65_536 + 64;

/// A test that makes more has made something else.
const CAPTURE_BYTES_MAX: usize = 1 << 30;

/// How long it takes at most to notice that enough was captured.
const LOOK_EVERY_MS: i64 = 100;

/// Packets, one after the other, until it is stopped.
#[derive(Debug)]
pub struct Capture {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<u8>>>,
}

impl Capture {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// This process may not.
    pub fn start() -> Result<Self> {
        let all = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all)
            .context("open a packet socket (needs root)")?;
        let timeout = TimeVal::milliseconds(LOOK_EVERY_MS);
        setsockopt(&socket.as_fd(), ReceiveTimeout, &timeout).context("bound a read")?;
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || listen(File::from(socket), &over));
        Ok(Self { ended, thread })
    }

    /// Ends it: the bytes of all packets.
    pub fn stop(self) -> Result<Vec<u8>> {
        self.ended.store(true, Ordering::Release);
        self.thread.join().map_err(|_panic| anyhow!("the capture has panicked"))?
    }
}

fn listen(mut socket: File, over: &AtomicBool) -> Result<Vec<u8>> {
    let mut captured = Vec::new();
    let mut packet = vec![0; PACKET_BYTES];
    while !over.load(Ordering::Acquire) {
        let read = match socket.read(&mut packet) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => return Err(error).context("read a packet"),
        };
        captured.extend_from_slice(packet.get(..read).unwrap_or_default());
        if captured.len() > CAPTURE_BYTES_MAX {
            bail!("more than {CAPTURE_BYTES_MAX} bytes captured");
        }
    }
    Ok(captured)
}
