//! A Postgres snapshot (`pg_snapshot`): which transactions a reader has seen.
//!
//! This is the pull cursor. Invariant: what a cursor calls visible was in the reply that gave the cursor (or on the
//! device before). A row version is sent exactly when it is *not* visible; there is no upper gate, so a slow writer that
//! started first and commits last is still delivered, and an open writer delays nobody else.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `xmin:xmax:xip…` as `pg_current_snapshot()` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub struct Snapshot {
    /// Every transaction before this one had ended.
    pub xmin: u64,
    /// No transaction from this one on had ended.
    pub xmax: u64,
    /// Those in between that were still running, ascending.
    pub xip: Vec<u64>,
}

impl Snapshot {
    /// Whether the transaction's effects were seen.
    pub fn visible(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// The same snapshot with the reader's own transaction seen too. Transactions between are taken as running: they may
    /// be, and a row sent twice is harmless where a row not sent is not.
    pub fn with_own(mut self, xid: u64) -> Snapshot {
        if xid >= self.xmax {
            self.xip.extend(self.xmax..xid);
            self.xmax = xid.saturating_add(1);
        } else if let Ok(at) = self.xip.binary_search(&xid) {
            self.xip.remove(at);
        }
        self.normalised()
    }

    /// What a standby hands out: its list of running transactions is empty, so nothing from `xmin` on counts as seen.
    pub fn of_standby(xmin: u64) -> Snapshot {
        Snapshot { xmin, xmax: xmin, xip: Vec::new() }
    }

    /// Whether everything that `other` has seen is seen here too: a cursor never goes back.
    pub fn covers(&self, other: &Snapshot) -> bool {
        let beyond_is_unseen = other.xmax <= self.xmax
            || (other.xmin <= self.xmax
                && other.xmax - self.xmax == other.xip.iter().filter(|xid| **xid >= self.xmax).count() as u64);
        beyond_is_unseen && self.xip.iter().all(|xid| !other.visible(*xid))
    }

    /// What both have seen.
    pub fn and(&self, other: &Snapshot) -> Snapshot {
        let xmax = self.xmax.min(other.xmax);
        let mut xip: Vec<u64> = self.xip.iter().chain(&other.xip).copied().filter(|xid| *xid < xmax).collect();
        xip.sort_unstable();
        xip.dedup();
        Snapshot { xmin: xip.first().copied().unwrap_or(xmax), xmax, xip }
    }

    /// As Postgres reads it; none of a cursor that has seen nothing, as a device has that heard only a confirmation: Postgres has no
    /// such snapshot.
    pub fn for_postgres(&self) -> Option<String> {
        (self.xmin > 0).then(|| self.to_string())
    }

    fn normalised(mut self) -> Snapshot {
        let lowest_running = self.xip.first().copied().unwrap_or(self.xmax);
        self.xmin = self.xmin.max(lowest_running);
        self.xip.retain(|xid| *xid >= self.xmin);
        self
    }

    /// Checks the shape that Postgres guarantees; bytes from elsewhere may not have it.
    pub fn is_well_formed(&self) -> bool {
        self.xmin <= self.xmax
            && self.xip.windows(2).all(|pair| pair[0] < pair[1])
            && self.xip.iter().all(|xid| (self.xmin..self.xmax).contains(xid))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.xip.iter().enumerate() {
            write!(out, "{}{xid}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The text was not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: {0:?}")]
pub struct NotASnapshot(pub String);

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || -> Option<Snapshot> {
            let mut parts = text.splitn(3, ':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let list = parts.next()?;
            let xip = if list.is_empty() {
                Vec::new()
            } else {
                list.split(',').map(|xid| xid.parse().ok()).collect::<Option<Vec<u64>>>()?
            };
            let snapshot = Snapshot { xmin, xmax, xip };
            snapshot.is_well_formed().then_some(snapshot)
        };
        parse().ok_or_else(|| NotASnapshot(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshots() -> impl Strategy<Value = Snapshot> {
        (3u64..50, 0u64..30, prop::collection::btree_set(0u64..30, 0..10)).prop_map(|(xmin, span, running)| {
            let xmax = xmin + span;
            let xip = running.into_iter().map(|offset| xmin + offset).filter(|xid| *xid < xmax).collect();
            Snapshot { xmin, xmax, xip }
        })
    }

    proptest! {
        #[test]
        fn text_goes_there_and_back(snapshot in snapshots()) {
            prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
        }

        #[test]
        fn own_transaction_becomes_visible_and_nothing_else_does(snapshot in snapshots(), own in 3u64..100) {
            let with = snapshot.clone().with_own(own);
            prop_assert!(with.is_well_formed());
            prop_assert!(with.visible(own));
            for xid in 0..120 {
                if xid != own {
                    prop_assert_eq!(with.visible(xid), snapshot.visible(xid), "{}", xid);
                }
            }
        }

        #[test]
        fn both_have_seen_what_each_has(a in snapshots(), b in snapshots()) {
            let both = a.and(&b);
            prop_assert!(both.is_well_formed());
            for xid in 0..120 {
                prop_assert_eq!(both.visible(xid), a.visible(xid) && b.visible(xid), "{}", xid);
            }
        }

        #[test]
        fn covers_means_no_visible_transaction_is_lost(a in snapshots(), b in snapshots()) {
            let truth = (0..120).all(|xid| !b.visible(xid) || a.visible(xid));
            prop_assert_eq!(a.covers(&b), truth);
        }
    }
}
