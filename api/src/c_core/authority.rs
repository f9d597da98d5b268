//! Clients that name the socket's path as their authority.
//!
//! gRPC C-core (Python, Ruby, C++ and others) sends `:authority: tmp%2Fagent%2Fapi.sock` over a unix
//! socket. Go's gRPC accepts it; h2 resets the stream, since the `http` crate takes no `%` in an
//! authority. Owns the filter between the socket and h2 that puts `localhost` in place of such a
//! value, in frames from the client only. Leaves all else to h2, its rules on frames included;
//! reading header blocks is `hpack`'s.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::bytes::{Buf as _, BytesMut};

use super::hpack::{Decoder, HpackError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_OCTETS: usize = 9;
/// The largest frame h2 takes as long as we advertise nothing else.
const FRAME_OCTETS_MAX: usize = 16 * 1024;
/// The largest header block: as frames, and as the list it unpacks to.
const BLOCK_OCTETS_MAX: usize = 64 * 1024;
/// Filtered octets waiting for h2 before no more are made.
const READY_OCTETS: usize = 16 * 1024;
const PRIORITY_OCTETS: usize = 5;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const NAME: &[u8] = b":authority";
const STAND_IN: &[u8] = b"localhost";

/// What the client sent can't be followed; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("frame of a header block is too large")]
    Frame,
    #[error("header block is too large")]
    Block,
    #[error("padding or priority does not fit the frame")]
    Padding,
    #[error("header block is not continued as it must be")]
    Order,
    #[error("header block can't be read")]
    Hpack(#[from] HpackError),
}

/// A connection whose reader never sees an authority that h2 refuses. Writes go straight through.
pub struct AuthorityFilter<S> {
    stream: S,
    frames: Frames,
    failed: Option<Malformed>,
}

impl<S> AuthorityFilter<S> {
    /// Filters what is read from this stream, from its first octet on.
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::new(), failed: None }
    }
}

