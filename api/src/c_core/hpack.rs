//! Reading HPACK header blocks (RFC 7541).
//!
//! Owns the decoder with its dynamic table, the Huffman code, and the plainest possible encoding.
//! Knows neither frames nor what a header means; `authority` uses it. Each block is bounded by the
//! size of the list it unpacks to, so that small blocks can't be made to fill the memory.

use std::collections::VecDeque;
use std::sync::LazyLock;

/// The size of the dynamic table a peer may use when nothing else was agreed, in octets.
const TABLE_OCTETS: usize = 4096;

/// What the RFC adds to the size of each entry, in tables and in lists.
const ENTRY_OVERHEAD: usize = 32;

/// A header block breaks the rules of RFC 7541 or unpacks to more than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HpackError {
    #[error("header block ends within a field")]
    Truncated,
    #[error("integer of a header block is too large")]
    Integer,
    #[error("header block refers to an entry that does not exist")]
    Index,
    #[error("header block changes the table size against the rules")]
    TableSize,
    #[error("string of a header block is not in the Huffman code")]
    Huffman,
    #[error("header list is too large")]
    ListTooLarge,
}

/// One header: name and value, as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Field {
    fn octets(&self) -> usize {
        self.name.len().saturating_add(self.value.len()).saturating_add(ENTRY_OVERHEAD)
    }

    /// Appends this field as a literal without indexing and without Huffman code, which leaves no
    /// trace in the table of whoever reads it.
    pub(super) fn encode(&self, block: &mut Vec<u8>) {
        block.push(0);
        for text in [&self.name, &self.value] {
            encode_length(text.len(), block);
            block.extend_from_slice(text);
        }
    }
}

/// A length in a prefix of seven bits (RFC 7541, 5.1), the bit for Huffman code not set.
fn encode_length(length: usize, block: &mut Vec<u8>) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        block.push(low_bits(length));
        return;
    };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(low_bits(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low_bits(rest));
}

/// The lowest seven bits.
fn low_bits(number: usize) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or(0x7f)
}

/// The reading side of one connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<Field>,
    octets: usize,
    octets_max: usize,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { table: VecDeque::new(), octets: 0, octets_max: TABLE_OCTETS }
    }

    /// Unpacks one whole block, to at most `list_max` octets by the RFC's way of counting. After an
    /// error the table is out of step with the peer's: the connection can't go on.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        list_max: usize,
    ) -> Result<Vec<Field>, HpackError> {
        let mut input = Input(block);
        let mut fields = Vec::new();
        let mut octets = 0_usize;
        while let Some(first) = input.peek() {
            let field = if first & 0x80 != 0 {
                self.entry(input.integer(7)?)?
            } else if first & 0x40 != 0 {
                let field = self.literal(&mut input, 6)?;
                self.insert(field.clone());
                field
            } else if first & 0x20 != 0 {
                if !fields.is_empty() {
                    return Err(HpackError::TableSize);
                }
                self.resize(input.integer(5)?)?;
                continue;
            } else {
                self.literal(&mut input, 4)?
            };
            octets = octets.saturating_add(field.octets());
            if octets > list_max {
                return Err(HpackError::ListTooLarge);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, input: &mut Input<'_>, prefix: u32) -> Result<Field, HpackError> {
        let name = match input.integer(prefix)? {
            0 => input.string()?,
            index => self.entry(index)?.name,
        };
        Ok(Field { name, value: input.string()? })
    }

    fn entry(&self, index: usize) -> Result<Field, HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::Index)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok(Field { name: name.to_vec(), value: value.to_vec() });
        }
        let dynamic = index.saturating_sub(STATIC.len());
        self.table.get(dynamic).cloned().ok_or(HpackError::Index)
    }

    fn insert(&mut self, field: Field) {
        self.octets = self.octets.saturating_add(field.octets());
        self.table.push_front(field);
        self.evict();
    }

    fn resize(&mut self, octets_max: usize) -> Result<(), HpackError> {
        if octets_max > TABLE_OCTETS {
            return Err(HpackError::TableSize);
        }
        self.octets_max = octets_max;
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        while self.octets > self.octets_max {
            let Some(oldest) = self.table.pop_back() else { break };
            self.octets = self.octets.saturating_sub(oldest.octets());
        }
    }
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn byte(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.0.split_first().ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(*first)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], HpackError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// An integer in a prefix of so many bits, five octets at most.
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let full = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & full;
        if value < full {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Integer)
    }

    fn string(&mut self) -> Result<Vec<u8>, HpackError> {
        let is_huffman = self.peek().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let text = self.take(length)?;
        if is_huffman { HUFFMAN.decode(text) } else { Ok(text.to_vec()) }
    }
}

/// The Huffman code as what its lengths give: codes are handed out in order of length, then symbol.
struct Huffman {
    /// By length in bits: the first code, and how many there are.
    ranges: [Range; 31],
    /// The symbols in the order of their codes.
    symbols: Vec<usize>,
}

