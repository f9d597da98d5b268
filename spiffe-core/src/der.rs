//! The few lines of DER that certificates and keys need.
//!
//! Owns a writer of tag-length-value elements and a strict reader of them. Knows no schema: what is
//! written in which order stands in `svid::x509`, `csr` and `spki`. The writer cannot fail; the
//! reader takes what a peer sent and therefore refuses indefinite and non-minimal lengths, elements
//! that overrun their parent, and tags of more than one byte.

use crate::time::Timestamp;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// The tag `[n]`, primitive.
pub(crate) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// The tag `[n]`, constructed.
pub(crate) const fn context_constructed(number: u8) -> u8 {
    0xa0 | number
}

/// One element whose content is the parts, one after the other.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    push_length(&mut out, length);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A SEQUENCE of the parts.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(SEQUENCE, parts)
}

/// A SET OF the elements, in the order that DER prescribes.
pub(crate) fn set_of(mut elements: Vec<Vec<u8>>) -> Vec<u8> {
    elements.sort();
    let parts: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
    element(SET, &parts)
}

/// A non-negative INTEGER from big-endian bytes, leading zeros allowed.
pub(crate) fn unsigned_integer(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let digits = big_endian.get(zeros..).unwrap_or_default();
    match digits.first() {
        None => element(INTEGER, &[&[0]]),
        // A set top bit would make the number negative.
        Some(first) if *first >= 0x80 => element(INTEGER, &[&[0], digits]),
        Some(_) => element(INTEGER, &[digits]),
    }
}

/// A BIT STRING whose last byte has `unused` meaningless low bits.
pub(crate) fn bit_string(unused: u8, bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[unused], bytes])
}

/// A point in time as certificates carry it: UTCTime from 1950 to 2049, GeneralizedTime elsewhere
/// (RFC 5280, 4.1.2.5). `None` outside the years 0 to 9999.
pub(crate) fn time(at: Timestamp) -> Option<Vec<u8>> {
    let unix_s = at.unix_s();
    let (year, month, day) = civil_date(unix_s.div_euclid(86_400));
    let second = unix_s.rem_euclid(86_400);
    let clock = format!("{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
    match year {
        1950..=2049 => {
            let text = format!("{:02}{month:02}{day:02}{clock}", year % 100);
            Some(element(UTC_TIME, &[text.as_bytes()]))
        }
        0..=9999 => {
            let text = format!("{year:04}{month:02}{day:02}{clock}");
            Some(element(GENERALIZED_TIME, &[text.as_bytes()]))
        }
        _ => None,
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// The era arithmetic (400 years = 146,097 days, years from March) is Howard Hinnant's
/// `civil_from_days`.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    if let Ok(short) = u8::try_from(length)
        && short < 0x80
    {
        out.push(short);
        return;
    }
    let bytes = length.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    out.push(0x80 | u8::try_from(digits.len()).unwrap_or(0));
    out.extend_from_slice(digits);
}

/// The bytes are not the DER that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed DER")]
pub(crate) struct Malformed;

/// One element as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// The whole element: tag, length and content.
    pub(crate) raw: &'a [u8],
}

/// Reads the elements of one level, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next element, whatever its tag.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, Malformed> {
        let whole = self.rest;
        let (tag, after_tag) = whole.split_first().ok_or(Malformed)?;
        if tag & 0x1f == 0x1f {
            return Err(Malformed);
        }
        let (length, after_length) = read_length(after_tag)?;
        let (content, rest) = after_length.split_at_checked(length).ok_or(Malformed)?;
        let raw = whole.get(..whole.len() - rest.len()).ok_or(Malformed)?;
        self.rest = rest;
        Ok(Element { tag: *tag, content, raw })
    }

    /// The next element, which must have the tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        let element = self.any()?;
        if element.tag == tag { Ok(element) } else { Err(Malformed) }
    }

    /// Asserts that nothing is left.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// The content of the one element of that tag which the bytes must be.