impl<S: fmt::Debug> fmt::Debug for AuthorityFilter<S> {
    // Without what is buffered: it holds what workloads sent.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AuthorityFilter")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AuthorityFilter<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let length = this.frames.output.len().min(buffer.remaining());
            if length > 0 {
                buffer.put_slice(&this.frames.output.split_to(length));
                return Poll::Ready(Ok(()));
            }
            if let Some(malformed) = this.failed {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, malformed)));
            }
            this.failed = this.frames.advance().err();
            if this.failed.is_some() || !this.frames.output.is_empty() {
                continue;
            }
            let mut space = [0; 4096];
            let mut chunk = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut chunk))?;
            if chunk.filled().is_empty() {
                // What is left is no whole frame: h2 has no use for it either.
                return Poll::Ready(Ok(()));
            }
            this.frames.input.extend_from_slice(chunk.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AuthorityFilter<S> {
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

/// What comes next in the input.
#[derive(Clone, Copy)]
enum Next {
    /// This much of the preface has been seen.
    Preface(usize),
    Frame,
    /// So many octets of a frame that is none of ours.
    Payload(usize),
    /// Not HTTP/2 at all: everything is passed on.
    Anything,
}

/// The frames of one direction: `input` as received, `output` as h2 gets them.
struct Frames {
    input: BytesMut,
    output: BytesMut,
    next: Next,
    open: Option<Block>,
    decoder: Decoder,
}

/// A header block whose end has not come yet.
struct Block {
    stream: [u8; 4],
    /// Of its HEADERS frame.
    flags: u8,
    priority: Vec<u8>,
    fragments: Vec<u8>,
    /// Of all its frames, with their heads: empty frames count too.
    octets: usize,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    fn read(input: &[u8]) -> Option<Self> {
        let [high, middle, low, kind, flags, stream @ ..] = input.first_chunk::<HEAD_OCTETS>()?;
        let length = u32::from_be_bytes([0, *high, *middle, *low]);
        let length = usize::try_from(length).ok()?;
        Some(Self { length, kind: *kind, flags: *flags, stream: *stream })
    }
}

impl Frames {
    fn new() -> Self {
        Self {
            input: BytesMut::new(),
            output: BytesMut::new(),
            next: Next::Preface(0),
            open: None,
            decoder: Decoder::new(),
        }
    }

    /// Filters until the input has no more to take or enough output waits.
    fn advance(&mut self) -> Result<(), Malformed> {
        while !self.input.is_empty() && self.output.len() < READY_OCTETS {
            let is_done = match self.next {
                Next::Preface(seen) => self.preface(seen),
                Next::Frame => self.frame()?,
                Next::Payload(left) => {
                    let passed = self.pass(left);
                    self.next = payload(left.saturating_sub(passed));
                    true
                }
                Next::Anything => self.pass(self.input.len()) > 0,
            };
            if !is_done {
                break;
            }
        }
        Ok(())
    }

    /// Passes on so many octets, or as many as there are, and says how many.
    fn pass(&mut self, length: usize) -> usize {
        let length = length.min(self.input.len());
        self.output.extend_from_slice(&self.input.split_to(length));
        length
    }

    fn preface(&mut self, seen: usize) -> bool {
        let expected = PREFACE.get(seen..).unwrap_or_default();
        let length = expected.len().min(self.input.len());
        let is_preface = expected.get(..length) == self.input.get(..length);
        self.next = if !is_preface {
            Next::Anything
        } else if length == expected.len() {
            Next::Frame
        } else {
            Next::Preface(seen.saturating_add(length))
        };
        self.pass(length);
        true
    }

    /// Takes the head of a frame, and the frame whole if it is of a header block. False: too little
    /// has come yet.
    fn frame(&mut self) -> Result<bool, Malformed> {
        let Some(head) = Head::read(&self.input) else { return Ok(false) };
        let is_continued = self
            .open
            .as_ref()
            .is_some_and(|block| head.kind == CONTINUATION && block.stream == head.stream);
        if is_continued != (self.open.is_some() || head.kind == CONTINUATION) {
            return Err(Malformed::Order);
        }
        if !is_continued && head.kind != HEADERS {
            self.pass(HEAD_OCTETS);
            self.next = payload(head.length);
            return Ok(true);
        }
        if head.length > FRAME_OCTETS_MAX {
            return Err(Malformed::Frame);
        }
        if self.input.len() < HEAD_OCTETS.saturating_add(head.length) {
            return Ok(false);
        }
        self.input.advance(HEAD_OCTETS);
        let payload = self.input.split_to(head.length);
        let mut block = match self.open.take() {
            Some(block) => block.continued(&payload)?,
            None => Block::begun(head, &payload)?,
        };
        if head.flags & END_HEADERS == 0 {
            self.open = Some(block);
        } else {
            block.rewrite(&mut self.decoder)?;
            block.write(&mut self.output);
        }
        Ok(true)
    }
}

fn payload(left: usize) -> Next {
    if left == 0 { Next::Frame } else { Next::Payload(left) }
}

impl Block {
    fn begun(head: Head, payload: &[u8]) -> Result<Self, Malformed> {
        let mut rest = payload;
        if head.flags & PADDED != 0 {
            let (padding, unpadded) = rest.split_first().ok_or(Malformed::Padding)?;
            let length = unpadded.len().checked_sub(usize::from(*padding));
            rest = length.and_then(|length| unpadded.get(..length)).ok_or(Malformed::Padding)?;
        }
        let priority = if head.flags & PRIORITY == 0 { 0 } else { PRIORITY_OCTETS };
        let (priority, rest) = rest.split_at_checked(priority).ok_or(Malformed::Padding)?;
        Ok(Self {
            stream: head.stream,
            flags: head.flags & !(PADDED | END_HEADERS),
            priority: priority.to_vec(),
            fragments: rest.to_vec(),
            octets: HEAD_OCTETS.saturating_add(payload.len()),
        })
    }

    fn continued(mut self, payload: &[u8]) -> Result<Self, Malformed> {
        self.octets = self.octets.saturating_add(HEAD_OCTETS).saturating_add(payload.len());
        if self.octets > BLOCK_OCTETS_MAX {
            return Err(Malformed::Block);
        }
        self.fragments.extend_from_slice(payload);
        Ok(self)
    }

    /// Replaces the block by one that stands for itself: every block has to be, since the client's
    /// later ones refer to the table of this one, and h2's table stays empty.
    fn rewrite(&mut self, decoder: &mut Decoder) -> Result<(), Malformed> {
        let fields = decoder.decode(&self.fragments, BLOCK_OCTETS_MAX)?;
        self.fragments.clear();
        for mut field in fields {
            if field.name == NAME && Authority::try_from(field.value.as_slice()).is_err() {
                field.value = STAND_IN.to_vec();
            }
            field.encode(&mut self.fragments);
        }
        Ok(())
    }

    /// Writes HEADERS, and as many CONTINUATION as the block needs.
    fn write(&self, output: &mut BytesMut) {
        let (mut kind, mut flags, mut start) = (HEADERS, self.flags, self.priority.as_slice());
        let mut rest = self.fragments.as_slice();
        loop {
            let space = FRAME_OCTETS_MAX.saturating_sub(start.len());
            let (part, after) = rest.split_at_checked(space).unwrap_or((rest, &[]));
            if after.is_empty() {
                flags |= END_HEADERS;
            }
            let length = u32::try_from(start.len().saturating_add(part.len())).unwrap_or(u32::MAX);
            output.extend_from_slice(length.to_be_bytes().get(1..).unwrap_or_default());
            output.extend_from_slice(&[kind, flags]);
            output.extend_from_slice(&self.stream);
            output.extend_from_slice(start);
            output.extend_from_slice(part);
            if after.is_empty() {
                return;
            }
            (kind, flags, start, rest) = (CONTINUATION, 0, &[], after);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::Empty;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const STREAM: [u8; 4] = [0, 0, 0, 1];
    const PERCENT: &str = "tmp%2Fagent%2Fapi.sock";

    fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
        [&length[1..], &[kind, flags], &stream, payload].concat()
    }

    /// A literal, `form` 0x40 to index it and 0 not to.
    fn literal(form: u8, name: &str, value: &str) -> Vec<u8> {
        let [name_length, length] =
            [name, value].map(|text| u8::try_from(text.len()).expect("length"));
        [&[form, name_length], name.as_bytes(), &[length], value.as_bytes()].concat()
    }

    fn filter(chunks: &[&[u8]]) -> (Vec<u8>, Result<(), Malformed>) {
        let mut frames = Frames::new();
        let mut seen = Vec::new();
        for chunk in chunks {
            frames.input.extend_from_slice(chunk);
            loop {
                let result = frames.advance();
                if result.is_ok() && frames.output.is_empty() {
                    break;
                }
                seen.extend_from_slice(&frames.output.split());
                if result.is_err() {
                    return (seen, result);
                }
            }
        }
        (seen, Ok(()))
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frames.concat()].concat()
    }

    fn filtered(frames: &[Vec<u8>]) -> Vec<u8> {
        let (seen, result) = filter(&[&connection(frames)]);
        assert_eq!(result, Ok(()));
        seen
    }

    #[test]
    fn only_an_authority_that_h2_refuses_is_replaced() {
        let cases = [
            (PERCENT, "localhost"),
            ("/tmp/api.sock", "localhost"),
            ("", "localhost"),
            ("localhost", "localhost"),
            ("agent.example:8443", "agent.example:8443"),
        ];
        for (sent, expected) in cases {
            let request =
                |text| [literal(0, ":authority", text), literal(0, "host", PERCENT)].concat();
            let seen = filtered(&[frame(HEADERS, END_HEADERS | 1, STREAM, &request(sent))]);
            let headers = frame(HEADERS, END_HEADERS | 1, STREAM, &request(expected));
            assert_eq!(seen, connection(&[headers]), "{sent}");
        }
    }

    #[test]
    fn padding_goes_and_priority_stays() {
        let block = literal(0, ":authority", PERCENT);
        let clean = literal(0, ":authority", "localhost");
        let priority = [0x80, 0, 0, 3, 16];
        let padded = [&[4], &block[..], &[0; 4]].concat();
        let both = [&[4], &priority[..], &block, &[0; 4]].concat();
        let cases = [
            (PADDED, padded, 0, clean.clone()),
            (
                PRIORITY,
                [&priority, &block[..]].concat(),
                PRIORITY,
                [&priority, &clean[..]].concat(),
            ),
            (PADDED | PRIORITY, both, PRIORITY, [&priority, &clean[..]].concat()),
        ];
        for (flags, payload, expected_flags, expected) in cases {
            let seen = filtered(&[frame(HEADERS, flags | END_HEADERS, STREAM, &payload)]);
            let headers = frame(HEADERS, expected_flags | END_HEADERS, STREAM, &expected);
            assert_eq!(seen, connection(&[headers]), "{flags:#x}");
        }
    }

    #[test]
    fn a_later_request_may_refer_to_the_table_of_an_earlier_one() {
        let first = literal(0x40, ":authority", PERCENT);
        let second = [0x83, 0xbe];
        let later = [0, 0, 0, 3];
        let seen = filtered(&[
            frame(HEADERS, END_HEADERS, STREAM, &first),
            frame(0, 1, STREAM, b"data"),
            frame(HEADERS, END_HEADERS, later, &second),
        ]);
        let clean = literal(0, ":authority", "localhost");
        let expected = connection(&[
            frame(HEADERS, END_HEADERS, STREAM, &clean),
            frame(0, 1, STREAM, b"data"),
            frame(HEADERS, END_HEADERS, later, &[literal(0, ":method", "POST"), clean].concat()),
        ]);
        assert_eq!(seen, expected);
    }

    #[test]
    fn continued_blocks_are_put_together_and_long_ones_split() {
        let mut block = literal(0x40, ":authority", PERCENT);
        let mut clean = literal(0, ":authority", "localhost");
        let value = "v".repeat(120);
        for _ in 0..200 {
            block.extend(literal(0, "name", &value));
            clean.extend(literal(0, "name", &value));
        }
        let (first, rest) = block.split_at(7);
        let (second, third) = rest.split_at(10_000);
        let seen = filtered(&[
            frame(HEADERS, 1, STREAM, first),
            frame(CONTINUATION, 0, STREAM, second),
            frame(CONTINUATION, 0, STREAM, &[]),
            frame(CONTINUATION, END_HEADERS, STREAM, third),
            frame(6, 0, [0; 4], b"pingpong"),
        ]);
        let (head, tail) = clean.split_at(FRAME_OCTETS_MAX);
        let expected = connection(&[
            frame(HEADERS, 1, STREAM, head),
            frame(CONTINUATION, END_HEADERS, STREAM, tail),
            frame(6, 0, [0; 4], b"pingpong"),
        ]);
        assert_eq!(seen, expected);
    }

    #[test]
    fn frames_may_be_split_anywhere() {
        let block = literal(0x40, ":authority", PERCENT);
        let input = connection(&[
            frame(4, 0, [0; 4], &[]),
            frame(HEADERS, PADDED, STREAM, &[&[2], &block[..9], &[0; 2]].concat()),
            frame(CONTINUATION, END_HEADERS, STREAM, &block[9..]),
            frame(0, 1, STREAM, &[7; 40]),
            frame(HEADERS, END_HEADERS | 1, [0, 0, 0, 3], &[0xbe]),
        ]);
        let whole = filter(&[&input]);
        assert_eq!(whole.1, Ok(()));
        for at in 0..=input.len() {
            let (before, after) = input.split_at(at);
            assert_eq!(filter(&[before, after]), whole, "{at}");
        }
        let single: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(filter(&single), whole);
    }

    #[test]
    fn what_is_not_http2_is_passed_on() {
        let input = b"PRI * HTTP/1.1\r\nhost: %2F\r\n\r\n";
        assert_eq!(filter(&[&input[..20], &input[20..]]), (input.to_vec(), Ok(())));
    }

    #[test]
    fn a_block_that_breaks_the_rules_ends_the_connection() {
        let large = vec![0; FRAME_OCTETS_MAX + 1];
        let begun = frame(HEADERS, 0, STREAM, &[]);
        let more = frame(CONTINUATION, 0, STREAM, &large[1..]);
        let empty = vec![frame(CONTINUATION, 0, STREAM, &[]); BLOCK_OCTETS_MAX / HEAD_OCTETS];
        let cases = [
            (vec![frame(HEADERS, END_HEADERS, STREAM, &large)], Malformed::Frame),
            ([vec![begun.clone()], vec![more; 4]].concat(), Malformed::Block),
            ([vec![begun.clone()], empty].concat(), Malformed::Block),
            (vec![frame(HEADERS, PADDED, STREAM, &[])], Malformed::Padding),
            (vec![frame(HEADERS, PADDED, STREAM, &[2, 0])], Malformed::Padding),
            (vec![frame(HEADERS, PRIORITY, STREAM, &[0; 4])], Malformed::Padding),
            (vec![frame(CONTINUATION, 0, STREAM, &[])], Malformed::Order),
            (vec![begun.clone(), frame(0, 0, STREAM, &[])], Malformed::Order),
            (vec![begun.clone(), begun.clone()], Malformed::Order),
            (vec![begun, frame(CONTINUATION, 0, [0, 0, 0, 3], &[])], Malformed::Order),
            (
                vec![frame(HEADERS, END_HEADERS, STREAM, &[0xbe])],
                Malformed::Hpack(HpackError::Index),
            ),
        ];
        for (frames, expected) in cases {
            assert_eq!(filter(&[&connection(&frames)]).1, Err(expected));
        }
    }

    /// Sends one request with this authority to hyper's server and gives the kind of the frame
    /// that answers on its stream, if the server is asked through the filter or without.
    async fn answered(is_filtered: bool) -> u8 {
        let (mut client, server) = tokio::io::duplex(65_536);
        let service = service_fn(async |_request| {
            Ok::<_, Infallible>(http::Response::new(Empty::<tokio_util::bytes::Bytes>::new()))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = async move {
            if is_filtered {
                builder.serve_connection(TokioIo::new(AuthorityFilter::new(server)), service).await
            } else {
                builder.serve_connection(TokioIo::new(server), service).await
            }
        };
        let asking = async move {
            let block = [&[0x83, 0x84, 0x86], &literal(0x40, ":authority", PERCENT)[..]].concat();
            let settings = frame(4, 0, [0; 4], &[]);
            let request = frame(HEADERS, END_HEADERS | 1, STREAM, &block);
            client.write_all(&connection(&[settings, request])).await.expect("write");
            loop {
                let mut head = [0; HEAD_OCTETS];
                client.read_exact(&mut head).await.expect("frame");
                let head = Head::read(&head).expect("head");
                client.read_exact(&mut vec![0; head.length]).await.expect("payload");
                if head.stream == STREAM {
                    return head.kind;
                }
            }
        };
        let answer = async {
            tokio::select! {
                kind = asking => kind,
                ended = serving => panic!("the server ended: {ended:?}"),
            }
        };
        tokio::time::timeout(Duration::from_secs(20), answer).await.expect("in time")
    }

    #[tokio::test]
    async fn h2_answers_through_the_filter_what_it_resets_without() {
        const RST_STREAM: u8 = 3;
        assert_eq!(answered(true).await, HEADERS);
        // When this fails h2 has learnt to accept it, and the filter can go.
        assert_eq!(answered(false).await, RST_STREAM);
    }

    fn any_frame() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), any::<u8>()];
        let stream = prop_oneof![Just(STREAM), any::<[u8; 4]>()];
        let payload = proptest::collection::vec(any::<u8>(), 0..64);
        (kind, any::<u8>(), stream, payload)
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(
            frames in proptest::collection::vec(any_frame(), 0..20),
            tail in proptest::collection::vec(any::<u8>(), 0..64),
            size in 1_usize..100,
        ) {
            let input = connection(&[frames.concat(), tail.clone()]);
            let chunks: Vec<&[u8]> = input.chunks(size).collect();
            prop_assert_eq!(filter(&chunks), filter(&[&input]));
            drop(filter(&[&tail]));
        }
    }
}
