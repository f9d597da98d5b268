//! Carries packets between TUN devices on one thread, and treats each as its link says, by a seed.
//!
//! Packets are taken in the order in which they arrive; every decision about them is drawn from one
//! source. Packets of a link that does not reorder stay in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use steeple_spiffe_core::time::{Clock as _, SystemClock};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::links::Links;
use steeple_spiffe_core::dice::Dice;

/// Packets that are read and not yet looked at; above it the devices' own queues fill.
const ARRIVED_MAX: usize = 1024;

/// Packets under way; above it the switch drops, as a real one does.
const UNDER_WAY_MAX: usize = 65_536;

/// Larger than any packet of the devices (their MTU is 1400).
const PACKET_BYTES: usize = 2048;

/// Which node has an address now.
pub(crate) type Addresses = Arc<Mutex<BTreeMap<Ipv4Addr, usize>>>;

struct Packet {
    from: usize,
    bytes: Vec<u8>,
}

/// Runs a switch until it is told to stop. Takes its thread.
pub(super) fn run(
    devices: Vec<File>,
    links: &Links,
    addresses: &Addresses,
    seed: u64,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the switch's runtime")?;
    runtime.block_on(carry(devices, links, addresses, Dice::new(seed, 77), stop))
}

async fn carry(
    devices: Vec<File>,
    links: &Links,
    addresses: &Addresses,
    dice: Dice,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut ports = Vec::new();
    let (arrived, mut arrivals) = mpsc::channel(ARRIVED_MAX);
    for (from, device) in devices.into_iter().enumerate() {
        // Not a pipe, but read like one: a descriptor that becomes readable.
        let reads = device.try_clone().context("share a device")?;
        let reads = pipe::Receiver::from_file_unchecked(reads).context("watch a device")?;
        ports.push(device);
        tokio::spawn(read(from, reads, arrived.clone()));
    }
    let mut switch = Switch {
        links,
        addresses,
        dice,
        ports,
        under_way: BTreeMap::new(),
        last: BTreeMap::new(),
        number: 0,
    };
    loop {
        let due = switch.under_way.first_key_value().map(|((due, _), _)| *due);
        let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        tokio::select! {
            _stopped = stop.wait_for(|stop| *stop) => return Ok(()),
            () = tokio::time::sleep_until(wake) => switch.deliver_due(),
            Some(packet) = arrivals.recv() => switch.take(packet),
        }
    }
}

async fn read(from: usize, device: pipe::Receiver, arrived: mpsc::Sender<Packet>) {
    loop {
        if device.readable().await.is_err() {
            return;
        }
        let mut bytes = vec![0; PACKET_BYTES];
        match device.try_read(&mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                if arrived.send(Packet { from, bytes }).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // A device that is down for a moment (its address moves) comes back.
            Err(_down) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

struct Switch<'a> {
    links: &'a Links,
    addresses: &'a Addresses,
    dice: Dice,
    ports: Vec<File>,
    under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    /// When the last packet of a link arrives that none may overtake.
    last: BTreeMap<(usize, usize), Instant>,
    number: u64,
}

impl Switch<'_> {
    fn take(&mut self, packet: Packet) {
        let Some(to) = destination(&packet.bytes).and_then(|address| self.node(address)) else {
            return;
        };
        if asks_to_connect(&packet.bytes) {
            self.links.note_connection((SystemClock.boot_time(), packet.from, to));
        }
        let link = self.links.get(packet.from, to);
        if link.is_cut || self.dice.chance(link.loss) {
            return;
        }
        let copies = 1 + u32::from(self.dice.chance(link.duplicate));
        for _ in 0..copies {
            let (shortest, longest) = link.delay_us;
            if longest == 0 {
                self.hand_over(to, &packet.bytes);
                continue;
            }
            let delay = Duration::from_micros(self.dice.within(shortest..=longest));
            let mut due = Instant::now() + delay;
            if !self.dice.chance(link.reorder) {
                let last = self.last.entry((packet.from, to)).or_insert(due);
                due = due.max(*last);
                *last = due;
            }
            if self.under_way.len() < UNDER_WAY_MAX {
                self.number += 1;
                self.under_way.insert((due, self.number), (to, packet.bytes.clone()));
            }
        }
    }

    fn node(&self, address: Ipv4Addr) -> Option<usize> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&address).copied()
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let (to, bytes) = entry.remove();
            self.hand_over(to, &bytes);
        }
    }

    fn hand_over(&self, to: usize, bytes: &[u8]) {
        if let Some(mut port) = self.ports.get(to) {
            // A full queue or a device that is down loses the packet, as a cable would.
            drop(port.write(bytes));
        }
    }
}

/// Where an IPv4 packet goes.
fn destination(bytes: &[u8]) -> Option<Ipv4Addr> {
    let version = bytes.first()? >> 4;
    let octets: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
    (version == 4).then(|| octets.into())
}

/// Whether an IPv4 packet is the first one of a TCP connection.
fn asks_to_connect(bytes: &[u8]) -> bool {
    const TCP: u8 = 6;
    const SYN_AND_ACK: u8 = 0x12;
    const SYN: u8 = 0x02;
    let header = bytes.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
    let flags = bytes.get(header + 13).copied().unwrap_or(0);
    bytes.get(9) == Some(&TCP) && flags & SYN_AND_ACK == SYN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_its_header_says() {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 77, 0, 12]);
        assert_eq!(destination(&packet), Some(Ipv4Addr::new(10, 77, 0, 12)));
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None, "IPv6 is not carried");
        assert_eq!(destination(&[0x45, 0]), None, "a stump");
    }

    #[test]
    fn only_the_first_packet_of_a_connection_asks_for_it() {
        let packet = |protocol: u8, flags: u8| {
            let mut packet = vec![0; 40];
            packet[0] = 0x45;
            packet[9] = protocol;
            packet[33] = flags;
            packet
        };
        assert!(asks_to_connect(&packet(6, 0x02)));
        for (protocol, flags) in [(6, 0x12), (6, 0x10), (6, 0x04), (17, 0x02)] {
            assert!(!asks_to_connect(&packet(protocol, flags)), "{protocol} {flags}");
        }
        assert!(!asks_to_connect(&[]));
    }
}