pub(crate) fn read_single(bytes: &[u8], tag: u8) -> Result<&[u8], Malformed> {
    let mut reader = Reader::new(bytes);
    let element = reader.expect(tag)?;
    reader.end()?;
    Ok(element.content)
}

/// The bytes of a BIT STRING that has no unused bits, from its content.
pub(crate) fn whole_bits(content: &[u8]) -> Result<&[u8], Malformed> {
    match content.split_first() {
        Some((0, bits)) => Ok(bits),
        Some(_) | None => Err(Malformed),
    }
}

fn read_length(bytes: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let (first, rest) = bytes.split_first().ok_or(Malformed)?;
    if *first < 0x80 {
        return Ok((usize::from(*first), rest));
    }
    let count = usize::from(first & 0x7f);
    // 0x80 is the indefinite form; four bytes of length are more than any limit of ours.
    if count == 0 || count > 4 {
        return Err(Malformed);
    }
    let (digits, rest) = rest.split_at_checked(count).ok_or(Malformed)?;
    let length = digits.iter().fold(0_usize, |sum, digit| (sum << 8) | usize::from(*digit));
    let minimal = digits.first().is_some_and(|digit| *digit != 0) && length >= 0x80;
    if minimal { Ok((length, rest)) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_written_as_rfc_5280_prescribes() {
        let cases = [
            (0, UTC_TIME, "700101000000Z"),
            (951_782_400, UTC_TIME, "000229000000Z"),
            (1_763_769_599, UTC_TIME, "251121235959Z"),
            (2_524_607_999, UTC_TIME, "491231235959Z"),
            (2_524_608_000, GENERALIZED_TIME, "20500101000000Z"),
            (253_402_300_799, GENERALIZED_TIME, "99991231235959Z"),
            (-631_152_000, UTC_TIME, "500101000000Z"),
            (-631_152_001, GENERALIZED_TIME, "19491231235959Z"),
        ];
        for (unix_s, tag, text) in cases {
            let written = time(Timestamp::from_unix_s(unix_s)).unwrap();
            assert_eq!(written, element(tag, &[text.as_bytes()]), "{unix_s}");
        }
        assert_eq!(time(Timestamp::from_unix_s(253_402_300_800)), None);
    }

    #[test]
    fn integers_are_minimal_and_never_negative() {
        let cases: [(&[u8], &[u8]); 5] = [
            (&[], &[2, 1, 0]),
            (&[0, 0], &[2, 1, 0]),
            (&[0, 0x7f], &[2, 1, 0x7f]),
            (&[0x80], &[2, 2, 0, 0x80]),
            (&[0, 1, 0], &[2, 2, 1, 0]),
        ];
        for (bytes, der) in cases {
            assert_eq!(unsigned_integer(bytes), der);
        }
    }

    #[test]
    fn reader_refuses_what_der_forbids() {
        let cases: [&[u8]; 7] = [
            &[],
            &[0x30],
            &[0x30, 0x80, 0, 0],    // indefinite length
            &[0x30, 0x81, 0x01, 0], // not minimal
            &[0x30, 0x82, 0, 0x80], // not minimal
            &[0x30, 2, 0],          // overruns
            &[0x3f, 0x81, 0x01, 0], // tag of several bytes
        ];
        for bytes in cases {
            assert!(Reader::new(bytes).any().is_err(), "{bytes:?}");
        }
        assert!(read_single(&[4, 0, 0], OCTET_STRING).is_err(), "trailing byte");
        assert!(whole_bits(&[1, 2]).is_err(), "unused bits");
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(content in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let der = element(OCTET_STRING, &[&content]);
            prop_assert_eq!(read_single(&der, OCTET_STRING).unwrap(), content.as_slice());
        }

        #[test]
        fn reader_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(&bytes);
            while reader.any().is_ok() {}
        }
    }
}