#[derive(Clone, Copy, Default)]
struct Range {
    first: usize,
    count: usize,
    /// Where the range begins in `symbols`.
    start: usize,
}

static HUFFMAN: LazyLock<Huffman> = LazyLock::new(Huffman::new);

impl Huffman {
    fn new() -> Self {
        let mut ranges = [Range::default(); 31];
        let mut symbols = Vec::with_capacity(CODE_BITS.len());
        let mut next = 0_usize;
        for (bits, range) in (0_u8..).zip(&mut ranges) {
            next <<= 1;
            let of_length = CODE_BITS.iter().enumerate().filter(|(_, length)| **length == bits);
            let start = symbols.len();
            symbols.extend(of_length.map(|(symbol, _)| symbol));
            *range = Range { first: next, count: symbols.len() - start, start };
            next += range.count;
        }
        Self { ranges, symbols }
    }

    fn decode(&self, text: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut decoded = Vec::with_capacity(text.len().saturating_mul(8) / 5);
        let (mut code, mut length) = (0_usize, 0_usize);
        let bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
        for bit in bits {
            code = code << 1 | usize::from(bit);
            length += 1;
            let range = self.ranges.get(length).ok_or(HpackError::Huffman)?;
            let Some(nth) = code.checked_sub(range.first).filter(|nth| *nth < range.count) else {
                continue;
            };
            let symbol = self.symbols.get(range.start + nth).ok_or(HpackError::Huffman)?;
            // The symbol after the last octet ends no string (RFC 7541, 5.2).
            decoded.push(u8::try_from(*symbol).ok().ok_or(HpackError::Huffman)?);
            (code, length) = (0, 0);
        }
        // What is left must be padding: less than an octet, all ones.
        if length < 8 && code + 1 == 1 << length { Ok(decoded) } else { Err(HpackError::Huffman) }
    }
}

/// The static table (RFC 7541, appendix A).
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];

/// The lengths of the Huffman codes in bits, by symbol; the last is the end of string (appendix B).
const CODE_BITS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("octet")).collect()
    }

    fn show(fields: &[Field]) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        fields.iter().map(|field| format!("{}={}", text(&field.name), text(&field.value))).collect()
    }

    /// RFC 7541, C.3 and C.4: three requests on one connection, plain and in Huffman code.
    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let huffman = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            let [first, second, third] =
                blocks.map(|block| show(&decoder.decode(&hex(block), 4096).expect("block")));
            let start = [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"];
            assert_eq!(first, start);
            assert_eq!(second[..4], start);
            assert_eq!(second[4..], ["cache-control=no-cache"]);
            assert_eq!(third[1..3], [":scheme=https", ":path=/index.html"]);
            assert_eq!(third[3..], [":authority=www.example.com", "custom-key=custom-value"]);
            assert_eq!(decoder.octets, 164);
        }
    }

    #[test]
    fn what_is_encoded_reads_the_same() {
        for length in [0, 1, 126, 127, 128, 254, 255, 16_383, 16_384, 40_000] {
            let field = Field { name: b"name".to_vec(), value: vec![b'v'; length] };
            let mut block = Vec::new();
            field.encode(&mut block);
            let mut decoder = Decoder::new();
            assert_eq!(decoder.decode(&block, 65_536), Ok(vec![field]), "{length}");
            assert!(decoder.table.is_empty());
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        let cases = [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("7f", HpackError::Truncated),
            ("ff8080808001", HpackError::Integer),
            ("000361", HpackError::Truncated),
            ("3fe21f", HpackError::TableSize),
            ("8220", HpackError::TableSize),
            ("0084ffffffff00", HpackError::Huffman),
            ("0082ffff00", HpackError::Huffman),
            ("00810000", HpackError::Huffman),
        ];
        for (block, expected) in cases {
            assert_eq!(Decoder::new().decode(&hex(block), 4096), Err(expected), "{block}");
        }
    }

    #[test]
    fn a_new_table_size_evicts_and_holds() {
        let mut decoder = Decoder::new();
        decoder.decode(&hex("400161016240016301 64"), 4096).expect("two entries");
        assert_eq!(decoder.table.len(), 2);
        decoder.decode(&hex("3f09be"), 4096).expect("forty octets hold the newer");
        assert_eq!(show(decoder.table.make_contiguous()), ["c=d"]);
        decoder.decode(&hex("20"), 4096).expect("nothing fits");
        assert_eq!(decoder.decode(&hex("be"), 4096), Err(HpackError::Index));
    }

    #[test]
    fn a_small_block_cannot_unpack_to_a_large_list() {
        let field = Field { name: b"n".to_vec(), value: vec![b'v'; 4000] };
        let mut block = Vec::new();
        field.encode(&mut block);
        block[0] = 0x40;
        block.extend([0xbe; 100]);
        assert_eq!(Decoder::new().decode(&block, 65_536), Err(HpackError::ListTooLarge));
    }
}
