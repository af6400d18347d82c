//! A blob arrives: whose it is, whether its seal is good, what it says before its rows.
//!
//! Invariants:
//! * Size, sender and seal are checked, in this order, before anything in the blob is read.
//! * Rows are read block by block, and only when somebody asks for them; a blob that turns out to be damaged on the way is an
//!   error, and whatever was written from it goes with that.

use crate::client::{self, Client};
use crate::error::HubError;
use crate::settings;
use crate::shapes::Known;
use fieldsync_core::delta::{Delta, TableChanges};
use fieldsync_core::limits::Limits;
use fieldsync_core::wire::{self, BlobKind, DeltaStream, Header, Shape, WireError};

/// What this hub accepts.
pub fn limits() -> Limits {
    Limits {
        blob_bytes_max: settings::max_delta_bytes(),
        expanded_bytes_max: settings::max_expanded_bytes(),
        rows_max: settings::max_rows(),
        ..Limits::default()
    }
}

/// A delta whose sender is known and whose seal is good.
pub struct Received<'a> {
    /// Who sent it.
    pub client: Client,
    /// All of it but its rows. `high` is right once they have been read.
    pub delta: Delta,
    /// The blob's own checksum.
    pub batch_id: u64,
    /// The batch's uuid.
    pub batch: [u8; 16],
    /// The blob.
    pub blob: &'a [u8],
    /// What the blob may leave out.
    pub known: &'a Known,
    /// What its tables look like, once its rows have been read.
    pub shapes: Vec<Shape>,
    stream: Option<DeltaStream<'a>>,
}

/// A delta's rows, block by block.
pub struct Blocks<'a> {
    stream: DeltaStream<'a>,
    shapes: Vec<Shape>,
}

impl Blocks<'_> {
    /// The next block.
    pub fn next(&mut self) -> Result<Option<TableChanges>, WireError> {
        let Some((block, continues)) = self.stream.next_block()? else { return Ok(None) };
        if !continues {
            self.shapes.push(Shape::of_changes(&block));
        }
        Ok(Some(block))
    }
}

/// Finds the sender of a blob, and locks it: two deltas of one client never merge at once.
pub fn sender(blob: &[u8]) -> Result<(Header, Client), HubError> {
    let limits = limits();
    if blob.len() > limits.blob_bytes_max {
        return Err(HubError::Limit(format!(
            "{} bytes, and at most {} are accepted",
            blob.len(),
            limits.blob_bytes_max
        )));
    }
    let header = wire::peek(blob)?;
    if header.kind != BlobKind::Delta {
        return Err(HubError::Blob(WireError::WrongKind { found: header.kind.word(), wanted: BlobKind::Delta.word() }));
    }
    let client = client::find(header.client)?;
    Ok((header, client))
}

/// Opens a blob of a known sender, whose names it may leave out where they are known.
pub fn open<'a>(blob: &'a [u8], header: &Header, client: Client, known: &'a Known) -> Result<Received<'a>, HubError> {
    let stream =
        DeltaStream::open(blob, client.key.as_ref(), &limits(), &known.shapes).map_err(|error| match error {
            WireError::BadMac | WireError::Unsigned => {
                HubError::BadSignature { client_id: client.client_id.clone(), what: error.to_string() }
            }
            other => other.into(),
        })?;
    Ok(Received {
        client,
        delta: stream.delta.clone(),
        batch_id: header.batch,
        batch: wire::blob_uuid(blob),
        blob,
        known,
        shapes: Vec::new(),
        stream: Some(stream),
    })
}

impl<'a> Received<'a> {
    /// Its rows from the beginning. [`Received::ended`] wants to hear when they are through.
    pub fn blocks(&mut self) -> Result<Blocks<'a>, HubError> {
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => DeltaStream::open(self.blob, self.client.key.as_ref(), &limits(), &self.known.shapes)?,
        };
        Ok(Blocks { stream, shapes: Vec::new() })
    }

    /// All rows have been read.
    pub fn ended(&mut self, blocks: Blocks<'_>) {
        self.delta.body.high = blocks.stream.delta.body.high;
        self.shapes = blocks.shapes;
    }

    /// All of its rows.
    pub fn tables(&mut self) -> Result<Vec<TableChanges>, HubError> {
        let mut blocks = self.blocks()?;
        let mut tables = Vec::new();
        while let Some(block) = blocks.next()? {
            add(&mut tables, block);
        }
        self.ended(blocks);
        Ok(tables)
    }

    /// Reads to the end, for what stands there, and so that a damaged blob is refused even where its rows do not matter.
    pub fn read_on(&mut self) -> Result<(), HubError> {
        let mut blocks = self.blocks()?;
        while blocks.next()?.is_some() {}
        self.ended(blocks);
        Ok(())
    }
}

/// Puts a block to the changes of its table.
pub fn add(tables: &mut Vec<TableChanges>, block: TableChanges) {
    let known = tables.iter_mut().find(|known| known.table == block.table && known.columns == block.columns);
    match known {
        Some(known) => known.changes.extend(block.changes),
        None => tables.push(block),
    }
}
