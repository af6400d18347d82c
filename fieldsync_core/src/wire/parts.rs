//! What writer and reader of a body hold: decisions, texts, what was learned, what may be spent.

use super::budget::Budget;
use super::model::{Number, QuickMap, Symbol};
use super::numbers::Plans;
use super::pool::{PoolReader, PoolWriter};
use super::range::{Bit, Reader, Writer};

/// What is learned from column to column of a blob.
pub(super) struct Shared {
    pub(super) class_count: Number,
    pub(super) class: Symbol,
    pub(super) scale: Symbol,
    pub(super) plans: Plans,
    pub(super) differences: Plans,
    pub(super) repeats: [Bit; 2],
    /// Sixteen-byte keys that are in the blob already: a reference to such a row needs no sixteen bytes.
    pub(super) sixteens: Vec<[u8; 16]>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            class_count: Number::small(),
            // Neither instants, nor times, nor decimals, but one of the first eight classes.
            class: Symbol::expecting(&[(1, 232), (2, 246), (4, 250), (8, 216)]),
            scale: Symbol::new(),
            plans: Plans::new(),
            differences: Plans::new(),
            repeats: [Bit::default(); 2],
            sixteens: Vec::new(),
        }
    }

    /// Plans for the differences between old and new numbers.
    pub(super) fn differences(&mut self) -> &mut Plans {
        &mut self.differences
    }
}

/// The writer's parts.
pub(super) struct Out {
    pub(super) coder: Writer,
    pub(super) pool: PoolWriter,
    pub(super) shared: Shared,
    pub(super) budget: Budget,
    pub(super) index_of_sixteen: QuickMap<[u8; 16], u32>,
}

impl Out {
    pub(super) fn new() -> Out {
        Out {
            coder: Writer::new(),
            pool: PoolWriter::new(),
            shared: Shared::new(),
            budget: Budget::unlimited(),
            index_of_sixteen: QuickMap::default(),
        }
    }
}

/// The reader's parts.
pub(super) struct In<'a> {
    pub(super) coder: Reader<'a>,
    pub(super) pool: PoolReader,
    pub(super) shared: Shared,
    pub(super) budget: Budget,
}
