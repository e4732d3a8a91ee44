//! The lines that `write` prints and `check` reads: `ACK LSN LENGTH CRC32`.

use std::fmt;

use ringwal::Lsn;

/// One acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ack {
    pub(super) lsn: Lsn,
    pub(super) length: usize,
    pub(super) crc: u32,
}

impl Ack {
    pub(super) fn of(lsn: Lsn, payload: &[u8]) -> Self {
        Self { lsn, length: payload.len(), crc: crc32fast::hash(payload) }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_suffix('\r').unwrap_or(line).split(' ');
        let (Some("ACK"), Some(lsn), Some(length), Some(crc), None) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            return None;
        };
        let lsn = Lsn::new(lsn.parse().ok().filter(|lsn| *lsn > 0)?);
        let crc = u32::from_str_radix(crc, 16).ok().filter(|_| crc.len() == 8)?;
        Some(Self { lsn, length: length.parse().ok()?, crc })
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACK {} {} {:08x}", self.lsn, self.length, self.crc)
    }
}

/// Reads a file of acknowledgements, sorted by LSN. A last line without a line feed is torn: whoever kept the lines was
/// cut off within it, and it counts as not acknowledged.
///
/// # Errors
/// The number of the first line that is not an acknowledgement.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Ack>, usize> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = bytes[..whole].split_inclusive(|byte| *byte == b'\n');
    let parsed: Result<Vec<Ack>, usize> = lines
        .enumerate()
        .map(|(index, line)| {
            let text = std::str::from_utf8(&line[..line.len() - 1]).ok();
            text.and_then(Ack::parse).ok_or(index + 1)
        })
        .collect();
    parsed.map(|mut acks| {
        acks.sort_unstable();
        acks
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_round_trip_in_the_order_of_their_lsns() {
        let (one, two) = (Ack::of(Lsn::new(1), b"x"), Ack::of(Lsn::new(2), b""));
        assert_eq!(parse(format!("{two}\n{one}\n").as_bytes()), Ok(vec![one, two]));
    }

    #[test]
    fn a_torn_last_line_does_not_count_and_a_bad_one_is_named() {
        let one = Ack::of(Lsn::new(1), b"x");
        assert_eq!(parse(format!("{one}\nACK 2 1 0").as_bytes()), Ok(vec![one]));
        assert_eq!(parse(format!("{one}\nACK 2 1 0\n").as_bytes()), Err(2));
        assert_eq!(parse(b"ACK 0 1 00000000\n"), Err(1));
        assert_eq!(parse(b"ACK 1 1 00000000 9\n"), Err(1));
        assert_eq!(parse(b""), Ok(vec![]));
    }
}
