//! What a completion belongs to, in the 64 bits that travel through the kernel with a request.
//!
//! A place in the table of flights is reused as soon as its flight is over; the generation beside it tells a late
//! completion of an earlier flight from one of the present.

/// What kind of request it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    Sync,
    /// The poll of the eventfd that wakes the ring thread, or of an alarm.
    Wake,
    /// The round trip at set-up.
    Trial,
}

/// `kind` (2 bits), `index` (30 bits), `generation` (32 bits), from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) index: u32,
    pub(super) generation: u32,
}

const INDEX_BITS: u32 = 30;
/// One more than the greatest index that fits.
pub(super) const INDEX_END: u32 = 1 << INDEX_BITS;

impl Key {
    pub(super) const WAKE: Self = Self { kind: Kind::Wake, index: 0, generation: 0 };
    pub(super) const ALARM: Self = Self { kind: Kind::Wake, index: 1, generation: 0 };
    pub(super) const TRIAL: Self = Self { kind: Kind::Trial, index: 0, generation: 0 };

    pub(super) fn new(kind: Kind, index: u32, generation: u32) -> Self {
        debug_assert!(index < INDEX_END);
        Self { kind, index, generation }
    }

    pub(super) fn bits(self) -> u64 {
        let kind = match self.kind {
            Kind::Write => 0u32,
            Kind::Sync => 1,
            Kind::Wake => 2,
            Kind::Trial => 3,
        };
        u64::from(kind << INDEX_BITS | self.index) << 32 | u64::from(self.generation)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves are taken apart")]
    pub(super) fn from_bits(bits: u64) -> Self {
        let (top, generation) = ((bits >> 32) as u32, bits as u32);
        let kind = match top >> INDEX_BITS {
            0 => Kind::Write,
            1 => Kind::Sync,
            2 => Kind::Wake,
            _ => Kind::Trial,
        };
        Self { kind, index: top & (INDEX_END - 1), generation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for kind in [Kind::Write, Kind::Sync, Kind::Wake, Kind::Trial] {
            for index in [0, 1, INDEX_END - 1] {
                for generation in [0, 1, u32::MAX] {
                    let key = Key::new(kind, index, generation);
                    assert_eq!(Key::from_bits(key.bits()), key);
                    assert!(seen.insert(key.bits()));
                }
            }
        }
    }
}
