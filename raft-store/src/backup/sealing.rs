//! The frames of a snapshot file: AES-256-GCM, one after another.
//!
//! Owns the order of frames: each one's number and whether it is the last are in its nonce, the header
//! of the file is in its associated data. So frames that are missing, doubled, swapped, or of another
//! file do not open. The key is this file's own (its salt), so no nonce is used twice.

#[cfg(feature = "rocks")]
use std::io::Read;
use std::io::{self, Write};

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};

/// Plaintext of a frame: large enough that tags cost nothing, small enough for any message.
const FRAME_BYTES: usize = 64 * 1024;

/// A frame does not open.
#[cfg(feature = "rocks")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "snapshot does not open: it was changed after it was written; copy it again or take another"
)]
pub(crate) struct FrameError;

fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    for (byte, part) in bytes.iter_mut().zip(number.to_be_bytes()) {
        *byte = part;
    }
    if let Some(flag) = bytes.last_mut() {
        *flag = u8::from(last);
    }
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written to it, frame by frame.
pub(super) struct Sealer<'a> {
    key: LessSafeKey,
    binding: [u8; 32],
    number: u64,
    buffer: Vec<u8>,
    each: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(
        key: LessSafeKey,
        binding: [u8; 32],
        each: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Self {
        Self { key, binding, number: 0, buffer: Vec::with_capacity(FRAME_BYTES), each }
    }

    /// Seals the last frame, which may be empty.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.emit(true)
    }

    fn emit(&mut self, last: bool) -> io::Result<()> {
        let nonce = nonce(self.number, last);
        let sealed =
            self.key.seal_in_place_append_tag(nonce, Aad::from(self.binding), &mut self.buffer);
        sealed.map_err(|_refused| io::Error::other("seal a frame of a snapshot"))?;
        self.number += 1;
        (self.each)(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl Write for Sealer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full frame is sealed when more comes: only then it is not the last.
        if self.buffer.len() >= FRAME_BYTES {
            self.emit(false)?;
        }
        let room = FRAME_BYTES.saturating_sub(self.buffer.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.buffer.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "rocks")]
/// Opens frames, one read ahead, since only the end shows which one is the last.
pub(super) struct Opener<'a> {
    key: LessSafeKey,
    binding: [u8; 32],
    number: u64,
    frames: &'a mut dyn FnMut() -> io::Result<Option<Vec<u8>>>,
    ahead: Option<Vec<u8>>,
    open: Vec<u8>,
    at: usize,
}

#[cfg(feature = "rocks")]
impl<'a> Opener<'a> {
    pub(super) fn new(
        key: LessSafeKey,
        binding: [u8; 32],
        frames: &'a mut dyn FnMut() -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<Self> {
        let ahead = Some(frames()?.ok_or_else(refused)?);
        Ok(Self { key, binding, number: 0, frames, ahead, open: Vec::new(), at: 0 })
    }

    /// Opens the next frame; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        let Some(mut frame) = self.ahead.take() else { return Ok(false) };
        self.ahead = (self.frames)()?;
        let nonce = nonce(self.number, self.ahead.is_none());
        let opened = self.key.open_in_place(nonce, Aad::from(self.binding), &mut frame);
        let length = opened.map_err(|_refused| refused())?.len();
        self.number += 1;
        frame.truncate(length);
        (self.open, self.at) = (frame, 0);
        Ok(true)
    }
}

#[cfg(feature = "rocks")]
impl Read for Opener<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.open.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let left = self.open.get(self.at..).unwrap_or_default();
        let count = left.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(left) {
            *to = *from;
        }
        self.at += count;
        Ok(count)
    }
}

#[cfg(feature = "rocks")]
fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, FrameError)
}

#[cfg(test)]
#[cfg(feature = "rocks")]
mod tests {
    use super::*;
    use crate::cluster_key::ClusterKeys;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn key(salt: &[u8]) -> LessSafeKey {
        let keys = ClusterKeys::parse(KEY).unwrap();
        keys.snapshot_key(&keys.current_id(), salt).unwrap().unwrap()
    }

    fn seal(plaintext: &[u8]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut each = |frame: &[u8]| {
            frames.push(frame.to_vec());
            Ok(())
        };
        let mut sealer = Sealer::new(key(b"salt"), [7; 32], &mut each);
        sealer.write_all(plaintext).unwrap();
        sealer.finish().unwrap();
        frames
    }

    fn open(frames: &[Vec<u8>], key: LessSafeKey, binding: [u8; 32]) -> io::Result<Vec<u8>> {
        let mut frames = frames.iter().cloned();
        let mut next = || Ok(frames.next());
        let mut plaintext = Vec::new();
        Opener::new(key, binding, &mut next)?.read_to_end(&mut plaintext)?;
        Ok(plaintext)
    }

    #[test]
    fn frames_open_in_their_order_with_their_key_for_their_file_and_no_other_way() {
        for length in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES] {
            let plaintext: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let frames = seal(&plaintext);
            assert_eq!(frames.len(), length.div_ceil(FRAME_BYTES).max(1), "{length} bytes");
            assert_eq!(open(&frames, key(b"salt"), [7; 32]).unwrap(), plaintext);
        }
        let frames = seal(&vec![5; 3 * FRAME_BYTES]);
        let (one, two, three) = (frames[0].clone(), frames[1].clone(), frames[2].clone());
        let mut flipped = frames.clone();
        flipped[1][9] ^= 1;
        let cases = [
            ("the end missing", vec![one.clone(), two.clone()]),
            ("the beginning missing", vec![two.clone(), three.clone()]),
            ("two swapped", vec![two.clone(), one.clone(), three.clone()]),
            ("one doubled", vec![one.clone(), one, two, three]),
            ("a bit flipped", flipped),
            ("nothing", Vec::new()),
        ];
        for (case, frames) in cases {
            let error = open(&frames, key(b"salt"), [7; 32]).expect_err(case);
            assert!(error.to_string().contains("was changed after it was written"), "{case}");
        }
        assert!(open(&frames, key(b"other"), [7; 32]).is_err(), "another file's key");
        assert!(open(&frames, key(b"salt"), [8; 32]).is_err(), "another header");
    }
}
