//! Network namespaces with a TUN device each, all on one switch of ours.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::sync::watch;

use super::links::Links;
use super::switch::{self, Addresses};
use crate::system::{find, run};

/// Where namespaces have their names.
const NAMESPACES: &str = "/run/netns";

/// The device in each namespace.
const DEVICE: &str = "tun0";

/// Opens a TUN device in the namespace that it runs in and sends it away. By Python, since the call
/// needs no type of ours and this crate has no unsafe code.
const OPEN_DEVICE: &str = "import fcntl,os,socket,struct,sys\n\
    fd=os.open('/dev/net/tun',os.O_RDWR|os.O_NONBLOCK)\n\
    fcntl.ioctl(fd,0x400454ca,struct.pack('16sH',b'tun0',0x1001))\n\
    to=socket.socket(socket.AF_UNIX)\n\
    to.connect(sys.argv[1])\n\
    socket.send_fds(to,[b'x'],[fd])\n";

/// Namespaces, their devices and the switch. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Spaces {
    names: Vec<String>,
    addresses: Addresses,
    links: Links,
    stop: watch::Sender<bool>,
    switch: Option<JoinHandle<Result<()>>>,
}

impl Spaces {
    /// So many namespaces, whose names begin with `prefix`. `folder` is for a socket.
    pub(crate) fn make(prefix: &str, count: usize, folder: &Path, seed: u64) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (links, addresses) = (Links::new(count), Addresses::default());
        let names = (0..count).map(|at| format!("{prefix}{at}")).collect();
        let mut spaces = Self { names, addresses, links, stop, switch: None };
        let socket = folder.join("tun.sock");
        let listener = UnixListener::bind(&socket).context("listen for devices")?;
        let mut devices = Vec::new();
        for (at, name) in spaces.names.iter().enumerate() {
            run("ip", &["netns", "add", name])?;
            devices.push(open_device(name, &listener, &socket)?);
            run("ip", &["-n", name, "link", "set", "lo", "up"])?;
            run("ip", &["-n", name, "link", "set", DEVICE, "mtu", "1400", "up"])?;
            spaces.take_address(at, Self::address(at))?;
        }
        std::fs::remove_file(&socket).context("remove the socket")?;
        let (links, addresses) = (spaces.links.clone(), Arc::clone(&spaces.addresses));
        let thread = std::thread::Builder::new().name("switch".to_owned());
        let switch = thread
            .spawn(move || switch::run(devices, &links, &addresses, seed, stopped))
            .context("start the switch")?;
        spaces.switch = Some(switch);
        Ok(spaces)
    }

    /// The first address of a node.
    pub(crate) fn address(at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(10 + at).unwrap_or(u8::MAX))
    }

    /// Gives a node an address beside those that it has.
    pub(crate) fn take_address(&self, at: usize, address: Ipv4Addr) -> Result<()> {
        let name = self.name(at)?;
        run("ip", &["-n", name, "address", "add", &format!("{address}/24"), "dev", DEVICE])?;
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(address, at);
        Ok(())
    }

    /// Takes an address from a node.
    pub(crate) fn drop_address(&self, at: usize, address: Ipv4Addr) -> Result<()> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let name = self.name(at)?;
        run("ip", &["-n", name, "address", "del", &format!("{address}/24"), "dev", DEVICE])
    }

    /// What starts a program in a node's namespace. Not `ip netns exec`, which gives it mounts of its
    /// own: a disk that is unmounted here would stay mounted there.
    pub(crate) fn launcher(&self, at: usize) -> Result<Vec<String>> {
        Ok(vec![find("nsenter"), namespace_of(self.name(at)?)])
    }

    /// The file that stands for a node's namespace.
    pub(crate) fn path(&self, at: usize) -> Result<PathBuf> {
        Ok(Path::new(NAMESPACES).join(self.name(at)?))
    }

    /// What happens to packets.
    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Whether the switch still carries packets.
    pub(crate) fn is_alive(&self) -> bool {
        self.switch.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    fn name(&self, at: usize) -> Result<&str> {
        self.names.get(at).map(String::as_str).with_context(|| format!("no namespace {at}"))
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(switch) = self.switch.take() {
            drop(switch.join());
        }
        for name in &self.names {
            drop(run("ip", &["netns", "del", name]));
        }
    }
}

/// The argument of `nsenter` that names a network namespace.
fn namespace_of(name: &str) -> String {
    format!("--net={NAMESPACES}/{name}")
}

fn open_device(namespace: &str, listener: &UnixListener, socket: &Path) -> Result<File> {
    let mut python = Command::new(find("nsenter"));
    python.arg(namespace_of(namespace)).args(["python3", "-c", OPEN_DEVICE]).arg(socket);
    let output = python.output().context("open a TUN device")?;
    ensure!(
        output.status.success(),
        "no TUN device: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    // It has connected and sent before it ended.
    let (connection, _) = listener.accept().context("take a device")?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&connection, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty())
        .context("receive a device")?;
    let sent = control.drain().find_map(|message| {
        let RecvAncillaryMessage::ScmRights(mut devices) = message else { return None };
        devices.next()
    });
    sent.map(File::from).context("no device was sent")
}
