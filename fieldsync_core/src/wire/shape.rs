//! Shapes: what a table looks like on the wire. A shape that the other end knows travels as two bytes instead of its names.
//!
//! Names are most of a small blob. An end may leave them out once it has proof that the other end knows them: a device,
//! when a batch that carried the names has been answered; a hub, when a delta names the batch as its parent whose answer
//! carried them. The reader looks the tag up among the shapes *of that client and direction* that it has kept; a shape it
//! lacks is an error of its own ([`super::WireError::UnknownShape`]), and the sender starts again with the names.
//!
//! Invariant: both ends of one client and direction hold the same shapes, so two that share a tag are noticed by the sender
//! ([`Shapes::add`] gives false), and the second one keeps travelling with its names.

use crate::delta::TableChanges;
use crate::reply::TableRows;
use crate::value::Kind;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// A table's name and columns, and in replies what the hub holds in them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shape {
    /// The table's bare name.
    pub table: String,
    /// Column names, the key's first.
    pub columns: Vec<String>,
    /// How many of the columns are the key.
    pub key_len: u16,
    /// What the hub holds in each column; empty in deltas.
    pub kinds: Vec<Kind>,
    /// Columns under a `sum` rule; empty in deltas.
    pub sums: Vec<u16>,
}

impl Shape {
    /// The tag that stands for it: xxh3-64 of its postcard form, the lowest sixteen bits.
    pub fn tag(&self) -> u16 {
        let bytes = postcard::to_allocvec(self).unwrap_or_default();
        xxhash_rust::xxh3::xxh3_64(&bytes) as u16
    }

    /// The shape of a delta's table.
    pub fn of_changes(table: &TableChanges) -> Shape {
        Shape {
            table: table.table.clone(),
            columns: table.columns.clone(),
            key_len: table.key_len,
            kinds: Vec::new(),
            sums: Vec::new(),
        }
    }

    /// The shape of a reply's table.
    pub fn of_rows(table: &TableRows) -> Shape {
        Shape {
            table: table.table.clone(),
            columns: table.columns.clone(),
            key_len: table.key_len,
            kinds: table.kinds.clone(),
            sums: table.sums.clone(),
        }
    }

    /// As bytes, to be kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// From bytes that were kept.
    pub fn from_bytes(bytes: &[u8]) -> Option<Shape> {
        match postcard::take_from_bytes(bytes) {
            Ok((shape, [])) => Some(shape),
            _ => None,
        }
    }
}

/// The shapes that both ends know, by their tags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shapes(HashMap<u16, Shape>);

impl Shapes {
    /// None: every table travels with its names.
    pub fn none() -> Shapes {
        Shapes::default()
    }

    /// Adds one. Gives false, and leaves the first one, if another shape has that tag: its names keep travelling.
    pub fn add(&mut self, shape: Shape) -> bool {
        let known = self.0.entry(shape.tag()).or_insert_with(|| shape.clone());
        *known == shape
    }

    /// The shape with a tag.
    pub fn get(&self, tag: u16) -> Option<&Shape> {
        self.0.get(&tag)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Shape> {
        self.0.values()
    }

    /// Whether a shape is known.
    pub fn knows(&self, shape: &Shape) -> bool {
        self.get(shape.tag()) == Some(shape)
    }
}

impl FromIterator<Shape> for Shapes {
    fn from_iter<I: IntoIterator<Item = Shape>>(shapes: I) -> Shapes {
        let mut known = Shapes::none();
        for shape in shapes {
            known.add(shape);
        }
        known
    }
}
