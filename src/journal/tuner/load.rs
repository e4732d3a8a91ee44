//! How much is on its way, in classes that do not flicker.

/// Classes: powers of two of records, up to two million.
pub(super) const CLASSES: usize = 22;
/// The weight of a new sample.
const WEIGHT: f64 = 1.0 / 48.0;
/// How far beyond its class, in powers of two, the load must be to change it.
const MARGIN: f64 = 0.9;

/// The present load, smoothed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// The logarithm (base 2) of the records on their way.
    log2: f64,
    class: usize,
}

impl Load {
    /// Takes a sample; returns whether the class has changed.
    pub(super) fn handle(&mut self, records: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rough size")]
        let sample = (records.max(1) as f64).log2();
        self.log2 += (sample - self.log2) * WEIGHT;
        #[expect(clippy::cast_precision_loss, reason = "below 22")]
        let away = (self.log2 - self.class as f64).abs();
        if away <= MARGIN {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 64")]
        let class = (self.log2.round() as usize).min(CLASSES - 1);
        let changed = class != self.class;
        self.class = class;
        changed
    }

    /// The class: about the logarithm of the records.
    pub(super) fn class(self) -> usize {
        self.class
    }

    /// The records on their way, roughly.
    pub(super) fn records(self) -> f64 {
        self.log2.exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_is_followed_in_a_few_samples_and_a_wobble_is_not() {
        let mut load = Load::default();
        for _ in 0..300 {
            load.handle(256);
        }
        assert_eq!(load.class(), 8);
        let changes = (0..1000).filter(|at| load.handle(if at % 2 == 0 { 160 } else { 420 })).count();
        assert_eq!((changes, load.class()), (0, 8));
        let samples = (1..).find(|_| load.handle(1) && load.class() == 0);
        assert!(samples.is_some_and(|samples| samples < 300), "{samples:?}");
    }
}
