//! Hybrid logical clocks (Kulkarni et al., "Logical Physical Clocks", 2014) in 64 bits.
//!
//! Invariants: a device's clock is strictly increasing and never behind what it has seen from the hub. Wall time
//! only orders changes that are concurrent; causality comes from cursors ([`crate::snapshot`]).
//!
//! The hub corrects a device's stamps before it compares or stores them: stamps ahead of the hub's clock are shifted
//! back by the skew that the device shows *now* (its own now against the hub's), then clamped to the hub's now, in the
//! device's own order.

use serde::{Deserialize, Serialize};

/// Bits of the counter below the milliseconds.
pub const COUNTER_BITS: u32 = 16;

/// Milliseconds since 1970 in the upper 48 bits, a counter in the lower 16. Fits an `i64` until the year 6429.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first instant of a millisecond.
    pub fn from_ms(ms: u64) -> Hlc {
        Hlc(ms.min(u64::MAX >> (COUNTER_BITS + 1)) << COUNTER_BITS)
    }

    /// The milliseconds since 1970.
    pub fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// The next clock at wall time `now_ms`, later than `self` whatever the wall says.
    pub fn tick(self, now_ms: u64) -> Hlc {
        Hlc(self.0.saturating_add(1)).max(Hlc::from_ms(now_ms))
    }

    /// As SQL holds it.
    pub fn as_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From SQL; negative numbers become zero.
    pub fn from_i64(number: i64) -> Hlc {
        Hlc(u64::try_from(number).unwrap_or(0))
    }
}

/// How one delta's stamps are brought into the hub's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SkewCorrection {
    device_now_ms: u64,
    hub_now_ms: u64,
}

/// Skew below this many milliseconds is the network's, not the clock's, and is not worth a line in a log.
pub const NOTABLE_SKEW_MS: u64 = 5 * 60 * 1000;

impl SkewCorrection {
    /// From the device's own now, as the delta carries it, and the hub's.
    pub fn new(device_now_ms: u64, hub_now_ms: u64) -> SkewCorrection {
        SkewCorrection { device_now_ms, hub_now_ms }
    }

    /// The device's clock minus the hub's, in milliseconds.
    pub fn skew_ms(&self) -> i64 {
        let difference = i128::from(self.device_now_ms) - i128::from(self.hub_now_ms);
        difference.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Whether the skew belongs in the log.
    pub fn is_notable(&self) -> bool {
        self.skew_ms().unsigned_abs() > NOTABLE_SKEW_MS
    }

    /// One stamp in the hub's time, never ahead of the hub's now. Stamps at or before the hub's now stand as they are.
    /// For a run of stamps use [`SkewCorrection::correct_all`], which also keeps their order.
    pub fn correct(&self, stamp: Hlc) -> Hlc {
        let hub_now = Hlc(Hlc::from_ms(self.hub_now_ms).0 | ((1 << COUNTER_BITS) - 1));
        if stamp <= hub_now {
            return stamp;
        }
        let ahead_ms = self.device_now_ms.saturating_sub(self.hub_now_ms);
        Hlc(stamp.0.saturating_sub(ahead_ms << COUNTER_BITS)).min(hub_now)
    }

    /// Corrects stamps that are in the device's order, and keeps that order: a corrected stamp is never behind the
    /// corrected stamp before it. Ties that this makes are broken by the device's order wherever it matters, because
    /// one device's changes of one field are causally ordered.
    pub fn correct_all(&self, stamps: impl IntoIterator<Item = Hlc>) -> Vec<Hlc> {
        let mut floor = Hlc::default();
        stamps
            .into_iter()
            .map(|stamp| {
                floor = floor.max(self.correct(stamp));
                floor
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_phone_in_2099_is_brought_back() {
        let hub = 1_800_000_000_000;
        let ahead = 4_100_000_000_000;
        let correction = SkewCorrection::new(ahead, hub);
        let one_hour_ago = Hlc::from_ms(ahead - 3_600_000);
        assert_eq!(correction.correct(one_hour_ago).ms(), hub - 3_600_000);
    }

    #[test]
    fn stamps_left_from_2099_are_clamped_once_the_clock_is_right_again() {
        let hub = 1_800_000_000_000;
        let correction = SkewCorrection::new(hub, hub);
        assert_eq!(correction.correct(Hlc::from_ms(4_100_000_000_000)).ms(), hub);
    }

    proptest! {
        #[test]
        fn corrected_stamps_keep_their_order_and_stay_behind_the_hub(
            device in 0u64..1 << 43, hub in 1u64..1 << 43, mut stamps in prop::collection::vec(0u64..1 << 60, 0..50),
        ) {
            stamps.sort_unstable();
            let corrected = SkewCorrection::new(device, hub).correct_all(stamps.into_iter().map(Hlc));
            prop_assert!(corrected.windows(2).all(|pair| pair[0] <= pair[1]));
            prop_assert!(corrected.iter().all(|stamp| stamp.ms() <= hub));
        }

        #[test]
        fn ticks_always_increase(start in 0u64..1 << 62, walls in prop::collection::vec(0u64..1 << 46, 0..50)) {
            let mut clock = Hlc(start);
            for wall in walls {
                let next = clock.tick(wall);
                prop_assert!(next > clock);
                clock = next;
            }
        }
    }
}
