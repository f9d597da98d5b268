//! Local time, which SPIRE's agent listings use.
//!
//! Owns the reading of the machine's zone (`TZ`, else `/etc/localtime`) from its TZif file (RFC
//! 9636). Beyond the file's last transition a zone with summer time goes by a rule; rather than
//! follow rules, such times are shown in UTC, which the text says.

use std::path::PathBuf;

use super::text::{date_and_time, go_time_utc};

const LOCALTIME: &str = "/etc/localtime";
const ZONEINFO: &str = "/usr/share/zoneinfo";

/// The zone of this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalZone {
    /// Rises; each with the period that begins there.
    transitions: Vec<(i64, Period)>,
    /// Before the first transition.
    first: Option<Period>,
    /// Whether summer time goes on by a rule after the last transition.
    ruled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Period {
    offset_s: i32,
    name: String,
}

impl LocalZone {
    /// The zone that the environment names; UTC where it names none that can be read, as in Go.
    pub(crate) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let path = match env("TZ") {
            None => PathBuf::from(LOCALTIME),
            Some(name) => {
                let name = name.strip_prefix(':').unwrap_or(&name).to_owned();
                if name.is_empty() || name.split('/').any(|part| part == "..") {
                    return Self::default();
                }
                PathBuf::from(ZONEINFO).join(name)
            }
        };
        std::fs::read(path).ok().and_then(|bytes| Self::parse(&bytes)).unwrap_or_default()
    }

    /// `2026-01-02 03:04:05 +0100 CET`: how Go prints a local time by default.
    pub(crate) fn go_time(&self, unix_s: i64) -> String {
        let Some(period) = self.period(unix_s) else { return go_time_utc(unix_s) };
        let sign = if period.offset_s < 0 { '-' } else { '+' };
        let minutes = period.offset_s.unsigned_abs() / 60;
        format!(
            "{} {sign}{:02}{:02} {}",
            date_and_time(unix_s.saturating_add(i64::from(period.offset_s))),
            minutes / 60,
            minutes % 60,
            period.name
        )
    }

    fn period(&self, unix_s: i64) -> Option<&Period> {
        let after = self.transitions.partition_point(|(start, _)| *start <= unix_s);
        if after == self.transitions.len() && self.ruled {
            return None;
        }
        match after.checked_sub(1) {
            Some(index) => self.transitions.get(index).map(|(_, period)| period),
            None => self.first.as_ref(),
        }
    }

    /// Reads a TZif file of version 2 or later: a block of 32-bit times, which is skipped, one of
    /// 64-bit times, and the rule.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        let old = Header::read(&mut reader)?;
        reader.take(old.body_len(4)?)?;
        let header = Header::read(&mut reader)?;
        let times = reader.take(header.times.checked_mul(8)?)?;
        let indices = reader.take(header.times)?;
        let types = reader.take(header.types.checked_mul(6)?)?;
        let names = reader.take(header.names)?;
        reader.take(header.leaps.checked_mul(12)?)?;
        reader.take(header.standard.checked_add(header.utc)?)?;
        let periods: Option<Vec<Period>> =
            types.chunks_exact(6).map(|record| Period::read(record, names)).collect();
        let periods = periods?;
        let transitions: Option<Vec<(i64, Period)>> = times
            .chunks_exact(8)
            .zip(indices)
            .map(|(time, index)| {
                let time = i64::from_be_bytes(time.try_into().ok()?);
                Some((time, periods.get(usize::from(*index))?.clone()))
            })
            .collect();
        // The rule stands between two newlines; one with a comma has summer time.
        let ruled = reader.rest.contains(&b',');
        Some(Self { transitions: transitions?, first: periods.first().cloned(), ruled })
    }
}

impl Period {
    fn read(record: &[u8], names: &[u8]) -> Option<Self> {
        let offset_s = i32::from_be_bytes(record.get(..4)?.try_into().ok()?);
        let start = usize::from(*record.get(5)?);
        let name = names.get(start..)?.split(|byte| *byte == 0).next()?;
        Some(Self { offset_s, name: String::from_utf8(name.to_vec()).ok()? })
    }
}

/// The counts at the head of a block.
struct Header {
    utc: usize,
    standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    names: usize,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let magic = reader.take(5)?;
        if !magic.starts_with(b"TZif") || *magic.last()? < b'2' {
            return None;
        }
        reader.take(15)?;
        Some(Self {
            utc: reader.count()?,
            standard: reader.count()?,
            leaps: reader.count()?,
            times: reader.count()?,
            types: reader.count()?,
            names: reader.count()?,
        })
    }

    fn body_len(&self, time_bytes: usize) -> Option<usize> {
        let times = self.times.checked_mul(time_bytes + 1)?;
        let leaps = self.leaps.checked_mul(time_bytes + 4)?;
        let types = self.types.checked_mul(6)?;
        [times, leaps, types, self.names, self.standard, self.utc]
            .into_iter()
            .try_fold(0, usize::checked_add)
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one transition at 1000 from LMT (+01:30) to XST (-03:00).
    fn sample(rule: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (times, types, names) in [(0_u32, 0_u32, 0_u32), (1, 2, 8)] {
            bytes.extend_from_slice(b"TZif2");
            bytes.extend_from_slice(&[0; 15]);
            for count in [0, 0, 0, times, types, names] {
                bytes.extend_from_slice(&count.to_be_bytes());
            }
        }
        bytes.extend_from_slice(&1000_i64.to_be_bytes());
        bytes.push(1);
        bytes.extend_from_slice(&5400_i32.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&(-10800_i32).to_be_bytes());
        bytes.extend_from_slice(&[0, 4]);
        bytes.extend_from_slice(b"LMT\0XST\0");
        bytes.extend_from_slice(format!("\n{rule}\n").as_bytes());
        bytes
    }

    #[test]
    fn times_are_shown_with_the_offset_and_name_of_their_period() {
        let zone = LocalZone::parse(&sample("XST3")).expect("the sample is well formed");
        assert_eq!(zone.go_time(0), "1970-01-01 01:30:00 +0130 LMT");
        assert_eq!(zone.go_time(999), "1970-01-01 01:46:39 +0130 LMT");
        assert_eq!(zone.go_time(14_400), "1970-01-01 01:00:00 -0300 XST");
    }

    #[test]
    fn times_that_only_a_rule_governs_are_shown_in_utc() {
        let zone = LocalZone::parse(&sample("XST3XDT,M3.2.0,M11.1.0")).expect("well formed");
        assert_eq!(zone.go_time(0), "1970-01-01 01:30:00 +0130 LMT");
        assert_eq!(zone.go_time(14_400), "1970-01-01 04:00:00 +0000 UTC");
    }

    #[test]
    fn a_broken_file_is_refused_at_every_length() {
        let bytes = sample("XST3");
        let body_ends = bytes.len() - "\nXST3\n".len();
        for length in 0..body_ends {
            assert_eq!(LocalZone::parse(&bytes[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn an_empty_or_unknown_zone_is_utc() {
        for name in ["", "No/Such_Zone", "../../etc/passwd"] {
            let zone = LocalZone::from_env(&|_: &str| Some(name.to_owned()));
            assert_eq!(zone.go_time(0), "1970-01-01 00:00:00 +0000 UTC", "{name}");
        }
    }
}
